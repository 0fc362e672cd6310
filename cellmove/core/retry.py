"""The one retry policy. Each caller says which errors are transient and when to stop."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from cellmove.core.clock import Clock

T = TypeVar("T")

NO_WAIT = (0.0,)


@dataclass(frozen=True)
class RetryPolicy:
    """When to repeat a call, and when to stop.

    :param is_transient: whether the call may succeed after this error
    :param timeout: seconds; no attempt starts later. None: no limit
    :param attempts: of the call at most; None: no limit
    :param waits: seconds between attempts, the last one repeated; None: the clock's growing waits
    """

    is_transient: Callable[[BaseException], bool]
    timeout: float | None = None
    attempts: int | None = None
    waits: Iterable[float] | None = None


def with_retry(call: Callable[[], T], policy: RetryPolicy, clock: Clock) -> T:
    """Run a call, and repeat it while it fails with a transient error.

    :returns: the result of the call
    :raises BaseException: the error of the last attempt
    """
    from tenacity import RetryCallState, Retrying, retry_if_exception

    waits = clock.waits() if policy.waits is None else _last_repeated(policy.waits)
    deadline = None if policy.timeout is None else clock.monotonic() + policy.timeout

    def is_over(state: RetryCallState) -> bool:
        if policy.attempts is not None and state.attempt_number >= policy.attempts:
            return True
        return deadline is not None and clock.monotonic() + state.upcoming_sleep > deadline

    retrying = Retrying(
        retry=retry_if_exception(policy.is_transient),
        wait=lambda _state: next(waits),
        stop=is_over,
        sleep=lambda seconds: clock.sleep(seconds) if seconds else None,
        reraise=True,
    )
    return retrying(call)


def _last_repeated(waits: Iterable[float]) -> Iterator[float]:
    seconds = 0.0
    for seconds in waits:
        yield seconds
    yield from itertools.repeat(seconds)
