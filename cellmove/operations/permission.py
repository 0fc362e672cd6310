"""Whether a step may begin: the operator's rules, the project's quota, and the consent of whoever typed the command.

What has begun is never stopped here, neither on its way on nor on its way back.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from cellmove.checks.result import CheckResult, refusal
from cellmove.core import policy
from cellmove.core.clock import text_of
from cellmove.core.errors import CallError, Refused, before_writing
from cellmove.core.move import Move, State, Step
from cellmove.core.request import command_of
from cellmove.db import look
from cellmove.engine.executor import busy_step, facts_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cellmove.operations.context import Session

DAY = datetime.timedelta(hours=24)


def left_today(session: Session) -> int | None:
    """How many moves more the rule ``policy.moves_a_day`` lets begin now; None when there is no such rule."""
    limit = session.settings.policy.moves_a_day
    return None if limit is None else max(limit - begun_today(session), 0)


def begun_today(session: Session) -> int:
    """How many moves of this journal were begun in the last 24 hours; 0 as well when no rule asks for that."""
    if session.settings.policy.moves_a_day is None:
        return 0
    return session.journal.begun_since(text_of(session.clock.utc_now() - DAY))


def ask(session: Session, question: str, again: str) -> None:
    """Ask for consent, once a command: see :func:`cellmove.core.policy.ask`."""
    policy.ask(session.settings.policy, session.consent, question, again)


def require_somebody(session: Session, again: str) -> None:
    """Refuse a run that has nothing to ask just now, and would be refused as soon as it had."""
    policy.require_somebody(session.settings.policy, session.consent, again)


def unwatched(session: Session, runs_to: State | None) -> tuple[CheckResult, ...]:
    """The refusal of a run that nobody watches, to be shown together with all others.

    :param runs_to: where the command goes at once; None when it only plans
    """
    found = policy.unattended(session.settings.policy, session.consent) if runs_to is not None else None
    return (refusal(found.code, found.text, found.remedy),) if found else ()


def for_plan(session: Session, facts: Mapping[str, Any], goal: State, again: str) -> None:
    """Ask before ``resize`` or ``migrate`` opens its move.

    :param facts: the plan's
    :param again: the command, to be asked again
    """
    cells = " or ".join(facts["target_cells"])  # display names, as the plan has shown them
    origin = f"{facts['source_cell']} / {facts['source_host']}"
    target = " / ".join(part for part in (facts["wanted_cell"] or cells, facts["wanted_host"]) if part)
    ask(session, _whole(facts["server_name"], facts["server_id"], origin, target, goal), again)


def for_run(session: Session, move: Move, goal: State, again: str = "") -> None:
    """Before a whole run (``resize``, ``migrate``) goes on with a move that is there.

    The same command again goes on where it stopped without a question.

    :param again: the command, to be asked again; empty: what the move was asked for with
    :raises Refused: a rule forbids a move that has not begun, or there is no consent
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
    """Before a step that was typed alone; one that was begun before only goes on.

    :param again: the command, to be asked again
    :raises Refused: a rule forbids a move that has not begun, the quota a revert, or there is no consent
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
    """The operator's rules as they are now: one made after the plan holds as well.

    :raises Refused: by each rule that forbids it
    """
    from cellmove.steps import rules

    given = session.settings.policy
    if not given.has_rules:
        return
    facts = move.plan
    values = rules.values_of(
        session.gateway, given, facts["source_cell_uuid"], move.server_id, str(facts["project_id"]),
        (str(facts["flavor_from"]), str(facts["flavor_name"])), str(facts["source_host"]),
    )  # fmt: skip
    found = policy.violations(given, policy.Subject(values, begun_today(session)))
    if found:
        raise Refused(
            "\n".join(f"{each.text} ({each.remedy})" for each in found),
            state=f"{move.id} is planned and not begun; nothing was written",
            next_command=f"cellmove rollback {move.id}",
        )


def _check_quota(session: Session, move: Move) -> None:
    """A revert to a larger flavor, as nova-api checks it (nova/compute/api.py, revert_resize).

    ``rollback`` does not ask: it brings the server back whatever it takes.

    :raises Refused: there is no room for it
    """
    from cellmove.checks.quota import exceeded
    from cellmove.cloud import quota

    facts = facts_of(move, session.journal.entries_of(move.id))
    try:
        database = session.gateway.database(session.gateway.cell(facts["target_cell_uuid"]))
        old, new = look.flavors_of(database, move.server_id)
        if old is None or new is None:
            return
        deltas = quota.upsize((new.vcpus, new.memory_mb), (old.vcpus, old.memory_mb))
        if not deltas:
            return
        found = list(exceeded(quota.quotas(session.gateway.admin, facts["project_id"], facts["user_id"]), deltas))
    except CallError as error:
        raise before_writing(error, next_command=f"cellmove revert {move.id}") from None
    if found:
        raise Refused(
            "\n".join(f"{text} ({remedy.replace('PROJECT', facts['project_id'])})" for text, remedy in found),
            state="nothing was written; the move is finished, and was not reverted",
            next_command=f"cellmove rollback {move.id}  # rolls it back all the same",
        )


def _ends(session: Session, move: Move) -> tuple[str, str]:
    facts = facts_of(move, session.journal.entries_of(move.id))
    cell = facts.get("target_cell") or facts["wanted_cell"] or " or ".join(facts["target_cells"])
    target = " / ".join(part for part in (cell, facts.get("target_host") or facts["wanted_host"]) if part)
    return f"{facts['source_cell']} / {facts['source_host']}", target


def _whole(name: str, server_id: str, origin: str, target: str, goal: State) -> str:
    then = "; then what is left of it at the source is destroyed" if goal is State.CONFIRMED else ""
    return f"{name} ({server_id}) moves from {origin} to {target}: its guest stops soon and starts again there{then}."


def _question(move: Move, step: Step, origin: str, target: str) -> str:
    """One line: what will happen."""
    what = {
        Step.PREP_DEST: f"a host is claimed and prepared in {target}; the guest runs on at {origin}",
        Step.PREP_SOURCE: f"the guest stops at {origin}: its downtime begins now and lasts until finish, at {target}",
        Step.FINISH: f"the guest starts at {target}, which becomes its home instead of {origin}",
        Step.CONFIRM: f"it stays at {target}; what is left of it at {origin} is destroyed for good",
        Step.REVERT: f"the guest stops at {target} now and starts again at {origin}; what is at {target} is destroyed",
    }[step]
    return f"{move.server_name} ({move.server_id}): {what}."
