"""Which actions of a confirm or a revert happened, told from what they left. Looks at values only.

Like :mod:`cellmove.steps.rebuild`: DONE where it is certain, INTENT where it may be so. Nearly all of the
two steps may be done again; what may not has a probe or looks for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cellmove.core.documents import NOTHING
from cellmove.core.move import Phase, Step
from cellmove.hosts import compute
from cellmove.steps.action_types import (
    BEGIN_CONFIRM,
    BEGIN_REVERT,
    CLEAN_SOURCE,
    CLEAN_TARGET,
    DELETE_TARGET,
    HIDE_TARGET,
    MATCH_VOLUMES,
    PREPARE_SOURCE,
    SHOW_SOURCE,
    SWITCH_BACK,
    ConfirmRequest,
    KnownAttachments,
    RevertBefore,
    RevertRequest,
)
from cellmove.steps.rebuild import Line, all_but_nameless, line_of

if TYPE_CHECKING:
    from cellmove.cloud.volume import Attachment
    from cellmove.core.documents import Nothing
    from cellmove.engine.record import ActionType
    from cellmove.steps.rebuild import CellState


R = TypeVar("R")


@dataclass(frozen=True)
class Ending:
    """Everything that a confirm or a revert has left so far.

    :param request_id: its own
    :param source: None when its records were deleted
    :param target: None when its records were deleted
    :param mapped_to_target: whether the server's mapping points at the target cell
    """

    request_id: str
    source: CellState | None
    target: CellState | None
    mapped_to_target: bool
    attachments: tuple[Attachment, ...]

    def is_sent(self, method: compute.Method) -> bool:
        """Whether a compute was asked, or may have been: the conductor writes the event in the other cell first."""
        return any(end.events.get(method.event) for end in (self.source, self.target) if end is not None)


def confirm_lines(ending: Ending) -> Iterator[Line]:
    """The lines of a confirm that was begun."""
    request = ConfirmRequest(ending.request_id)
    gone = ending.source is None
    yield line_of(Step.CONFIRM, BEGIN_CONFIRM, Phase.DONE if gone else Phase.INTENT, request, request)
    if gone or ending.is_sent(compute.CONFIRM_AT_SOURCE):
        yield line_of(Step.CONFIRM, CLEAN_SOURCE, Phase.INTENT, NOTHING)


def revert_lines(ending: Ending) -> Iterator[Line]:
    """The lines of a revert that was begun."""
    source, target = ending.source, ending.target
    zone = target.instance["availability_zone"] if target is not None else None
    switched = not ending.mapped_to_target
    known = KnownAttachments(tuple(all_but_nameless(ending.attachments, source, target)))

    def line(action: ActionType[Nothing, R], phase: Phase) -> Line:
        return line_of(Step.REVERT, action, phase, NOTHING)

    phase = Phase.DONE if switched else Phase.INTENT
    begun = RevertBefore(ending.request_id, zone)
    yield line_of(Step.REVERT, BEGIN_REVERT, phase, begun, RevertRequest(ending.request_id))
    if switched or (source is not None and source.instance["task_state"] == "resize_reverting"):
        yield line(PREPARE_SOURCE, phase)
        yield line_of(Step.REVERT, MATCH_VOLUMES, phase, known)
    if not switched:
        if source is not None and not source.instance["hidden"]:
            yield line(SHOW_SOURCE, Phase.INTENT)
        return
    yield line(SHOW_SOURCE, Phase.DONE)
    yield line(SWITCH_BACK, Phase.DONE)
    if target is None or target.instance["hidden"]:
        yield line(HIDE_TARGET, Phase.DONE)
    if target is None:
        yield line(CLEAN_TARGET, Phase.DONE)
        yield line(DELETE_TARGET, Phase.DONE)
    elif ending.is_sent(compute.REVERT_AT_DEST):
        yield line(CLEAN_TARGET, Phase.INTENT)
