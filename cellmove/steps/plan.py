"""The step ``plan``: looks at everything, decides what the move will be, and writes nothing."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.checks import baggage, preflight, target
from cellmove.checks.duplicate import described as described_duplicates
from cellmove.checks.snapshot import ServerSnapshot, Target, likely_nodes
from cellmove.cloud import candidates, network, placement, quota, stores, volume
from cellmove.core.errors import CallFailed, CannotConnect, NotFound, Usage
from cellmove.core.move import LOSSES
from cellmove.core.move_plan import MovePlan, PlannedVolume
from cellmove.core.policy import Subject
from cellmove.core.request import Destination, MoveRequest
from cellmove.core.settings import disk_store_between
from cellmove.db import look, schemas, state
from cellmove.db.shapes import object_fields
from cellmove.steps import duplicates, region, rules
from cellmove.steps.attachments import users_of
from cellmove.steps.forecast import with_scheduler
from cellmove.steps.plan_disks import disk_summary, with_disks
from cellmove.steps.reach import require_reachable, with_access

if TYPE_CHECKING:
    from cellmove.cloud.servers import ShownServer
    from cellmove.core.clock import Clock
    from cellmove.core.documents import Answer, NovaObject
    from cellmove.core.settings import Settings
    from cellmove.db.cells import Cell
    from cellmove.db.shapes import Flavor, Node
    from cellmove.db.tables import CellDatabase
    from cellmove.gateway import Gateway


@dataclass(frozen=True)
class Planned:
    """What planning came to.

    :param plan: None when the server's records are not complete enough to plan anything (``checks`` then refuses)
    :param summary: what a person is shown
    :param checks: all findings, good and bad
    """

    plan: MovePlan | None
    summary: dict[str, object]
    checks: tuple[preflight.CheckResult, ...]


@dataclass(frozen=True)
class _Allowed:
    """Where the operator wants the server: cells that are allowed, and how that was said."""

    cells: tuple[Cell, ...]
    cell: Cell | None = None
    host: str = ""
    is_source: bool = False


def gather(
    gateway: Gateway, clock: Clock, request: MoveRequest, *, shown: ShownServer | None = None, begun_today: int = 0
) -> Planned:
    """Look at a server and at where it may go.

    :param shown: the server that the request names, where nova was asked for it already. nova finds the servers of its list
        in the cells, so one whose mapping or record is broken is in it, while its own page is not there
        (nova/compute/api.py, ``get_all`` and ``get``)
    :param begun_today: how many moves were begun in the last 24 hours
    :raises Usage: there is no such server, flavor, host or cell, or several servers of that name
    :raises Refused: the APIs and the databases are those of different regions
    :raises CallError: something cannot be looked at
    """
    # The databases first: that is the quickest way to find out that nothing can be reached.
    mapped_hosts = look.host_cells(gateway.api_engine) if request.destination.host else {}
    new_flavor = find_flavor(gateway, request.flavor) if request.flavor else None
    found = shown or region.find_server(gateway, request.server)
    server_id = found.id
    mapping = look.mapping_of(gateway.api_engine, server_id)
    region.refuse_other_region(gateway, server_id, mapping)
    source = next((each for each in gateway.cells if mapping and each.uuid == mapping.cell_uuid), None)
    allowed = _allowed(gateway, source, mapped_hosts, request.destination)
    snapshot = ServerSnapshot(
        server_id=server_id,
        server_name=found.name or server_id,
        kind="resize" if new_flavor else "migration",
        mapping=mapping,
        build_request=look.has_build_request(gateway.api_engine, server_id),
        request_spec=request_spec(gateway, server_id),
        force_locked=request.force_locked,
        new_flavor=new_flavor,
        source_cell=source.label if source else "",
        wanted_cell=allowed.cell.label if allowed.cell else "",
        wanted_cell_uuid=allowed.cell.uuid if allowed.cell else "",
        wanted_host=allowed.host,
        target_is_source=allowed.is_source,
        accepted_losses=request.accept_loss,
        policy=gateway.settings.policy,
    )
    if source is not None:
        snapshot = _with_records(gateway, clock, snapshot, source, allowed)
    if snapshot.is_complete and source is not None:
        _check_names(snapshot, request.accept_loss)
        snapshot = _with_policy(gateway, _with_cloud(gateway, snapshot), begun_today)
        snapshot = with_disks(gateway, snapshot, request.transfer or None, request.bwlimit or None)
        snapshot = with_access(gateway, snapshot, source)
        snapshot = with_scheduler(gateway, clock, snapshot)
        snapshot = _with_present_state(gateway, snapshot)
    plan = make_plan(snapshot, source, request) if source else None
    checks = preflight.examine(snapshot)
    require_reachable(checks)
    return Planned(plan, _summary(snapshot, found.status), checks)


# --- what the operator named ---


def find_flavor(gateway: Gateway, name_or_id: str) -> Flavor:
    """A flavor by its id or, failing that, its name.

    :raises Usage: there is none
    """
    found = look.find_flavors(gateway.api_engine, name_or_id)
    if not found:
        raise Usage(f"there is no flavor {name_or_id}{_suggest(name_or_id, look.flavor_names(gateway.api_engine))}")
    return found[0]


def _suggest(word: str, known: Iterable[str]) -> str:
    """Words like the given one, or else all."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=3)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; there are: {', '.join(names[:30])}{', …' if len(names) > 30 else ''}" if names else "; there are none"


def _allowed(
    gateway: Gateway, source: Cell | None, mapped_hosts: Mapping[str, str], destination: Destination
) -> _Allowed:
    """Which cells are allowed.

    :raises Usage: no such cell or host, or the host is in another cell than the one named
    """
    cell, host, cells = destination.cell, destination.host, destination.cells
    named = gateway.cell(cell) if cell else gateway.cell(cells[0]) if len(cells) == 1 else None
    if cells and named is None:
        several = (gateway.cell(each) for each in cells)
        return _Allowed(tuple(each for each in several if source is None or each.uuid != source.uuid))
    if host:
        if host not in mapped_hosts:
            raise Usage(f"there is no compute host {host}{_suggest(host, mapped_hosts)}")
        of_host = gateway.cell(mapped_hosts[host])
        if named is not None and named.uuid != of_host.uuid:
            raise Usage(f"host {host} is in {of_host.label}, not in {named.label}")
        named = of_host
    if named is None:
        return _Allowed(tuple(each for each in gateway.cells if source is None or each.uuid != source.uuid))
    is_source = source is not None and named.uuid == source.uuid
    return _Allowed(() if is_source else (named,), named, host, is_source)


def _check_names(snapshot: ServerSnapshot, accept_loss: tuple[str, ...]) -> None:
    """Refuse a loss that there is no such thing as, which may be one that was mistyped.

    :raises Usage: naming what this server would lose
    """
    for name in accept_loss:
        if name not in LOSSES:
            losable = ", ".join(baggage.losable(snapshot)) or "nothing"
            raise Usage(f"--accept-loss: there is no {name!r}; what {snapshot.server_name} would lose: {losable}")


# --- looking ---


def request_spec(gateway: Gateway, server_id: str) -> NovaObject:
    """The server's stored request spec; empty when it has none that can be read."""
    try:
        return state.read_request_spec(gateway.api_engine, server_id)
    except CallFailed as error:
        if isinstance(error, NotFound) or error.kind == "unreadable":
            return {}
        raise


def _with_records(
    gateway: Gateway, clock: Clock, snapshot: ServerSnapshot, source: Cell, allowed: _Allowed
) -> ServerSnapshot:
    """Add what the databases say."""
    database, server_id = gateway.database(source), snapshot.server_id
    now, down_time = clock.heartbeat_time(), gateway.settings.service_down_time
    instance = look.instance_of(database, server_id)
    if instance is None:
        return snapshot
    group = look.group_of(gateway.api_engine, server_id)
    targets = targets_of(gateway, clock, source, allowed.cells)
    return dataclasses.replace(
        snapshot,
        server=instance,
        server_name=instance.display_name or snapshot.server_name,
        source_services=tuple(look.services_of(database, now, down_time)),
        source_nodes=tuple(look.nodes_of(database)),
        migrations=tuple(look.migrations_of(database, server_id)),
        devices=tuple(look.block_devices_of(database, server_id)),
        rows=look.row_counts(database, server_id, with_deleted=False),
        shares=look.share_count(database, server_id),
        interfaces=look.interfaces_of(database, server_id),
        group=group,
        group_hosts=tuple(look.group_hosts(gateway, group.members, [server_id])) if group else (),
        targets=tuple(each if each.unreachable else _with_rows(gateway, each, database, server_id) for each in targets),
        zones=zones_of(gateway, targets),
    )


def _with_present_state(gateway: Gateway, snapshot: ServerSnapshot) -> ServerSnapshot:
    """Read once more what the server does: what was read of it before may be half of a resize that has begun since."""
    database = gateway.database(gateway.cell(snapshot.mapping.cell_uuid if snapshot.mapping else ""))
    instance = look.instance_of(database, snapshot.server_id)
    if instance is None or instance.flavor is None:
        return snapshot
    return dataclasses.replace(
        snapshot, server=instance, migrations=tuple(look.migrations_of(database, snapshot.server_id))
    )


def targets_of(gateway: Gateway, clock: Clock, source: Cell, cells: Sequence[Cell]) -> tuple[Target, ...]:
    """The cells that servers may go to, without what is there of each server.

    :raises CannotConnect: none of them can be reached
    """
    targets = tuple(_target(gateway, clock, source, cell, alone=len(cells) == 1) for cell in cells)
    targets = with_duplicates(gateway, source, cells, targets)
    if len(targets) > 1 and all(each.unreachable for each in targets):
        raise CannotConnect("; ".join(each.unreachable for each in targets))
    return targets


def with_duplicates(
    gateway: Gateway, source: Cell, cells: Sequence[Cell], targets: tuple[Target, ...]
) -> tuple[Target, ...]:
    """Mark the targets that are a second mapping of a database.

    A cell that the operator named alone is compared with all others only if no compute host is mapped to it, as is
    usual for a duplicate: that a cell is not needed and slow to answer then costs no time.
    """
    every = [source, *cells]
    if len(cells) == 1 and cells[0].uuid not in look.host_cells(gateway.api_engine).values():
        every += [cell for cell in gateway.cells if cell not in every]
    twice = duplicates.duplicates(gateway, every)
    if not twice:
        return targets
    described = {each.cell.uuid: each for each in described_duplicates(every, twice)}
    home = twice.get(source.uuid, source)
    return tuple(
        dataclasses.replace(
            each,
            duplicate=described.get(each.uuid) or (described.get(source.uuid) if each.uuid == home.uuid else None),
            is_source_database=each.uuid == home.uuid or twice.get(each.uuid) == home,
        )
        for each in targets
    )


def zones_of(gateway: Gateway, targets: Iterable[Target]) -> dict[str, str]:
    """The availability zone of each host of the cells that servers may go to."""
    hosts = {service.host for each in targets for service in each.services}
    zones = look.availability_zones(gateway.api_engine, hosts)
    return {host: zones.get(host, gateway.settings.default_availability_zone) for host in hosts}


def _target(gateway: Gateway, clock: Clock, source: Cell, cell: Cell, *, alone: bool) -> Target:
    """What a cell has that servers may go to.

    :param alone: it is the only one: that it cannot be reached ends the command
    """
    try:
        database = gateway.database(cell)
    except CannotConnect as error:
        if alone:
            raise
        return Target(cell.label, cell.uuid, disabled=cell.disabled, unreachable=str(error))
    return Target(
        cell.label,
        cell.uuid,
        disabled=cell.disabled,
        services=tuple(look.services_of(database, clock.heartbeat_time(), gateway.settings.service_down_time)),
        nodes=tuple(look.nodes_of(database)),
        needed=schemas.needed_columns(gateway.database(source), database),
        disk_store=disk_store_between(gateway.settings, source.words, cell.words),
    )


def _with_rows(gateway: Gateway, target: Target, own: CellDatabase, server_id: str) -> Target:
    """Add what a cell has of this server, and what it has no place for."""
    database = gateway.database(gateway.cell(target.uuid))
    return dataclasses.replace(
        target,
        leftovers=look.leftovers(own, database, server_id),
        missing=tuple(look.missing_columns(own, database, server_id)),
        unfit=schemas.unfit_columns(own, database, server_id),
    )


def _with_cloud(gateway: Gateway, snapshot: ServerSnapshot) -> ServerSnapshot:
    """Add what neutron, cinder and placement say."""
    extended = network.has_extended_binding(gateway.service)
    every, known = network.ports_of(gateway.service, snapshot.server_id), snapshot.interfaces
    ports = tuple(port for port in every if known is None or port.id in known)
    bound = network.bindings_of_ports(gateway.service, [port.id for port in ports] if extended else [])
    others = {
        port.id: tuple(b.host for b in bound[port.id] if b.host not in ("", port.host, snapshot.instance.host))
        for port in ports
        if port.id in bound
    }
    wanted_volumes = {device.volume_id for device in snapshot.volumes if device.volume_id}
    volumes = volume.volumes_in_use(gateway.admin, wanted_volumes, snapshot.instance.project_id)
    states = {volume_id: found.status for volume_id, found in volumes.items()}
    held = placement.allocations_of(gateway.admin, snapshot.server_id).get("allocations") or {}
    wanted = snapshot.new_flavor or snapshot.flavor
    node = next((n for each in snapshot.targets for n in each.nodes if n.host == snapshot.wanted_host), None)
    offered = candidates.offered(
        gateway.admin, wanted, volume_backed=snapshot.is_volume_backed, only=node.uuid if node else ""
    )
    attachments = tuple(volume.attachments_of(gateway.admin, snapshot.server_id)) if states else ()
    unnamed = baggage.unnamed_attachments(dataclasses.replace(snapshot, attachments=attachments))
    return dataclasses.replace(
        snapshot,
        extended_binding=extended,
        ports=ports,
        stray_ports=tuple(port for port in every if port not in ports),
        other_bindings=others,
        volume_states=states,
        volume_zones=zones_that_bind(gateway.settings, (found.zone for found in volumes.values())),
        attachments=attachments,
        attachment_users=users_of(gateway, unnamed),
        allocations=frozenset(held),
        candidates=offered,
        stores={} if snapshot.is_volume_backed else stores.sharing(gateway.admin),
        narrowed=narrowed(gateway, snapshot.targets, wanted),
        quotas=_quotas(gateway, snapshot),
    )


def _quotas(gateway: Gateway, snapshot: ServerSnapshot) -> tuple[quota.Quota, ...]:
    """What is left for a server that grows; nova-api asks then, and only then."""
    old, new, server = snapshot.flavor, snapshot.new_flavor, snapshot.instance
    if new is None or not quota.upsize((old.vcpus, old.memory_mb), (new.vcpus, new.memory_mb)):
        return ()
    return quota.quotas(gateway.admin, server.project_id, server.user_id)


def narrowed(gateway: Gateway, targets: Iterable[Target], flavor: Flavor) -> dict[str, frozenset[str]]:
    """The compute nodes that can satisfy each thing that a flavor asks for: traits, and metadata of aggregates."""
    found: dict[str, frozenset[str]] = {}
    for trait in candidates.wanted_traits(flavor):
        able = stores.nodes_with(gateway.admin, [trait])
        if able is not None:
            found[f"trait {trait}"] = able
    wanted = aggregate_specs(flavor.extra_specs)
    if wanted:
        nodes = [node for each in targets for node in each.nodes]
        metadata = look.aggregate_metadata(gateway.api_engine, {node.host for node in nodes})
        for key, value in wanted.items():
            able = frozenset(node.uuid for node in nodes if value in metadata.get((node.host, key), ()))
            found[f"an aggregate with {key}={value}"] = able
    return found


def aggregate_specs(extra_specs: Mapping[str, str]) -> dict[str, str]:
    """The extra specs that are held against the metadata of hosts' aggregates, as far as they are plain words.

    nova/scheduler/filters/aggregate_instance_extra_specs.py; one without a scope may mean something else.
    """
    scope = "aggregate_instance_extra_specs:"
    return {
        key.removeprefix(scope): value
        for key, value in extra_specs.items()
        if key.startswith(scope) and re.fullmatch(r"[\w.:-]+", value)
    }


def _with_policy(gateway: Gateway, snapshot: ServerSnapshot, begun: int) -> ServerSnapshot:
    """Add what the operator's rules are held against, if there are rules."""
    policy = snapshot.policy
    if not policy.has_rules or snapshot.mapping is None:
        return snapshot
    flavors = (snapshot.flavor.name, snapshot.new_flavor.name if snapshot.new_flavor else "")
    values = rules.values_of(
        gateway,
        policy,
        snapshot.mapping.cell_uuid,
        snapshot.server_id,
        snapshot.instance.project_id,
        flavors,
        snapshot.instance.host,
    )
    return dataclasses.replace(snapshot, subject=Subject(values, begun))


def zones_that_bind(settings: Settings, zones: Iterable[str]) -> frozenset[str]:
    """The availability zones of volumes, if nova keeps servers to volumes of their own zone."""
    return frozenset() if settings.cross_az_attach else frozenset(zone for zone in zones if zone)


# --- what comes out ---


def make_plan(snapshot: ServerSnapshot, source: Cell, request: MoveRequest) -> MovePlan | None:
    """The move's plan; None when the server's records are not complete enough."""
    if not snapshot.is_complete:
        return None
    server, old, compute = snapshot.instance, snapshot.flavor, snapshot.source_compute
    new = snapshot.new_flavor or old
    allowed = target.allowed_targets(snapshot)
    return MovePlan(
        server_id=server.uuid,
        server_name=snapshot.server_name,
        project_id=server.project_id,
        user_id=server.user_id,
        kind=snapshot.kind,
        source_cell=source.label,
        source_cell_uuid=source.uuid,
        source_host=server.host,
        source_node=server.node,
        source_compute_version=compute.version if compute else 0,
        wanted_cell=snapshot.wanted_cell,
        wanted_cell_uuid=snapshot.wanted_cell_uuid,
        wanted_host=snapshot.wanted_host,
        target_cell_uuids=tuple(each.uuid for each in allowed),
        target_cells=tuple(each.cell for each in allowed),
        flavor_name=new.name,
        new_flavor_id=new.flavorid,
        old_instance_type_id=old.id,
        new_instance_type_id=new.id,
        volume_backed=snapshot.is_volume_backed,
        vm_state=server.vm_state,
        active=server.vm_state == "active",
        transfer=snapshot.transfer,
        transfer_wish=snapshot.transfer_wish,
        only_streamed=tuple(baggage.carried(snapshot)),
        bwlimit=snapshot.bwlimit,
        volume_zones=tuple(sorted(snapshot.volume_zones)),
        architecture=(snapshot.needs.architecture, snapshot.needs.named),
        ports=tuple(port.id for port in snapshot.ports),
        volumes=tuple(PlannedVolume(device.uuid, device.volume_id) for device in snapshot.volumes),
        flavor_from=old.name,
        image_ref=server.image_ref,
        accepted_losses=snapshot.accepted_losses,
        forced=_is_forced(snapshot.request_spec),
        request=request,
        command=request.command,
    )


def _is_forced(spec: Answer) -> bool:
    """Whether the stored request spec keeps a server to the host that it was built on."""
    fields = object_fields(spec)
    return bool(fields.get("force_hosts") or fields.get("force_nodes"))


def _summary(snapshot: ServerSnapshot, status: str) -> dict[str, object]:
    """What a person is shown."""
    complete = snapshot.is_complete
    cells = target.allowed_targets(snapshot)
    only = cells[0] if len(cells) == 1 else None
    old = snapshot.flavor.name if complete else ""
    return {
        "server_id": snapshot.server_id,
        "server_name": snapshot.server_name,
        "status": status,
        "kind": snapshot.kind,
        "source_cell": snapshot.source_cell,
        "source_cell_uuid": snapshot.mapping.cell_uuid if snapshot.mapping else "",
        "source_host": snapshot.instance.host if complete else "",
        "target_cell": snapshot.wanted_cell or (only.cell if only else ""),
        "target_cell_uuid": snapshot.wanted_cell_uuid or (only.uuid if only else ""),
        "target_hosts": [
            {"host": node.host, "cell": each.cell, "cell_uuid": each.uuid, "note": _note(snapshot, node)}
            for each in cells
            for node in likely_nodes(each, snapshot)
        ],
        "flavor_from": old,
        "flavor_to": snapshot.new_flavor.name if snapshot.new_flavor else old,
        "backing": ("volume" if snapshot.is_volume_backed else "image") if complete else "",
        "active": complete and snapshot.instance.vm_state == "active",
        "ports": len(snapshot.ports),
        "volumes": len(snapshot.volumes),
        "copied": dict(snapshot.rows),
        "lost": [loss.text for loss in baggage.losses(snapshot)] if complete else [],
        **(disk_summary(snapshot) if complete else {"transfer": "", "transfer_why": ""}),
    }


def _note(snapshot: ServerSnapshot, node: Node) -> str:
    """A word about a host: its zone and how full it is."""
    used, memory = max(node.vcpus_used, 0), max(node.memory_mb_used, 0)  # dropped twice, a claim makes them negative
    room = f"{used} of {node.vcpus} vCPU, {memory / 1024:.0f} of {node.memory_mb / 1024:.0f} GiB in use"
    return f"{snapshot.zones.get(node.host, '')}; {room}"
