"""Check whether a step may start: the operator's rules, the project's quota, and the operator's consent.

Nothing here stops a move that is already in progress, in either direction.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from cellmove.checks.result import CheckResult, refusal
from cellmove.core import policy
from cellmove.core.clock import text_of
from cellmove.core.errors import CallError, Refused, before_writing
from cellmove.core.move import Move, State, Step
from cellmove.core.move_plan import plan_of
from cellmove.core.request import command_of
from cellmove.db import look
from cellmove.engine.executor import busy_step
from cellmove.engine.record import record_of
from cellmove.steps.endpoints import chosen_host

if TYPE_CHECKING:
    from cellmove.core.move_plan import MovePlan
    from cellmove.operations.context import Session

DAY = datetime.timedelta(hours=24)


def left_today(session: Session) -> int | None:
    """Return how many more moves the rule ``policy.moves_a_day`` allows now; None without such a rule."""
    limit = session.settings.policy.moves_a_day
    return None if limit is None else max(limit - begun_today(session), 0)


def begun_today(session: Session) -> int:
    """Return the number of moves of this journal that were started in the last 24 hours; 0 without such a rule."""
    if session.settings.policy.moves_a_day is None:
        return 0
    return session.journal.begun_since(text_of(session.clock.utc_now() - DAY))


def ask(session: Session, question: str, again: str) -> None:
    """Ask the operator for consent, once in a command: see :func:`cellmove.core.policy.ask`."""
    policy.ask(session.settings.policy, session.consent, question, again)


def require_attended(session: Session, again: str) -> None:
    """Refuse an unattended run before it starts work for which it would need consent."""
    policy.require_attended(session.settings.policy, session.consent, again)


def unwatched(session: Session, runs_to: State | None) -> tuple[CheckResult, ...]:
    """Return the refusal of an unattended run, to be shown with all other refusals.

    :param runs_to: the state that the command leads to; None when it only plans
    """
    found = policy.unattended(session.settings.policy, session.consent) if runs_to is not None else None
    return (refusal(found.code, found.text, found.remedy),) if found else ()


def for_plan(session: Session, plan: MovePlan, goal: State, again: str) -> None:
    """Ask before ``resize`` or ``migrate`` opens its move.

    :param plan: the move's
    :param again: the command line of the command, printed when consent is missing
    """
    cells = " or ".join(plan.target_cells)  # display names, as the plan has shown them
    origin = f"{plan.source_cell} / {plan.source_host}"
    target = " / ".join(part for part in (plan.wanted_cell or cells, plan.wanted_host) if part)
    ask(session, _whole(plan.server_name, plan.server_id, origin, target, goal), again)


def for_run(session: Session, move: Move, goal: State, again: str = "") -> None:
    """Check rules and ask before a whole run (``resize``, ``migrate``) continues an existing move.

    The same command, typed again to resume the move, asks no question.

    :param again: the command line of the command; empty: the one that the move was requested with
    :raises Refused: a rule forbids a move that has not started, or there is no consent
    """
    busy = busy_step(session.journal.entries_of(move.id), move)
    began = busy is not None or move.state is not State.PLANNED
    if not move.is_open or move.state is goal or busy is Step.CONFIRM or (move.goal_state == goal and began):
        return
    if not began:
        check_rules(session, move)
    origin, target = _ends(session, move)
    again = again or command_of(move)
    if move.state is State.FINISHED:
        ask(session, _question(move, Step.CONFIRM, origin, target), again)
    else:
        ask(session, _whole(move.server_name, move.server_id, origin, target, goal), again)


def for_step(session: Session, move: Move, step: Step, again: str) -> None:
    """Check rules and ask before a single step. A step that was started before is resumed without a question.

    :param again: the command line of the command
    :raises Refused: a rule forbids a move that has not started, the quota forbids a revert, or there is no consent
    """
    busy = busy_step(session.journal.entries_of(move.id), move)
    if busy is step:
        return
    if step is Step.PREP_DEST:
        check_rules(session, move)
    if step is Step.REVERT:
        _check_quota(session, move)
    ask(session, _question(move, step, *_ends(session, move)), again)


def check_rules(session: Session, move: Move) -> None:
    """Apply the operator's present rules, including those made after the plan.

    :raises Refused: a rule forbids the move; each such rule is named
    """
    from cellmove.steps import rules

    given = session.settings.policy
    if not given.has_rules:
        return
    plan = plan_of(move)
    values = rules.values_of(
        session.gateway,
        given,
        plan.source_cell_uuid,
        move.server_id,
        plan.project_id,
        (plan.flavor_from, plan.flavor_name),
        plan.source_host,
    )
    found = policy.violations(given, policy.Subject(values, begun_today(session)))
    if found:
        raise Refused(
            "\n".join(f"{each.text} ({each.remedy})" for each in found),
            state=f"{move.id} is planned and was not started; nothing was written",
            next_command=f"cellmove rollback {move.id}",
        )


def _check_quota(session: Session, move: Move) -> None:
    """Check the quota before a revert to a larger flavor, as nova-api does (nova/compute/api.py, revert_resize).

    ``rollback`` skips this check, since it is the way out of a failed move.

    :raises Refused: the quota is too small
    """
    from cellmove.checks.quota import exceeded
    from cellmove.cloud import quota

    record = record_of(move, session.journal.entries_of(move.id))
    project_id, user_id = record.plan.project_id, record.plan.user_id
    try:
        database = session.gateway.database(session.gateway.cell(chosen_host(record).target_cell_uuid))
        old, new = look.flavors_of(database, move.server_id)
        if old is None or new is None:
            return
        deltas = quota.upsize((new.vcpus, new.memory_mb), (old.vcpus, old.memory_mb))
        if not deltas:
            return
        found = list(exceeded(quota.quotas(session.gateway.admin, project_id, user_id), deltas))
    except CallError as error:
        raise before_writing(error, next_command=f"cellmove revert {move.id}") from None
    if found:
        raise Refused(
            "\n".join(f"{text} ({remedy.replace('PROJECT', project_id)})" for text, remedy in found),
            state="nothing was written; the move is finished, and was not reverted",
            next_command=f"cellmove rollback {move.id}  # rolls it back without this check",
        )


def _ends(session: Session, move: Move) -> tuple[str, str]:
    record = record_of(move, session.journal.entries_of(move.id))
    labels = record.labels
    cell = labels.target_cell or labels.wanted_cell or " or ".join(record.plan.target_cells)
    target = " / ".join(part for part in (cell, labels.target_host or labels.wanted_host) if part)
    return f"{labels.source_cell} / {labels.source_host}", target


def _whole(name: str, server_id: str, origin: str, target: str, goal: State) -> str:
    then = "; then its records and disks at the source are deleted" if goal is State.CONFIRMED else ""
    return f"{name} ({server_id}) moves from {origin} to {target}: its guest stops soon and starts again there{then}."


def _question(move: Move, step: Step, origin: str, target: str) -> str:
    """Return one line that says what the step does."""
    what = {
        Step.PREP_DEST: f"a host is claimed and prepared in {target}; the guest runs on at {origin}",
        Step.PREP_SOURCE: f"the guest stops at {origin}: its downtime starts now and lasts until finish, at {target}",
        Step.FINISH: f"the guest starts at {target}, which becomes its home instead of {origin}",
        Step.CONFIRM: f"it stays at {target}; its records and disks at {origin} are deleted for good",
        Step.REVERT: f"the guest stops at {target} now and starts again at {origin}; its records and disks at {target} are deleted",
    }[step]
    return f"{move.server_name} ({move.server_id}): {what}."
