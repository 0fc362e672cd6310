"""Mends leftovers that an audit found: one action each, and each looks again before it does anything.

Nothing here is rolled back and everything may be done again: what was found is either still there, and
is mended, or it is not, and is left alone. The words for that are in the action's result.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cellmove.checks.audit_snapshot import AuditSnapshot, KnownMove
from cellmove.checks.find_leftovers import classify
from cellmove.checks.leftover import Leftover, LeftoverKind
from cellmove.cloud import image, network, placement, volume
from cellmove.core.documents import IF_SET, Nothing, NovaObject, structure
from cellmove.core.errors import CallFailed
from cellmove.core.reference import is_uuid
from cellmove.db import records, state, survey
from cellmove.engine.action import Action, AnyAction, Context, Pivot
from cellmove.engine.record import ActionType
from cellmove.steps.survey import Ours, look_again

if TYPE_CHECKING:
    from cellmove.core.move import Entry, Move


@dataclass(frozen=True)
class RecordedLeftover:
    """A finding that is to be repaired.

    :param cell: UUID of the cell; its name in a record of an earlier version
    """

    kind: str
    server_id: str
    subject: str
    cell: str
    host: str
    cell_name: str = ""


@dataclass(frozen=True)
class RepairPlan:
    """What the journal keeps of a repair.

    :param closed: the states of closed moves whose marks are to be removed, by id
    :param generations: the highest generation that the journal knows of each of them
    :param here: who holds this journal
    :param patience: seconds after which whoever was at work would have shown a sign of it
    """

    findings: tuple[RecordedLeftover, ...]
    closed: Mapping[str, str]
    here: str
    patience: float
    generations: Mapping[str, int] = field(default_factory=dict)  # not in a record of an earlier version


@dataclass(frozen=True)
class RepairOutcome:
    """What was done, or why it was not."""

    mended: str = field(default="", metadata=IF_SET)
    left: str = field(default="", metadata=IF_SET)


def make_plan(leftovers: Sequence[Leftover], ours: Ours) -> RepairPlan:
    """What is to be kept of a repair."""
    marks = {leftover.subject for leftover in leftovers if leftover.kind is LeftoverKind.MARK}
    return RepairPlan(
        findings=tuple(
            RecordedLeftover(
                leftover.kind.value,
                leftover.server_id,
                leftover.subject,
                leftover.cell_uuid,
                leftover.host,
                str(leftover.cell or ""),
            )
            for leftover in leftovers
        ),
        closed={move_id: move.state for move_id, move in ours.moves.items() if move_id in marks},
        generations={move_id: move.generation for move_id, move in ours.moves.items() if move_id in marks},
        here=ours.here,
        patience=ours.patience,
    )


def actions_for(move: Move) -> tuple[AnyAction, ...]:
    """The actions of a repair: one a leftover, named by what is mended."""
    plan = structure(RepairPlan, move.plan, f"the record {move.id}")
    return tuple(_action(number, leftover, plan) for number, leftover in enumerate(plan.findings, 1))


def _action(number: int, wanted: RecordedLeftover, plan: RepairPlan) -> AnyAction:
    kind = LeftoverKind(wanted.kind)

    def do(context: Context, _intent: Nothing) -> RepairOutcome:
        try:
            cloud, leftover = _still(context, wanted, plan)
            if leftover is None:
                return RepairOutcome(left="it is not there any more")
            if not leftover.safe:
                return RepairOutcome(left=leftover.owner.text if leftover.owner else leftover.remedy)
            done = REPAIRS[kind](context, cloud, leftover)
        except CallFailed as error:
            if error.kind in ("deadlock", "lost"):
                raise  # to be tried again
            return RepairOutcome(left=str(error))
        return (
            RepairOutcome(mended=leftover.remedy)
            if done
            else RepairOutcome(left="it was changed by somebody else just now")
        )

    where = f" in {wanted.cell_name or wanted.cell}" if wanted.cell else ""
    title = f"mend {kind}{where}: {wanted.subject}".replace("{", "{{").replace("}", "}}")
    # A failure takes nothing back: what is mended stays mended.
    return Action(ActionType(name_of(number, wanted), Nothing, RepairOutcome), title, do, pivot=Pivot.WHEN_BEGUN)


def outcome_of(entry: Entry) -> RepairOutcome:
    """What became of a repair's action, from its line."""
    return structure(RepairOutcome, entry.result, f"the result of {entry.action} of {entry.move_id}")


def name_of(number: int, wanted: RecordedLeftover) -> str:
    """The name of the action that mends a leftover, unique in its repair."""
    return f"{number}/{wanted.kind}/{wanted.subject[:36]}"


def _still(context: Context, wanted: RecordedLeftover, plan: RepairPlan) -> tuple[AuditSnapshot, Leftover | None]:
    """The cloud around a leftover as it is now, and the leftover if it is still there."""
    closed = {
        move_id: KnownMove(move_id, state, is_open=False, generation=plan.generations.get(move_id, -1))
        for move_id, state in plan.closed.items()
    }
    ours = Ours(moves=closed, here=plan.here, patience=plan.patience)
    cloud = look_again(context.gateway, context.clock, ours, wanted.server_id, wanted.subject, wanted.host)
    # An earlier version recorded the name of the cell.
    word = wanted.cell
    cell = context.gateway.cell(word).uuid if word and not is_uuid(word) else word
    key = (wanted.kind, wanted.server_id, wanted.subject, cell, wanted.host)
    return cloud, next((each for each in classify(cloud) if each.key == key), None)


# how each kind is mended; all return whether they did something


def _binding(context: Context, _cloud: AuditSnapshot, leftover: Leftover) -> bool:
    network.delete_binding(context.gateway.service, leftover.subject, leftover.host)
    return True


def _attachment(context: Context, _cloud: AuditSnapshot, leftover: Leftover) -> bool:
    volume.delete_attachment(context.gateway.admin, leftover.subject)  # no service token: an empty one needs none
    return True


def _allocation(context: Context, _cloud: AuditSnapshot, leftover: Leftover) -> bool:
    admin, sleep = context.gateway.admin, context.clock.sleep
    if leftover.details.allocation == "give-back":
        return placement.move_allocations(admin, leftover.subject, leftover.server_id, sleep=sleep)
    return placement.delete_allocations(admin, leftover.subject, sleep=sleep)


def _image(context: Context, _cloud: AuditSnapshot, leftover: Leftover) -> bool:
    image.delete_image(context.gateway.admin, leftover.subject)
    return True


def _hidden(context: Context, _cloud: AuditSnapshot, leftover: Leftover) -> bool:
    """Deletes a row only while it is hidden."""
    gateway = context.gateway
    return records.delete_server(gateway.database(gateway.cell(leftover.cell_uuid)), leftover.server_id)


def _mark(context: Context, _cloud: AuditSnapshot, leftover: Leftover) -> bool:
    gateway = context.gateway
    return survey.drop_mark(gateway.database(gateway.cell(leftover.cell_uuid)), leftover.server_id, leftover.subject)


def _stash(context: Context, cloud: AuditSnapshot, leftover: Leftover) -> bool:
    gateway, server, now = context.gateway, leftover.server_id, context.clock.database_time()
    database, home = gateway.database(gateway.cell(leftover.cell_uuid)), cloud.servers[leftover.server_id].home
    if home is None:
        return False
    with state.transaction(database.engine, database.name) as connection:
        at_rest = {"vm_state": home.vm_state, "task_state": None, "host": home.host}
        state.swap_instance(database, server, at_rest, {}, now, connection)
        state.set_extra(connection, database, server, {"migration_context": None}, now)
        state.set_flavors(connection, database, server, old=None, new=None, now=now)
        state.set_system_metadata(connection, database, server, "old_vm_state", None, now)
    return True


def _old_migration(context: Context, cloud: AuditSnapshot, leftover: Leftover) -> bool:
    """Settles the record while the server stays at rest on its host, and the record keeps its status."""
    gateway, home = context.gateway, cloud.servers[leftover.server_id].home
    if home is None:
        return False
    at_rest = {"vm_state": home.vm_state, "task_state": None, "host": home.host, "hidden": 0}
    database = gateway.database(gateway.cell(leftover.cell_uuid))
    number, status = leftover.details.migration_number, leftover.details.migration_status
    return survey.settle_migration(database, leftover.server_id, at_rest, number, status)


def _keypairs(context: Context, cloud: AuditSnapshot, leftover: Leftover) -> bool:
    gateway, server = context.gateway, cloud.servers[leftover.server_id]
    home = server.home
    if home is None:
        return False
    source = leftover.details.keypair_from
    kept = next((row.keypairs for row in server.live if row.cell.uuid == source), "")
    keypairs = kept or keypairs_of(cloud.keys[home.user_id, home.key_name])
    database = gateway.database(gateway.cell(leftover.cell_uuid))
    return survey.set_keypairs(database, server.id, keypairs, context.clock.database_time())


def keypairs_of(key: Mapping[str, object]) -> str:
    """A keypair of the API database as nova records it with a server (KeyPairList 1.3 of KeyPair 1.4)."""

    def moment(value: object) -> str | None:
        if value is None:
            return None
        text = value.isoformat() if isinstance(value, datetime.datetime) else str(value).replace(" ", "T")[:19]
        return f"{text}Z"

    data = {name: key[name] for name in ("id", "name", "user_id", "fingerprint", "public_key", "type")}
    data |= {"created_at": moment(key["created_at"]), "updated_at": moment(key["updated_at"])}
    data |= {"deleted_at": None, "deleted": False}
    return json.dumps(_object("KeyPairList", "1.3", {"objects": [_object("KeyPair", "1.4", data)]}))


def _object(name: str, version: str, data: Mapping[str, object]) -> NovaObject:
    return {
        "nova_object.name": name,
        "nova_object.namespace": "nova",
        "nova_object.version": version,
        "nova_object.data": data,
    }


REPAIRS: Mapping[LeftoverKind, Callable[[Context, AuditSnapshot, Leftover], bool]] = {
    LeftoverKind.BINDING: _binding,
    LeftoverKind.ATTACHMENT: _attachment,
    LeftoverKind.ALLOCATION: _allocation,
    LeftoverKind.IMAGE: _image,
    LeftoverKind.HIDDEN_ROW: _hidden,
    LeftoverKind.MARK: _mark,
    LeftoverKind.KEYPAIRS: _keypairs,
    LeftoverKind.STASH: _stash,
    LeftoverKind.OLD_MIGRATION: _old_migration,
}
"""Every kind that is ever safe to mend."""
