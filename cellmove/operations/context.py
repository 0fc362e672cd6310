"""The session of a command, the lock of a server, and the runner of its actions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cellmove.core.clock import Clock
from cellmove.core.errors import (
    CallError,
    Locked,
    before_writing,
)
from cellmove.core.move import Move
from cellmove.core.policy import Consent
from cellmove.core.shell import GlobalOptions
from cellmove.engine.events import Observer
from cellmove.engine.executor import (
    Runner,
)
from cellmove.engine.journal import Journal
from cellmove.engine.journal_open import open_journal
from cellmove.engine.locks import server_lock
from cellmove.operations.reporting import HookRun, reported

if TYPE_CHECKING:
    from cellmove.core.settings import Settings
    from cellmove.gateway import Gateway


@dataclass(frozen=True)
class Session:
    """The connections and settings of one run of a command.

    :param lock_directory: directory of the lock files, one for each server
    :param host_restarted: the operator states that the compute host of a pending call was restarted after the call
    :param consent: whether the operator agreed, or can be asked; by default neither
    :param global_options: the options before the command's name, which every printed command repeats
    """

    settings: Settings
    journal: Journal
    gateway: Gateway
    clock: Clock
    observer: Observer
    interrupted: Callable[[], int]
    lock_directory: Path
    host_restarted: bool = False
    consent: Consent = field(default_factory=Consent)
    global_options: GlobalOptions = field(default_factory=GlobalOptions)


def open_session(
    settings: Settings,
    observer: Observer,
    *,
    interrupted: Callable[[], int] = lambda: 0,
    consent: Consent | None = None,
    only_reads: bool = False,
    global_options: GlobalOptions | None = None,
) -> Session:
    """Open the journal. Clients of the cloud are opened on first use.

    :param only_reads: the command writes nothing, so a read-only journal suffices, and a missing one is empty
    """
    from cellmove.gateway import Gateway

    clock = Clock()
    journal = open_journal(settings.journal, clock.text, only_reads=only_reads)
    where = Path(journal.location).parent if "://" not in settings.journal else Path.home() / ".local/state/cellmove"
    return Session(
        settings,
        journal,
        Gateway(settings),
        clock,
        observer,
        interrupted,
        where / "locks",
        consent=consent or Consent(),
        global_options=global_options or GlobalOptions(),
    )


def hook_run(session: Session) -> HookRun:
    """Return the part of a session that calls of hooks need."""
    return HookRun(session.settings.hooks, session.journal, session.observer, session.global_options)


@contextmanager
def lock(session: Session, server_id: str, server_name: str) -> Iterator[None]:
    """Hold the lock of a server: one run for each server, on this machine and on all machines that share the journal.

    At the end, connections to the server's disks are closed, and the operator's hooks are called.

    :raises Locked: another run holds it
    """
    with reported(hook_run(session), server_id, _locks(session, server_id, server_name)):
        try:
            yield
        finally:
            session.gateway.links.close(server_id)


@contextmanager
def _locks(session: Session, server_id: str, server_name: str) -> Iterator[None]:
    with (
        server_lock(session.lock_directory, server_id, server_name),
        session.journal.server_lock(server_id, server_name),
    ):
        yield


def is_locked(session: Session, move: Move) -> bool:
    """Return whether another run holds the lock of the move's server."""
    try:
        with lock(session, move.server_id, move.server_name):
            return False
    except Locked:
        return True


def fresh(session: Session, move: Move) -> Move:
    """Read the move again, after the lock was taken."""
    return session.journal.move(move.id) or move


def make_runner(session: Session, move: Move | None = None) -> Runner:
    """Return the runner of a session's actions.

    :param move: the move whose actions will run; None: the runner only answers questions
    """
    from cellmove.steps import ACTIONS
    from cellmove.steps.fence import Fence
    from cellmove.steps.look_home import look_home

    return Runner(
        session.journal,
        session.gateway,
        session.clock,
        session.observer,
        ACTIONS,
        session.interrupted,
        session.host_restarted,
        Fence(move.generations) if move is not None else None,
        look_home,
    )


@contextmanager
def before_anything_is_written() -> Iterator[None]:
    """Turn a failed call of a block that writes nothing into the end of the command.

    :raises Unreachable: the call failed or got no answer
    :raises Usage: a setting cannot be used
    """
    try:
        yield
    except CallError as error:
        raise before_writing(error) from None
