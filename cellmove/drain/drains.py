"""What the commands about drains do, one plain function each: begin or go on, look, hold, roll back."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cellmove.checks.duplicate import described
from cellmove.core.cell_names import is_called
from cellmove.core.clock import seconds_of
from cellmove.core.errors import (
    CallError,
    CannotConnect,
    Interrupted,
    JournalLost,
    Locked,
    Refused,
    RolledBack,
    Stopped,
    Unreachable,
    Usage,
)
from cellmove.core.move import DRAIN, Move, State
from cellmove.core.shell import command_line
from cellmove.drain import census, closing, room, run, window
from cellmove.drain import ending as endings
from cellmove.drain import plan as plans
from cellmove.drain.ending import Ended
from cellmove.drain.happening import Happening, Kind, about
from cellmove.drain.item import TROUBLED, UNDER_WAY, Item, Stage, Task
from cellmove.drain.queue import Queue
from cellmove.drain.story import said
from cellmove.drain.wish import Wish, to_document
from cellmove.engine.events import Event, EventKind
from cellmove.engine.executor import facts_of
from cellmove.engine.locks import server_lock
from cellmove.operations import permission, probe
from cellmove.operations.context import before_anything_is_written
from cellmove.steps.cordon import cell_of
from cellmove.steps.duplicates import distinct, duplicates
from cellmove.steps.plan import find_flavor

if TYPE_CHECKING:
    from cellmove.db.cells import Cell
    from cellmove.drain.happening import Watcher
    from cellmove.drain.plan import DrainPlan
    from cellmove.gateway import Gateway
    from cellmove.operations.context import Session

COMMAND = "command"
"""Key beside the wish under which the queue keeps the last run's command."""

TARGET_NAMES = "target_names"
"""Key beside the wish: the display names of the cells that it names by UUID."""


@dataclass(frozen=True)
class Show:
    """Who watches a drain."""

    watch: Watcher
    hear: Callable[[Event], None]


def look(session: Session, cell: str, wish: Wish) -> DrainPlan:
    """Classify every server of a cell; nothing is written.

    :raises Unreachable: something cannot be looked at
    """
    _probes_and_hours(session, wish)
    with before_anything_is_written():
        source = session.gateway.cell(cell)
        return _plan(session, source, wish)


def with_uuids(session: Session, cell: str, wish: Wish) -> tuple[str, Wish]:
    """A cell and a wish as they were typed, with the UUIDs of all cells.

    :raises Usage: there is no such cell, or there are several of that name
    """
    with before_anything_is_written():
        find = session.gateway.cell
        return find(cell).uuid, replace(wish, to=tuple(find(word).uuid for word in wish.to))


def _probes_and_hours(session: Session, wish: Wish) -> tuple[list[probe.Probe], window.Hours]:
    """What was typed of them, understood.

    :raises Usage: it cannot be
    """
    now = session.clock.utc_now().astimezone()
    hours = window.parse(until=wish.until, window=wish.window, days=wish.days, now=now)
    return [probe.parse(text) for text in wish.probes], hours


def _plan(session: Session, source: Cell, wish: Wish) -> DrainPlan:
    gateway = session.gateway
    moves = [move for move in session.journal.all_moves() if not move.is_repair]
    ours = {move.server_id for move in moves if move.is_open}
    found = census.take(gateway, session.clock, source, wish, ours=ours)
    _check_old_flavors(session, source, wish, found.items)
    rooms = room.rooms(gateway, session.clock, _targets(session, source, wish))
    compared = [source, *map(gateway.cell, wish.to)] if wish.to else gateway.cells
    reachable, why = gateway.reachable(compared)
    twice = described(reachable, duplicates(gateway, reachable))
    made = plans.make(found, wish, rooms, _past(session, moves), permission.left_today(session))
    return replace(made, left_out=(*why, *(each.text for each in twice)))


def _check_old_flavors(session: Session, source: Cell, wish: Wish, items: Sequence[Item]) -> None:
    """What is to be resized has to be a flavor: one that is deleted may live on in servers, also in those that have left.

    :raises Usage: nobody knows of one
    """
    unseen = wish.flavor_map.keys() - {name for item in items for name in (item.flavor, item.flavor_id)}
    if unseen and (record := _record(session, source)) is not None:
        unseen -= {task.flavor for task in queue_of(session, record).tasks()}
    for old in sorted(unseen):
        try:
            find_flavor(session.gateway, old)
        except Usage as error:
            raise Usage(
                f"--flavor-map: no server of {source.label} has the flavor {old}, and {error.message}"
            ) from None


def _targets(session: Session, source: Cell, wish: Wish) -> list[Cell]:
    """The cells that take the servers: those named, or all that can be reached.

    :raises CannotConnect: none can be reached
    """
    gateway = session.gateway
    named = [gateway.cell(name) for name in wish.to]
    if any(each.uuid == source.uuid for each in named):
        raise Usage(f"--to {source.label} is the cell that is to be emptied")
    if named:
        return _other_databases(gateway, source, named)
    reachable, why = gateway.reachable(each for each in gateway.cells if each.uuid != source.uuid and not each.disabled)
    if why and not reachable:
        raise CannotConnect("; ".join(why))
    return _other_databases(gateway, source, reachable)


def _other_databases(gateway: Gateway, source: Cell, cells: Sequence[Cell]) -> list[Cell]:
    """Those of some cells that are not in the source's database, one a database.

    :raises Usage: they are all second mappings of the source's
    """
    every = distinct(gateway, [source, *(cell for cell in cells if cell.uuid != source.uuid)], source)
    left = [cell for cell in cells if cell in every and cell.uuid != source.uuid]
    if cells and not left:
        raise Usage(
            f"{', '.join(cell.label for cell in cells)}: mapped to the database of {source.label}, where the servers are already"
        )
    return left


def _past(session: Session, moves: Sequence[Move]) -> Iterator[tuple[int, float]]:
    """Sizes and lengths of moves that came to their finish, from this journal."""
    known = [move for move in moves if move.state in (State.FINISHED, State.CONFIRMED)][-200:]
    entries = session.journal.entries_of_moves([move.id for move in known])
    for move in known:
        own = [each for each in entries.get(move.id, ()) if each.step in ("prep-dest", "prep-source", "finish")]
        if own and own[-1].finished_at and not move.plan.get("adopted"):
            flavor = (facts_of(move, own).get("new_flavor") or {}).get("nova_object.data") or {}
            gib = 0 if move.plan.get("volume_backed") else int(flavor.get("root_gb") or 0)
            yield gib, seconds_of(own[-1].finished_at) - seconds_of(own[0].started_at)


# begin, or go on


def drain(session: Session, cell: str, wish: Wish, show: Show, *, cordons: bool, again: str) -> Ended:
    """Empty a cell, on from where an earlier run stopped.

    :param cordons: close the cell to new servers
    :param again: the command, to be typed again
    :raises Locked: another run is at work on this cell, and the journal is not one that machines share
    :raises Refused: nobody agreed to it
    :raises Interrupted: a signal came
    :raises Stopped: the journal was lost on the way
    """
    with before_anything_is_written():
        source = session.gateway.cell(cell)
        _uuid, wish = with_uuids(session, cell, wish)
        targets = _targets(session, source, wish)
    probes, hours = _probes_and_hours(session, wish)
    with _only_run(session, source):
        record = _record(session, source)
        if record is not None and record.state is State.ROLLING_BACK:
            raise Refused(
                f"{record.id} is being rolled back", state="the cell is half open again; nothing was written",
                next_command=command_line("drain abort", source.uuid),
            )  # fmt: skip
        with before_anything_is_written():
            plan = _plan(session, source, wish)
            session.gateway.reach([source], one_of=targets)
        unfinished = _unfinished(session, record, plan) if record is not None else []
        closed = window.why_closed(hours, session.clock.utc_now().astimezone())
        if not plan.items and not unfinished:
            ended = _nothing_left(session, source, record)
        elif closed and not unfinished:
            if plan.movable:
                permission.require_somebody(session, again)  # or a line in a crontab would be refused only at night
            ended = Ended(record, source.ref, closed, tuple(_earlier(session, record, plan)), None)
        elif record is None and not plan.movable:
            ended = endings.looked_at(session, source, Ended(None, source.ref, "", tuple(plans.tasks(plan)), None))
        else:
            if plan.movable or unfinished or (record is not None and record.state is State.CORDONING):
                permission.ask(session, _question(plan, source, wish), again)
            if record is None:
                record = _open(session, source, cordons=cordons, again=again)
            elif cordons and (plan.movable or unfinished):
                with before_anything_is_written():
                    record = closing.is_to_be_closed(session, record, source)

            def make(queue: Queue, began: float, failed_before: frozenset[str]) -> run.Shift:
                hosts = tuple(host for each in plan.rooms for host in each.hosts)
                ask = partial(room.rooms, session.gateway, session.clock, targets)
                job = run.job_of(queue, wish, source, probes)
                given = run.Plan(source.ref, wish, job, hours, ask, hosts, began, failed_before)
                return run.Shift(session, queue, given, show.watch, show.hear)

            with _to_be_gone_on_with(again):
                ended = _run(session, source, record, plan, make, show, again)
        if ended.is_new:
            _tell_the_end(session, source, ended, show, again)
        return ended


def _run(
    session: Session, source: Cell, record: Move, plan: DrainPlan, make: Callable[[Queue, float, frozenset[str]], run.Shift], show: Show,
    again: str,
) -> Ended:  # fmt: skip
    """Close the cell if that is not done yet, and work until nothing may be begun."""
    queue = queue_of(session, record)
    names = {uuid: session.gateway.cell(uuid).label for uuid in plan.wish.to}
    queue.prepare(to_document(plan.wish) | {COMMAND: again, TARGET_NAMES: names})
    if not _is_shared(session):
        queue.bury()
    began = queue.beat(session.clock.utc_now().timestamp())
    try:
        alone, open_moves = not queue.others(began), _with_open_moves(session)
        failed_before = frozenset(task.server_id for task in queue.tasks(*TROUBLED))
        gone = queue.sync(plans.tasks(plan), again=alone, ended=began, open_moves=open_moves)
        _tell(session, show, source, Kind.BEGUN, counts=_counts(queue))
        for text in plan.left_out:
            show.hear(Event(EventKind.NOTE, record.id, source.label, text=f"warning: {text}"))
        for task in gone:
            _tell(session, show, source, Kind.SERVER_GONE, **about(task), reason=task.reason)
        if record.state is State.CORDONING:
            record = closing.close(session, record, show.hear, again)
            if not record.is_open:
                raise RolledBack(
                    f"another run could not close {source.label}",
                    state=f"that run rolled back what it did to the services of {source.label}, or says why it could not",
                    next_command=again,
                )  # fmt: skip
            if record.plan["closes_cell"]:
                _tell(session, show, source, Kind.CORDONED)
        stopped = make(queue, began, failed_before).run()
    finally:
        with suppress(Unreachable):  # then its leases run out by themselves
            queue.leave()
    if queue.control() == "abort" and not queue.others(session.clock.utc_now().timestamp()):
        for task in _unsoaked(session, queue):
            told = {**about(task), "reason": task.reason, "next_command": task.next_command}
            _tell(session, show, source, Kind.SERVER_MOVED, **told)
        record = closing.reopen(session, record, show.hear)
        if record.plan["closes_cell"]:
            _tell(session, show, source, Kind.REOPENED)
    return _end(session, source, record, stopped)


@contextmanager
def _to_be_gone_on_with(again: str) -> Iterator[None]:
    """What ends a run early is to be gone on with by the same command."""
    try:
        yield
    except (Interrupted, JournalLost) as error:
        error.next_command = again
        raise
    except (Unreachable, Usage) as error:
        raise Stopped(
            error.message, state="no further server is started; one that was started is in the journal", next_command=again
        ) from None  # fmt: skip


def _earlier(session: Session, record: Move | None, plan: DrainPlan) -> list[Task]:
    """The servers of the cell as they were seen just now, and before them those that left it in earlier runs."""
    there = plans.tasks(plan)
    known = {task.server_id for task in there}
    past = queue_of(session, record).tasks(Stage.MOVED, Stage.GONE) if record is not None else []
    return [*(task for task in past if task.server_id not in known), *there]


def _unfinished(session: Session, record: Move, plan: DrainPlan) -> list[Task]:
    """The servers with which something was begun that is not over: they come first, whatever the hour."""
    waiting = {item.server_id for item in plan.items} - _with_open_moves(session)
    found = queue_of(session, record).tasks(*UNDER_WAY, Stage.SOAKING, Stage.FAILED, Stage.UNVERIFIED)
    return [task for task in found if task.stage in (*UNDER_WAY, Stage.SOAKING) or task.server_id not in waiting]


def unconfirmed(session: Session, tasks: Sequence[Task]) -> list[Task]:
    """The servers that are in VERIFY_RESIZE, and that no run is going to confirm."""
    finished = {move.id for move in session.journal.open_moves() if move.state is State.FINISHED}
    return [task for task in tasks if task.stage is Stage.MOVED and task.move_id in finished]


def _with_open_moves(session: Session) -> set[str]:
    return {move.server_id for move in session.journal.open_moves() if not move.is_repair}


def _question(plan: DrainPlan, source: Cell, wish: Wish) -> str:
    """One line: what will happen."""
    where = ", ".join(each.cell.label for each in plan.rooms) or "no other cell"
    then = {
        "never": "; none is confirmed",
        "verified": "; each that is what it was is confirmed, which destroys what is left of it at its source",
        "after": "; each is confirmed later, which destroys what is left of it at its source",
    }[wish.confirm]
    number = min(len(plan.movable), wish.limit or len(plan.movable))
    return (
        f"{number} of {len(plan.items)} servers move from {source.label} to {where}, {wish.parallel} at a time: "
        f"the guest of each stops for a while{then}."
    )


@contextmanager
def _only_run(session: Session, source: Cell) -> Iterator[None]:
    """One run a cell; a journal that machines share has runs work together instead."""
    if _is_shared(session):
        yield
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(server_lock(session.lock_directory, source.uuid, source.label))
        except Locked as error:
            error.message = f"another run is emptying {source.label}"
            error.next_command = command_line("drain status", source.uuid)
            raise
        yield  # outside the try: a server of the drain can be locked as well


def _is_shared(session: Session) -> bool:
    return session.journal.engine.dialect.name != "sqlite"


def _record(session: Session, source: Cell) -> Move | None:
    """The open drain of a cell."""
    found = session.journal.open_move_of(source.uuid)
    return found if found is not None and found.is_drain else None


def _open(session: Session, source: Cell, *, cordons: bool, again: str) -> Move:
    """Record a new drain."""
    with before_anything_is_written():
        plan = closing.plan_of(session, source, closes_cell=cordons)
    plan |= {"command": again, "source_cell": source.label, "source_cell_uuid": source.uuid}
    now = session.clock.text()
    record = Move(
        f"drain-{session.clock.new_token()}", source.uuid, source.label, DRAIN, State.CORDONING, now, now, plan
    )
    try:
        session.journal.open_move(record)
    except Refused:
        other = _record(session, source)  # another machine was quicker, and has a journal in common with us
        if other is None:
            raise
        return other
    return record


def _nothing_left(session: Session, source: Cell, record: Move | None) -> Ended:
    """The cell is empty: a drain that was open is over."""
    if record is None:
        past = [each for each in session.journal.drains() if each.server_id == source.uuid][-1:]
        left = [task for each in past for task in unconfirmed(session, queue_of(session, each).tasks())]
        ended = Ended(None, source.ref, "", (), None, unconfirmed=tuple(left), is_new=False)
        return endings.looked_at(session, source, ended)
    queue = queue_of(session, record)
    queue.prepare()  # the run that opened it may have died before that
    queue.sync((), again=True, ended=session.clock.utc_now().timestamp())
    session.journal.set_state(record.id, State.DRAINED)
    tasks = tuple(queue.tasks())
    left = unconfirmed(session, tasks)
    return endings.looked_at(session, source, Ended(record, source.ref, "", tasks, None, unconfirmed=tuple(left)))


def _end(session: Session, source: Cell, record: Move, stopped: str) -> Ended:
    """See what is left after a run."""
    from cellmove.db import census as rows

    queue = queue_of(session, record)
    tasks, halfway = tuple(queue.tasks()), tuple(queue.halfway(Stage.FAILED))
    left_open = tuple(unconfirmed(session, tasks))
    ended = Ended(record, source.ref, stopped, tasks, None, unconfirmed=left_open, halfway=halfway)
    try:
        left = [queued for queued in rows.mapped(session.gateway.api_engine, source.id).values() if not queued]
    except CallError as error:
        return replace(ended, unseen=str(error))
    if not left and record.is_open and not ended.named(*UNDER_WAY, Stage.SOAKING, Stage.FAILED, Stage.UNVERIFIED):
        ended = replace(ended, record=session.journal.set_state(record.id, State.DRAINED))
    return ended if ended.named(Stage.WAITING, *UNDER_WAY) else endings.looked_at(session, source, ended)


def _tell_the_end(session: Session, source: Cell, ended: Ended, show: Show, again: str) -> None:
    error = endings.verdict(ended, again)
    counts = {stage.value: len(ended.named(stage)) for stage in Stage if ended.named(stage)}
    _tell(
        session, show, source, Kind.ENDED, counts=counts, reason=error.message if error is not None else "",
        next_command=error.next_command if error is not None else "", ending=endings.document(ended),
    )  # fmt: skip


# look, hold, roll back


def find(session: Session, cell: str | None) -> Move:
    """The drain that a command means: the open one of a cell, or else its last one.

    :param cell: name or UUID; None when there is only one that it can be
    :raises Usage: there is none, or several
    """
    records = session.journal.drains()
    found = [each for each in records if cell in (None, each.id) or is_called(cell_of(each), str(cell))]
    if not found:
        raise Usage(
            f"{f'{cell} was never' if cell else 'nothing was ever'} drained with this journal",
            next_command=command_line("drain-cell", cell or "CELL", dry_run=True),
        )
    candidates = [each for each in found if each.is_open] or (found if cell else found[-1:])
    if len({each.server_id for each in candidates}) > 1:
        listed = ", ".join(f"{cell_of(each)} ({each.server_id})" for each in candidates)
        raise Usage(f"several cells are meant; name one by its UUID: {listed}")
    return candidates[-1]


def pause(session: Session, record: Move) -> None:
    """Let nothing new be begun, until somebody says :func:`go_on`."""
    _control(session, record, "pause")


def go_on(session: Session, record: Move) -> None:
    """Let servers be begun again."""
    _control(session, record, "")


def _control(session: Session, record: Move, word: str) -> None:
    _require_open(record)
    if not queue_of(session, record).set_control(word):
        raise Refused(
            f"the drain of {cell_of(record)} is being aborted", state="nothing was written",
            next_command=command_line("drain status", record.server_id),
        )  # fmt: skip


def abort(session: Session, record: Move, show: Show) -> Move:
    """Let nothing new be begun, and open the cell again: at once, or by the run that is at work when it ends.

    :returns: the record, open still when a run is at work
    :raises Refused: the cell was emptied, and is closed so that it can be deleted
    """
    if record.state is State.DRAINED and record.plan["closes_cell"]:
        raise _closed_for_good(record)
    if not record.is_open:
        return record
    queue = queue_of(session, record)
    queue.set_control("abort")
    if queue.others(session.clock.utc_now().timestamp()):
        if _is_shared(session):
            return record
        try:  # a run that was killed holds no lock, though its leases have not run out
            with server_lock(session.lock_directory, record.server_id, record.server_name):
                queue.bury()
        except Locked:
            return record
    for task in _unsoaked(session, queue):
        show.hear(Event(EventKind.NOTE, task.move_id, task.name, text=f"{task.reason}: {task.next_command}"))
    return closing.reopen(session, record, show.hear)


def _closed_for_good(record: Move) -> Refused:
    """What to type when somebody wants a cell back that was emptied."""
    commands = [f"openstack compute service set --enable {host} nova-compute" for host in record.plan["hosts"]]
    commands.append(f"nova-manage cell_v2 update_cell --cell_uuid {record.server_id} --enable")
    words = (
        f"{cell_of(record)} was emptied, and stays closed to new servers so that it can be deleted; to open it again:"
    )
    return Refused("\n".join([words, *commands]), state="nothing was written")


def _unsoaked(session: Session, queue: Queue) -> list[Task]:
    """Let go of the servers that wait to be confirmed: the drain is over, and they stay in VERIFY_RESIZE."""
    waiting, now = queue.tasks(Stage.SOAKING), session.clock.utc_now().timestamp()
    for task in waiting:
        queue.put(
            task.server_id, Stage.MOVED, now, reason="in VERIFY_RESIZE, as the drain was aborted",
            next_command=f"cellmove confirm {task.move_id}",
        )  # fmt: skip
    left = {task.server_id for task in waiting}
    return [task for task in queue.tasks(Stage.MOVED) if task.server_id in left]


def _require_open(record: Move) -> None:
    if not record.is_open:
        raise Refused(
            f"{cell_of(record)} is not being drained: {record.id} is {said(record.state)}",
            state="nothing was written", next_command=command_line("drain-cell", record.server_id, dry_run=True),
        )  # fmt: skip


# small things


def queue_of(session: Session, record: Move) -> Queue:
    """A drain's queue, as this run works on it."""
    worker = f"{socket.gethostname()}:{os.getpid()}:{session.clock.new_token()}"
    return Queue(session.journal, record.id, worker)


def _counts(queue: Queue) -> dict[str, int]:
    return {stage.value: number for stage, number in queue.counts().items()}


def _tell(session: Session, show: Show, source: Cell, kind: Kind, **values: Any) -> None:
    show.watch(Happening(kind, session.clock.text(), source.ref, **values))
