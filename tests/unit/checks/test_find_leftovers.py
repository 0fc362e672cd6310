"""What is a leftover and whose it is: plain data in, leftovers out."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cellmove.checks.audit_snapshot import (
    Allocation,
    Attachment,
    AuditSnapshot,
    Binding,
    Image,
    KnownMove,
    Migration,
    Row,
    Server,
)
from cellmove.checks.duplicate import Duplicate
from cellmove.checks.find_leftovers import classify
from cellmove.checks.leftover import Leftover, LeftoverKind, RepairDetails
from cellmove.core.cell_names import CellRef
from cellmove.core.ownership import OwnershipMark
from cellmove.db.survey import misplaced
from cellmove.steps.repair import REPAIRS

NOW = datetime.datetime(2026, 6, 1, 12, tzinfo=datetime.UTC).replace(tzinfo=None)
LONG_AGO = NOW - datetime.timedelta(hours=5)
HOSTS = {"h1": CellRef("cell1", "cell1"), "h2": CellRef("cell2", "cell2")}
PROVIDERS = {"p1": "h1", "p2": "h2"}


def migration(status: str = "error", cell: str = "cell1", uuid: str = "m", **more: Any) -> Migration:
    return Migration(uuid, status, CellRef(cell, cell), server_id="s", created=LONG_AGO, changed=LONG_AGO, **more)


def row(cell: str = "cell1", **more: Any) -> Row:
    return Row(CellRef(cell, cell), **{"host": "h1", "name": "web", "project_id": "p", "changed": LONG_AGO} | more)


def server(*rows: Row, mapped: str = "cell1", **more: Any) -> Server:
    return Server("s", CellRef(mapped, mapped) if mapped else None, rows=rows or (row(),), **more)


def find(one: Server | None = None, **more: Any) -> list[Leftover]:
    cloud = AuditSnapshot(NOW, 1800.0, {one.id: one} if one else {}, HOSTS, PROVIDERS, **more)
    return classify(cloud)


def seen(found: list[Leftover]) -> list[tuple[str, bool, str]]:
    """LeftoverKind, whether it is safe, and whose it is."""
    return [(each.kind.value, each.safe, each.owner.by if each.owner else "") for each in found]


def test_migrations_without_a_uuid_are_told_apart_by_the_cell_and_not_by_its_label() -> None:
    first, second = (CellRef(uuid, "cell1") for uuid in ("one", "two"))
    old = replace(migration(uuid=""), number=7)
    rows = tuple(Row(cell, migrations=(replace(old, cell=cell),)) for cell in (first, second))
    found = Server("s", first, rows=rows).migrations()
    assert [each.cell.uuid for each in found] == ["one", "two"]


BINDING = Binding("port", "s", "h2", "h1")
ATTACHMENT = Attachment("a", "v", "s")
IMAGE = Image("i", "web-resize-temp", "s", "active", LONG_AGO)


def test_a_server_that_is_well_is_no_finding() -> None:
    assert find(server()) == []


@pytest.mark.parametrize(
    ("one", "kind", "safe"),
    [
        (server(row(), row("cell2", hidden=True)), LeftoverKind.HIDDEN_ROW, True),
        (server(row(), row("cell2", hidden=True, host="")), LeftoverKind.HIDDEN_ROW, True),
        (server(row(), row("cell2", hidden=True, host="h2")), LeftoverKind.HIDDEN_ROW, False),
        (server(row(task_state="rebooting"), row("cell2", hidden=True)), LeftoverKind.HIDDEN_ROW, False),
        (server(row("cell2", hidden=True), mapped=""), LeftoverKind.HIDDEN_ROW, False),
        (server(row(), row("cell2")), LeftoverKind.TWO_VISIBLE, False),
        (server(row(hidden=True), row("cell2")), LeftoverKind.MAPPING_HIDDEN, False),
        (server(row(hidden=True)), LeftoverKind.MAPPING_HIDDEN, False),
        (server(row(), mapped="cell2"), LeftoverKind.MAPPING_ELSEWHERE, False),
        (server(row(), mapped="", is_mapped=False), LeftoverKind.MAPPING_ELSEWHERE, False),
        (server(row(), row("cell2", deleted=True)), LeftoverKind.DELETED_ROW, False),
        (server(row(task_state="resize_prep")), LeftoverKind.STUCK, False),
        (server(row(vm_state="resized")), LeftoverKind.STUCK, False),
        (server(row(migrations=(migration("post-migrating"),))), LeftoverKind.STUCK, False),
        (server(row(vm_state="resized", migrations=(migration("confirming"),))), LeftoverKind.STUCK, False),
    ],
)
def test_rows_and_mappings(one: Server, kind: LeftoverKind, safe: bool) -> None:
    (found,) = find(one)
    assert (found.kind, found.safe, found.owner) == (kind, safe, None)
    assert found.remedy
    assert (found.server_name, found.project_id) == ("web", "p")


def test_the_record_where_the_server_counts_goes_before_a_copy() -> None:
    copy = row("cell2", hidden=True, migrations=(migration("pre-migrating", "cell2"),))
    assert seen(find(server(row(migrations=(migration(),)), copy))) == [("hidden-row", True, "")]
    assert seen(find(server(row(), copy)))[0] == ("stuck-migration", False, "")


def test_a_same_cell_migration_under_way_is_not_stuck() -> None:
    busy = server(row(task_state="migrating", migrations=(migration("migrating", cross_cell=False),)))
    assert find(busy) == []


def test_a_same_cell_resize_that_is_stuck_is_none_of_ours() -> None:
    stuck = server(row(task_state="resize_migrating", migrations=(migration("migrating", cross_cell=False),)))
    (found,) = find(stuck)
    assert found.kind is LeftoverKind.STUCK
    assert "restart nova-compute on h1" in found.remedy
    assert "set --state" not in found.remedy, "a hard reboot after that would start it from a fresh disk"
    assert "adopt" not in found.remedy


def waiting() -> Server:
    there = row("cell2", host="h2", vm_state="resized", migrations=(migration("finished", "cell2"),))
    copy = row(hidden=True, task_state="resize_migrated", migrations=(migration("post-migrating"),))
    return server(copy, there, mapped="cell2")


def test_whose_it_is() -> None:
    half = server(row(task_state="resize_prep"), row("cell2", hidden=True))
    assert seen(find(half)) == [("stuck-migration", False, ""), ("hidden-row", False, "")]
    assert "cellmove adopt s" in find(half)[1].remedy
    moved = replace(
        half, move=KnownMove("move-1", "dest-prepared", is_open=True, next_command="cellmove resume move-1")
    )
    assert {(each.owner.move_id, each.remedy) for each in find(moved) if each.owner} == {
        ("move-1", "cellmove resume move-1")
    }
    recent = replace(half, rows=(replace(half.rows[0], changed=NOW), half.rows[1]))
    assert [owner for _kind, _safe, owner in seen(find(recent))] == ["nova", "nova"]
    assert seen(find(waiting(), bindings=[Binding("port", "s", "h1", "h2")])) == [
        ("inactive-binding", False, "nova"),
        ("hidden-row", False, "nova"),
    ]


@pytest.mark.parametrize(
    ("moves", "owner", "expected"),
    [
        ({"move-1": KnownMove("move-1", "rolled-back", is_open=False)}, "me", ("stale-mark", True, "")),
        ({"move-1": KnownMove("move-1", "rolled-back", is_open=False, generation=4)}, "me", ("stale-mark", True, "")),
        (
            {"move-1": KnownMove("move-1", "rolled-back", is_open=False, generation=2)},
            "me",
            ("stale-mark", False, "journal"),
        ),
        ({}, "somebody", ("stale-mark", False, "journal")),
        ({}, "me", ("stale-mark", False, "journal")),
    ],
)
def test_marks(moves: dict[str, KnownMove], owner: str, expected: tuple[str, bool, str]) -> None:
    generation = "3 token" if any(move.generation >= 0 for move in moves.values()) else ""
    found = find(server(row(mark=OwnershipMark("move-1", owner, generation=generation))), moves=moves, here="me")
    assert seen(found) == [expected]
    if not moves:
        assert ("adopt" if owner == "me" else "resume move-1") in found[0].remedy


def test_bindings() -> None:
    assert seen(find(server(), bindings=[BINDING])) == [("inactive-binding", True, "")]
    assert seen(find(server(), bindings=[replace(BINDING, active_host="")])) == [("inactive-binding", False, "")]
    assert seen(find(server(row(task_state="migrating")), bindings=[BINDING])) == [("inactive-binding", False, "")]
    assert seen(find(bindings=[BINDING])) == [("inactive-binding", False, "")]


def test_volumes_that_are_not_attached_as_the_records_say() -> None:
    def found(volumes: tuple[tuple[str, str], ...], attached: dict[str, tuple[str, str]], **more: Any) -> list[Any]:
        return seen(find(server(row(volumes=volumes, **more)), attached={"s": attached}))

    assert found((("v", "a"),), {"a": ("v", "attached")}) == []
    assert found((("v", "a"),), {"a": ("v", "reserved")}) == [("reserved-volume", False, "")]
    assert found((("v", "a"),), {}) == [("unattached-volume", False, "")]
    assert found((("v", ""),), {}) == [("unattached-volume", False, "")]
    assert found((("v", ""),), {"old": ("v", "attached")}) == []  # before Queens nova did not note attachments
    assert found((("v", ""),), {"old": ("w", "attached")}) == [("unattached-volume", False, "")]
    assert found((("v", "a"),), {"a": ("v", "reserved")}, vm_state="shelved_offloaded") == []
    assert found((("v", "a"),), {}, task_state="deleting") == []
    assert found((("v", "a"),), {}, changed=NOW) == [("unattached-volume", False, "nova")]
    assert find(server(row(volumes=(("v", "a"),)))) == []  # not looked at


def test_attachments() -> None:
    named = row(attachments=frozenset("a"))
    hidden = row("cell2", hidden=True, attachments=frozenset("a"))
    assert seen(find(server(), attachments=[ATTACHMENT])) == [("empty-attachment", True, "")]
    assert find(server(named), attachments=[ATTACHMENT]) == []
    assert find(server(replace(named, vm_state="shelved_offloaded", host="")), attachments=[ATTACHMENT]) == []
    assert seen(find(server(row(), hidden), attachments=[ATTACHMENT])) == [
        ("empty-attachment", True, ""),
        ("hidden-row", True, ""),
    ]
    assert seen(find(attachments=[ATTACHMENT])) == [("empty-attachment", False, "")]
    assert find(Server("s", is_mapped=True), attachments=[ATTACHMENT]) == []  # in cell0, or not in a cell yet


@pytest.mark.parametrize(
    ("held", "of_server", "where", "how"),
    [
        ("p2", "p1", "h1", "give-up"), ("p1", "p1", "h1", "give-up"), ("p1", "", "h1", "give-back"),
        ("p1", "p2", "h1", "give-back"), ("p2", "", "h1", ""),
    ],
)  # fmt: skip
def test_allocations(held: str, of_server: str, where: str, how: str) -> None:
    dead = Allocation("m", frozenset([held]), migration(), frozenset([of_server] if of_server else []))
    (found,) = find(server(row(host=where)), allocations=[dead])
    assert (found.kind, found.details.allocation, found.safe) == (LeftoverKind.ALLOCATION, how, bool(how))


def test_allocations_of_others() -> None:
    held = frozenset(["p1"])
    assert seen(find(allocations=[Allocation("x", held)])) == [("dead-allocation", False, "")]
    assert find(server(), allocations=[Allocation("m", held, migration("post-migrating"))]) == []
    just_now = replace(migration(), changed=NOW)
    assert seen(find(server(), allocations=[Allocation("m", held, just_now, held)])) == [
        ("dead-allocation", False, "nova")
    ]
    gone = server(row(deleted=True))
    assert seen(find(gone, allocations=[Allocation("m", held, migration())])) == [("dead-allocation", True, "")]


def test_images() -> None:
    moved = row(migrations=(migration(),))
    assert seen(find(server(moved), images=[IMAGE])) == [("temporary-image", True, "")]
    assert seen(find(server(), images=[IMAGE])) == [("temporary-image", False, "")]
    later = replace(IMAGE, created=NOW - datetime.timedelta(hours=2))
    assert seen(find(server(moved), images=[later])) == [("temporary-image", False, "")]
    used = server(replace(moved, image_ref="i"))
    assert seen(find(used, images=[IMAGE])) == [("temporary-image", False, "")]
    same_cell = row(migrations=(migration(cross_cell=False),))
    assert seen(find(server(same_cell), images=[IMAGE])) == [("temporary-image", False, "")]


def test_keypairs() -> None:
    lost = row(user_id="u", key_name="k", key_data="ssh-rsa one")
    key = {"public_key": "ssh-rsa one\n"}
    assert seen(find(server(lost))) == [("lost-keypairs", False, "")]
    (found,) = find(server(lost), keys={("u", "k"): key})
    assert (found.safe, found.details) == (True, RepairDetails(keypair_from="api"))
    assert seen(find(server(lost), keys={("u", "k"): {"public_key": "ssh-rsa two"}})) == [("lost-keypairs", False, "")]
    kept = row("cell2", hidden=True, host="h2", keypairs="{}")
    assert [each.details.keypair_from for each in find(server(lost, kept)) if each.kind is LeftoverKind.KEYPAIRS] == [
        "cell2"
    ]


def test_contexts() -> None:
    assert seen(find(server(row(stashed=True)))) == [("stale-context", True, "")]
    running = server(row(stashed=True, migrations=(migration("running", cross_cell=False),)))
    assert [each.kind for each in find(running)] == [LeftoverKind.OLD_MIGRATION]
    assert find(server(row(stashed=True, task_state="migrating"))) == []
    busy = server(row(stashed=True, migrations=(migration("pre-migrating"),)))
    assert seen(find(busy)) == [("stuck-migration", False, "")]


def resize(status: str = "finished", **more: Any) -> Migration:
    values = {"kind": "resize", "cross_cell": False, "source_host": "h0", "target_host": "h1", "number": 7} | more
    return migration(status, **values)


@pytest.mark.parametrize("status", ["finished", "post-migrating", "migrating", "reverting", "running", "accepted"])
@pytest.mark.parametrize("kind", ["resize", "migration", "live-migration", ""])
def test_the_record_of_a_migration_that_never_ended_is_settled_when_nothing_works(status: str, kind: str) -> None:
    (found,) = find(server(row(migrations=(resize(status, kind=kind),))))
    assert (found.kind, found.subject, found.safe, found.owner) == (LeftoverKind.OLD_MIGRATION, "m", True, None)
    assert found.text == (f"the record of its {kind or 'migration'} from h0 to h1 never ended: its status is {status}")
    assert found.details == RepairDetails(migration_number=7, migration_status=status)


def test_each_record_without_a_uuid_is_one_of_its_own() -> None:
    records = (resize(uuid="", number=7), resize("post-migrating", uuid="", number=8, target_host=""))
    found = find(server(row(migrations=records)))
    assert [(each.subject, each.safe) for each in found] == [("7", True), ("8", False)]
    assert "from h0 to a host that is not recorded" in found[1].text
    later = resize("confirmed", number=9, target_host="h1")
    assert [each.safe for each in find(server(row(migrations=(*records, later))))] == [True, True]


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (server(row(migrations=(resize(kind="evacuation"),))), "start nova-compute on h0"),
        (server(row(migrations=(resize(),), open_event="compute_reboot")), "wait until compute_reboot"),
        (server(row(migrations=(resize(target_host="h5"),))), "neither end of that record"),
        (server(row(migrations=(resize(target_host="h9"),), host="h9")), "h9 is no host of cell1"),
    ],
)
def test_the_record_of_a_migration_is_a_persons_decision(one: Server, words: str) -> None:
    (found,) = find(one)
    assert (found.kind, found.safe) == (LeftoverKind.OLD_MIGRATION, False)
    assert words in found.remedy


def test_the_record_of_a_migration_is_left_while_something_may_work() -> None:
    assert find(server(row(migrations=(resize(),), task_state="migrating"))) == []
    assert find(server(row(migrations=(resize(),), vm_state="resized"))) == []
    assert find(server(row(migrations=(resize("confirmed"),)))) == []
    (recent,) = find(server(row(migrations=(resize(),), changed=NOW)))
    assert (recent.safe, recent.owner is not None) == (False, True)
    assert seen(find(server(row(migrations=(resize("migrating", cross_cell=True),))))) == [
        ("stuck-migration", False, "")
    ]
    copy = row("cell2", hidden=True, host="h2")
    of_record = [
        each for each in find(server(row(migrations=(resize(),)), copy)) if each.kind is LeftoverKind.OLD_MIGRATION
    ]
    assert [each.safe for each in of_record] == [False]


def test_the_streams_are_merged() -> None:
    mapped = [("a", -1, 1), ("b", -1, 2), ("c", -1, 1), ("d", -1, None), ("e", -1, 1), ("f", -1, 1), ("h", -1, 1)]
    one = [("a", 1, "visible"), ("b", 1, "hidden"), ("c", 1, "visible"), ("e", 1, "deleted"), ("h", 1, "visible")]
    two = [("b", 2, "visible"), ("f", 2, "visible"), ("g", 2, "visible"), ("h", 2, "deleted")]
    assert list(misplaced(iter(mapped), {1: iter(one), 2: iter(two)})) == ["b", "f", "g", "h"]


def test_every_kind_that_is_ever_safe_has_a_mender() -> None:
    assert set(REPAIRS) == set(LeftoverKind) - {
        LeftoverKind.STUCK, LeftoverKind.TWO_VISIBLE, LeftoverKind.MAPPING_HIDDEN, LeftoverKind.MAPPING_ELSEWHERE, LeftoverKind.DELETED_ROW, LeftoverKind.RESERVED,
        LeftoverKind.UNATTACHED, LeftoverKind.DUPLICATE_CELL,
    }  # fmt: skip


def test_a_second_mapping_of_one_database_is_for_a_person() -> None:
    twice = Duplicate(CellRef("u3", "cell3"), CellRef("u1", "cell1"))
    (found,) = find(server(), duplicates=(twice,))
    assert (found.kind, found.cell_uuid, found.subject, found.safe) == (LeftoverKind.DUPLICATE_CELL, "u3", "u3", False)
    assert found.text == "cell3 is a second mapping of the database of cell1 (nova bug 1923899)"
    assert found.remedy.endswith("nova-manage cell_v2 delete_cell --cell_uuid u3")


def test_every_kind_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs" / "audit.md").read_text(encoding="utf-8")
    assert [kind.value for kind in LeftoverKind if f"| `{kind}` |" not in text] == []
