"""Closes a cell to new servers before it is emptied, and opens it again; both stand in the journal as the drain's own actions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from cellmove.cloud.services import compute_services
from cellmove.core.errors import Interrupted, Locked, RollbackFailed, RolledBack, Stopped
from cellmove.core.move import Move, Phase, State, Step
from cellmove.core.shell import command_line
from cellmove.db import look
from cellmove.engine.executor import Runner, run_step, undo
from cellmove.operations.context import lock
from cellmove.steps import cordon
from cellmove.steps.cordon import cell_of

if TYPE_CHECKING:
    from cellmove.db.cells import Cell
    from cellmove.engine.events import Observer
    from cellmove.operations.context import Session


PATIENCE = 300.0
"""Seconds for which another run that is closing or opening the cell is waited for: it has calls to make for each host."""


def open_hosts(session: Session, source: Cell) -> list[str]:
    """The hosts of a cell to which the scheduler may send servers, and those that an earlier drain of it has disabled.

    :raises CallError: something cannot be looked at
    """
    gateway = session.gateway
    services = look.services_of(
        gateway.database(source), session.clock.heartbeat_time(), gateway.settings.service_down_time
    )
    own = {each.host for each in services if each.binary == look.COMPUTE}
    return [
        each.host
        for each in compute_services(gateway.admin)
        if each.host in own and (not each.disabled or cordon.is_of_a_drain(each.reason, source.ref))
    ]


def was_closed(session: Session, source: Cell) -> bool:
    """Whether it was an earlier drain that disabled the cell, and emptied it: then it is ours to open."""
    past = [each for each in session.journal.drains() if each.server_id == source.uuid and not each.is_open][-1:]
    return any(
        entry.action == cordon.CELL and entry.phase is Phase.DONE and entry.result.get(cordon.CHANGED)
        for each in past
        if each.state is State.DRAINED
        for entry in session.journal.entries_of(each.id)
    )


def plan_of(session: Session, source: Cell, *, closes_cell: bool) -> dict[str, Any]:
    """What a drain's record says of closing the cell.

    :raises CallError: something cannot be looked at
    """
    hosts = open_hosts(session, source) if closes_cell else []
    return cordon.plan_of(
        source.uuid, hosts, closes_cell=closes_cell, was_ours=closes_cell and was_closed(session, source)
    )


def close(session: Session, record: Move, hear: Observer, again: str) -> Move:
    """Close the cell, on from where an earlier run stopped; a failure opens it again.

    :param again: the command, to be typed again
    :raises RolledBack: it failed, and was rolled back
    """
    with _alone(session, record) as record, _about_the_cell(record, again):
        if record.state is not State.CORDONING:
            return record
        return run_step(_runner(session, record, hear), record, Step.CORDON, undo_whole_move=True)


def is_to_be_closed(session: Session, record: Move, source: Cell) -> Move:
    """Have a cell closed that this drain left open so far (``--no-cordon``): what that takes stands in its record then.

    :returns: the record as it is now; nothing is closed yet
    """
    with _alone(session, record) as record:
        if record.plan["closes_cell"] or record.state is not State.DRAINING:
            return record
        more = plan_of(session, source, closes_cell=True)
        return session.journal.set_plan(record.id, {**record.plan, **more}, State.CORDONING)


def reopen(session: Session, record: Move, hear: Observer) -> Move:
    """Open the cell again, as far as it was this drain that closed it."""
    with _alone(session, record) as record, _about_the_cell(record, command_line("drain abort", record.server_id)):
        return undo(_runner(session, record, hear), record, None) if record.is_open else record


@contextmanager
def _alone(session: Session, record: Move) -> Iterator[Move]:
    """Nobody else closes or opens the cell meanwhile, whoever is at it is waited for; gives the record as it is now."""
    waits, deadline = session.clock.waits(), session.clock.monotonic() + PATIENCE
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock(session, f"{record.server_id}-cordon", record.server_name))
                break
            except Locked as error:
                error.next_command = command_line("drain status", record.server_id)
                if session.interrupted() or session.clock.monotonic() > deadline:
                    raise
            session.clock.sleep(next(waits))
        yield session.journal.move(record.id) or record


@contextmanager
def _about_the_cell(record: Move, again: str) -> Iterator[None]:
    """What the pipeline says of a move and its server, said of a cell."""
    try:
        yield
    except RolledBack as error:
        error.state = (
            f"what this run did to the services of {cell_of(record)} was rolled back; they were not looked at since"
        )
        error.next_command = again
        raise
    except (Stopped, RollbackFailed, Interrupted) as error:
        error.state = f"{cell_of(record)} is half closed; what of it stands in the journal"
        is_back = isinstance(error, RollbackFailed)
        error.next_command = command_line("drain abort", record.server_id) if is_back else again
        raise


def _runner(session: Session, record: Move, hear: Observer) -> Runner:
    actions = {Step.CORDON: cordon.actions_for(record)}
    return Runner(session.journal, session.gateway, session.clock, hear, actions, session.interrupted)
