"""Cordons a cell before it is emptied, and uncordons it. The journal records both as actions of the drain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from cellmove.cloud.services import compute_services
from cellmove.core.documents import to_document
from cellmove.core.errors import Interrupted, Locked, RollbackFailed, RolledBack, Stopped
from cellmove.core.move import Move, State, Step
from cellmove.core.shell import command_line
from cellmove.db import look
from cellmove.engine.executor import Runner, run_step, undo
from cellmove.operations.context import lock
from cellmove.steps import cordon
from cellmove.steps.cordon import CordonPlan, cell_of

if TYPE_CHECKING:
    from cellmove.db.cells import Cell
    from cellmove.engine.events import Observer
    from cellmove.operations.context import Session


LOCK_TIMEOUT_SECONDS = 300.0
"""How long to wait for another run that cordons or uncordons the cell. It makes calls for each host."""


def plan_of(record: Move) -> CordonPlan:
    """Return the plan of a drain."""
    return cordon.plan_of(record)


def new_plan(session: Session, source: Cell, *, closes_cell: bool, command: str = "") -> CordonPlan:
    """Return the plan of a new drain.

    :raises CallError: the services cannot be read
    """
    hosts = _hosts_to_disable(session, source) if closes_cell else []
    was_ours = closes_cell and _was_cordoned(session, source)
    plan = CordonPlan(source.uuid, tuple(hosts), closes_cell=closes_cell, was_ours=was_ours)
    if not command:
        return plan
    return replace(plan, command=command, source_cell=source.label, source_cell_uuid=source.uuid)


def _hosts_to_disable(session: Session, source: Cell) -> list[str]:
    """Return the hosts of a cell that nova's scheduler may choose, and those that an earlier drain of it has disabled."""
    gateway = session.gateway
    services = look.services_of(
        gateway.database(source), session.clock.heartbeat_time(), gateway.settings.service_down_time
    )
    hosts = {service.host for service in services if service.binary == look.COMPUTE}
    return [
        service.host
        for service in compute_services(gateway.admin)
        if service.host in hosts and (not service.disabled or cordon.is_of_a_drain(service.reason, source.ref))
    ]


def _was_cordoned(session: Session, source: Cell) -> bool:
    """Return whether the last drain of the cell disabled it and emptied it. Then a new drain may enable it again."""
    ended = [record for record in session.journal.drains() if record.server_id == source.uuid and not record.is_open]
    return any(
        cordon.has_closed(entry)
        for record in ended[-1:]
        if record.state is State.DRAINED
        for entry in session.journal.entries_of(record.id)
    )


def cordon_cell(session: Session, record: Move, observe: Observer, command: str) -> Move:
    """Cordon the cell, from the point that an earlier run reached. A failure uncordons it.

    :param command: the command of the run
    :raises RolledBack: an action failed, and all were rolled back
    """
    with _exclusive(session, record) as current, _errors_about_cell(record, command):
        if current.state is not State.CORDONING:
            return current
        return run_step(_runner(session, current, observe), current, Step.CORDON, undo_whole_move=True)


def plan_cordon(session: Session, record: Move, source: Cell) -> Move:
    """Plan the cordon of a cell that this drain has left open (``--no-cordon``). Nothing is disabled yet."""
    with _exclusive(session, record) as current:
        if plan_of(current).closes_cell or current.state is not State.DRAINING:
            return current
        plan = to_document(new_plan(session, source, closes_cell=True))
        return session.journal.set_plan(current.id, {**current.plan, **plan}, State.CORDONING)


def uncordon_cell(session: Session, record: Move, observe: Observer) -> Move:
    """Enable the services and the cell that this drain has disabled."""
    command = command_line("drain abort", record.server_id)
    with _exclusive(session, record) as current, _errors_about_cell(record, command):
        return undo(_runner(session, current, observe), current, None) if current.is_open else current


@contextmanager
def _exclusive(session: Session, record: Move) -> Iterator[Move]:
    """Hold the lock of the cell's cordon, waiting for another run that holds it, and read the record again."""
    waits, deadline = session.clock.waits(), session.clock.monotonic() + LOCK_TIMEOUT_SECONDS
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
def _errors_about_cell(record: Move, command: str) -> Iterator[None]:
    """Let the errors of the executor state the cell instead of a server."""
    try:
        yield
    except RolledBack as error:
        error.state = f"the changes of this run to the services of {cell_of(record)} were rolled back; the services were not read since"
        error.next_command = command
        raise
    except (Stopped, RollbackFailed, Interrupted) as error:
        error.state = f"the cordon of {cell_of(record)} is incomplete; the journal records its actions"
        failed_rollback = isinstance(error, RollbackFailed)
        error.next_command = command_line("drain abort", record.server_id) if failed_rollback else command
        raise


def _runner(session: Session, record: Move, observe: Observer) -> Runner:
    actions = {Step.CORDON: cordon.actions_for(record)}
    return Runner(session.journal, session.gateway, session.clock, observe, actions, session.interrupted)
