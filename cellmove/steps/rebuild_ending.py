"""Which actions of a confirm or a revert happened, told from what they left. Looks at values only.

Like :mod:`cellmove.steps.rebuild`: DONE where it is certain, INTENT where it may be so. Nearly all of the
two steps may be done again; what may not has a probe or looks for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cellmove.core.move import Phase, Step
from cellmove.hosts import compute
from cellmove.steps.rebuild import Line, all_but_nameless

if TYPE_CHECKING:
    from cellmove.cloud.volume import Attachment
    from cellmove.steps.rebuild import End


@dataclass(frozen=True)
class Ending:
    """Everything that a confirm or a revert has left so far.

    :param request_id: its own
    :param source: None when its records were deleted
    :param target: None when its records were deleted
    :param mapped_to_target: whether the server's mapping points at the target cell
    """

    request_id: str
    source: End | None
    target: End | None
    mapped_to_target: bool
    attachments: tuple[Attachment, ...]

    def is_sent(self, method: compute.Method) -> bool:
        """Whether a compute was asked, or may have been: the conductor writes the event in the other cell first."""
        return any(end.events.get(method.event) for end in (self.source, self.target) if end is not None)


def confirm_lines(ending: Ending) -> Iterator[Line]:
    """The lines of a confirm that was begun."""
    request = {"confirm_request_id": ending.request_id}
    gone = ending.source is None
    yield Line(Step.CONFIRM, "begin_confirm", Phase.DONE if gone else Phase.INTENT, request, request)
    if gone or ending.is_sent(compute.CONFIRM_AT_SOURCE):
        yield Line(Step.CONFIRM, "clean_source", Phase.INTENT, {}, {})


def revert_lines(ending: Ending) -> Iterator[Line]:
    """The lines of a revert that was begun."""
    source, target = ending.source, ending.target
    request = {"revert_request_id": ending.request_id}
    zone = target.instance["availability_zone"] if target is not None else None
    switched = not ending.mapped_to_target
    known = {"known": all_but_nameless(ending.attachments, source, target)}

    def line(action: str, phase: Phase) -> Line:
        intents: dict[str, dict[str, Any]] = {
            "begin_revert": {**request, "availability_zone": zone},
            "match_volumes": known,
        }
        return Line(Step.REVERT, action, phase, intents.get(action, {}), request if action == "begin_revert" else {})

    yield line("begin_revert", Phase.DONE if switched else Phase.INTENT)
    if switched or (source is not None and source.instance["task_state"] == "resize_reverting"):
        yield line("prepare_source", Phase.DONE if switched else Phase.INTENT)
        yield line("match_volumes", Phase.DONE if switched else Phase.INTENT)
    if not switched:
        if source is not None and not source.instance["hidden"]:
            yield line("show_source", Phase.INTENT)
        return
    yield line("show_source", Phase.DONE)
    yield line("switch_back", Phase.DONE)
    if target is None or target.instance["hidden"]:
        yield line("hide_target", Phase.DONE)
    if target is None:
        yield line("clean_target", Phase.DONE)
        yield line("delete_target", Phase.DONE)
    elif ending.is_sent(compute.REVERT_AT_DEST):
        yield line("clean_target", Phase.INTENT)
