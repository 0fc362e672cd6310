"""The snapshots of the sandbox: the lab's oracle sees in them what it sees in the lab's, and they compare from run to run."""

from __future__ import annotations

import copy
import json

import pytest

from cellmove.sandbox import seed
from cellmove.sandbox.store import Cloud, files
from lab import oracle, selfcheck
from tests.scenarios import failures, normal
from tests.scenarios.environment import SNAPSHOTS, Album, Server, literal
from tests.support.sandbox.snapshot import snapshot


def shot_of(cloud, server_id):
    return json.loads(json.dumps(snapshot(cloud, server_id), default=str))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A server as the self-check of the lab's oracle wants it."""
    cloud = Cloud(files(tmp_path_factory.mktemp("healthy")))
    seed.make_cloud(cloud, "sandbox://nowhere")
    return shot_of(cloud, seed.boot(cloud, "healthy", host=selfcheck.HOME, ports=1, volumes=1))


def lines_of(shot):
    return json.loads(normal.lines(normal.normalised(shot, literal(Server(shot["id"], "healthy"), "c2-host1"))))


def test_the_oracle_sees_what_is_broken_in_a_sandbox_too(healthy):
    assert oracle.problems(healthy, cell="cell1", host=selfcheck.HOME, flavor="m1.tiny", status="ACTIVE") == []
    assert oracle.compare(healthy, copy.deepcopy(healthy)) == []
    assert selfcheck.check_breaks(healthy) == []


@pytest.mark.parametrize("name", [*selfcheck.BREAKS, *selfcheck.CHANGES])
def test_a_changed_snapshot_is_another_snapshot(healthy, name):
    spoil = selfcheck.BREAKS[name][0] if name in selfcheck.BREAKS else selfcheck.CHANGES[name]
    spoiled = copy.deepcopy(healthy)
    spoil(spoiled)
    assert normal.differences(lines_of(healthy), lines_of(spoiled)) != []


def test_two_servers_have_the_same_snapshot(small_cloud):
    cloud, _ = small_cloud
    seen = []
    for name in ("first", "second"):
        server = seed.boot(cloud, name, ports=2, volumes=2, active=False)
        seen.append(normal.lines(normal.normalised(shot_of(cloud, server), literal(Server(server, name), "c2-host1"))))
    assert seen[0] == seen[1]


def test_the_album_has_what_is_played_and_nothing_of_one_lab():
    played = {f"{backing}-{state}-{kind}-{stage}" for backing in ("image", "volume") for state in ("active", "stopped")
              for kind in ("migrate", "resize") for stage in ("resized", "confirm", "revert")}  # fmt: skip
    played |= {"-".join(case.values) for case in failures.CASES}
    played |= {"a-stopped-server-stays-stopped", "a-step-alone-takes-back-only-itself"}
    assert {path.stem for path in SNAPSHOTS.glob("*.json")} == played
    for path in SNAPSHOTS.glob("*.json"):
        found = normal.FINDER.search(path.read_text())
        assert found is None, f"{path.name}: {found}"


def test_the_album_says_what_differs(healthy):
    server = Server(healthy["id"], "healthy")
    with pytest.raises(AssertionError, match=r"image-active-resize-confirm\.json -> here"):
        Album().agrees("image-active-resize-confirm", healthy, server)
