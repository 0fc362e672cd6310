"""Gathers what an audit looks at, of the whole cloud or of one server again, and writes nothing.

First what is suspicious: sets, read page by page. Then the suspicious servers alone are looked at
closely, in batches. How many calls that takes stands in docs/audit.md; it does not grow with the
number of servers that are well, but for the pages.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cellmove.checks.audit_snapshot import (
    ENDED,
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
from cellmove.checks.duplicate import Duplicate, described
from cellmove.cloud import image, network, placement, volume
from cellmove.core import ownership
from cellmove.core.reference import is_uuid
from cellmove.db import survey
from cellmove.steps.attachments import users_of
from cellmove.steps.duplicates import duplicates

if TYPE_CHECKING:
    from cellmove.core.cell_names import CellRef
    from cellmove.core.clock import Clock
    from cellmove.core.documents import Answer
    from cellmove.db.cells import Cell
    from cellmove.db.types import Record
    from cellmove.gateway import Gateway


RESERVED = "reserved"
"""How cinder calls an attachment that no host uses."""


A_DAY = datetime.timedelta(days=1)
"""No call to a compute takes longer; a part of an action that began earlier was left by a process that died."""


@dataclass(frozen=True)
class Ours:
    """What this journal knows, and how patient the audit is.

    :param open_moves: by server
    :param moves: by id
    :param here: who holds this journal, as marks say it
    :param patience: seconds
    """

    open_moves: Mapping[str, KnownMove] = field(default_factory=dict)
    moves: Mapping[str, KnownMove] = field(default_factory=dict)
    here: str = ""
    patience: float = 1800.0


@dataclass
class _Objects:
    """What was found outside of nova's databases."""

    bindings: list[Binding] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    attached: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    allocations: list[Allocation] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)

    def servers(self) -> set[str]:
        """Whose they are."""
        named = {each.server_id for many in (self.bindings, self.attachments, self.images) for each in many}
        return named | {each.migration.server_id for each in self.allocations if each.migration} - {""}


def gather(
    gateway: Gateway, clock: Clock, ours: Ours, chosen: Sequence[Cell], reachable: Sequence[Cell]
) -> AuditSnapshot:
    """Look at the whole cloud.

    :param chosen: the cells in which leftovers are looked for; the others are asked about what is found
    :param reachable: the cells whose databases can be read; nothing is said of what may belong to servers of the others
    :raises CallError: something cannot be looked at
    """
    objects, cells = _Objects(), _read_once(gateway, reachable)
    chosen = tuple({each.uuid: each for each in (cells.twice.get(each.uuid, each) for each in chosen)}.values())
    # The APIs first: what somebody is just making there is in the databases by the time they are read.
    hosts, providers = _hosts(gateway, cells.read)
    for host in sorted(name for name, cell in hosts.items() if cell in {each.ref for each in chosen}):
        for port_id, server_id, active in network.ports_also_bound(gateway.service, host):
            objects.bindings.append(Binding(port_id, server_id, host, active))
    known = {each.id: each for each in volume.all_attachments(gateway.admin)}
    objects.attachments = [
        Attachment(each.id, each.volume_id, each.server_id) for each in known.values() if each.status == RESERVED
    ]
    objects.images = [_image(each) for each in image.all_temporary_images(gateway.admin)]
    wanted = [uuid for uuid, host in sorted(providers.items()) if hosts[host] in {each.ref for each in chosen}]
    objects.allocations = _allocations(gateway, cells, _consumers(gateway, wanted))
    rows = {cell.id: survey.rows(gateway.database(cell), cell.id) for cell in chosen}
    mapped = ((server, mark, cells.counting(number)) for server, mark, number in survey.mappings(gateway.api_engine))
    suspicious = set(survey.misplaced(mapped, rows))
    for cell in chosen:
        database = gateway.database(cell)
        suspicious.update(survey.marked(database), survey.moving(database), survey.keyless(database))
        suspicious.update(survey.unsettled(database))
    for server_id in sorted(_unattached(gateway, chosen, known)):
        # Asked again: it may have been attached since the list was read.
        objects.attached[server_id] = _attached(gateway, server_id)
    suspicious.update(objects.attached)
    cloud = _look(gateway, clock, ours, suspicious | objects.servers(), objects, cells)
    if len(reachable) < len(gateway.cells):
        cloud = _known_whole(cloud, {each.ref for each in gateway.cells} - {each.ref for each in reachable})
    is_whole = len(chosen) == len(gateway.cells) - len(cells.twice)
    return cloud if is_whole else _only(cloud, {each.ref for each in chosen})


@dataclass(frozen=True)
class _Cells:
    """The cells that are read: one a database.

    :param twice: by the UUID of each mapping of a database that is read by another mapping: that one
    :param numbers: the same by the mapping's id
    """

    read: tuple[Cell, ...]
    twice: Mapping[str, Cell]
    numbers: Mapping[int, int]
    duplicates: tuple[Duplicate, ...]

    def counting(self, number: int | None) -> int | None:
        """The id of the mapping that is read instead of one."""
        return self.numbers.get(number, number) if number is not None else None


def _read_once(gateway: Gateway, reachable: Sequence[Cell]) -> _Cells:
    twice = duplicates(gateway, reachable)
    return _Cells(
        read=tuple(cell for cell in reachable if cell.uuid not in twice),
        twice=twice,
        numbers={cell.id: twice[cell.uuid].id for cell in reachable if cell.uuid in twice},
        duplicates=described(reachable, twice),
    )


def _unattached(gateway: Gateway, chosen: Sequence[Cell], known: Mapping[str, volume.Attachment]) -> set[str]:
    """The servers with a volume whose attachment cinder does not know, or has not connected to a host."""
    return {
        server_id
        for cell in chosen
        for server_id, _volume_id, attachment_id in survey.all_volumes(gateway.database(cell))
        if attachment_id not in known or known[attachment_id].status == RESERVED
    }


def _attached(gateway: Gateway, server_id: str) -> dict[str, tuple[str, str]]:
    return {each.id: (each.volume_id, each.status) for each in volume.attachments_of(gateway.admin, server_id)}


def look_again(gateway: Gateway, clock: Clock, ours: Ours, server_id: str, subject: str, host: str) -> AuditSnapshot:
    """Look once more at all that a leftover is about, and at nothing else.

    :param subject: the finding's; whatever it may be the id of is looked at
    :param host: the finding's
    """
    objects, cells = _Objects(), _read_once(gateway, gateway.cells)
    if server_id:
        for port in network.ports_of(gateway.service, server_id):
            if port.id == subject and port.host != host:
                bound = network.binding_for(gateway.service, port.id, host)
                objects.bindings += [Binding(port.id, server_id, host, port.host)] if bound else []
        objects.attachments = [
            Attachment(each.id, each.volume_id, each.server_id)
            for each in volume.attachments_of(gateway.admin, server_id)
            if each.id == subject and each.status == RESERVED
        ]
        objects.images = [
            _image(each) for each in image.temporary_images(gateway.admin, server_id) if each["id"] == subject
        ]
    objects.allocations = _allocations(gateway, cells, {subject: _held(gateway, subject)})
    ids = objects.servers() | ({server_id} if server_id else set())
    return _look(gateway, clock, ours, ids, objects, cells)


def _held(gateway: Gateway, consumer: str) -> set[str]:
    return set(placement.allocations_of(gateway.admin, consumer)["allocations"]) if is_uuid(consumer) else set()


def _hosts(gateway: Gateway, cells: Iterable[Cell]) -> tuple[dict[str, CellRef], dict[str, str]]:
    """Compute hosts and their cells; resource providers and their hosts."""
    hosts: dict[str, CellRef] = {}
    providers: dict[str, str] = {}
    for cell in cells:
        for uuid, host in survey.hosts(gateway.database(cell)).items():
            hosts[host], providers[uuid] = cell.ref, host
    return hosts, providers


def _consumers(gateway: Gateway, providers: Iterable[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for provider in providers:
        for consumer in placement.consumers_of(gateway.admin, provider):
            found.setdefault(consumer, set()).add(provider)
    return found


def _allocations(gateway: Gateway, cells: _Cells, consumers: Mapping[str, Collection[str]]) -> list[Allocation]:
    """Those that are no servers'; what the servers of dead migrations hold themselves is asked for, one call each."""
    servers = survey.mapped_cells(gateway.api_engine, consumers)
    others = [consumer for consumer, held in consumers.items() if consumer not in servers and held]
    named: dict[str, dict[int, Migration]] = {}
    for cell in cells.read:
        for row in survey.migrations_named(gateway.database(cell), others):
            named.setdefault(row["uuid"], {})[cell.id] = _migration(row, cell.ref)
    homes = survey.mapped_cells(
        gateway.api_engine, {each.server_id for many in named.values() for each in many.values()}
    )
    # Where copies disagree that of the cell where the server is counts, or else one with something to come.
    migrations = {
        uuid: next(
            (each for cell_id, each in copies.items() if cells.counting(homes.get(each.server_id)) == cell_id),
            min(copies.values(), key=lambda each: each.status in ENDED),
        )
        for uuid, copies in named.items()
    }
    return [
        Allocation(
            consumer,
            frozenset(consumers[consumer]),
            migrations.get(consumer),
            frozenset(_held(gateway, migrations[consumer].server_id)) if consumer in migrations else frozenset(),
        )
        for consumer in others
        if consumer not in migrations or migrations[consumer].status in ENDED
    ]


def _image(body: Answer) -> Image:
    created = str(body.get("created_at") or "")
    try:
        moment = datetime.datetime.fromisoformat(created.replace("Z", "+00:00")).replace(tzinfo=None)
    except ValueError:
        moment = None
    return Image(body["id"], str(body["name"]), str(body["instance_uuid"]), str(body.get("status") or ""), moment)


def _migration(row: Record, cell: CellRef) -> Migration:
    return Migration(
        uuid=row["uuid"] or "",
        status=row["status"] or "",
        cell=cell,
        kind=row["migration_type"] or "",
        cross_cell=bool(row["cross_cell_move"]),
        server_id=row["instance_uuid"] or "",
        source_host=row["source_compute"] or "",
        target_host=row["dest_compute"] or "",
        created=row["created_at"],
        changed=row["updated_at"] or row["created_at"],
        number=row["id"],
    )


def _look(
    gateway: Gateway, clock: Clock, ours: Ours, ids: Collection[str], objects: _Objects, cells: _Cells
) -> AuditSnapshot:
    """The databases' view of these servers, and everything together."""
    rows: dict[str, list[Row]] = {}
    for cell in cells.read:
        for server_id, row in _rows(gateway, cell, ids, clock.database_time() - A_DAY):
            rows.setdefault(server_id, []).append(row)
    mapped = survey.mapped_cells(gateway.api_engine, ids)
    refs = {cell.id: cell.ref for cell in gateway.cells}
    servers = {
        server_id: Server(
            server_id,
            refs.get(cells.counting(mapped.get(server_id)) or 0),
            server_id in mapped,
            tuple(rows.get(server_id, ())),
            ours.open_moves.get(server_id),
        )
        for server_id in sorted(ids)
        if server_id in mapped or server_id in rows
    }
    owners = [
        (row.user_id, row.key_name)
        for server in servers.values()
        for row in server.visible
        if row.key_name and not row.keypairs
    ]
    _ask_for_users(gateway, servers, objects)
    hosts, providers = _hosts(gateway, cells.read)
    return AuditSnapshot(
        now=clock.database_time(),
        patience=ours.patience,
        servers=servers,
        hosts=hosts,
        providers=providers,
        bindings=objects.bindings,
        attachments=objects.attachments,
        allocations=objects.allocations,
        attached=objects.attached,
        images=objects.images,
        keys=survey.api_keypairs(gateway.api_engine, owners),
        moves=ours.moves,
        here=ours.here,
        duplicates=cells.duplicates,
    )


def _ask_for_users(gateway: Gateway, servers: Mapping[str, Server], objects: _Objects) -> None:
    """Find out whether the record of another server names an attachment that its own server's records do not."""

    def is_named(each: Attachment) -> bool:
        rows = servers[each.server_id].live if each.server_id in servers else ()
        return any(each.id in row.attachments for row in rows)

    unnamed = [
        volume.Attachment(each.id, each.volume_id, each.server_id, "reserved")
        for each in objects.attachments
        if not is_named(each)
    ]
    users = users_of(gateway, unnamed)
    objects.attachments = [replace(each, users=users.get(each.id, ())) for each in objects.attachments]


def _rows(gateway: Gateway, cell: Cell, ids: Collection[str], since: datetime.datetime) -> Iterable[tuple[str, Row]]:
    """The rows of servers in one cell.

    :param since: parts of actions that began earlier and have not ended never will
    """
    database = gateway.database(cell)
    migrations: dict[str, list[Migration]] = {}
    for values in survey.migrations_of(database, ids):
        migrations.setdefault(values["instance_uuid"], []).append(_migration(values, cell.ref))
    metadata, events = survey.mark_rows(database, ids), survey.last_events(database, ids)
    stashed, open_events = survey.stashed(database, ids), survey.open_events(database, ids, since)
    volumes, keypairs = survey.volumes(database, ids), survey.keypairs(database, ids)
    for values in survey.instances(database, ids):
        server_id = values["uuid"]
        own = migrations.get(server_id, [])
        moments = [values["updated_at"] or values["created_at"], events.get(server_id), *(each.changed for each in own)]
        yield (
            server_id,
            Row(
                cell=cell.ref,
                host=values["host"] or "",
                vm_state=values["vm_state"] or "",
                task_state=values["task_state"],
                hidden=bool(values["hidden"]),
                deleted=bool(values["deleted"]),
                name=values["display_name"] or "",
                project_id=values["project_id"] or "",
                user_id=values["user_id"] or "",
                image_ref=values["image_ref"] or "",
                key_name=values["key_name"] or "",
                key_data=values["key_data"] or "",
                keypairs=keypairs.get(server_id, ""),
                stashed=server_id in stashed,
                mark=ownership.mark_of(metadata.get(server_id, {})),
                migrations=tuple(own),
                attachments=frozenset(attachment for _volume, attachment in volumes.get(server_id, ()) if attachment),
                volumes=tuple(volumes.get(server_id, ())),
                open_event=open_events.get(server_id, ""),
                changed=max((moment for moment in moments if moment is not None), default=None),
            ),
        )


def _known_whole(cloud: AuditSnapshot, unseen: Collection[CellRef]) -> AuditSnapshot:
    """What belongs to servers of which nothing can be in a cell that was not looked at.

    An allocation of a migration that no cell has may be of one there.

    :param unseen: the cells that could not be looked at
    """
    servers = {each.id: each for each in cloud.servers.values() if each.is_mapped and each.mapped not in unseen}
    return replace(
        cloud,
        servers=servers,
        bindings=[each for each in cloud.bindings if each.server_id in servers],
        attachments=[each for each in cloud.attachments if each.server_id in servers],
        images=[each for each in cloud.images if each.server_id in servers],
        allocations=[each for each in cloud.allocations if each.migration and each.migration.server_id in servers],
    )


def _only(cloud: AuditSnapshot, cells: Collection[CellRef]) -> AuditSnapshot:
    """What concerns these cells: objects of no host count when their server has a row there."""
    here = {server.id for server in cloud.servers.values() if any(row.cell in cells for row in server.rows)}
    return replace(
        cloud,
        servers={server_id: server for server_id, server in cloud.servers.items() if server_id in here}
        | {each.server_id: cloud.servers[each.server_id] for each in cloud.bindings if each.server_id in cloud.servers},
        attachments=[each for each in cloud.attachments if each.server_id in here],
        images=[each for each in cloud.images if each.server_id in here],
    )
