"""Which actions of a move happened, told from what they left in the cloud. Looks at values only.

A line is DONE where that is certain and INTENT where it may be so: the pipeline then looks (an action
with a probe) or does it again (one that may be repeated at will), exactly as after a crash. An action
that certainly did not happen has no line. Where the order of actions allows only one reading, the
later trace vouches for the earlier action.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cellmove.core.documents import NOTHING, to_document
from cellmove.core.move import TO_FINISH, Phase, State, Step
from cellmove.db.history import SUCCESS
from cellmove.db.shapes import read_object
from cellmove.hosts import compute
from cellmove.steps import ACTIONS, stream, stream_off
from cellmove.steps.action_types import (
    BIND_PORTS,
    CLAIM,
    COPY_RECORDS,
    COPY_RUNNING,
    CREATE_IMAGE,
    HAND_OVER,
    HIDE_SOURCE,
    MIRROR,
    MOVE_ALLOCATIONS,
    NOTE_TARGET,
    PLACE_DISKS,
    RECORD_MIGRATION,
    RESERVE_VOLUMES,
    SAVE_REQUEST_SPEC,
    SCHEDULE,
    SHOW_TARGET,
    START_TARGET,
    STASH,
    STOP_SOURCE,
    SWITCH_MAPPING,
    TAKE_SERVER,
    CopyRequest,
    ImageId,
    KnownAttachments,
    MigrationId,
    OfferedHosts,
    PortBefore,
    PortsBefore,
    ServerBefore,
    SourceAttachments,
)
from cellmove.steps.endpoints import NOVA

if TYPE_CHECKING:
    from cellmove.cloud.network import Port
    from cellmove.cloud.volume import Attachment
    from cellmove.core.documents import Document, NovaObject
    from cellmove.core.move_plan import ChosenHost, MovePlan
    from cellmove.db.types import Record
    from cellmove.engine.record import ActionType

I = TypeVar("I")  # noqa: E741 - the type of an intent
R = TypeVar("R")

RESERVED = "reserved"
REPLACED = "replaced"
"""Stands for the id of an attachment that the source had and that nobody can name any more."""


@dataclass(frozen=True)
class CellState:
    """What one cell knows of the server.

    :param instance: its row
    :param migration: the move's record there, if there is one
    :param volumes: its volume BDMs: ``id``, ``volume_id``, ``attachment_id``
    :param events: how the computes' parts of the move stand, by event (``history.event_state``)
    """

    instance: Record
    metadata: Mapping[str, str]
    extra: Record
    migration: Record | None
    volumes: tuple[Record, ...]
    events: Mapping[str, str]

    @property
    def flavors(self) -> Mapping[str, NovaObject | None]:
        """The primitives of the flavors: ``cur``, and ``old`` and ``new`` while they are stashed."""
        stored = self.extra.get("flavor")
        return read_object(stored, "instance_extra.flavor") if stored else {}

    @property
    def stashed(self) -> bool:
        """Whether the old flavor is stashed beside the current one, as prep-source does it."""
        return bool(self.flavors.get("old"))


@dataclass(frozen=True)
class ObservedState:
    """Everything that a move has left so far.

    :param before: the columns that taking the server changes, as they were
    :param source: None when the server was deleted there meanwhile
    :param holds: whether the migration holds an allocation
    :param arrival: the host that the scheduler chose; None without a copy
    :param bound: the ports that have a binding for the target host
    :param needs_limits: whether the claim wants what only the scheduler can say
    :param by_nova: whether nova's conductor began it, and died
    :param undecided: whether nova had not decided yet if it leaves its cell at all
    :param streamed: whether its disks are streamed, as far as its mark and its image tell
    """

    before: ServerBefore
    source: CellState | None
    target: CellState | None
    migration_uuid: str
    mapped_to_target: bool
    holds: bool
    volume_backed: bool
    arrival: ChosenHost | None
    ports: tuple[Port, ...]
    bound: frozenset[str]
    attachments: tuple[Attachment, ...]
    image_id: str
    needs_limits: bool = False
    by_nova: bool = False
    undecided: bool = False
    streamed: bool = False

    def event(self, method: compute.Method) -> str:
        """How a compute's part of the move stands, in the cell of that compute."""
        at_target = method in (compute.PREP_AT_DEST, compute.FINISH_AT_DEST, compute.REVERT_AT_DEST)
        end = self.target if at_target else self.source
        return end.events.get(method.event, "") if end is not None else ""


@dataclass(frozen=True)
class Line:
    """One action as it will stand in the journal."""

    step: Step
    action: str
    phase: Phase
    intent: Document
    result: Document


def line_of(step: Step, action: ActionType[I, R], phase: Phase, intent: I, result: R | None = None) -> Line:
    """A line of an action with the types that it declares.

    :param result: None where it cannot be known any more
    """
    return Line(step, action.name, phase, to_document(intent), to_document(result))


def rebuild(observed: ObservedState) -> tuple[State, tuple[Line, ...]]:
    """How far the move has come, and a line for every action that happened or may have happened."""
    lines = tuple(_lines(observed))
    if is_going_back(observed):
        return State.ROLLING_BACK, lines
    done = {line.action for line in lines if line.phase is Phase.DONE}
    reached = State.PLANNED
    if (COPY_RUNNING if observed.streamed else MIRROR).name in done:
        reached = State.DEST_PREPARED
    if (PLACE_DISKS if observed.streamed else STOP_SOURCE).name in done:
        reached = State.SOURCE_PREPARED
    return reached, lines


def finished_lines(plan: MovePlan, chosen: ChosenHost, migration_uuid: str) -> tuple[Line, ...]:
    """The lines of a move that is finished: everything happened, whoever did it. How its disks came does not show any more."""
    left_out = {action.name for action in stream_off.ACTIONS} | ({CREATE_IMAGE.name} if plan.volume_backed else set())
    left_out |= {SAVE_REQUEST_SPEC.name} if not plan.is_resize else set()
    results = {SCHEDULE.name: to_document(chosen), RECORD_MIGRATION.name: to_document(MigrationId(migration_uuid))}
    return tuple(
        Line(step, action.name, Phase.DONE, {}, results.get(action.name, {}))
        for step in TO_FINISH
        for action in ACTIONS[step]
        if action.name not in left_out
    )


def is_going_back(observed: ObservedState) -> bool:
    """Whether it was being rolled back, or can only be rolled back."""
    if observed.mapped_to_target:
        return False
    source, target = observed.source, observed.target
    if source is None:
        return True  # its owner deleted it meanwhile
    if observed.undecided:
        return True  # where to is not written down anywhere
    task_state, stopped = source.instance["task_state"], observed.event(compute.PREP_AT_SOURCE)
    statuses = {end.migration["status"] for end in (source, target) if end is not None and end.migration is not None}
    if "reverted" in statuses or observed.event(compute.FINISH_REVERT_AT_SOURCE):
        return True
    if target is not None and target.instance["task_state"] == "resize_reverting":
        return True
    if not stopped:
        return task_state not in ("resize_prep", "resize_migrating")
    if stopped != SUCCESS:
        return False  # the pipeline looks what became of it
    if task_state != "resize_migrated":
        return True  # somebody reset it: the target would refuse to start
    lost = not observed.volume_backed and not observed.image_id and not observed.streamed
    return lost and not observed.event(compute.FINISH_AT_DEST)  # a start that was begun says itself what became of it


def _lines(observed: ObservedState) -> Iterator[Line]:
    yield from _taken(observed)
    if observed.target is None:
        return
    yield from _prepared(observed)
    if observed.streamed and _is_mirrored(observed):
        yield from _streamed(observed)
    stopped = observed.event(compute.PREP_AT_SOURCE)
    if observed.image_id:
        image = ImageId(observed.image_id)
        yield line_of(Step.PREP_SOURCE, CREATE_IMAGE, Phase.DONE, image, image)
    if not stopped and not (observed.source is not None and observed.source.stashed):
        return
    if not stopped and observed.source is not None and observed.source.instance["task_state"] == "resize_prep":
        yield line_of(Step.PREP_SOURCE, STASH, Phase.INTENT, NOTHING)  # nova saves the flavors before the task state
        return
    yield line_of(Step.PREP_SOURCE, STASH, Phase.DONE, NOTHING)
    phase = Phase.DONE if stopped == SUCCESS else Phase.INTENT
    yield line_of(Step.PREP_SOURCE, STOP_SOURCE, phase, SourceAttachments(_source_attachments(observed)))
    if observed.streamed and _is_handed_over(observed):
        for action in (*stream_off.WHILE_IT_IS_OFF, *stream_off.BEFORE_THE_START):
            step = Step.FINISH if action in stream_off.BEFORE_THE_START else Step.PREP_SOURCE
            yield Line(step, action.name, Phase.DONE, {}, {})
    if stopped == SUCCESS:
        yield from _finished(observed)


def _taken(observed: ObservedState) -> Iterator[Line]:
    """Up to the scheduler: what the source cell and placement show."""
    if observed.by_nova:
        yield line_of(Step.PREP_DEST, TAKE_SERVER, Phase.INTENT, dataclasses.replace(observed.before, begun_by=NOVA))
    else:
        yield line_of(Step.PREP_DEST, TAKE_SERVER, Phase.DONE, observed.before)
    if observed.migration_uuid:
        uuid = MigrationId(observed.migration_uuid)
        yield line_of(Step.PREP_DEST, RECORD_MIGRATION, Phase.DONE, uuid, uuid)
        if observed.holds or observed.target is not None:
            yield line_of(Step.PREP_DEST, MOVE_ALLOCATIONS, Phase.DONE, NOTHING)


def _prepared(observed: ObservedState) -> Iterator[Line]:
    """From the copy to the claim and what both cells are told of it."""
    target = observed.target
    if target is None:
        return
    claimed = observed.event(compute.PREP_AT_DEST)
    # Asked again for the very same host, the scheduler gives the same answer, limits and all.
    unsaid = (observed.needs_limits and not claimed) or observed.arrival is None or not observed.arrival.new_flavor
    asked = Phase.INTENT if unsaid else Phase.DONE
    chosen = observed.arrival if asked is Phase.DONE else None
    yield line_of(Step.PREP_DEST, SCHEDULE, asked, OfferedHosts(), chosen)
    if observed.streamed:
        yield from (_of_disks(observed, action.name) for action in stream.BEFORE_THE_CLAIM)
    phase = Phase.DONE if claimed else Phase.INTENT
    anew = observed.by_nova and not claimed
    yield line_of(Step.PREP_DEST, COPY_RECORDS, Phase.INTENT if anew else Phase.DONE, CopyRequest(anew=anew))
    ports = tuple(PortBefore(port.id, port.vnic_type, dict(port.profile)) for port in observed.ports)
    yield line_of(Step.PREP_DEST, BIND_PORTS, phase, PortsBefore(ports))
    yield line_of(Step.PREP_DEST, RESERVE_VOLUMES, phase, KnownAttachments(tuple(_known_attachments(observed))))
    ready = all(port.id in observed.bound for port in observed.ports)
    ready = ready and len(_target_attachments(observed)) == len(target.volumes)
    if not claimed and not ready:
        return
    yield line_of(Step.PREP_DEST, CLAIM, Phase.DONE if claimed == SUCCESS else Phase.INTENT, NOTHING)
    if claimed != SUCCESS:
        return
    mirrored = _is_mirrored(observed)
    yield line_of(Step.PREP_DEST, NOTE_TARGET, Phase.DONE if mirrored else Phase.INTENT, NOTHING)
    if mirrored:
        yield line_of(Step.PREP_DEST, MIRROR, Phase.DONE, NOTHING)
    elif observed.source is not None and observed.source.extra.get("migration_context"):
        yield line_of(Step.PREP_DEST, MIRROR, Phase.INTENT, NOTHING)  # nova saves it in two parts


def _is_mirrored(observed: ObservedState) -> bool:
    """Whether the source cell knows of the claim. Rolling back drops the context first, the host last."""
    source = observed.source
    if source is None or source.migration is None:
        return True
    later = source.stashed or bool(observed.event(compute.PREP_AT_SOURCE))
    return later or bool(source.migration["dest_compute"] and source.extra.get("migration_context"))


def _finished(observed: ObservedState) -> Iterator[Line]:
    """From handing the server over to the end."""
    source, target = observed.source, observed.target
    if target is None or not _is_handed_over(observed):
        return
    started = observed.event(compute.FINISH_AT_DEST)
    yield line_of(Step.FINISH, HAND_OVER, Phase.DONE if started else Phase.INTENT, NOTHING)
    yield line_of(Step.FINISH, START_TARGET, Phase.DONE if started == SUCCESS else Phase.INTENT, NOTHING)
    if started != SUCCESS:
        return
    if not target.instance["hidden"]:
        yield line_of(Step.FINISH, SHOW_TARGET, Phase.DONE, NOTHING)
    if observed.mapped_to_target:
        yield line_of(Step.FINISH, SWITCH_MAPPING, Phase.DONE, NOTHING)
        if source is not None and source.instance["hidden"]:
            yield line_of(Step.FINISH, HIDE_SOURCE, Phase.DONE, NOTHING)


def _is_handed_over(observed: ObservedState) -> bool:
    """Whether finish has begun to hand the server over to the target cell."""
    source, target = observed.source, observed.target
    announced = source is not None and bool(source.events.get(compute.FINISH_AT_DEST.event))
    resized = target is not None and target.instance["task_state"] == "resize_migrated"
    return bool(observed.event(compute.FINISH_AT_DEST)) or announced or resized


def _is_stopping(observed: ObservedState) -> bool:
    """Whether prep-source has begun with what cannot be done at will."""
    return bool(observed.event(compute.PREP_AT_SOURCE)) or (observed.source is not None and observed.source.stashed)


def _of_disks(observed: ObservedState, action: str) -> Line:
    return Line(Step.PREP_DEST, action, Phase.DONE if _is_stopping(observed) else Phase.INTENT, {}, {})


def _streamed(observed: ObservedState) -> Iterator[Line]:
    """The disks' part before the stop. It leaves nothing in the cloud, and all of it may be done again.

    What the disks are is not known any more; copying once more before the stop, or after it, says so.
    """
    yield from (_of_disks(observed, action.name) for action in stream.WHILE_IT_RUNS)
    if _is_stopping(observed):
        phase = Phase.DONE if _is_handed_over(observed) else Phase.INTENT
        yield from (Line(Step.PREP_SOURCE, action.name, phase, {}, {}) for action in stream.BEFORE_THE_STOP)


def _known_attachments(observed: ObservedState) -> list[str]:
    """The attachments that are none of this move's: all but the target's, and empty ones that nobody names."""
    theirs = _target_attachments(observed)
    return [each for each in all_but_nameless(observed.attachments, observed.source, None) if each not in theirs]


def _target_attachments(observed: ObservedState) -> set[str]:
    """The attachments that were made for the target host.

    Nova copies block devices with the source's attachment in them, and gives them their own one after the
    other later (nova/conductor/tasks/cross_cell_migrate.py, PrepResizeAtDestTask).
    """
    target, source = (
        {mapping["attachment_id"] for mapping in (end.volumes if end is not None else ())} - {None}
        for end in (observed.target, observed.source)
    )
    return target - source


def all_but_nameless(attachments: Iterable[Attachment], *ends: CellState | None) -> list[str]:
    """All attachments but empty ones that none of these records name: one of those was made just before a crash."""
    named = {mapping["attachment_id"] for end in ends if end is not None for mapping in end.volumes}
    return [each.id for each in attachments if each.id in named or each.status != RESERVED]


def _source_attachments(observed: ObservedState) -> dict[str, str | None]:
    """The source's attachments by BDM id as they were before the guest was stopped.

    An empty one there was put in the place of another by prep_at_source, which deleted that one.
    """
    empty = {attachment.id for attachment in observed.attachments if attachment.status == RESERVED}
    return {
        str(mapping["id"]): REPLACED if mapping["attachment_id"] in empty else mapping["attachment_id"]
        for mapping in (observed.source.volumes if observed.source is not None else ())
    }
