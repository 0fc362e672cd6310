"""The checks before anything is written. Each result is a value: ok, a warning, or a refusal with its remedy.

They follow what nova-api refuses (nova/compute/api.py, ``resize``) and add what nova would lose or
break without a word. All of them are shown at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cellmove.checks import access, baggage, flavor, hypervisor, policy, quota, server, target
from cellmove.checks.result import CheckResult, CheckResults, Level
from cellmove.checks.snapshot import ServerSnapshot, Target

__all__ = ["CHECKS", "CheckResult", "Group", "Level", "ServerSnapshot", "Target", "examine"]


@dataclass(frozen=True)
class Group:
    """Checks about one thing.

    :param ok: what to say when none of them finds anything; an empty text says nothing
    """

    code: str
    ok: Callable[[ServerSnapshot], str]
    checks: tuple[Callable[[ServerSnapshot], CheckResults], ...]


def _nothing(_snapshot: ServerSnapshot) -> str:
    return ""


RECORDS = Group("records", _nothing, (server.check_records,))
"""Without these the others have nothing to look at."""

MARKED = Group("state", _nothing, (server.check_mark,))
"""A server that a move of ours is working on already: whatever else is odd about it is that move's doing."""

BUSY = Group("state", _nothing, (server.check_busy, server.check_migrations))
"""A server that is busy or moved by nova: what else seems odd about it belongs to that, and no remedy for it is right."""

NOTES = Group(
    "notes",
    _nothing,
    (
        server.check_group,
        server.check_config_drive,
        target.check_few_hosts,
        target.check_left_out,
        target.check_scheduler,
    ),
)
"""What is good to know and forbids nothing."""

CHECKS: tuple[Group, ...] = (
    RECORDS,
    Group("state", server.state_ok, (server.check_state, server.check_migrations)),
    Group("policy", _nothing, (policy.check_policy,)),
    Group("source", server.source_ok, (hypervisor.check_hypervisor, server.check_source, server.check_allocations)),
    Group("access", _nothing, (access.check_buses, access.check_rights)),
    Group("target", target.targets_ok, (target.check_targets,)),
    Group(
        "flavor", flavor.flavor_ok, (flavor.check_flavor, flavor.check_disk, flavor.check_topology, quota.check_quota)
    ),
    Group("network", baggage.network_ok, (baggage.check_neutron, baggage.check_ports, baggage.check_interfaces)),
    Group("volumes", baggage.volumes_ok, (baggage.check_volumes, baggage.check_shares)),
    Group("disks", baggage.disks_ok, (baggage.check_losses, baggage.check_transfer, baggage.check_encryption)),
    NOTES,
)
"""All checks, in the order in which their results are shown."""


def examine(snapshot: ServerSnapshot) -> tuple[CheckResult, ...]:
    """All results at once, in the order of :data:`CHECKS`."""
    found: list[CheckResult] = []
    for group in _groups(snapshot):
        results = [result for check in group.checks for result in check(snapshot)]
        text = "" if results or not snapshot.is_complete else group.ok(snapshot)
        found += results or ([CheckResult(group.code, Level.OK, text)] if text else [])
    return tuple(found)


def refusals(snapshot: ServerSnapshot) -> tuple[CheckResult, ...]:
    """Only what forbids the move, without the words about all that does not: for many servers."""
    return tuple(
        result
        for group in _groups(snapshot)
        if group is not NOTES
        for check in group.checks
        for result in check(snapshot)
        if result.level is Level.REFUSAL
    )


def _groups(snapshot: ServerSnapshot) -> tuple[Group, ...]:
    if snapshot.server is not None and snapshot.server.mark:
        return (MARKED,)
    if not snapshot.is_complete:
        return (RECORDS,)
    return (RECORDS, BUSY) if server.is_busy(snapshot) else CHECKS
