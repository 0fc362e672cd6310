"""Where the server may go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cellmove.checks import access, hosts
from cellmove.checks.result import CheckResults, refusal, warning
from cellmove.checks.snapshot import (
    OLDEST_COMPUTE,
    ServerSnapshot,
    Target,
    computes_of,
    conductors_up,
    likely_nodes,
    unsuitable,
    zone_wanted,
)
from cellmove.core.transfer import IMAGE

UNSUITABLE = (
    ("target-hypervisor", "cannot serve a move", "name a cell or a host with libvirt and QEMU"),
    ("target-architecture", "has other CPUs", "name a cell or a host with CPUs of the same architecture"),
    ("root-disk-lost", "would lose the root disk", "upgrade nova-compute there, or name a newer host"),
    (
        "volume-zone",
        "is in another zone than its volumes",
        "name a host in that zone (--host), or move the volumes to another (openstack volume migrate); "
        "if hosts of all zones reach the storage, set [cinder]cross_az_attach in nova.conf",
    ),
)
"""Codes of hosts that are ruled out: in short, and what to do. See :mod:`cellmove.checks.suitability`."""


Obstacle = tuple[str, str, str]
"""Code, text and remedy of a reason against a cell."""


def obstacles(target: Target, snapshot: ServerSnapshot) -> list[Obstacle]:
    """Return the reasons for which the server cannot go to a cell."""
    cell = target.cell
    if target.unreachable:
        return [("target-unreachable", target.unreachable, f"make the database of {cell} reachable from here")]
    if target.duplicate and target.is_source_database:
        return [("duplicate-cell", f"{target.duplicate.text}; the server is in it already", target.duplicate.remedy)]
    if target.disabled and not snapshot.wanted_cell:
        enable = f"nova-manage cell_v2 update_cell --enable --cell_uuid {target.uuid}"
        remedy = f"name it (--cell {target.uuid}; --to {target.uuid} when a cell is drained), or {enable}"
        return [("target-disabled", f"{cell} is disabled for scheduling", remedy)]
    return [
        *_access_obstacles(target, snapshot),
        *_host_obstacles(target, snapshot),
        *_row_obstacles(target, snapshot),
        *_scheduler_obstacles(target, snapshot),
        *_store_obstacles(target, snapshot),
        *_schema_obstacles(target, snapshot),
    ]


def _access_obstacles(target: Target, snapshot: ServerSnapshot) -> Iterator[Obstacle]:
    """Yield what keeps cellmove out of the cell's database or bus, and missing conductors."""
    cell = target.cell
    if target.duplicate and not snapshot.wanted_cell:
        yield "duplicate-cell", target.duplicate.text, target.duplicate.remedy
    if target.bus_error:
        yield "target-bus", target.bus_error, access.correct_bus(f"of {cell}", target.uuid)
    if target.rights is not None:
        text, remedy = access.rights_words(f"the database of {cell}", target.rights)
        yield "target-rights", text, remedy
    if not conductors_up(target.services):
        yield "target-conductor-down", f"no nova-conductor of {cell} is up", f"start nova-conductor in {cell}"


def _row_obstacles(target: Target, snapshot: ServerSnapshot) -> Iterator[Obstacle]:
    """Yield rows of the server that are in the cell already. With an ownership mark they are the copy of a move."""
    if target.leftovers and not snapshot.instance.mark:
        rows = ", ".join(f"{count} in {table}" for table, count in sorted(target.leftovers.items()))
        yield (
            "leftovers",
            f"{target.cell} has rows of this server already, deleted ones included: {rows}",
            f"cellmove audit --server {snapshot.server_id} tells whose they are; nova-manage db archive_deleted_rows in "
            f"{target.cell} removes the deleted ones only",
        )


def _schema_obstacles(target: Target, snapshot: ServerSnapshot) -> Iterator[Obstacle]:
    """Yield columns of the cell that cannot hold the server's data."""
    cell = target.cell
    if target.needed:
        yield (
            "schema-needs",
            f"the schema of {cell} requires values that records of {snapshot.source_cell} do not have, and has no "
            f"default for them: {', '.join(target.needed)}",
            f"upgrade the database schema of {snapshot.source_cell} (nova-manage db sync), or give these columns a default",
        )
    upgrade = f"upgrade the database schema of {cell} (nova-manage db sync)"
    if target.unfit:
        text = f"data of this server does not fit into the schema of {cell}: {', '.join(target.unfit)}"
        yield "schema-narrow", text, upgrade
    if target.missing:
        yield "schema", f"{cell} has no columns for data of this server: {', '.join(target.missing)}", upgrade


def _scheduler_obstacles(target: Target, snapshot: ServerSnapshot) -> Iterator[tuple[str, str, str]]:
    """What nova's scheduler says, and why it may say so."""
    answer = snapshot.no_host.get(target.uuid)
    if answer is None or not answer.is_certain:
        return
    why, remedy = hosts.explanation(target, snapshot)
    which = snapshot.wanted_host or f"any host of {target.cell}"
    text = f"nova-scheduler does not accept {which} for it: {answer.words}"
    yield ("no-valid-host", f"{text} ({why})" if why else text, remedy)


def _store_obstacles(target: Target, snapshot: ServerSnapshot) -> Iterator[tuple[str, str, str]]:
    """A disk store that both ends share: nova deletes a live disk then.

    On confirm the source compute removes its guest's disks whatever the storage
    (nova/compute/manager.py, confirm_snapshot_based_resize_at_source): with one ceph pool or one NFS
    export for both cells those are the disks that the guest runs from. What placement shows goes before
    what the operator said: it is the computes' own word, and a wrong yes would cost the guest.
    """
    if snapshot.is_volume_backed:
        return
    cell, here = target.cell, [node for node in snapshot.source_nodes if node.host == snapshot.instance.host]
    there = [node for node in target.nodes if snapshot.wanted_host in ("", node.host)]
    only = "only volume-backed servers can be moved between these"
    for name, users in sorted(snapshot.stores.items()):
        shared = sorted(node.host for node in there if node.uuid in users)
        if shared and any(node.uuid in users for node in here):
            yield (
                "shared-disk-store",
                f"placement shows that {snapshot.instance.host} and {', '.join(shared)} of {cell} keep their disks in one "
                f"store, {name}: confirming would delete the disk that the server runs from",
                f"{only} hosts" + ("" if len(shared) == len(there) else "; or name another host with --host"),
            )
            return
    if target.disk_store == "shared":
        yield (
            "shared-disk-store",
            f"the computes of {snapshot.source_cell} and {cell} share one disk store (disk_stores says so): "
            "confirming would delete the disk that the server runs from",
            f"{only} cells",
        )
    elif target.disk_store != "separate":
        yield (
            "disk-store-unknown",
            f"if computes of {snapshot.source_cell} and {cell} keep their disks in one store (the same ceph pool, the same "
            "NFS export), confirming would delete the disk that the server runs from; no API shows it",
            "compare [libvirt]images_type, images_rbd_pool and instances_path of both cells' computes; if they "
            'differ, set disk_stores = "separate" in config.toml, or CELLMOVE_DISK_STORES=separate',
        )


def _host_obstacles(target: Target, snapshot: ServerSnapshot) -> Iterator[tuple[str, str, str]]:
    """The first reason that leaves no host of a cell."""
    cell, host = target.cell, snapshot.wanted_host
    computes = computes_of(target, snapshot)
    alive = [compute for compute in computes if compute.up]
    which = f"nova-compute on {host}" if host else f"every nova-compute of {cell}"
    if not alive:
        what = "is down, disabled or unknown" if host else "is down or disabled"
        remedy = "start or enable one, or name another (openstack compute service list)"
        yield "no-live-compute", f"{which} {what}", remedy
        return
    old = sorted(compute.host for compute in computes if compute.version < OLDEST_COMPUTE)
    if old:
        yield (
            "target-too-old",
            f"nova-compute on {', '.join(old)} is older than Ussuri (service version below {OLDEST_COMPUTE})",
            "upgrade it, disable it, or name a newer host",
        )
    zone = zone_wanted(snapshot)
    in_zone = [compute.host for compute in alive if zone in ("", snapshot.zones.get(compute.host))]
    if not in_zone:
        yield (
            "availability-zone",
            f"the server was built for the availability zone {zone}, "
            + (f"which {host} is not in" if host else f"in which {cell} has no live host"),
            f"put a host of {cell} in that zone; or unpin the server by shelving it, which loses ephemeral disks and swap "
            "(openstack server unshelve --no-availability-zone)",
        )
    elif unsuitable(target, snapshot).keys() >= set(in_zone):
        yield from () if old else _of_hosts(target, snapshot, in_zone)
    elif not likely_nodes(target, snapshot):
        yield (
            "no-room",
            f"placement does not offer {host or f'any host of {cell}'} for it",
            "free or add capacity there, or check the flavor's traits and resource classes",
        )


def _of_hosts(target: Target, snapshot: ServerSnapshot, hosts: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Why none of these hosts can serve the move: an obstacle for each reason.

    :param hosts: unsuitable ones
    """
    found = unsuitable(target, snapshot)
    for code, _short, remedy in UNSUITABLE:
        named = sorted(host for host in hosts if host in found and found[host].code == code)
        if named:
            which = named[0] if len(named) == 1 else f"each of {_listed(named)}"
            yield code, f"{which} in {target.cell} {found[named[0]].text}", _or_stream(code, remedy, snapshot)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"


def _or_stream(code: str, remedy: str, snapshot: ServerSnapshot) -> str:
    """The remedy for a lost root disk: disks that are streamed are kept by old releases too."""
    if code != "root-disk-lost":
        return remedy
    if snapshot.transfer_wish == IMAGE:
        return f"stream the disks: --transfer stream (docs/stream.md); or {remedy}"
    why = "; ".join(snapshot.survey.hindrances) if snapshot.survey is not None else ""
    return f"stream the disks (docs/stream.md), which the hosts do not allow yet: {why}; or {remedy}"


def check_left_out(snapshot: ServerSnapshot) -> CheckResults:
    """Hosts of a chosen cell that will not be asked for, because nova-compute there would lose the root disk."""
    for target in allowed_targets(snapshot):
        found = unsuitable(target, snapshot)
        old = sorted(host for host, why in found.items() if why.code == "root-disk-lost")
        if old:
            yield warning(
                "root-disk-lost",
                f"{_listed(old)} of {target.cell} {'is' if len(old) == 1 else 'are'} left out: nova-compute there is too "
                "old, and would start the guest from the image it was built from (nova bug 1906428)",
                _or_stream("root-disk-lost", "upgrade nova-compute there", snapshot),
            )


def _within(snapshot: ServerSnapshot) -> str:
    """What to type for a move within the cell. nova's API takes a host for a migration only."""
    if snapshot.new_flavor is not None:
        return f"openstack server resize --flavor {snapshot.new_flavor.name} {snapshot.server_id}"
    host = f"--host {snapshot.wanted_host} " if snapshot.wanted_host else ""
    return f"openstack server migrate {host}{snapshot.server_id}"


def check_targets(snapshot: ServerSnapshot) -> CheckResults:
    """Refuses what stands against every allowed cell; of several cells, the others are just left out."""
    if snapshot.target_is_source:
        yield refusal(
            "same-cell",
            f"the server is in {snapshot.source_cell} already",
            f"name another cell; within one nova does it: {_within(snapshot)}",
        )
        return
    if not snapshot.targets:
        yield refusal("no-target-cell", "there is no other cell", "add a cell with nova-manage cell_v2 create_cell")
    problems = {target.uuid: obstacles(target, snapshot) for target in snapshot.targets}
    every_one = all(problems.values())
    for target in snapshot.targets:
        for code, text, remedy in problems[target.uuid]:
            if every_one:
                yield refusal(code, text, remedy)
            elif code != "target-disabled":
                yield warning(code, f"{target.cell} is left out: {text}", remedy)
        if target.duplicate and snapshot.wanted_cell and not target.is_source_database:
            yield warning(
                "duplicate-cell", f"{target.duplicate.text}; it is used because it was named", target.duplicate.remedy
            )
        if target.disabled and snapshot.wanted_cell:
            yield warning(
                "target-disabled", f"{target.cell} is disabled for scheduling; it is used because it was named"
            )


def check_scheduler(snapshot: ServerSnapshot) -> CheckResults:
    """That the scheduler could not say whether it will accept a host."""
    for target in snapshot.targets:
        answer = snapshot.no_host.get(target.uuid)
        if answer is not None and not answer.is_certain:
            yield warning(
                "scheduler-failed",
                f"it is unknown whether nova-scheduler will accept a host of {target.cell}: {answer.words}",
                f"look in its log for {answer.request_id}",
            )


def check_few_hosts(snapshot: ServerSnapshot) -> CheckResults:
    """What the flavor asks for and only a few hosts of a cell have: the next move finds no room there."""
    for target in allowed_targets(snapshot):
        alive = {compute.host for compute in computes_of(target, snapshot) if compute.up}
        nodes = [node for node in target.nodes if node.host in alive]
        for what, able in sorted(snapshot.narrowed.items()):
            hosts = sorted(node.host for node in nodes if node.uuid in able)
            if not snapshot.wanted_host and len(hosts) < len(nodes) and len(hosts) <= max(1, len(nodes) // 4):
                yield warning(
                    "few-hosts",
                    f"the flavor asks for {what}, which {len(hosts)} of {len(nodes)} hosts of {target.cell} "
                    f"{'has' if len(hosts) == 1 else 'have'}" + (f": {', '.join(hosts)}" if hosts else ""),
                    "make sure that they have capacity for other servers that need them, and for a later resize of this server"
                    if hosts
                    else "expect the scheduler to find no valid host, unless its filter for that is switched off",
                )


def allowed_targets(snapshot: ServerSnapshot) -> list[Target]:
    """The cells that the server can go to."""
    return [target for target in snapshot.targets if not obstacles(target, snapshot)]


def targets_ok(snapshot: ServerSnapshot) -> str:
    parts = []
    for target in allowed_targets(snapshot):
        hosts = [node.host for node in likely_nodes(target, snapshot)]
        more = f" and {len(hosts) - 5} more" if len(hosts) > 5 else ""
        parts.append(f"{target.cell} can host it: {', '.join(hosts[:5])}{more}")
    return "; ".join(parts)
