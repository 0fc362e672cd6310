"""What a refusal says to do is done, and the plan passes; or docs/preflight.md names whose decision it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cellmove.checks.preflight import CheckResult
from cellmove.core.request import Destination, MoveRequest
from cellmove.sandbox.store import Cloud
from cellmove.steps.plan import gather
from tests.sandbox.test_refusals import codes_in_the_source
from tests.support.sandbox.fixtures import Fixtures
from tests.support.sandbox.refusals import CASES, Case, Change, instance, request_spec, service, small

DOCUMENT = Path(__file__).parents[2] / "docs" / "preflight.md"
SHAPE = "image-active-full"

Typed = Callable[[MoveRequest, str], MoveRequest]


def nothing(_cloud: Cloud, _server: str) -> None:
    """The way out changes nothing in the cloud."""


def same(request: MoveRequest, _remedy: str) -> MoveRequest:
    """The same command again."""
    return request


@dataclass(frozen=True)
class Way:
    """What a remedy says.

    :param words: that the remedy has to contain
    :param change: what another program's command does that the remedy names
    :param typed: the command that is typed then, of the one before and the remedy
    """

    words: str
    change: Callable[[Cloud, str], Any] = nothing
    typed: Typed = same


def to(**where: str) -> Typed:
    return lambda request, _remedy: replace(request, destination=Destination(**where))


def without_flavor(request: MoveRequest, _remedy: str) -> MoveRequest:
    """``cellmove migrate`` in place of ``cellmove resize``."""
    return replace(request, flavor="")


def accepting(request: MoveRequest, remedy: str) -> MoveRequest:
    """With the option that the remedy names."""
    (loss,) = re.findall(r"--accept-loss=(\S+)", remedy)
    return replace(request, accept_loss=(*request.accept_loss, loss))


def come_up(cloud: Cloud, _server: str) -> None:
    """``systemctl start nova-compute`` on the source host."""
    cloud.world.down.clear()
    cloud.update("cell1", "services", {"last_seen_up": cloud.now()}, host="c1-host1")


def without_qos(cloud: Cloud, server: str) -> None:
    for port in cloud.world.ports.values():
        if port["device_id"] == server:
            port["resource_request"] = None


def with_qos(cloud: Cloud, server: str) -> None:
    for port in cloud.world.ports.values():
        if port["device_id"] == server:
            port["resource_request"] = {"NET_BW_EGR_KILOBIT_PER_SEC": 1}


def built(cloud: Cloud, server: str) -> None:
    cloud.delete("api", "build_requests", instance_uuid=server)


def healed(cloud: Cloud, server: str) -> None:
    """``GET /servers/ID/os-volume_attachments``: nova's API gives a record that has no UUID one."""
    for row in cloud.rows("cell1", "block_device_mapping", instance_uuid=server, uuid=None):
        cloud.update("cell1", "block_device_mapping", {"uuid": cloud.new_id("mapping")}, id=row["id"])


NAMED = to(host="c2-host2")
START = "start nova-conductor in "
FLAVOR = "choose a"
NUMA = Way("cellmove migrate to the other cell first", typed=without_flavor)
LOSS = Way("Then --accept-loss=", typed=accepting)
WAYS: Mapping[str, tuple[tuple[int, Way], ...]] = {
    "build-request": ((0, Way("wait until it has been built", built)),),
    "vm-state": ((1, Way("openstack server unpause ", instance(vm_state="active"))),),
    "task-state": ((0, Way("wait until that has ended", instance(task_state=None))),),
    "locked": (
        (0, Way("openstack server unlock ", instance(locked=0, locked_by=None))),
        (0, Way("add --force-locked", typed=lambda request, _remedy: replace(request, force_locked=True))),
    ),
    "source-down": ((0, Way("start nova-compute there", come_up)),),
    "source-too-old": ((0, Way("upgrade that host", service("cell1", version=66))),),
    "source-conductor-down": ((0, Way(START, service("cell1", "nova-conductor", forced_down=0))),),
    "same-cell": ((0, Way("name another cell", typed=to(cell="cell2"))),),
    "target-conductor-down": ((0, Way(START, service("cell2", "nova-conductor", forced_down=0))),),
    "no-live-compute": (
        (0, Way("start or enable one", service("cell2", disabled=0))), (1, Way("or name another", typed=NAMED)),
    ),
    "target-too-old": ((0, Way("upgrade it", service("cell2", version=66))),),
    "target-hypervisor": ((1, Way("name a cell or a host with", typed=NAMED)),),
    "root-disk-lost": (
        (0, Way("or upgrade nova-compute there", service("cell2", version=66))),
        (1, Way("or name a newer host", typed=NAMED)),
    ),
    "availability-zone": ((0, Way("unshelve --no-availability-zone", request_spec(availability_zone=None))),),
    "no-valid-host": ((0, Way("name another host with --host", typed=NAMED)),),
    "same-flavor": ((0, Way("use cellmove migrate", typed=without_flavor)),),
    "too-little-memory": ((0, Way(FLAVOR, small(memory_mb=8192))),),
    "zero-disk": ((0, Way(FLAVOR, small(root_gb=5))),),
    "disk-too-small": ((0, Way(FLAVOR, small(root_gb=5))), (1, Way(FLAVOR, small(root_gb=5)))),
    "flavor-disabled": ((0, Way(FLAVOR, small(disabled=0))),),
    "numa": ((0, NUMA), (1, NUMA)),
    "pci": ((0, NUMA),),
    "quota": ((0, Way("openstack quota set --cores 3 ", lambda cloud, _server: cloud.world.quota.update(cores=3))),),
    "port-resources": ((0, Way("openstack port unset --qos-policy ", without_qos)),),
    "device-without-uuid": ((0, Way("openstack server volume list ", healed)),),
    **{f"loses-{name}": ((0, LOSS),) for name in ("ephemeral", "swap", "local-disk", "vtpm", "nvram", "pmem")},
}  # fmt: skip
"""Of each code the cases that cause it (by their place in CASES), and what is typed then."""

ELSEWHERE = frozenset({"being-moved", "unfinished-migration", "no-allocations", "port-binding-left"})
"""Their remedies are cellmove's own commands, which test_remedies and test_states type in processes of their own."""

CAUSES: Mapping[str, Change] = {"port-resources": with_qos}
"""Changes for a server of several ports, where those of CASES are for one port."""


@pytest.fixture(scope="module")
def fixtures() -> Iterator[Fixtures]:
    return Fixtures()


def looked_at(fixtures: Fixtures, request: MoveRequest) -> dict[str, CheckResult]:
    """What the plan finds that is not right, by code."""
    planned = gather(fixtures.harness.gateway, fixtures.harness.clock, request)
    return {check.code: check for check in planned.checks if check.level.value == "refusal"}


def request_of(server: str, case: Case) -> MoveRequest:
    where = dict(zip(case.where[::2], case.where[1::2], strict=True))
    destination = Destination(cell=where.get("--cell", ""), host=where.get("--host", ""))
    return MoveRequest(server=server, flavor=case.flavor, destination=destination)


@pytest.mark.parametrize(
    ("code", "number", "way"), [(code, number, way) for code, ways in WAYS.items() for number, way in ways]
)
def test_what_the_refusal_says_leads_to_a_plan_that_passes(
    fixtures: Fixtures, code: str, number: int, way: Way
) -> None:
    server, cloud = fixtures.set(SHAPE, "home").scene.server, fixtures.harness.cloud
    case = CASES[code][number]
    CAUSES.get(code, case.change)(cloud, server)
    request = request_of(server, case)
    found = looked_at(fixtures, request)
    assert way.words in found[code].remedy
    way.change(cloud, server)
    assert looked_at(fixtures, way.typed(request, found[code].remedy)) == {}


def codes_below(heading: str) -> set[str]:
    """The codes in the table below a heading of the document."""
    section = DOCUMENT.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    return {
        code for line in section.splitlines() if line.startswith("| ") for code in re.findall(r"`([a-z0-9-]+)`", line)
    }


def test_every_refusal_has_a_way_out_that_is_typed_or_a_person_who_decides() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| ([a-z, ]+) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    refusals = {code for code, level in rows if "refusal" in level}
    assert refusals <= codes_in_the_source()
    typed, decided = set(WAYS) | ELSEWHERE, codes_below("Who decides")
    assert typed | decided == refusals
    assert typed & decided == set()
