"""What a move leaves in the cloud itself."""

from __future__ import annotations

import pytest

from cellmove.core import ownership as mark
from cellmove.core.ownership import Mark

FULL = Mark(
    "move-1a2b3c", "root@controller:/root/.local/state/cellmove/journal.db", "req-1", "flavor-2", "cell2", "c2-host1",
    {"progress": 0, "auto_disk_config": True, "image_base_image_ref": None},
    {"transfer": "stream", "transfer_wish": "auto", "only_streamed": ["swap"], "bwlimit": 1000},
)  # fmt: skip


@pytest.mark.parametrize("one", [FULL, Mark("move-1"), Mark("move-1", "a holder with spaces", "req-1")])
def test_a_mark_comes_back_from_its_rows(one: Mark) -> None:
    rows = mark.rows_of(one)
    assert mark.mark_of(rows | {"image_os_type": "linux"}) == one
    assert set(rows) <= set(mark.KEYS)


def test_no_mark_is_none() -> None:
    assert mark.mark_of({"image_os_type": "linux"}) is None
    assert mark.mark_of({mark.KEY: ""}) is None
    assert mark.move_id_of(None) == ""


def test_the_id_alone_is_compared_whatever_stands_behind_it() -> None:
    assert mark.move_id_of("move-1") == mark.move_id_of("move-1 root@a:/b") == "move-1"


def test_every_value_fits_into_novas_column() -> None:
    rows = mark.rows_of(Mark("move-1", "x" * 999, "r" * 999, host="h" * 999, before={"image": "y" * 999}))
    assert max(map(len, rows.values())) == mark.LENGTH
    torn = mark.mark_of(rows)
    assert torn is not None
    assert torn.before == {}
    assert mark.is_same_holder("x" * 300, "x" * 400, "move-1")
    assert not mark.is_same_holder("x", "y", "move-1")


def test_a_holder_names_machine_and_path_and_no_password() -> None:
    holder = mark.holder_of("/var/lib/j\u00f6urnal.db")
    assert holder.endswith(r":/var/lib/j\xf6urnal.db")
    assert "@" in holder
    shared = mark.holder_of("mysql+pymysql://cm:hunter2@db.example:3306/moves?ssl_ca=x")
    assert shared == "mysql://db.example/moves"
