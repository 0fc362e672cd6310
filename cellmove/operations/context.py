"""What a command works with: :class:`Session`, the server's lock, the runner, and the read-only guard."""

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
from cellmove.engine.journal import Journal, open_journal
from cellmove.engine.locks import server_lock
from cellmove.operations.reporting import HookRun, reported

if TYPE_CHECKING:
    from cellmove.core.settings import Settings
    from cellmove.gateway import Gateway


@dataclass(frozen=True)
class Session:
    """What one run of a command works with.

    :param lock_directory: where the servers' locks lie
    :param host_restarted: the operator's word that a call of an earlier run died with its host
    :param consent: of whoever typed the command; by default nobody can be asked
    :param in_front: the options in front of the verb, for the commands that hooks are told
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
    in_front: GlobalOptions = field(default_factory=GlobalOptions)


def open_session(
    settings: Settings, observer: Observer, *, interrupted: Callable[[], int] = lambda: 0,
    consent: Consent | None = None, only_reads: bool = False, in_front: GlobalOptions | None = None,
) -> Session:  # fmt: skip
    """Open the journal; the cloud is reached only when something is asked of it.

    :param only_reads: the command writes nothing, so a journal that may not be written will do, and none at all
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
        in_front=in_front or GlobalOptions(),
    )


def hook_run(session: Session) -> HookRun:
    """Return what the operator's hooks need of a session."""
    return HookRun(session.settings.hooks, session.journal, session.observer, session.in_front)


@contextmanager
def lock(session: Session, server_id: str, server_name: str) -> Iterator[None]:
    """One run per server: on this machine, and on every machine that shares the journal.

    Connections to its disks end with it. Afterwards the operator's hooks run for what became of the server's move.
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
    """Whether another run is working on the move's server."""
    try:
        with lock(session, move.server_id, move.server_name):
            return False
    except Locked:
        return True


def fresh(session: Session, move: Move) -> Move:
    """The move as the journal has it now that we hold the lock."""
    return session.journal.move(move.id) or move


def make_runner(session: Session, move: Move | None = None) -> Runner:
    """What the pipeline runs with.

    :param move: that is acted on; None: the pipeline is only asked
    """
    from cellmove.steps import ACTIONS
    from cellmove.steps.fence import Fence
    from cellmove.steps.look_home import look_home

    return Runner(
        session.journal, session.gateway, session.clock, session.observer, ACTIONS, session.interrupted,
        session.host_restarted, Fence(move.generations) if move is not None else None, look_home,
    )  # fmt: skip


@contextmanager
def before_anything_is_written() -> Iterator[None]:
    """What a call came to while a command only looks.

    :raises Unreachable: it did not answer, or it failed
    """
    try:
        yield
    except CallError as error:
        raise before_writing(error) from None
