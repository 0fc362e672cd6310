"""The one retry policy: what may be repeated is tried again while nothing answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from cellmove.core.errors import CallFailed, CallUncertain, CannotConnect, Misconfigured
from cellmove.core.retry import RetryPolicy, with_retry

if TYPE_CHECKING:
    from cellmove.core.clock import Clock
    from cellmove.gateway import Gateway

T = TypeVar("T")


class Patient(Protocol):
    """Whoever tries again: a run, or a session that only looks."""

    @property
    def clock(self) -> Clock: ...

    @property
    def gateway(self) -> Gateway: ...


def patiently(runner: Patient, call: Callable[[], T], *, insists: bool = False) -> T:
    """The one retry policy: a call that may be repeated is tried again while nothing answers.

    Waits grow from 0.25 s to 2 s; gives up after the gateway's patience.

    :param insists: what is rolled back has to be, so that one answer of "internal error" or "somebody else was
        quicker" is not the last word either
    """
    policy = RetryPolicy(
        is_transient=lambda error: _transient(error) or (insists and _may_pass(error)),
        timeout=runner.gateway.settings.patience,
    )
    return with_retry(call, policy, runner.clock)


def _transient(error: BaseException) -> bool:
    if isinstance(error, CallFailed):
        # A database deadlock or a connection lost before the commit: nothing was written.
        return error.kind in ("deadlock", "lost")
    return isinstance(error, (CannotConnect, CallUncertain)) and not isinstance(error, Misconfigured)


def _may_pass(error: BaseException) -> bool:
    # A duplicate is a row that another session, or an earlier try whose commit got no answer, wrote first: an undo looks
    # again before it writes.
    passing = ("409", "conflict", "duplicate")
    return isinstance(error, CallFailed) and (error.kind.startswith("5") or error.kind in passing)
