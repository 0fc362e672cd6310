"""Durations of steps and downtimes of guests, computed from the lines of the journal. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cellmove.core.clock import seconds_of
from cellmove.core.move import Entry, Phase, Step

REPORTED_STEPS = (Step.PREP_DEST, Step.PREP_SOURCE, Step.FINISH, Step.CONFIRM, Step.REVERT)
"""The steps that a report shows."""

STOP_START_ACTIONS = (("stop_source", "start_target"), ("clean_target", "start_source"))
"""The actions that stop and start the guest: on the way to the target, and on the way back."""


@dataclass(frozen=True)
class StepBar:
    """A step of a server's move. Times are seconds since the epoch; ``ended`` is None while the step runs."""

    step: str
    began: float
    ended: float | None
    failed: bool = False


def step_bars(entries: Iterable[Entry]) -> tuple[StepBar, ...]:
    """Return a bar for each step of a move, by start time.

    A bar lasts from the first line of its step to the end of the last one. It has no end while an action is in progress.
    The journal keeps one end of a line, and a rollback overwrites it. So the bar of a step that was rolled back includes
    the rollback and the steps in between; renderers draw later bars on top. A step has failed when its last attempt at
    any action failed or was rolled back.

    :param entries: of one move
    """
    lines = list(entries)
    bars = []
    for step in REPORTED_STEPS:
        own = [entry for entry in lines if entry.step == step]
        if not own:
            continue
        last = {entry.action: entry.phase for entry in sorted(own, key=lambda entry: entry.sequence)}.values()
        running = any(phase in (Phase.INTENT, Phase.UNDOING) for phase in last)
        bars.append(
            StepBar(
                step.value,
                min(seconds_of(entry.started_at) for entry in own),
                None if running else max(seconds_of(entry.finished_at) for entry in own if entry.finished_at),
                failed=any(phase in (Phase.FAILED, Phase.UNDOING, Phase.UNDONE) for phase in last),
            )
        )
    return tuple(sorted(bars, key=lambda bar: bar.began))


def downtime(entries: Iterable[Entry], *, active: bool = True) -> float | None:
    """Return the seconds for which the guest did not run because of this move.

    A downtime lasts from the start of ``stop_source`` to the end of ``start_target``, or to the end of the rollback of
    ``stop_source``, even if the guest ran at the target in between. A revert adds the time from ``clean_target`` to the
    end of ``start_source``. The value is an upper bound: a call that failed before it stopped the guest counts, and after
    a crash the downtime lasts until a run sees the guest.

    :param entries: of one move
    :param active: whether the guest ran before the move (``active`` of the plan)
    :returns: None when the guest was off before the move, was never stopped, is still down, or when ``adopt`` wrote the
        lines, because their times are unknown
    """
    if not active:
        return None
    known = [seconds for direction in outages(entries) for seconds in direction]
    return None if not known or None in known else sum(seconds for seconds in known if seconds is not None)


def outages(entries: Iterable[Entry]) -> tuple[list[float | None], list[float | None]]:
    """Return the downtimes in seconds: those on the way to the target, and those on the way back.

    A downtime is None while the guest is down, and when ``adopt`` wrote the lines. See :func:`downtime`.

    :param entries: of one move of a guest that ran before
    """
    lines = sorted(entries, key=lambda entry: entry.sequence)
    there, back = (
        [_outage(lines, stop, start_action) for stop in lines if stop.action == stop_action]
        for stop_action, start_action in STOP_START_ACTIONS
    )
    return there, back


def down_since(entries: Iterable[Entry]) -> float | None:
    """Return when the guest was stopped, in seconds since 1970; None while it runs.

    A stop counts from its intent until its undo is complete, because the effect of a failed call is unknown. See
    :func:`downtime`.

    :param entries: of one open move of a guest that ran before
    """
    lines = sorted(entries, key=lambda entry: entry.sequence)
    return min(
        (
            seconds_of(stop.started_at)
            for stop_action, start_action in STOP_START_ACTIONS
            for stop in lines
            if stop.action == stop_action
            and stop.phase is not Phase.UNDONE
            and _start_after(lines, stop, start_action) is None
        ),
        default=None,
    )


def _outage(lines: Sequence[Entry], stop: Entry, start_action: str) -> float | None:
    start = stop if stop.phase is Phase.UNDONE else _start_after(lines, stop, start_action)
    if start is None or _is_adopted(stop) or _is_adopted(start):
        return None
    return max(seconds_of(start.finished_at) - seconds_of(stop.started_at), 0.0)


def _start_after(lines: Sequence[Entry], stop: Entry, action: str) -> Entry | None:
    if stop.phase is not Phase.DONE:
        return None
    later = (entry for entry in lines if entry.sequence > stop.sequence and entry.action == action)
    return next((entry for entry in later if entry.phase is Phase.DONE), None)


def _is_adopted(entry: Entry) -> bool:
    """Return whether ``adopt`` wrote this line: start and end are equal. A real call to a host takes longer."""
    return entry.started_at == entry.finished_at
