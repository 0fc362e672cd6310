"""The snapshot of a server in a census, from the lists that the census has read."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cellmove.checks.snapshot import ServerSnapshot, Target
from cellmove.cloud import quota
from cellmove.core.policy import Subject
from cellmove.db.shapes import InstanceMapping
from cellmove.steps import plan, rules
from cellmove.steps.attachments import users_of
from cellmove.steps.plan_disks import disks_assumed

if TYPE_CHECKING:
    from cellmove.cloud.network import Port
    from cellmove.core.policy import Policy
    from cellmove.db.cells import Cell
    from cellmove.db.shapes import BlockDevice, Flavor, Group, Instance, MigrationRow, Node, Service
    from cellmove.db.tables import CellDatabase
    from cellmove.drain.options import DrainOptions
    from cellmove.gateway import Gateway
    from cellmove.steps.answers import Answers
    from cellmove.steps.reach import Access


@dataclass(frozen=True)
class CensusView:
    """The values that are equal for all servers."""

    gateway: Gateway
    source: Cell
    options: DrainOptions
    with_open_move: frozenset[str]
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


class InstanceRow(Protocol):
    """The columns of a row of ``instances`` that the census reads itself."""

    @property
    def hidden(self) -> int: ...

    @property
    def created_at(self) -> datetime.datetime | None: ...


@dataclass(frozen=True)
class CensusServer:
    """One server of a page, before its checks."""

    row: InstanceRow
    instance: Instance
    devices: tuple[BlockDevice, ...]
    tags: tuple[str, ...]
    spec: Mapping[str, object]
    queued: bool
    new_flavor: Flavor | None
    volume_backed: bool

    @property
    def id(self) -> str:
        """Return the server's UUID."""
        return self.instance.uuid


@dataclass(frozen=True)
class CensusPage:
    """The rows of a page of servers in the databases, by server id."""

    building: Collection[str]
    migrations: Mapping[str, list[MigrationRow]]
    shares: Mapping[str, int]
    groups: Mapping[str, Group]
    group_hosts: Mapping[str, str]
    leftovers: Mapping[str, Mapping[str, Mapping[str, int]]]
    missing: Mapping[str, Mapping[str, list[str]]]
    elsewhere: Mapping[str, tuple[Port, ...]]


def snapshot_of(view: CensusView, page: CensusPage, server: CensusServer) -> ServerSnapshot:
    """Build the snapshot of :func:`cellmove.steps.plan.gather`, without the facts about disks that only the host knows."""
    instance, group = server.instance, page.groups.get(server.id)
    snapshot = ServerSnapshot(
        server_id=server.id,
        server_name=instance.display_name or server.id,
        kind="resize" if server.new_flavor else "migration",
        mapping=InstanceMapping(view.source.uuid, server.queued),
        server=instance,
        build_request=server.id in page.building,
        request_spec=server.spec,
        force_locked=view.options.force_locked,
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
        targets=tuple(_with_rows(page, target, server.id) for target in view.targets),
        zones=view.zones,
        accepted_losses=view.options.accept_loss,
        policy=view.policy,
    )
    if instance.flavor:
        snapshot = _with_cloud(view, page, server, instance.flavor, snapshot)
    if not snapshot.is_complete:
        return snapshot
    return disks_assumed(view.gateway.settings, snapshot, view.options.transfer, view.options.bwlimit)


def _with_cloud(
    view: CensusView, page: CensusPage, server: CensusServer, old: Flavor, snapshot: ServerSnapshot
) -> ServerSnapshot:
    """Add the fields of the snapshot that the APIs give."""
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
    return dataclasses.replace(
        snapshot,
        extended_binding=extended,
        ports=ports,
        other_bindings={
            port.id: tuple(host for host in known.hosts.get(port.id, ()) if host not in (port.host, instance.host))
            for port in (ports if extended else ())
        },
        volume_states=states,
        volume_zones=plan.zones_that_bind(view.gateway.settings, (zone for _status, zone in own.values())),
        attachments=attachments,
        attachment_users=users_of(
            view.gateway, [attachment for attachment in attachments if attachment.id not in named]
        ),
        allocations=answers.allocations(server.id),
        candidates=answers.candidates(new or old, volume_backed=server.volume_backed),
        stores={} if server.volume_backed else answers.stores(),
        narrowed=answers.narrowed(new or old),
        quotas=answers.quotas(instance.project_id, instance.user_id) if grows else (),
        subject=_subject(view, server, old),
    )


def _hosts_of_others(page: CensusPage, group: Group, server_id: str) -> tuple[str, ...]:
    others = (page.group_hosts.get(member) for member in group.members if member != server_id)
    return tuple(sorted({host for host in others if host}))


def _with_rows(page: CensusPage, target: Target, server_id: str) -> Target:
    """Return a target cell with the leftovers of this server there, and the columns that it lacks; usually unchanged."""
    leftovers = page.leftovers.get(target.uuid, {}).get(server_id, {})
    missing = page.missing.get(target.uuid, {}).get(server_id, ())
    return dataclasses.replace(target, leftovers=leftovers, missing=tuple(missing)) if leftovers or missing else target


def _subject(view: CensusView, server: CensusServer, old: Flavor) -> Subject:
    """Return the values that the operator's rules match, if there are rules."""
    if not view.policy.has_rules:
        return Subject()
    flavors = (old.name, server.new_flavor.name if server.new_flavor else "")
    project = project_of(view, server.instance.project_id)
    return Subject(rules.by_kind(project, flavors, server.tags, server.instance.host))


def project_of(view: CensusView, project_id: str) -> tuple[str, str]:
    """Return id and name of a project. The name is empty when no filter and no rule uses projects."""
    return project_id, view.answers.project_name(project_id) if view.asks_projects else ""
