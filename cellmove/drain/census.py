"""The census of a cell: every server of it held against the checks of a plan at once, and nothing is written.

Each server gets the snapshot that ``cellmove plan`` would draw of it, but the snapshots are drawn a page of
servers at a time, from queries a table and from lists. Only what became of it is kept.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cellmove.checks import preflight
from cellmove.checks.server import UNFINISHED
from cellmove.checks.snapshot import ServerSnapshot, Target, is_volume_backed
from cellmove.cloud import quota
from cellmove.cloud.servers import status_of
from cellmove.core.errors import CannotConnect, Usage
from cellmove.core.move import LOSSES
from cellmove.core.policy import Subject
from cellmove.db import census, look, survey
from cellmove.db.shapes import InstanceMapping, make_instance
from cellmove.drain.item import Census, Item, Verdict
from cellmove.drain.wish import why_not
from cellmove.steps import plan, reach, rules
from cellmove.steps.answers import Answers
from cellmove.steps.attachments import users_of
from cellmove.steps.plan_disks import disks_assumed

if TYPE_CHECKING:
    from cellmove.cloud.network import Port
    from cellmove.core.clock import Clock
    from cellmove.core.policy import Policy
    from cellmove.db.cells import Cell
    from cellmove.db.shapes import BlockDevice, Flavor, Group, Instance, MigrationRow, Node, Service
    from cellmove.db.tables import CellDatabase
    from cellmove.drain.wish import Wish
    from cellmove.gateway import Gateway
    from cellmove.steps.reach import Access

OPEN_MOVE = "open-move"
"""The code of a server that a move of this journal is under way with: a drain goes on with it."""


@dataclass(frozen=True)
class _View:
    """What is the same for every server."""

    gateway: Gateway
    source: Cell
    wish: Wish
    ours: frozenset[str]
    policy: Policy
    database: CellDatabase
    services: tuple[Service, ...]
    nodes: tuple[Node, ...]
    targets: tuple[Target, ...]
    access: Access
    target_is_source: bool
    unknown: Mapping[str, Mapping[str, list[str]]]
    zones: Mapping[str, str]
    flavors: Mapping[str, Flavor]
    wanted_cell: Cell | None
    asks_projects: bool
    answers: Answers


@dataclass(frozen=True)
class _Server:
    """One server of a page, before anything is asked about it."""

    row: Any
    instance: Instance
    devices: tuple[BlockDevice, ...]
    tags: tuple[str, ...]
    spec: Mapping[str, Any]
    queued: bool
    new_flavor: Flavor | None
    volume_backed: bool

    @property
    def id(self) -> str:
        """Its UUID."""
        return self.instance.uuid


@dataclass(frozen=True)
class _Page:
    """What the databases say about a page of servers, each thing by server."""

    building: Collection[str]
    migrations: Mapping[str, list[MigrationRow]]
    shares: Mapping[str, int]
    groups: Mapping[str, Group]
    group_hosts: Mapping[str, str]
    leftovers: Mapping[str, Mapping[str, Mapping[str, int]]]
    missing: Mapping[str, Mapping[str, list[str]]]
    elsewhere: Mapping[str, tuple[Port, ...]]


def take(gateway: Gateway, clock: Clock, source: Cell, wish: Wish, *, ours: Collection[str] = ()) -> Census:
    """Classify every server of a cell.

    What the operator does not want moved is skipped, whatever else there is about it. The rule
    ``policy.moves_a_day`` is left to whoever begins the moves.

    :param ours: the servers that open moves of this journal are about
    :raises Usage: there is no such cell, flavor or loss as the wish names
    :raises CallError: something cannot be looked at
    """
    mapped = census.mapped(gateway.api_engine, source.id)
    view = _look_around(gateway, clock, source, wish, mapped.keys(), frozenset(ours))
    try:
        if mapped:
            view.answers.begin()
        return _count(view, mapped)
    finally:
        view.answers.end()


def _count(view: _View, mapped: dict[str, bool]) -> Census:
    """Go through the cell's rows, and see which do not fit to the mappings.

    :param mapped: :func:`cellmove.db.census.mapped`
    """
    engine, source = view.gateway.api_engine, view.source
    items: dict[str, Item] = {}
    strays: set[str] = set()
    for page in census.pages(view.database):
        strays |= page.keys() - mapped.keys()
        rows = {server_id: row for server_id, row in page.items() if server_id in mapped and not row.hidden}
        items |= _judge_page(view, rows, mapped)
    # Rows and mappings were read at different times: what does not fit is looked at once more.
    unseen = mapped.keys() - items.keys()
    still = census.mapped(engine, source.id, strays | unseen)
    strays -= still.keys()
    mapped = {server_id: queued for server_id, queued in mapped.items() if server_id not in unseen}
    mapped |= {server_id: queued for server_id, queued in still.items() if server_id in unseen}
    hidden: set[str] = set()
    for rows in census.rows_of(view.database, unseen & mapped.keys()):
        hidden |= {server_id for server_id, row in rows.items() if row.hidden and not mapped[server_id]}
        items |= _judge_page(view, rows, mapped)
    lost = {server_id for server_id, queued in mapped.items() if not queued} - items.keys()
    items |= _lost(view, lost)
    return Census(
        cell=source.ref,
        items=tuple(items[server_id] for server_id in sorted(items)),
        mapped=sum(not queued for queued in mapped.values()),
        missing=tuple(sorted(lost | hidden)),
        deleting=tuple(sorted(server_id for server_id in items if mapped[server_id])),
        strays=tuple(sorted(strays)),
    )


def _look_around(
    gateway: Gateway, clock: Clock, source: Cell, wish: Wish, servers: Collection[str], ours: frozenset[str]
) -> _View:
    """What is looked at once."""
    for name in wish.accept_loss:
        if name not in LOSSES:
            raise Usage(f"--accept-loss: there is no {name!r}; there are: {', '.join(LOSSES)}")
    flavors = {old: plan.find_flavor(gateway, new) for old, new in wish.flavor_map.items()}
    named = [gateway.cell(name) for name in wish.to]
    cells = [each for each in named or gateway.cells if each.uuid != source.uuid]
    database = gateway.database(source)
    services = tuple(look.services_of(database, clock.heartbeat_time(), gateway.settings.service_down_time))
    nodes = tuple(look.nodes_of(database))
    targets = plan.targets_of(gateway, clock, source, cells)
    targets = tuple(reach.with_access_to(gateway, each) for each in targets)
    computes = {service.host for service in services if service.binary == look.COMPUTE}
    policy = gateway.settings.policy
    hosts, providers = computes | {node.host for node in nodes}, [node.uuid for node in nodes]
    return _View(
        gateway=gateway,
        source=source,
        wish=wish,
        ours=ours,
        policy=dataclasses.replace(policy, moves_a_day=None),
        database=database,
        services=services,
        nodes=nodes,
        targets=targets,
        access=reach.access_to(gateway, source),
        target_is_source=bool(named) and not cells,
        unknown={
            each.uuid: look.unknown_columns(database, gateway.database(gateway.cell(each.uuid)))
            for each in targets
            if not each.unreachable
        },
        zones=plan.zones_of(gateway, targets),
        flavors=flavors,
        wanted_cell=named[0] if len(named) == 1 else None,
        asks_projects="projects" in policy.allow.keys() | policy.deny.keys()
        or any(each.kind == "project" for each in (*wish.include, *wish.exclude)),
        answers=Answers(gateway, servers, hosts, providers, targets),
    )


# --- one page ---


def _judge_page(view: _View, rows: Mapping[str, Any], mapped: Mapping[str, bool]) -> dict[str, Item]:
    """The items of a page of rows."""
    servers = _servers(view, rows, mapped)
    items: dict[str, Item] = {}
    judged: list[_Server] = []
    for server in servers:
        skipped = why_not(view.wish, _values(view, server))
        if skipped is not None:
            items[server.id] = _item(server, Verdict.SKIPPED, *((word,) for word in skipped))
        elif server.id in view.ours:
            items[server.id] = _item(server, Verdict.MOVABLE, (OPEN_MOVE,), ("a move of this journal is under way",))
        else:
            judged.append(server)
    page = _look_closely(view, judged)
    for server in judged:
        codes, reasons = _refusals(_snapshot(view, page, server))
        items[server.id] = _item(server, Verdict.REFUSED if codes else Verdict.MOVABLE, codes, reasons)
    return items


def _servers(view: _View, rows: Mapping[str, Any], mapped: Mapping[str, bool]) -> list[_Server]:
    """What every server is asked for, those that will be skipped too."""
    metadata = census.metadata(view.database, rows.keys())
    devices, tags = census.devices(view.database, rows.keys()), census.tags(view.database, rows.keys())
    specs = census.request_specs(view.gateway.api_engine, rows.keys())
    found = []
    for server_id, row in rows.items():
        instance = make_instance(row, metadata.get(server_id, {}))
        found.append(
            _Server(
                row=row,
                instance=instance,
                devices=tuple(devices.get(server_id, ())),
                tags=tags.get(server_id, ()),
                spec=specs.get(server_id, {}),
                queued=mapped[server_id],
                new_flavor=_new_flavor(view, instance.flavor),
                volume_backed=is_volume_backed(
                    devices.get(server_id, ()), specs.get(server_id, {}).get("nova_object.data", {}), instance.image_ref
                ),
            )
        )
    return found


def _new_flavor(view: _View, old: Flavor | None) -> Flavor | None:
    """What the server is to become, by the name or the id of what it is."""
    if old is None:
        return None
    return view.flavors.get(old.name) or view.flavors.get(old.flavorid)


def _values(view: _View, server: _Server) -> dict[str, tuple[str, ...]]:
    return values_of(server.instance, server.tags, _project(view, server.instance.project_id))


def values_of(instance: Instance, tags: tuple[str, ...], project: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """What the operator's filters are held against."""
    return {
        "project": project,
        "flavor": (instance.flavor.name,) if instance.flavor else (),
        "host": (instance.host,),
        "tag": tags,
        "name": (instance.display_name,),
        "state": (instance.vm_state, status_of(instance.vm_state, instance.task_state)),
    }


def _project(view: _View, project_id: str) -> tuple[str, str]:
    """Id and name of a project; the name is empty where no filter and no rule could name it."""
    return project_id, view.answers.project_name(project_id) if view.asks_projects else ""


def _look_closely(view: _View, servers: list[_Server]) -> _Page:
    """What else the checks want to know from the databases."""
    ids, engine, database = [server.id for server in servers], view.gateway.api_engine, view.database
    groups = census.groups(engine, ids)
    values = census.unique_values(database, ids)
    interfaces = Counter(values["virtual_interfaces"].values())
    reached = {
        each.uuid: view.gateway.database(view.gateway.cell(each.uuid)) for each in view.targets if not each.unreachable
    }
    known = view.answers.ports().of_server if ids else {}
    fewer = [server_id for server_id in ids if len(known.get(server_id, ())) < interfaces[server_id]]
    return _Page(
        building=census.building(engine, ids),
        migrations=census.migrations(database, ids, UNFINISHED),
        shares=census.shares(database, ids),
        groups=groups,
        group_hosts=_group_hosts(view, {member for group in groups.values() for member in group.members}),
        leftovers={uuid: census.leftovers(other, ids, values) for uuid, other in reached.items()},
        missing={
            uuid: census.missing_columns(database, other, view.unknown[uuid], ids) for uuid, other in reached.items()
        },
        elsewhere=view.answers.ports_elsewhere(fewer),
    )


def _group_hosts(view: _View, members: Collection[str]) -> dict[str, str]:
    """The hosts of members of server groups, in whichever cell they are."""
    homes, found = survey.mapped_cells(view.gateway.api_engine, members), dict[str, str]()
    for cell in view.gateway.cells:
        own = [member for member, home in homes.items() if home == cell.id]
        if own:
            try:
                found |= census.hosts(view.gateway.database(cell), own)
            except CannotConnect:
                continue  # they are told of, and forbid nothing
    return found


# --- one server ---


def _snapshot(view: _View, page: _Page, server: _Server) -> ServerSnapshot:
    """What :func:`cellmove.steps.plan.gather` would gather, but for what only its host can say of its disks."""
    instance, group = server.instance, page.groups.get(server.id)
    snapshot = ServerSnapshot(
        server_id=server.id,
        server_name=instance.display_name or server.id,
        kind="resize" if server.new_flavor else "migration",
        mapping=InstanceMapping(view.source.uuid, server.queued),
        server=instance,
        build_request=server.id in page.building,
        request_spec=server.spec,
        force_locked=view.wish.force_locked,
        new_flavor=server.new_flavor,
        source_cell=view.source.label,
        source_services=view.services,
        source_nodes=view.nodes,
        bus_errors=view.access.bus_errors,
        rights=view.access.rights,
        migrations=tuple(page.migrations.get(server.id, ())),
        devices=server.devices,
        shares=page.shares.get(server.id, 0),
        group=group,
        group_hosts=_hosts_of_others(page, group, server.id) if group else (),
        wanted_cell=view.wanted_cell.label if view.wanted_cell else "",
        wanted_cell_uuid=view.wanted_cell.uuid if view.wanted_cell else "",
        target_is_source=view.target_is_source,
        targets=tuple(_with_rows(page, each, server.id) for each in view.targets),
        zones=view.zones,
        accepted_losses=view.wish.accept_loss,
        policy=view.policy,
        **(_from_cloud(view, page, server, instance.flavor) if instance.flavor else {}),
    )
    if not snapshot.is_complete:
        return snapshot
    return disks_assumed(view.gateway.settings, snapshot, view.wish.transfer, view.wish.bwlimit)


def _from_cloud(view: _View, page: _Page, server: _Server, old: Flavor) -> dict[str, Any]:
    """The part of the snapshot that the APIs give."""
    instance, answers, new = server.instance, view.answers, server.new_flavor
    known, extended = answers.ports(), answers.has_extended_binding()
    ports = page.elsewhere.get(server.id) or known.of_server.get(server.id, ())
    volumes = [device for device in server.devices if device.destination_type == "volume"]
    every = answers.volume_states() if volumes else {}
    own = {device.volume_id: every[device.volume_id] for device in volumes if device.volume_id in every}
    states = {volume_id: status for volume_id, (status, _zone) in own.items()}
    attachments = answers.attachments().get(server.id, ()) if states else ()
    named = {device.attachment_id for device in volumes}
    grows = new is not None and quota.upsize((old.vcpus, old.memory_mb), (new.vcpus, new.memory_mb))
    return {
        "extended_binding": extended,
        "ports": ports,
        "other_bindings": {
            port.id: tuple(host for host in known.hosts.get(port.id, ()) if host not in (port.host, instance.host))
            for port in (ports if extended else ())
        },
        "volume_states": states,
        "volume_zones": plan.zones_that_bind(view.gateway.settings, (zone for _status, zone in own.values())),
        "attachments": attachments,
        "attachment_users": users_of(view.gateway, [each for each in attachments if each.id not in named]),
        "allocations": answers.allocations(server.id),
        "candidates": answers.candidates(new or old, volume_backed=server.volume_backed),
        "stores": {} if server.volume_backed else answers.stores(),
        "narrowed": answers.narrowed(new or old),
        "quotas": answers.quotas(instance.project_id, instance.user_id) if grows else (),
        "subject": _subject(view, server, old),
    }


def _hosts_of_others(page: _Page, group: Group, server_id: str) -> tuple[str, ...]:
    others = (page.group_hosts.get(member) for member in group.members if member != server_id)
    return tuple(sorted({host for host in others if host}))


def _with_rows(page: _Page, target: Target, server_id: str) -> Target:
    """A target cell with what it has of this server, and what it has no place for; mostly nothing."""
    leftovers = page.leftovers.get(target.uuid, {}).get(server_id, {})
    missing = page.missing.get(target.uuid, {}).get(server_id, ())
    return dataclasses.replace(target, leftovers=leftovers, missing=tuple(missing)) if leftovers or missing else target


def _subject(view: _View, server: _Server, old: Flavor) -> Subject:
    """What the operator's rules are held against, if there are rules."""
    if not view.policy.has_rules:
        return Subject()
    flavors = (old.name, server.new_flavor.name if server.new_flavor else "")
    project = _project(view, server.instance.project_id)
    return Subject(rules.by_kind(project, flavors, server.tags, server.instance.host))


def _item(server: _Server, verdict: Verdict, codes: tuple[str, ...] = (), reasons: tuple[str, ...] = ()) -> Item:
    instance, flavor = server.instance, server.instance.flavor
    needed = server.new_flavor or flavor
    return Item(
        server_id=server.id,
        name=instance.display_name or server.id,
        project_id=instance.project_id,
        host=instance.host,
        flavor=flavor.name if flavor else "",
        vm_state=instance.vm_state,
        volume_backed=server.volume_backed,
        vcpus=needed.vcpus if needed else 0,
        memory_mb=needed.memory_mb if needed else 0,
        disk_gb=0 if server.volume_backed else instance.root_gb,
        created_at=f"{server.row.created_at.isoformat()}Z" if server.row.created_at else "",
        flavor_id=flavor.flavorid if flavor else "",
        new_flavor=server.new_flavor.name if server.new_flavor else "",
        verdict=verdict,
        codes=codes,
        reasons=reasons,
    )


def _lost(view: _View, servers: Collection[str]) -> dict[str, Item]:
    """Servers that are mapped to the cell, which has no row of them."""
    engine, mapping = view.gateway.api_engine, InstanceMapping(view.source.uuid, queued_for_delete=False)
    building, specs = census.building(engine, servers), census.request_specs(engine, servers)
    items = {}
    for server_id in servers:
        snapshot = ServerSnapshot(
            server_id, server_id, "migration", mapping, build_request=server_id in building,
            request_spec=specs.get(server_id, {}), source_cell=view.source.label,
        )  # fmt: skip
        codes, reasons = _refusals(snapshot)
        items[server_id] = Item(
            server_id=server_id, name=server_id, project_id="", host="", flavor="", vm_state="", volume_backed=False,
            vcpus=0, memory_mb=0, disk_gb=0, created_at="", verdict=Verdict.REFUSED, codes=codes, reasons=reasons,
        )  # fmt: skip
    return items


def _refusals(snapshot: ServerSnapshot) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The codes of all that speaks against a server, and the words."""
    found = preflight.refusals(snapshot)
    words = (f"{each.text} ({each.remedy})" if each.remedy else each.text for each in found)
    return tuple(each.code for each in found), tuple(words)
