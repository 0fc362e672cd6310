"""The census of a cell says of every server what ``cellmove plan`` says of it, in calls that do not grow with the servers."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import event, text

from cellmove.checks import preflight
from cellmove.checks.server import UNFINISHED
from cellmove.checks.snapshot import ServerSnapshot
from cellmove.core import settings as settings_module
from cellmove.core.cell_names import CellRef
from cellmove.core.errors import CallFailed, CannotConnect, Usage
from cellmove.core.request import Destination, MoveRequest
from cellmove.db import census as sql
from cellmove.db import look
from cellmove.drain import census
from cellmove.drain.item import Census, Item, Verdict
from cellmove.drain.options import SKIP_TAG, DrainOptions, Filter, parse_filter
from cellmove.gateway import Gateway
from cellmove.sandbox import seed, services
from cellmove.sandbox.buses import CELL_UUIDS
from cellmove.sandbox.store import Cloud
from cellmove.steps import plan
from tests.support.sandbox.harness import Harness, Snapshot
from tests.support.sandbox.refusals import CASES, CELLS, Case, is_compared, require_found

STRAYS = {"no-mapping": "cell1", "cell0": "cell1", "no-record": "cell1"}
"""Servers that are not mapped to the cell where their row is."""

PORT = ("id", "host", "status", "vnic_type", "vif_type", "device_owner", "resource_request")


@dataclasses.dataclass
class Place:
    """A harness, and how it is put back."""

    harness: Harness
    empty: Snapshot
    gateway: Gateway

    @property
    def cloud(self) -> Cloud:
        return self.harness.cloud

    def open(self, case: Case, folder: Path) -> Gateway:
        """Connections with a case's own configuration."""
        (folder / "config.toml").write_text(f"[policy]\n{case.config}\n")
        env = {**self.harness._environment, "CELLMOVE_CONFIG": str(folder / "config.toml"), **case.env}
        return Gateway(settings_module.load({}, env))

    def take(self, options: DrainOptions | None = None, cell: str = "cell1", **how: Any) -> Census:
        return census.take(self.gateway, self.harness.clock, self.gateway.cell(cell), options or DrainOptions(), **how)


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    send = requests.adapters.HTTPAdapter.send
    yield Harness()
    requests.adapters.HTTPAdapter.send = send  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def empty(harness: Harness) -> Snapshot:
    return harness.save()


@pytest.fixture
def place(harness: Harness, empty: Snapshot) -> Place:
    """A cloud without servers."""
    harness.restore(empty)
    return Place(harness, empty, harness.gateway)


@pytest.fixture
def snapshots(monkeypatch: pytest.MonkeyPatch) -> list[ServerSnapshot]:
    """Every snapshot that the checks are given."""
    seen: list[ServerSnapshot] = []

    def spied(look: Callable[[ServerSnapshot], Any]) -> Callable[[ServerSnapshot], Any]:
        return lambda snapshot: (seen.append(snapshot), look(snapshot))[1]  # type: ignore[func-returns-value]

    for name in ("examine", "refusals"):
        monkeypatch.setattr(preflight, name, spied(getattr(preflight, name)))
    return seen


def item(found: Census, server: str) -> Item:
    (one,) = (each for each in found.items if each.server_id == server)
    return one


def options_of(case: Case) -> DrainOptions:
    """What a drain is asked for that is asked of one server so."""
    accepted = [word for word in " ".join(case.options).replace("--accept-loss", "").replace("=", "").split() if word]
    return DrainOptions(
        to=tuple(case.where[1::2]),
        flavor_map={"m1.tiny": case.flavor} if case.flavor else {},
        accept_loss=tuple(name for words in accepted for name in words.split(",")),
    )


def refusals(checks: tuple[preflight.CheckResult, ...]) -> list[tuple[str, str]]:
    return [
        (check.code, f"{check.text} ({check.remedy})") for check in checks if check.level is preflight.Level.REFUSAL
    ]


def comparable(snapshot: ServerSnapshot) -> dict[str, Any]:
    """A snapshot as far as the checks look at it."""
    fields: dict[str, Any] = {each.name: getattr(snapshot, each.name) for each in dataclasses.fields(snapshot)}
    del fields["rows"], fields["policy"], fields["interfaces"]
    ruled = snapshot.policy.allow.keys() | snapshot.policy.deny.keys()
    fields["subject"] = {kind: values for kind, values in snapshot.subject.values.items() if kind in ruled}
    if snapshot.server is not None:
        image = {name: value for name, value in snapshot.server.image.items() if name in sql.PROPERTIES}
        fields["server"] = dataclasses.replace(snapshot.server, image=image)
    fields["request_spec"] = {name: snapshot.spec.get(name) for name in sql.SPEC} if snapshot.request_spec else {}
    fields["ports"] = [{name: getattr(port, name) for name in PORT} for port in snapshot.ports]
    fields["migrations"] = [each for each in snapshot.migrations if each.status in UNFINISHED]
    return fields


COMPARED = [
    pytest.param(code, case, id=f"{code}-{n}")
    for code, cases in CASES.items()
    for n, case in enumerate(cases)
    if is_compared(code, case)
]


@pytest.mark.parametrize(("code", "case"), COMPARED)
def test_it_says_what_the_plan_says(
    place: Place,
    snapshots: list[ServerSnapshot],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    code: str,
    case: Case,
) -> None:
    for name, value in case.env.items():
        monkeypatch.setenv(name, value)  # oslo.config looks at the environment of the process
    server = seed.boot(place.cloud, "bad", **case.boot)
    other = seed.boot(place.cloud, "other", host="c1-host2", volume_backed=True, volumes=1, active=False)
    case.change(place.cloud, server)
    gateway, options = place.open(case, tmp_path), options_of(case)
    destination = Destination(cell=options.to[0] if options.to else "")
    request = MoveRequest(server if case.by_id else "bad", case.flavor, destination, accept_loss=options.accept_loss)
    planned = plan.gather(gateway, place.harness.clock, request)
    require_found(code, case, [dataclasses.asdict(result) for result in planned.checks])
    shown = refusals(planned.checks)
    found = census.take(gateway, place.harness.clock, gateway.cell("cell1"), options)
    if code in STRAYS:
        assert found.strays == (server,)
        assert [each.server_id for each in found.items if each.server_id != other] == []
        if code != "no-record":
            return
        found = census.take(gateway, place.harness.clock, gateway.cell("cell2"), options)
        shown = [(code, words.replace("bad", server)) for code, words in shown]  # nobody knows its name
        assert found.missing == (server,)
    one = item(found, server)
    assert list(zip(one.codes, one.reasons, strict=True)) == shown
    assert one.verdict is (Verdict.REFUSED if shown else Verdict.MOVABLE)
    assert not shown or "None" not in " ".join(one.reasons)
    theirs, *ours = [each for each in snapshots if each.server_id == server]
    if code != "no-record":
        assert [comparable(each) for each in ours] == [comparable(theirs)]
    if not found.missing:
        assert found.is_whole


def test_everything_that_a_check_looks_at_is_read() -> None:
    folder = Path(preflight.__file__).parent
    explanations = folder / "hosts.py"  # of what the scheduler says, which a census does not ask
    code = "".join(path.read_text() for path in folder.glob("*.py") if path != explanations)
    asked = {part.split('"')[1] for part in code.split("image.get(")[1:]}
    assert asked == set(sql.PROPERTIES)
    asked = {part.split('"')[1] for part in code.replace("spec.get(", "spec[").split("spec[")[1:]}
    assert asked - {"nova_object.data"} == set(sql.SPEC)


def test_a_server_as_it_is(place: Place) -> None:
    server = seed.boot(place.cloud, "web", volumes=1)
    stopped = seed.boot(place.cloud, "db", host="c1-host2", flavor="m1.small", volume_backed=True, active=False)
    found = place.take(DrainOptions(flavor_map={"m1.tiny": "m1.small"}))
    flavors = {row["name"]: row for row in place.cloud.rows("api", "flavors")}
    small, row = flavors["m1.small"], place.cloud.row("cell1", "instances", uuid=server) or {}
    assert item(found, server) == Item(
        server, "web", seed.PROJECT, "c1-host1", "m1.tiny", "active", False, small["vcpus"], small["memory_mb"],
        flavors["m1.tiny"]["root_gb"], f"{row['created_at'].isoformat()}Z", flavor_id=flavors["m1.tiny"]["flavorid"],
        new_flavor="m1.small",
    )  # fmt: skip
    assert item(found, stopped).volume_backed
    assert (item(found, stopped).disk_gb, item(found, stopped).new_flavor) == (0, "")
    assert [each.server_id for each in found.items] == sorted([server, stopped])
    assert (found.cell.uuid, found.cell.label) == (CELL_UUIDS["cell1"], "cell1")
    assert (found.mapped, found.missing, found.deleting, found.strays) == (2, (), (), ())
    assert found.is_whole


def test_an_empty_cell(place: Place) -> None:
    assert place.take() == Census(CellRef(CELL_UUIDS["cell1"], "cell1"), (), 0)
    assert place.take().is_whole


@pytest.mark.parametrize(
    ("include", "exclude", "stay"),
    [
        ((), ("name=we*",), {"web"}),
        (("name=we*", "name=db"), (), {"odd"}),
        (("host=c1-host1",), (), {"db"}),
        ((), ("tag=blu?",), {"web", "db", "odd"}),
        ((), ("flavor=m1.small",), {"db"}),
        (("state=stopped",), (), {"web", "odd"}),
        (("state=SHUTOFF",), (), {"web", "odd"}),
        (("state=REBOOT",), (), {"web", "db"}),
        ((), ("project=admin",), {"web", "db", "odd"}),
        (("project=5a5a*",), (), set()),
        (("project=other",), (), {"web", "db", "odd"}),
        (("name=we*",), ("host=c1-host1",), {"web", "db", "odd"}),
    ],
)
def test_filters(place: Place, include: tuple[str, ...], exclude: tuple[str, ...], stay: set[str]) -> None:
    seed.boot(place.cloud, "web")
    seed.boot(place.cloud, "db", host="c1-host2", flavor="m1.small", active=False)
    odd = seed.boot(place.cloud, "odd")
    place.cloud.update("cell1", "instances", {"task_state": "reboot_started"}, uuid=odd)
    options = DrainOptions(
        include=tuple(parse_filter(each, "--include") for each in include),
        exclude=tuple(parse_filter(each, "--exclude") for each in exclude),
    )
    found = {each.name: each for each in place.take(options).items}
    assert {name for name, each in found.items() if each.verdict is Verdict.SKIPPED} == stay
    skipped = [each for each in found.values() if each.verdict is Verdict.SKIPPED]
    assert {each.codes for each in skipped} <= {("excluded",), ("not-included",)}
    assert all(each.reasons[0].startswith("--") for each in skipped)
    if "odd" not in stay:
        assert found["odd"].codes == ("task-state",)


def test_a_tag_keeps_a_server_where_it_is_whatever_else_there_is(place: Place) -> None:
    server = seed.boot(place.cloud, "web")
    place.cloud.insert("cell1", "tags", {"resource_id": server, "tag": SKIP_TAG})
    place.cloud.update("cell1", "instances", {"vm_state": "error"}, uuid=server)
    assert item(place.take(), server).codes == ("tag",)
    assert item(place.take(with_open_move=[server]), server).verdict is Verdict.SKIPPED
    assert item(place.take(DrainOptions(include=(Filter("name", "web"),))), server).verdict is Verdict.SKIPPED


def test_locked_servers_and_losses(place: Place) -> None:
    server = seed.boot(place.cloud, "web")
    CASES["locked"][0].change(place.cloud, server)
    CASES["loses-swap"][0].change(place.cloud, server)
    assert item(place.take(), server).codes == ("locked", "loses-swap")
    assert item(place.take(DrainOptions(force_locked=True)), server).codes == ("loses-swap",)
    assert item(place.take(DrainOptions(force_locked=True, accept_loss=("swap",))), server).codes == ()
    with pytest.raises(Usage, match="unknown loss 'swop'; known are: ephemeral, swap"):
        place.take(DrainOptions(accept_loss=("swop",)))


def test_a_move_of_this_journal_goes_on(place: Place) -> None:
    server = seed.boot(place.cloud, "web")
    CASES["being-moved"][0].change(place.cloud, server)
    assert item(place.take(), server).codes == ("being-moved",)
    one = item(place.take(with_open_move={server}), server)
    assert (one.verdict, one.codes) == (Verdict.MOVABLE, (census.OPEN_MOVE,))


def test_the_flavor_map(place: Place) -> None:
    tiny = place.cloud.row("api", "flavors", name="m1.tiny") or {}
    server = seed.boot(place.cloud, "web")
    assert item(place.take(DrainOptions(flavor_map={tiny["flavorid"]: "m1.small"})), server).new_flavor == "m1.small"
    assert item(place.take(DrainOptions(flavor_map={"m1.small": "m1.tiny"})), server).new_flavor == ""
    assert item(place.take(DrainOptions(flavor_map={"m1.tiny": "m1.tiny"})), server).codes == ("same-flavor",)
    with pytest.raises(Usage, match=r"there is no flavor m1\.smal; did you mean m1\.small"):
        place.take(DrainOptions(flavor_map={"m1.tiny": "m1.smal"}))


def test_mappings_and_rows_that_do_not_fit(place: Place) -> None:
    cloud = place.cloud
    names = ("well", "hidden", "lost", "deleted", "copy", "unmapped", "leaving", "there")
    servers = {name: seed.boot(cloud, name, host="c2-host1" if name == "there" else "c1-host1") for name in names}
    cloud.update("cell1", "instances", {"hidden": 1}, uuid=servers["hidden"])
    cloud.update("cell1", "instances", {"deleted": 7}, uuid=servers["lost"])
    cloud.update(
        "api", "instance_mappings", {"queued_for_delete": 1}, instance_uuid=(servers["deleted"], servers["leaving"])
    )
    cloud.update("cell1", "instances", {"deleted": 8}, uuid=servers["deleted"])
    cloud.update("cell1", "instances", {"hidden": 1}, uuid=servers["copy"])
    cloud.update("api", "instance_mappings", {"cell_id": CELLS["cell2"]}, instance_uuid=servers["copy"])
    cloud.delete("api", "instance_mappings", instance_uuid=servers["unmapped"])
    found = place.take()
    codes = {each.name: each.codes for each in found.items}
    assert codes == {
        "well": (),
        "hidden": ("hidden",),
        servers["lost"]: ("no-record",),
        "leaving": ("being-deleted",),
    }
    assert found.mapped == 3
    assert found.missing == tuple(sorted([servers["hidden"], servers["lost"]]))
    assert found.deleting == (servers["leaving"],)
    assert found.strays == tuple(sorted([servers["copy"], servers["unmapped"]]))
    assert not found.is_whole
    assert place.take(DrainOptions(), "cell2").missing == (servers["copy"],)


def test_what_changes_meanwhile_is_looked_at_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = place.cloud
    stays, moves, goes = (seed.boot(cloud, name) for name in ("stays", "moves", "goes"))
    mapped = sql.mapped

    def late(*arguments: Any) -> Mapping[str, bool]:
        found = mapped(*arguments)
        if len(arguments) == 2:  # the first look is over: one is moved away, one is deleted, one comes
            cloud.update("cell1", "instances", {"hidden": 1}, uuid=moves)
            cloud.update("api", "instance_mappings", {"cell_id": CELLS["cell2"]}, instance_uuid=moves)
            seed.delete(cloud, goes)
            seed.boot(cloud, "comes")
        return found

    monkeypatch.setattr(sql, "mapped", late)
    found = place.take()
    assert [each.server_id for each in found.items] == [stays]
    assert (found.mapped, found.missing, found.deleting, found.strays) == (1, (), (), ())


def test_ports_that_are_bound_nowhere_or_elsewhere(place: Place) -> None:
    server, other = (seed.boot(place.cloud, name, ports=2) for name in ("web", "db"))
    one, _two = services.ports_of(place.cloud, server)
    one["bindings"] = {"c9-host1": one["bindings"].pop("c1-host1")}
    one, _two = services.ports_of(place.cloud, other)
    one["bindings"].clear()
    one["resource_request"] = {"NET_BW_EGR_KILOBIT_PER_SEC": 1}
    found = place.take()
    assert item(found, server).codes == ("port-elsewhere",)
    assert item(found, other).codes == ("port-resources",)


def test_rooms_that_are_held_in_the_target_alone_are_no_reason(place: Place) -> None:
    server, other = (seed.boot(place.cloud, name) for name in ("web", "db"))
    held = place.cloud.world.allocations[server]["allocations"]
    held[services.provider_of("c2-host1")] = held.pop(services.provider_of("c1-host1"))
    del place.cloud.world.allocations[other]
    found = place.take()
    assert (item(found, server).codes, item(found, other).codes) == ((), ("no-allocations",))


def test_no_cell_can_be_reached(place: Place, tmp_path: Path) -> None:
    seed.boot(place.cloud, "web")
    CASES["target-unreachable"][0].change(place.cloud, "")
    gateway = place.open(CASES["locked"][0], tmp_path)
    with pytest.raises(CannotConnect, match="cell3"):
        census.take(gateway, place.harness.clock, gateway.cell("cell1"), DrainOptions(to=("cell3",)))


def grow(cloud: Cloud, count: int) -> None:
    """So many servers with everything that takes calls."""
    group = cloud.insert("api", "instance_groups", {"uuid": cloud.new_id("group"), "name": "web"})
    for number in range(count):
        server = seed.boot(
            cloud, f"web-{number}", host=f"c1-host{number % 2 + 1}", volume_backed=number % 4 == 1, volumes=1, ports=1
        )
        cloud.insert("api", "instance_group_member", {"group_id": group, "instance_uuid": server})


def test_calls_do_not_grow_with_the_servers(place: Place) -> None:
    place.cloud.world.quota.update(cores=1000, ram=10**6)
    counts: list[list[str]] = []
    options = DrainOptions(flavor_map={"m1.tiny": "m1.small"}, exclude=(Filter("project", "billing"),))
    for count in (5, 40):
        place.harness.restore(place.empty)
        place.cloud.world.quota.update(cores=1000, ram=10**6)
        grow(place.cloud, count)
        place.harness.taps.calls.clear()
        found = place.take(options)
        assert [each.codes for each in found.items] == [()] * count
        counts.append(sorted(f"{seen.kind} {seen.text}" for seen in place.harness.taps.calls))
    assert counts[0] == counts[1]
    assert place.harness.taps.effects == 0


def test_pages(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(place.cloud, 7)
    whole = place.take()
    for size in (1, 2, 3, 7):
        monkeypatch.setattr(sql, "PAGE", size)
        monkeypatch.setattr(sql.survey, "PAGE", size)
        monkeypatch.setattr(sql.survey, "BATCH", size)
        monkeypatch.setattr("cellmove.cloud.network.PAGE", size)
        monkeypatch.setattr("cellmove.cloud.network.SERVERS", size)
        monkeypatch.setattr("cellmove.cloud.volume.PAGE", size)
        assert place.take() == whole


def test_what_is_left_of_many_is_what_is_left_of_each(place: Place) -> None:
    cloud = place.cloud
    names = ("clean", "tag", "device", "address", "migration", "event", "row", "gone")
    servers = {name: seed.boot(cloud, name, volumes=1) for name in names}
    there = seed.boot(cloud, "there", host="c2-host1")
    cloud.insert("cell2", "tags", {"resource_id": servers["tag"], "tag": "left"})
    mine = cloud.rows("cell1", "block_device_mapping", instance_uuid=servers["device"])[-1]
    cloud.insert("cell2", "block_device_mapping", {"uuid": mine["uuid"], "instance_uuid": there, "deleted": 3})
    for name, deleted in (("address", 0), ("gone", 5)):
        (mine,) = cloud.rows("cell1", "virtual_interfaces", instance_uuid=servers[name])
        values = {"address": mine["address"], "instance_uuid": there, "deleted": deleted}
        cloud.insert("cell2", "virtual_interfaces", values)
    cloud.insert("cell2", "migrations", {"uuid": cloud.new_id(), "instance_uuid": servers["migration"], "deleted": 9})
    action = cloud.insert("cell2", "instance_actions", {"instance_uuid": servers["event"]})
    cloud.insert("cell2", "instance_actions_events", {"action_id": action})
    cloud.insert("cell2", "instance_actions_events", {"action_id": action})
    for _ in range(2):
        cloud.insert("cell2", "instance_faults", {"instance_uuid": servers["row"], "code": 500})
    source, target = (place.gateway.database(place.gateway.cell(name)) for name in ("cell1", "cell2"))
    every = list(servers.values())
    found = sql.leftovers(target, every, sql.unique_values(source, every))
    assert found == {each: left for each in every if (left := look.leftovers(source, target, each))}
    assert found.keys() == {servers[name] for name in names} - {servers["clean"], servers["gone"]}
    assert found[servers["event"]] == {"instance_actions": 1, "instance_actions_events": 2}


def test_what_has_no_place_of_many_is_what_has_none_of_each(place: Place, tmp_path: Path) -> None:
    cloud = place.cloud
    servers = [seed.boot(cloud, f"web-{number}", volumes=number, ports=number) for number in range(3)]
    cloud.update("cell1", "instances", {"user_data": "secret", "progress": 5}, uuid=servers[0])
    cloud.update("cell1", "instances", {"terminated_at": cloud.now(), "user_data": "", "progress": 0}, uuid=servers[1])
    cloud.delete("cell1", "tags", resource_id=servers[2])
    with cloud.write("cell2") as connection:
        for table, columns in {
            "instances": ("user_data", "progress", "terminated_at", "compute_id", "reservation_id"),
            "block_device_mapping": ("tag", "encrypted"),
            "instance_actions_events": ("host", "details"),
        }.items():
            for column in columns:
                connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        connection.execute(text("DROP TABLE tags"))
    gateway = place.open(CASES["locked"][0], tmp_path)
    source, target = (gateway.database(gateway.cell(name)) for name in ("cell1", "cell2"))
    found = sql.missing_columns(source, target, look.unknown_columns(source, target), servers)
    assert found == {each: look.missing_columns(source, target, each) for each in servers}
    assert {"instances.user_data", "instances.progress", "tags"} <= set(found[servers[0]])
    assert "instances.terminated_at" in found[servers[1]]
    assert "instances.progress" not in found[servers[1]]
    assert "tags" not in found[servers[2]]


@pytest.mark.parametrize("spec", ["", "{", "null", "{}", "[]"])
def test_request_specs_that_cannot_be_read(place: Place, spec: str) -> None:
    server, other = (seed.boot(place.cloud, name) for name in ("web", "db"))
    place.cloud.update("api", "request_specs", {"spec": spec}, instance_uuid=server)
    assert item(place.take(), server).codes == ("no-request-spec",)
    assert item(place.take(), other).codes == ()


def test_an_error_ends_it_and_nothing_is_read_any_more(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    seed.boot(place.cloud, "web", volumes=1)

    def fail(*_arguments: Any) -> Any:
        raise CallFailed("the database said no")

    monkeypatch.setattr(sql, "devices", fail)
    before = threading.active_count()
    with pytest.raises(CallFailed, match="said no"):
        place.take()
    assert threading.active_count() == before


def test_nothing_secret_is_kept(place: Place) -> None:
    server = seed.boot(place.cloud, "web", volumes=1)
    place.cloud.update("cell1", "block_device_mapping", {"connection_info": '{"secret": 1}'}, instance_uuid=server)
    asked: list[str] = []
    listen: Callable[..., None] = lambda _connection, _cursor, statement, *_rest: asked.append(statement)  # noqa: E731
    engine = place.gateway.database(place.gateway.cell("cell1")).engine
    event.listen(engine, "before_cursor_execute", listen)
    try:
        kept = json.dumps([dataclasses.asdict(each) for each in place.take().items])
    finally:
        event.remove(engine, "before_cursor_execute", listen)
    assert "secret" not in kept
    assert asked
    assert not [statement for statement in asked if "connection_info" in statement or "user_data" in statement]
