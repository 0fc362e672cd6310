"""Renews the leases of a run in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cellmove.core.errors import CellmoveError
from cellmove.drain.queue import LEASE_SECONDS

if TYPE_CHECKING:
    from cellmove.drain.queue import Queue

RENEWALS_A_LEASE = 4
JOIN_TIMEOUT_SECONDS = 5.0


@contextmanager
def renewing(queue: Queue, now: Callable[[], float], fail: Callable[[CellmoveError], None]) -> Iterator[None]:
    """Renew the leases of this run while the block runs.

    :param now: returns seconds since the epoch
    :param fail: called with the error of a renewal, from the other thread
    """
    over = threading.Event()

    def renew() -> None:
        while not over.wait(LEASE_SECONDS / RENEWALS_A_LEASE):
            try:
                queue.renew_leases(now())
            except CellmoveError as error:
                fail(error)

    thread = threading.Thread(target=renew, name="drain-leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(JOIN_TIMEOUT_SECONDS)
