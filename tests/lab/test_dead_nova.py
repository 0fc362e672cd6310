"""nova's superconductor dies in the middle of its own move, confirm or revert: adopt, and the server goes on or home.

Several wrecks are made at once, since a superconductor that dies leaves all that it was at.
"""

from __future__ import annotations

import pytest

from lab import cloud, oracle, rows, wreck
from tests.support.lab import interrupted_moves
from tests.support.lab.interrupted_moves import PLACES, TARGETS, Wreck
from tests.support.lab.shared_server import settle

pytestmark = [pytest.mark.lab, pytest.mark.alone]

CASES = [
    ("cell-not-decided", "image", "rollback"),
    ("half-copied", "image", "resume"), ("attachment-made", "volume", "rollback"), ("attachment-made", "image", "resume"),
    ("claimed", "image", "rollback"), ("before-stop", "image", "resume"), ("stopping", "image", "resume"),
    ("stopped", "volume", "rollback"), ("stopped", "image", "resume"), ("starting", "image", "rollback"),
    ("starting", "volume", "resume"), ("target-shown", "image", "rollback"), ("mapping-switched", "volume", "resume"),
    ("spec-not-saved", "image", "resume"), ("confirm-not-sent", "image", "rollback"),
    ("confirming", "volume", "resume"), ("confirm-source-gone", "image", "resume"),
    ("confirm-half-settled", "image", "resume"), ("revert-begun", "image", "resume"),
    ("revert-source-told", "volume", "rollback"), ("revert-switched", "image", "resume"),
    ("revert-cleaning", "volume", "resume"), ("revert-starting", "image", "rollback"),
]  # fmt: skip
"""Where it dies, the server's backing, and what is typed after adopting."""


OFTEN = (
    ("half-copied", "image", "resume"), ("attachment-made", "volume", "rollback"), ("before-stop", "image", "resume"),
    ("target-shown", "image", "rollback"), ("spec-not-saved", "image", "resume"),
    ("confirm-source-gone", "image", "resume"), ("confirm-half-settled", "image", "resume"),
    ("revert-source-told", "volume", "rollback"), ("revert-cleaning", "volume", "resume"),
    ("revert-starting", "image", "rollback"),
)  # fmt: skip
"""The cases of `make test-lab`. Moves that are found in the same place by `audit` (STUCK) end there, too."""


def all_cases():
    """All of them; those that are not in OFTEN are for `make test-long`."""
    for case in CASES:
        yield pytest.param(*case, id="-".join(case), marks=() if case in OFTEN else (pytest.mark.long,))


def case_of(item):
    """The case that a collected test plays."""
    return tuple(item.callspec.params[name] for name in ("name", "backing", "way"))


TOGETHER = 5
"""How many are made at once: more would make each other wait for longer than the database lets one wait."""


def is_case(item):
    """Whether a collected test plays one."""
    return "way" in item.fixturenames


@pytest.fixture(scope="module")
def wrecked(request, lab_environment):
    """Gives the wreck of a case. The first one asked for is made together with those that are to be run after it."""
    wanted = [case_of(item) for item in request.session.items if item.module is request.module and is_case(item)]
    made: dict[tuple[str, ...], Wreck] = {}

    def wreck_of(case):
        if case not in made:
            interrupted_moves.unmake(list(made.values()))
            at = wanted.index(case)
            made.clear()
            for each in wanted[at : at + TOGETHER]:
                made[each] = Wreck(each[0], PLACES[each[0]], each[1] == "volume")
            try:
                interrupted_moves.make(list(made.values()))
            except BaseException:
                interrupted_moves.unmake(list(made.values()))
                made.clear()  # the next case makes its own: one that failed says nothing of the others
                raise
        return made[case]

    yield wreck_of
    interrupted_moves.unmake(list(made.values()))


def check_home(found):
    """It is where it came from, as if nothing had been tried."""
    settle(found.server)
    after = oracle.snapshot(found.server)
    assert oracle.problems(after, cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE") == []
    assert oracle.compare(found.before, after) == []
    assert cloud.guests(found.server) == {"c1-host1": "running"}
    assert cloud.disk_hash(found.server) == found.disk


def check_there(found, status):
    """It is in the other cell."""
    settle(found.server)
    after = oracle.snapshot(found.server)
    (host,) = [name for name in cloud.guests(found.server) if name in TARGETS]
    assert oracle.problems(after, cell="cell2", host=host, flavor=found.flavor, status=status) == []
    assert cloud.guests(found.server) == {host: "running"}
    assert set(cloud.disk_hash(found.server).values()) == set(found.disk.values())


@pytest.mark.parametrize(("name", "backing", "way"), list(all_cases()))
def test_the_superconductor_dies(cellmove, wrecked, name, backing, way):
    found = wrecked((name, backing, way))
    shot = oracle.snapshot(found.server)
    refused = cellmove("adopt", found.server, expect=5)
    assert f"next: cellmove adopt {found.server} --nova-is-dead" in refused.stderr
    adopted = cellmove("adopt", found.server, "--nova-is-dead", "-f", "json").json
    assert oracle.compare(shot, oracle.snapshot(found.server)) == [], "adopt wrote to the cloud"

    cellmove(way, adopted["move"])
    if name.startswith("confirm") and way == "resume":
        check_there(found, "ACTIVE")
        lost = oracle.compare(found.before, oracle.snapshot(found.server), moved=True, resized=True)
        # The copy is nova's: it knows the address of an interface without its port.
        assert [each for each in lost if not each.startswith("virtual_interfaces ")] == []
    elif name.startswith("revert") or way == "rollback":
        check_home(found)
    else:
        check_there(found, "VERIFY_RESIZE")
        if backing == "volume":
            cloud.native_confirm(found.server)
            check_there(found, "ACTIVE")
        else:
            cellmove("revert", adopted["move"])
            check_home(found)
    assert "nothing to adopt" in cellmove("adopt", found.server, expect=5).stderr


def test_a_request_that_waits_in_the_queue_is_left_there(cellmove, boot, tmp_path):
    """No conductor has begun it, and the next one that starts does it all."""
    server = boot("queued").id
    before = oracle.snapshot(server)
    config = tmp_path / "cellmove.toml"
    config.write_text("rpc_response_timeout = 3\n[policy]\nunattended = true\n")
    wreck.kill_superconductor()
    try:
        cloud.native_move(server, host=TARGETS[0], wait=False)
        refused = cellmove("adopt", server, expect=5)
        assert "no nova-conductor has begun it" in refused.stderr
        refused = cellmove("adopt", server, "--nova-is-dead", expect=5, env={"CELLMOVE_CONFIG": str(config)})
        assert "none answers now" in refused.stderr
    finally:
        wreck.start_superconductor()
    cloud.wait_status(server, "VERIFY_RESIZE")
    cloud.wait_for("nova to have ended", lambda: rows.open_events(server, "cell1") == [], 20)
    cellmove("revert", cellmove("adopt", server, "-f", "json").json["move"])
    assert oracle.compare(before, oracle.snapshot(server)) == []


def test_a_superconductor_that_is_down_needs_no_word(cellmove):
    """And nothing of what takes the server home needs it."""
    found = Wreck("down", PLACES["starting"], volume_backed=True)
    try:
        interrupted_moves.make([found], start=False)
        cloud.wait_for("nova to call it down", lambda: silence() > 16, 60)
        cellmove("rollback", cellmove("adopt", found.server, "-f", "json").json["move"])
        check_home(found)
    finally:
        wreck.start_superconductor()
        interrupted_moves.unmake([found])


def silence():
    """Seconds since a conductor of the API level last said that it is alive."""
    query = (
        "SELECT min(timestampdiff(SECOND, last_seen_up, UTC_TIMESTAMP())) AS age FROM nova_cell0.services "
        "WHERE `binary` = 'nova-conductor' AND deleted = 0"
    )
    connection = rows.connect_database()
    try:
        return rows.rows(connection, query)[0]["age"]
    finally:
        connection.close()
