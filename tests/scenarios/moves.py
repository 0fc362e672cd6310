"""The sixteen moves, each followed by a move back to where it came from."""

from __future__ import annotations

import itertools

import pytest

from lab import oracle
from tests.scenarios.environment import Agrees, Place, disks, status

CASES = [
    pytest.param(backing, state, kind, ending, id=f"{backing}-{state}-{kind}-{ending}")
    for backing, state, kind, ending in itertools.product(
        ("image", "volume"), ("active", "stopped"), ("migrate", "resize"), ("confirm", "revert")
    )
]


def there_and_back(place: Place, agrees: Agrees, backing: str, state: str, kind: str, ending: str) -> None:
    """Move, look, confirm or revert, look, and go home again (or, after a revert, away for good)."""
    server = place.boot("there", volume_backed=backing == "volume", active=state == "active", ports=2, volumes=1)
    before = place.snapshot(server.id)
    settled = "ACTIVE" if state == "active" else "SHUTOFF"
    name = f"{backing}-{state}-{kind}"
    arguments = (kind, server.name, *(("m1.small",) if kind == "resize" else ()), "--cell", "cell2")

    moved = place.cellmove(*arguments, "-f", "json").json

    assert moved["state"] == "finished"
    target = moved["target"]["host"]
    flavor = "m1.small" if kind == "resize" else "m1.tiny"
    resized = place.snapshot(server.id)
    assert oracle.problems(resized, cell="cell2", host=target, flavor=flavor, status="VERIFY_RESIZE") == []
    assert disks(resized)[-1:] == disks(before)
    agrees(f"{name}-resized", resized, server, target)

    place.cellmove(ending, server.name)

    after = place.snapshot(server.id)
    if ending == "confirm":
        assert oracle.problems(after, cell="cell2", host=target, flavor=flavor, status=settled) == []
        assert oracle.compare(before, after, moved=True, resized=kind == "resize") == []
        agrees(f"{name}-confirm", after, server, target)
        flavor_back = ("m1.tiny",) if kind == "resize" else ()
        place.cellmove(kind, server.id, *flavor_back, "--host", "c1-host1", "--confirm")
        home_cell, home_host = "cell1", "c1-host1"
    else:
        assert oracle.problems(after, cell="cell1", host="c1-host1", flavor="m1.tiny", status=settled) == []
        assert oracle.compare(before, after) == []
        agrees(f"{name}-revert", after, server, target)
        # The way is free for another move: nothing was left in the target cell.
        again = place.cellmove("migrate", server.id, "--cell", "cell2", "--confirm", "-f", "json").json
        home_cell, home_host = "cell2", again["target"]["host"]

    last = place.snapshot(server.id)
    assert oracle.problems(last, cell=home_cell, host=home_host, flavor="m1.tiny", status=settled) == []
    assert status(last) == settled
    assert disks(last) == disks(before)
