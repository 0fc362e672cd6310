"""Compare a moved server with its state before the move, for ``verify`` and ``confirm``.

Nothing is written. The comparison uses nova's own records in the source cell, which remain until the move is confirmed
or reverted (:mod:`cellmove.checks.arrival_checks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cellmove.checks.arrival import Arrival, RootDisk
from cellmove.checks.arrival_checks import examine
from cellmove.checks.result import CheckResult, Level, refusal
from cellmove.checks.suitability import STARTS_FROM_SNAPSHOT
from cellmove.cloud import network, volume
from cellmove.core.errors import CallError, Refused, Unreachable, Unverified, Usage, before_writing
from cellmove.core.move import Move, State
from cellmove.core.shell import command_line
from cellmove.core.transfer import IMAGE, STREAM, VOLUMES
from cellmove.db import look, records, state
from cellmove.engine.events import Event, EventKind
from cellmove.engine.record import MoveRecord, record_of
from cellmove.engine.retry import patiently
from cellmove.operations import probe
from cellmove.steps import endpoints, stream
from cellmove.steps.action_types import START_TARGET

if TYPE_CHECKING:
    from cellmove.db.tables import CellDatabase
    from cellmove.operations.context import Session
    from cellmove.operations.probe import Probe

SETTLES = frozenset({"port-down", "volume-state", "attachment"})
"""Codes of differences that may disappear within seconds: neutron and cinder learn of the guest's start after nova."""


@dataclass(frozen=True)
class Verification:
    """The result of a comparison.

    :param checks: one for each property that was compared, equal or not
    """

    move: Move
    checks: tuple[CheckResult, ...]

    @property
    def differences(self) -> tuple[CheckResult, ...]:
        """Return the properties that differ."""
        return tuple(check for check in self.checks if check.level is Level.REFUSAL)


def verify(session: Session, move: Move, probes: Sequence[Probe] = ()) -> Verification:
    """Compare a moved server with its state before the move; wait for differences that may disappear within seconds.

    :param probes: the guest has to answer them, too
    :raises Refused: the move is not between finish and confirm
    :raises Unreachable: a part of the cloud cannot be read
    """
    if move.state is not State.FINISHED:
        raise Refused(
            f"{move.id} is {move.state}: a move can be verified between finish and confirm, "
            "while nova keeps the server's old records to compare with",
            state="nothing was written",
            next_command=f"cellmove show {move.id}",
        )
    try:
        disk = _compared_disk(session, move)
        arrival = replace(patiently(session, lambda: _look(session, move)), disk=disk)
        waits, deadline = session.clock.waits(), session.clock.monotonic() + session.settings.patience
        while _only_settling(examine(arrival)) and session.clock.monotonic() < deadline:
            session.observer(Event(EventKind.WAITING, move.id, move.server_name, text="waiting for ports and volumes"))
            session.clock.sleep(next(waits))
            arrival = replace(patiently(session, lambda: _look(session, move)), disk=disk)
        checks = examine(arrival)
        if probes and not any(check.level is Level.REFUSAL for check in checks):
            checks += _probed(session, arrival, probes)
    except CallError as error:
        raise before_writing(error, next_command=_command(move, probes)) from None
    return Verification(move, checks)


def require(session: Session, move: Move, probes: Sequence[Probe] = (), again: str = "") -> None:
    """Require that a move may be confirmed.

    :param again: the command line that confirms it, with its options
    :raises Unverified: the server differs from its state before the move; every difference is named
    :raises Unreachable: a part of the cloud cannot be read
    """
    try:
        found = verify(session, move, probes).differences
    except (Unreachable, Usage) as error:
        error.next_command = again or f"cellmove confirm {move.id}"
        raise
    if found:
        raise Unverified(
            "\n".join(
                [f"{move.server_name} differs from its state before the move:", *(f"  {each.text}" for each in found)]
            ),
            state="nothing was written; the move is finished, and was not confirmed",
            next_command=f"{_command(move, probes)}  # then cellmove revert {move.id}, or cellmove confirm {move.id} --force",
        )


def _command(move: Move, probes: Sequence[Probe]) -> str:
    """Return the command line that verifies a move again."""
    return command_line("verify", move.id, probe=tuple(each.text for each in probes))


def _only_settling(checks: Sequence[CheckResult]) -> bool:
    codes = {check.code for check in checks if check.level is Level.REFUSAL}
    return bool(codes) and codes <= SETTLES


def _compared_disk(session: Session, move: Move) -> RootDisk | None:
    """Compare the root disk with the source's. A volume needs no comparison; a streamed disk was read back before."""
    from cellmove.steps.disk_comparison import compare_root_disks

    record = record_of(move, session.journal.entries_of(move.id))
    return compare_root_disks(session.gateway, record) if _transfer(record) == IMAGE else None


def _transfer(record: MoveRecord) -> str:
    """Return how the root disk was copied. nova's own moves use an image."""
    if record.plan.volume_backed:
        return VOLUMES
    return STREAM if stream.transfer_of(record) == STREAM else IMAGE


def _look(session: Session, move: Move) -> Arrival:
    gateway = session.gateway
    record = record_of(move, session.journal.entries_of(move.id))
    chosen, started = endpoints.chosen_host(record), record.get(START_TARGET)
    source, target = gateway.cell(record.plan.source_cell_uuid), gateway.cell(chosen.target_cell_uuid)
    server, database = move.server_id, gateway.database(target)
    after = records.read_rows(database, server)
    spec = state.read_request_spec(gateway.api_engine, server).get("nova_object.data") or {}
    group = look.group_of(gateway.api_engine, server)
    wanted = ((spec.get("instance_group") or {}).get("nova_object.data") or {}).get("uuid") or ""
    return Arrival(
        name=move.server_name,
        kind=move.kind,
        target_cell=target.label,
        target_host=chosen.target_host,
        transfer=_transfer(record),
        target_version=(started.target_compute_version if started is not None else 0)
        or _version_of(database, chosen.target_host),
        mapped=state.mapped_cell(gateway.api_engine, server) == target.id,
        active=record.plan.active,
        flavor_id=record.plan.new_flavor_id,
        before=records.read_rows(gateway.database(source), server),
        after=after,
        detached=frozenset(records.removed_devices(database, server)),
        ports=tuple(network.ports_of(gateway.service, server)),
        volumes=_volume_states(session, after),
        attachments=tuple(volume.attachments_of(gateway.admin, server)),
        group=group,
        group_wanted=wanted,
        group_hosts=tuple(look.group_hosts(gateway, group.members, [server])) if group else (),
    )


def _volume_states(session: Session, after: records.Rows) -> dict[str, str]:
    """Return the status of each volume by its id; empty if cinder does not know the volume."""
    devices = after["block_device_mapping"]
    wanted = {device["volume_id"] for device in devices if device["destination_type"] == "volume"}
    project_id = after["instances"][0]["project_id"] if after["instances"] else ""
    found = volume.volumes_in_use(session.gateway.admin, wanted, project_id)
    return {volume_id: found[volume_id].status if volume_id in found else "" for volume_id in wanted}


def _version_of(database: CellDatabase, host: str) -> int:
    """Return the service version of a host's nova-compute; that of a recent one if the host has no service record."""
    service = state.read_service(database, host)
    return int(service["version"] or 0) if service is not None else STARTS_FROM_SNAPSHOT


def _probed(session: Session, arrival: Arrival, probes: Sequence[Probe]) -> tuple[CheckResult, ...]:
    """Return the results of the probes. A guest that was stopped before the move is not probed."""
    if not arrival.active:
        return (CheckResult("probe", Level.OK, "the guest is stopped, so it was not probed"),)
    addresses = tuple(dict.fromkeys(address for port in arrival.ports for address in port.addresses))
    found = []
    for each in probes:
        why = probe.wait_for(
            each, probe.Guest(arrival.row("instances")["uuid"], arrival.name, addresses), session.clock
        )
        passed = CheckResult("probe", Level.OK, f"{each.name} answers")
        found.append(refusal("probe", f"{each.name}: {why}", "look at the guest's console") if why else passed)
    return tuple(found)
