"""The census of a cell: runs the checks of a plan on every server. Nothing is written.

The census builds the same snapshot of a server as ``cellmove plan``, but a page of servers at a time: one query a table,
and one list call an API. Only the verdicts are kept.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from cellmove.checks import preflight
from cellmove.checks.server import UNFINISHED
from cellmove.checks.snapshot import ServerSnapshot, is_volume_backed
from cellmove.cloud.servers import status_of
from cellmove.core.errors import CannotConnect, Usage
from cellmove.core.move import LOSSES
from cellmove.db import census, look, survey
from cellmove.db.shapes import InstanceMapping, make_instance
from cellmove.drain.census_snapshot import CensusPage, CensusServer, CensusView, InstanceRow, project_of, snapshot_of
from cellmove.drain.item import Census, Item, Verdict
from cellmove.drain.options import skip_reason
from cellmove.steps import plan, reach
from cellmove.steps.answers import Answers

if TYPE_CHECKING:
    from cellmove.core.clock import Clock
    from cellmove.db.cells import Cell
    from cellmove.db.shapes import Flavor, Instance
    from cellmove.drain.options import DrainOptions
    from cellmove.gateway import Gateway

OPEN_MOVE = "open-move"
"""The code of a server with an open move in this journal. A drain continues the move."""


def take(
    gateway: Gateway, clock: Clock, source: Cell, options: DrainOptions, *, with_open_move: Collection[str] = ()
) -> Census:
    """Return the verdict of every server of a cell.

    Filters come first: a server that they exclude is skipped without checks. The rule ``policy.moves_a_day`` is not
    checked here, but when a move starts.

    :param with_open_move: the servers with an open move in this journal
    :raises Usage: a cell, flavor or loss of the options does not exist
    :raises CallError: a database or an API cannot be read
    """
    mapped = census.mapped(gateway.api_engine, source.id)
    view = _shared_view(gateway, clock, source, options, mapped.keys())
    view = dataclasses.replace(view, with_open_move=frozenset(with_open_move))
    try:
        if mapped:
            view.answers.begin()
        return _count(view, mapped)
    finally:
        view.answers.end()


def _count(view: CensusView, mapped: dict[str, bool]) -> Census:
    """Judge the rows of the cell, and compare them with the mappings.

    :param mapped: :func:`cellmove.db.census.mapped`
    """
    engine, source = view.gateway.api_engine, view.source
    items: dict[str, Item] = {}
    strays: set[str] = set()
    for page in census.pages(view.database):
        strays |= page.keys() - mapped.keys()
        rows = {server_id: row for server_id, row in page.items() if server_id in mapped and not row.hidden}
        items |= _judge_page(view, rows, mapped)
    # Rows and mappings were read at different times, so the differences are read again.
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


def _shared_view(
    gateway: Gateway, clock: Clock, source: Cell, options: DrainOptions, servers: Collection[str]
) -> CensusView:
    """Read the values that are equal for all servers."""
    for name in options.accept_loss:
        if name not in LOSSES:
            raise Usage(f"--accept-loss: unknown loss {name!r}; known are: {', '.join(LOSSES)}")
    flavors = {old: plan.find_flavor(gateway, new) for old, new in options.flavor_map.items()}
    named = [gateway.cell(name) for name in options.to]
    cells = [cell for cell in named or gateway.cells if cell.uuid != source.uuid]
    database = gateway.database(source)
    services = tuple(look.services_of(database, clock.heartbeat_time(), gateway.settings.service_down_time))
    nodes = tuple(look.nodes_of(database))
    targets = plan.targets_of(gateway, clock, source, cells)
    targets = tuple(reach.with_access_to(gateway, target) for target in targets)
    computes = {service.host for service in services if service.binary == look.COMPUTE}
    policy = gateway.settings.policy
    hosts, providers = computes | {node.host for node in nodes}, [node.uuid for node in nodes]
    return CensusView(
        gateway=gateway,
        source=source,
        options=options,
        with_open_move=frozenset(),
        policy=dataclasses.replace(policy, moves_a_day=None),
        database=database,
        services=services,
        nodes=nodes,
        targets=targets,
        access=reach.access_to(gateway, source),
        target_is_source=bool(named) and not cells,
        unknown={
            target.uuid: look.unknown_columns(database, gateway.database(gateway.cell(target.uuid)))
            for target in targets
            if not target.unreachable
        },
        zones=plan.zones_of(gateway, targets),
        flavors=flavors,
        wanted_cell=named[0] if len(named) == 1 else None,
        asks_projects="projects" in policy.allow.keys() | policy.deny.keys()
        or any(rule.kind == "project" for rule in (*options.include, *options.exclude)),
        answers=Answers(gateway, servers, hosts, providers, targets),
    )


def _judge_page(view: CensusView, rows: Mapping[str, InstanceRow], mapped: Mapping[str, bool]) -> dict[str, Item]:
    """Return the verdicts of a page of rows."""
    servers = _servers(view, rows, mapped)
    items: dict[str, Item] = {}
    judged: list[CensusServer] = []
    for server in servers:
        skipped = skip_reason(view.options, _values(view, server))
        if skipped is not None:
            items[server.id] = _item(server, Verdict.SKIPPED, *((text,) for text in skipped))
        elif server.id in view.with_open_move:
            items[server.id] = _item(server, Verdict.MOVABLE, (OPEN_MOVE,), ("it has an open move in this journal",))
        else:
            judged.append(server)
    page = _read_page(view, judged)
    for server in judged:
        codes, reasons = _refusals(snapshot_of(view, page, server))
        items[server.id] = _item(server, Verdict.REFUSED if codes else Verdict.MOVABLE, codes, reasons)
    return items


def _servers(view: CensusView, rows: Mapping[str, InstanceRow], mapped: Mapping[str, bool]) -> list[CensusServer]:
    """Read what the filters need."""
    metadata = census.metadata(view.database, rows.keys())
    devices, tags = census.devices(view.database, rows.keys()), census.tags(view.database, rows.keys())
    specs = census.request_specs(view.gateway.api_engine, rows.keys())
    servers = []
    for server_id, row in rows.items():
        instance = make_instance(row, metadata.get(server_id, {}))
        servers.append(
            CensusServer(
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
    return servers


def _new_flavor(view: CensusView, old: Flavor | None) -> Flavor | None:
    """Return the flavor that --flavor-map gives a server, by the name or id of its flavor."""
    if old is None:
        return None
    return view.flavors.get(old.name) or view.flavors.get(old.flavorid)


def _values(view: CensusView, server: CensusServer) -> dict[str, tuple[str, ...]]:
    return values_of(server.instance, server.tags, project_of(view, server.instance.project_id))


def values_of(instance: Instance, tags: tuple[str, ...], project: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the values that filters match, by their kind."""
    return {
        "project": project,
        "flavor": (instance.flavor.name,) if instance.flavor else (),
        "host": (instance.host,),
        "tag": tags,
        "name": (instance.display_name,),
        "state": (instance.vm_state, status_of(instance.vm_state, instance.task_state)),
    }


def _read_page(view: CensusView, servers: list[CensusServer]) -> CensusPage:
    """Read what the checks need from the databases."""
    ids, engine, database = [server.id for server in servers], view.gateway.api_engine, view.database
    groups = census.groups(engine, ids)
    values = census.unique_values(database, ids)
    interfaces = Counter(values["virtual_interfaces"].values())
    reached = {
        target.uuid: view.gateway.database(view.gateway.cell(target.uuid))
        for target in view.targets
        if not target.unreachable
    }
    known = view.answers.ports().of_server if ids else {}
    fewer = [server_id for server_id in ids if len(known.get(server_id, ())) < interfaces[server_id]]
    return CensusPage(
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


def _group_hosts(view: CensusView, members: Collection[str]) -> dict[str, str]:
    """Return the hosts of members of server groups in all cells."""
    homes, hosts = survey.mapped_cells(view.gateway.api_engine, members), dict[str, str]()
    for cell in view.gateway.cells:
        own = [member for member, home in homes.items() if home == cell.id]
        if own:
            try:
                hosts |= census.hosts(view.gateway.database(cell), own)
            except CannotConnect:
                continue  # the plan reports the cell; its members restrict no host
    return hosts


def _item(server: CensusServer, verdict: Verdict, codes: tuple[str, ...] = (), reasons: tuple[str, ...] = ()) -> Item:
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


def _lost(view: CensusView, servers: Collection[str]) -> dict[str, Item]:
    """Return the verdicts of servers that are mapped to the cell without a row in it."""
    engine, mapping = view.gateway.api_engine, InstanceMapping(view.source.uuid, queued_for_delete=False)
    building, specs = census.building(engine, servers), census.request_specs(engine, servers)
    items = {}
    for server_id in servers:
        snapshot = ServerSnapshot(
            server_id,
            server_id,
            "migration",
            mapping,
            build_request=server_id in building,
            request_spec=specs.get(server_id, {}),
            source_cell=view.source.label,
        )
        codes, reasons = _refusals(snapshot)
        items[server_id] = Item(
            server_id=server_id,
            name=server_id,
            project_id="",
            host="",
            flavor="",
            vm_state="",
            volume_backed=False,
            vcpus=0,
            memory_mb=0,
            disk_gb=0,
            created_at="",
            verdict=Verdict.REFUSED,
            codes=codes,
            reasons=reasons,
        )
    return items


def _refusals(snapshot: ServerSnapshot) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the codes and texts of the checks that refuse a server."""
    refusals = preflight.refusals(snapshot)
    texts = (f"{check.text} ({check.remedy})" if check.remedy else check.text for check in refusals)
    return tuple(check.code for check in refusals), tuple(texts)
