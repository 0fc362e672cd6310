"""What ``drain-cell --dry-run`` says before anything moves, and what the filters and the order make of it."""

from __future__ import annotations

import pytest

from cellmove.drain.options import SKIP_TAG
from cellmove.sandbox import seed
from tests.support.sandbox.drained_cell import Drained


def populate(cell: Drained) -> None:
    """One of each kind."""
    cell.add("web")
    cell.add("db", host="c1-host2", flavor="m1.small", volume_backed=True, volumes=1)
    cell.add("off", host="c1-host2", active=False)
    (kept, locked) = cell.add("kept", "locked")
    cell.process.cloud().insert("cell1", "tags", {"resource_id": kept.id, "tag": SKIP_TAG})
    cell.process.control("lock", server=locked.id)


def verdicts(found: dict[str, object]) -> dict[str, str]:
    servers = found["servers"]
    assert isinstance(servers, list)
    return {each["name"]: each["verdict"] for each in servers}


def test_every_server_is_classified_and_nothing_is_written(cell: Drained) -> None:
    populate(cell)
    before = [cell.snapshot(each.id) for each in cell.servers.values()]
    effects = len(cell.history)
    found = cell.plan("--flavor-map", "m1.tiny=m1.small")
    assert verdicts(found) == {
        "web": "movable",
        "db": "movable",
        "off": "movable",
        "kept": "skipped",
        "locked": "refused",
    }
    assert found["totals"] == {
        "servers": 5, "movable": 3, "skipped": 1, "refused": 1, "disk_gib": 2, "memory_mb": 3 * 128, "vcpus": 3 * 2,
    }  # fmt: skip
    by_name = {each["name"]: each for each in found["servers"]}
    assert by_name["kept"]["reasons"] == [f"it has the tag {SKIP_TAG}"]
    assert by_name["locked"]["codes"] == ["locked"]
    assert "--force-locked" in by_name["locked"]["reasons"][0]
    assert (by_name["db"]["backing"], by_name["db"]["disk_gib"], by_name["db"]["new_flavor"]) == ("volume", 0, None)
    assert (by_name["web"]["disk_gib"], by_name["web"]["new_flavor"]) == (1, "m1.small")
    assert found["seen"] == {"mapped": 5, "whole": True, "missing": [], "deleting": [], "strays": []}
    assert found["room"] == [
        {
            "cell": "cell2", "cell_uuid": "22222222-2222-4222-8222-222222222222", "hosts": 2, "VCPU": {"total": 64, "used": 0}, "MEMORY_MB": {"total": 32768, "used": 0},
            "DISK_GB": {"total": 400, "used": 0},
        }
    ]  # fmt: skip
    assert found["enough_room"] is True
    assert found["estimate"] == {"seconds": 3 * 60 + 2 * 8, "guess": True}
    assert len(cell.history) == effects
    assert [cell.snapshot(each.id) for each in cell.servers.values()] == before
    assert cell.cellmove("drain", "status", expect=2).stderr.startswith("the journal has no drain")


def test_the_same_by_plan_and_as_a_person_sees_it(cell: Drained) -> None:
    populate(cell)
    shown = cell.drain("--dry-run")
    assert shown.stdout == cell.cellmove("plan", "--cell", "cell1").stdout
    assert "servers  5: 3 movable, 1 skipped, 1 refused" in shown.stdout
    assert "seen     all 5 servers that the API maps to the cell" in shown.stdout
    assert "free     cell2: 2 hosts; 64 of 64 vCPU, " in shown.stdout
    for name in cell.servers:
        assert f"\n{name} " in shown.stdout
    assert cell.cellmove("plan", expect=2).stdout == ""


def test_a_server_that_cannot_be_seen_is_said(cell: Drained) -> None:
    populate(cell)
    lost = cell.servers["web"].id
    cell.process.cloud().update("cell1", "instances", {"deleted": 7}, uuid=lost)
    found = cell.plan()
    assert found["seen"]["whole"] is False
    assert found["seen"]["missing"] == [lost]
    assert (
        f"not all 5 servers that the API maps to the cell: 1 have no row there ({lost})"
        in cell.drain("--dry-run").stdout
    )


def test_too_little_room_is_said(cell: Drained) -> None:
    cell.add("one", "two", "three")
    cell.process.control("world", capacity={"VCPU": 1, "MEMORY_MB": 16384, "DISK_GB": 200})
    found = cell.plan()
    assert found["enough_room"] is False
    assert found["room"][0]["VCPU"] == {"total": 2, "used": 0}
    assert "no: the target has less capacity than needed" in cell.drain("--dry-run").stdout


def test_what_is_to_stay_free_is_no_room(cell: Drained) -> None:
    cell.add("one")
    assert "fits     yes, all at once\n" in cell.drain("--dry-run").stdout
    assert (
        "fits     no: the target has less capacity than needed, and 99 % stay free\n"
        in cell.drain("--dry-run", "--min-free", "99").stdout
    )


def test_an_estimate_by_moves_of_the_past(cell: Drained) -> None:
    cell.add("a", "b", "c", volume_backed=True)
    cell.drain()
    cell.add("d", "e", volume_backed=True)
    found = cell.plan("--parallel", "2")["estimate"]
    assert found["guess"] is False
    assert 0 <= found["seconds"] < 20


def test_more_servers_than_fit_on_a_screen_are_shown_by_their_reasons(cell: Drained) -> None:
    for number in range(21):
        host = f"c1-host{1 + number % 2}"
        cell.add(f"free-{number}", f"held-{number}", volume_backed=True, ports=0, host=host)
        cell.process.control("lock", server=cell.servers[f"held-{number}"].id)
    shown = cell.drain("--dry-run").stdout
    assert "42: 21 movable, 0 skipped, 21 refused" in shown
    assert "locked" in shown
    assert " 21 " in shown
    assert len(shown.splitlines()) < 20


FILTERS = [
    (("--include", "name=w*"), {"web"}),
    (("--include", "name=w*", "--include", "name=db"), {"web", "db"}),
    (("--include", "name=w*", "--include", "host=c1-host2"), set()),
    (("--exclude", "name=w*"), {"db", "off"}),
    (("--include", "host=c1-host2"), {"db", "off"}),
    (("--exclude", "host=c1-host2"), {"web"}),
    (("--include", "flavor=m1.small"), {"db"}),
    (("--exclude", "flavor=m1.tiny"), {"db"}),
    (("--include", "state=SHUTOFF"), {"off"}),
    (("--exclude", "state=active"), {"off"}),
    (("--include", "tag=gree?"), {"web"}),
    (("--exclude", "tag=green"), {"db", "off"}),
    (("--include", "project=admin"), {"web", "db", "off"}),
    (("--exclude", f"project={seed.PROJECT}"), set()),
]


def test_what_is_not_wanted_is_skipped_and_says_by_what(cell: Drained) -> None:
    cell.add("web")
    cell.add("db", host="c1-host2", flavor="m1.small")
    cell.add("off", host="c1-host2", active=False)
    cell.process.cloud().insert("cell1", "tags", {"resource_id": cell.servers["web"].id, "tag": "green"})
    for options, movable in FILTERS:
        found = cell.plan(*options)
        assert {name for name, verdict in verdicts(found).items() if verdict == "movable"} == movable, options
        skipped = [each for each in found["servers"] if each["verdict"] == "skipped"]
        assert len(skipped) == 3 - len(movable)
        assert {each["reasons"][0].split()[0] for each in skipped} <= {options[0]}, options


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("smallest", ["volume", "tiny-a", "tiny-b", "small"]),
        ("largest", ["small", "tiny-a", "tiny-b", "volume"]),
        ("oldest", ["tiny-b", "small", "tiny-a", "volume"]),
        ("host", ["volume", "tiny-b", "small", "tiny-a"]),
    ],
)
def test_they_are_moved_in_the_order_of_the_plan(cell: Drained, order: str, names: list[str]) -> None:
    cell.add("tiny-a", host="c1-host2")
    cell.add("volume", volume_backed=True)
    cell.add("tiny-b")
    cell.add("small", flavor="m1.small", host="c1-host1")
    cloud = cell.process.cloud()
    for name, day in (("tiny-b", 1), ("small", 2), ("tiny-a", 3), ("volume", 4)):
        created = cloud.now().replace(year=2020, month=1, day=day)
        cloud.update("cell1", "instances", {"created_at": created}, uuid=cell.servers[name].id)
    assert [each["name"] for each in cell.plan("--order", order)["servers"]] == names
    cell.drain("--order", order)
    assert cell.begun() == names


NONSENSE = [
    (("--include", "colour=red"), "--include: 'colour=red' must be KIND=PATTERN"),
    (("--exclude", "name="), "--exclude: 'name=' must be KIND=PATTERN"),
    (("--flavor-map", "m1.tiny"), "must be OLD=NEW"),
    (("--flavor-map", "a=b", "--flavor-map", "a=c"), "a cannot become both b and c"),
    (("--flavor-map", "m1.tiny=m1.smal"), "did you mean m1.small"),
    (
        ("--flavor-map", "m1.tyny=m1.small"),
        "no server of cell1 has the flavor m1.tyny, and there is no flavor m1.tyny; did you mean m1.tiny",
    ),
    (("--confirm", "later"), "--confirm: 'later' must be never, verified or after:DURATION"),
    (("--soak", "long"), "--soak: 'long' is not a duration"),
    (("--probe", "http:80"), "is not a probe"),
    (("--until", "25:00"), "--until: '25:00' is not a time of day"),
    (("--window", "22:00"), "must be HH:MM-HH:MM"),
    (("--days", "someday"), "--days: 'someday' is not a day"),
    (("--min-free", "100"), "100"),
    (("--parallel", "0"), "0"),
    (("--limit", "0"), "0 is not in the range x>=1"),
    (("--per-source-host", "0"), "0 is not in the range x>=1"),
    (("--accept-loss", "everything"), "unknown loss 'everything'"),
    (("--to", "cell1"), "--to cell1: this is the cell to drain"),
    (("--to", "cell9"), "cell9"),
    (("--order", "random"), "random"),
    (("--dry-run", "--abort"), "exclude each other"),
]


def test_what_makes_no_sense_is_refused_before_anything_is_written(cell: Drained) -> None:
    cell.add("web")
    for options, words in NONSENSE:
        for look in ((), ("--dry-run",)):
            wrong = cell.drain(*options, *(each for each in look if each not in options), expect=2)
            assert words in wrong.stderr, options
            assert wrong.stdout == ""
    assert cell.journal.drains() == []
    assert not [each for each in cell.history if each["what"].startswith("call")]
