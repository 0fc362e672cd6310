"""What a move leaves in the cloud itself."""

from __future__ import annotations

import pytest

from cellmove.core import ownership
from cellmove.core.ownership import OwnershipMark

FULL = OwnershipMark(
    "move-1a2b3c", "root@controller:/root/.local/state/cellmove/journal.db", "req-1", "flavor-2", "cell2", "c2-host1",
    {"progress": 0, "auto_disk_config": True, "image_base_image_ref": None},
    {"transfer": "stream", "transfer_wish": "auto", "only_streamed": ["swap"], "bwlimit": 1000},
)  # fmt: skip


@pytest.mark.parametrize(
    "one", [FULL, OwnershipMark("move-1"), OwnershipMark("move-1", "a owner with spaces", "req-1")]
)
def test_a_mark_comes_back_from_its_rows(one: OwnershipMark) -> None:
    rows = ownership.rows_of(one)
    assert ownership.mark_of(rows | {"image_os_type": "linux"}) == one
    assert set(rows) <= set(ownership.KEYS)


def test_no_mark_is_none() -> None:
    assert ownership.mark_of({"image_os_type": "linux"}) is None
    assert ownership.mark_of({ownership.KEY: ""}) is None
    assert ownership.move_id_of(None) == ""


def test_the_id_alone_is_compared_whatever_stands_behind_it() -> None:
    assert ownership.move_id_of("move-1") == ownership.move_id_of("move-1 root@a:/b") == "move-1"


def test_every_value_fits_into_novas_column() -> None:
    rows = ownership.rows_of(OwnershipMark("move-1", "x" * 999, "r" * 999, host="h" * 999, before={"image": "y" * 999}))
    assert max(map(len, rows.values())) == ownership.LENGTH
    torn = ownership.mark_of(rows)
    assert torn is not None
    assert torn.before == {}
    assert ownership.is_same_owner("x" * 300, "x" * 400, "move-1")
    assert not ownership.is_same_owner("x", "y", "move-1")


def test_an_owner_names_machine_and_path_and_no_password() -> None:
    owner = ownership.owner_of_journal("/var/lib/j\u00f6urnal.db")
    assert owner.endswith(r":/var/lib/j\xf6urnal.db")
    assert "@" in owner
    shared = ownership.owner_of_journal("mysql+pymysql://cm:hunter2@db.example:3306/moves?ssl_ca=x")
    assert shared == "mysql://db.example/moves"
