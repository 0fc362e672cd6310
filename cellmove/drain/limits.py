"""Limits of a run: how many guests are stopped at once, and which target hosts may be chosen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cellmove.drain.capacity import RESOURCE_CLASSES
from cellmove.gateway import Choice

if TYPE_CHECKING:
    from cellmove.core.cell_names import CellRef
    from cellmove.drain.capacity import CellCapacity
    from cellmove.drain.queue import Queue

CAPACITY_TTL_SECONDS = 30.0
"""How long the answer of placement is used. Servers that this run has sent to a cell since then are added."""

PER_TARGET_HOST = "per-target-host"
MIN_FREE = "min-free"
"""Codes of the limit that rejected all hosts."""


class Semaphore:
    """Limits how many servers of a run have their guests stopped at once. A server holds its slot until it is released.

    :param slots: number of servers
    """

    def __init__(self, slots: int) -> None:
        self._slots, self._holders, self._lock = slots, set[str](), threading.Lock()

    def acquire(self, server_id: str, *, force: bool = False) -> bool:
        """Acquire a slot if one is free, and return whether the server holds one.

        :param force: acquire a slot in any case, because the guest is down
        """
        with self._lock:
            if force or server_id in self._holders or len(self._holders) < self._slots:
                self._holders.add(server_id)
                return True
            return False

    def holds(self, server_id: str) -> bool:
        """Return whether the server holds a slot."""
        with self._lock:
            return server_id in self._holders

    def release(self, server_id: str) -> None:
        """Release the server's slot, if it holds one."""
        with self._lock:
            self._holders.discard(server_id)


class HostLimiter:
    """Limits which target hosts nova's scheduler may choose, and stores the choice. One choice at a time.

    :param read_capacities: reads the capacity of the target cells
    :param per_host: how many servers may move to one host at once; 0 means no limit
    :param min_free: percentage of each resource of a cell that stays free
    """

    def __init__(
        self,
        queue: Queue,
        read_capacities: Callable[[], Sequence[CellCapacity]],
        monotonic: Callable[[], float],
        *,
        per_host: int,
        min_free: float,
    ) -> None:
        self.queue, self.read_capacities, self.monotonic = queue, read_capacities, monotonic
        self.per_host, self.min_free = per_host, min_free
        self.rejected: dict[str, str] = {}  # server id -> code of the limit that rejected all hosts
        self._lock = threading.Lock()
        self._capacities: Sequence[CellCapacity] = ()
        self._read_at: float | None = None
        self._pending: dict[CellRef, dict[str, float]] = {}

    def capacities(self) -> Sequence[CellCapacity]:
        """Return the capacity of the target cells, read again after :data:`CAPACITY_TTL_SECONDS`."""
        if self._read_at is None or self.monotonic() - self._read_at > CAPACITY_TTL_SECONDS:
            self._capacities, self._read_at, self._pending = self.read_capacities(), self.monotonic(), {}
        return self._capacities

    def stop_reason(self) -> str:
        """Return why no target cell may take another server; empty when one may."""
        if not self.min_free:
            return ""
        with self._lock:
            free = {
                capacity.cell: capacity.free_percent(self._pending.get(capacity.cell)) for capacity in self.capacities()
            }
        if any(percent > self.min_free for percent in free.values()):
            return ""
        texts = ", ".join(f"{cell} has {max(percent, 0):.0f} % free" for cell, percent in free.items())
        return f"--min-free {self.min_free:g}: {texts}"

    @contextmanager
    def choosing(self, server_id: str) -> Iterator[Choice]:
        """Hold the limits while a host is chosen for a server; see :class:`cellmove.gateway.Choice`."""
        if not self.per_host and not self.min_free:
            choice = Choice()
            yield choice
            if choice.chosen:
                self.queue.set_target_host(server_id, choice.chosen)
            return
        with self._lock, self.queue.journal.named_lock(f"cellmove-hosts-{self.queue.drain_id}"):
            needs = self._needs(server_id) if self.min_free else {}
            scarce = self._scarce_hosts(needs)
            counts = self.queue.target_host_counts(server_id) if self.per_host else {}
            at_limit = {host for host, number in counts.items() if number >= self.per_host}
            choice = Choice(tuple(sorted(at_limit | scarce)))
            self.rejected.pop(server_id, None)
            try:
                yield choice
            finally:
                # If some cell has enough free, its hosts refused the server for other reasons than capacity.
                all_hosts = {host for capacity in self._capacities for host in capacity.hosts}
                if choice.rejected and (at_limit or scarce == all_hosts):
                    self.rejected[server_id] = PER_TARGET_HOST if at_limit else MIN_FREE
            if choice.chosen:
                self.queue.set_target_host(server_id, choice.chosen)
                self._add_pending(choice.chosen, needs)

    def _add_pending(self, host: str, needs: Mapping[str, float]) -> None:
        cell = next((capacity.cell for capacity in self._capacities if host in capacity.hosts), None)
        if cell is not None:
            pending = self._pending.setdefault(cell, {})
            for name, amount in needs.items():
                pending[name] = pending.get(name, 0) + amount

    def _scarce_hosts(self, needs: Mapping[str, float]) -> set[str]:
        """Return the hosts of cells that would have less than ``min_free`` left."""
        if not self.min_free:
            return set()
        hosts: set[str] = set()
        for capacity in self.capacities():
            pending = self._pending.get(capacity.cell, {})
            wanted = {name: pending.get(name, 0) + needs.get(name, 0) for name in RESOURCE_CLASSES}
            if capacity.free_percent(wanted) < self.min_free:
                hosts.update(capacity.hosts)
        return hosts

    def _needs(self, server_id: str) -> dict[str, float]:
        task = self.queue.task(server_id)
        if task is None:
            return {}
        return {"VCPU": task.vcpus, "MEMORY_MB": task.memory_mb, "DISK_GB": task.disk_gb}
