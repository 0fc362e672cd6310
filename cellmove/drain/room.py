"""How much room the target cells have, and which of their hosts may be chosen just now."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cellmove.cloud import placement
from cellmove.db import look
from cellmove.gateway import Choice

if TYPE_CHECKING:
    from cellmove.core.cell_names import CellRef
    from cellmove.core.clock import Clock
    from cellmove.db.cells import Cell
    from cellmove.drain.queue import Queue
    from cellmove.gateway import Gateway

FRESH = 30.0
"""Seconds for which what placement says of the target counts; what we put there meanwhile is added."""

CLASSES = ("VCPU", "MEMORY_MB", "DISK_GB")


@dataclass(frozen=True)
class Room:
    """A cell that takes servers.

    :param cell: which
    :param hosts: those of its computes that are up and enabled
    :param capacity: of all of them together, by resource class; ``used`` likewise
    """

    cell: CellRef
    hosts: tuple[str, ...]
    capacity: Mapping[str, float] = field(default_factory=dict)
    used: Mapping[str, float] = field(default_factory=dict)

    def free_percent(self, more: Mapping[str, float] | None = None) -> float:
        """How much of the scarcest resource is left.

        :param more: what is to come besides
        """
        shares = [
            100.0 * (capacity - self.used.get(name, 0) - (more or {}).get(name, 0)) / capacity
            for name, capacity in self.capacity.items()
            if name in CLASSES and capacity
        ]
        return min(shares, default=0.0)


def rooms(gateway: Gateway, clock: Clock, cells: Iterable[Cell]) -> tuple[Room, ...]:
    """Ask placement about the computes of some cells: two calls each.

    :raises CallError: it cannot be asked
    """
    found = []
    for cell in cells:
        database = gateway.database(cell)
        services = look.services_of(database, clock.heartbeat_time(), gateway.settings.service_down_time)
        able = {each.host for each in services if each.binary == look.COMPUTE and each.up and not each.disabled}
        capacity: dict[str, float] = {}
        used: dict[str, float] = {}
        for node in look.nodes_of(database):
            if node.host in able:
                for name, (most, taken) in placement.room_of(gateway.admin, node.uuid).items():
                    capacity[name] = capacity.get(name, 0) + most
                    used[name] = used.get(name, 0) + taken
        found.append(Room(cell.ref, tuple(sorted(able)), capacity, used))
    return tuple(found)


class Doorkeeper:
    """Says while a host is chosen which ones are full, and notes which one it was. One choice at a time.

    :param ask: gives the target cells' rooms
    :param per_host: how many servers may be under way to one host; 0: any number
    :param min_free: percent of each resource of a cell that have to stay free
    """

    def __init__(
        self, queue: Queue, ask: Callable[[], Sequence[Room]], monotonic: Callable[[], float], *, per_host: int,
        min_free: float,
    ) -> None:  # fmt: skip
        self.queue, self.ask, self.monotonic = queue, ask, monotonic
        self.per_host, self.min_free = per_host, min_free
        self.turned_away: dict[str, str] = {}
        self._turn = threading.Lock()
        self._known: Sequence[Room] = ()
        self._asked: float | None = None
        self._since: dict[CellRef, dict[str, float]] = {}

    def rooms(self) -> Sequence[Room]:
        """What is known of the target cells, asked anew from time to time."""
        if self._asked is None or self.monotonic() - self._asked > FRESH:
            self._known, self._asked, self._since = self.ask(), self.monotonic(), {}
        return self._known

    def why_full(self) -> str:
        """Why no target cell may take any more servers; empty when one may."""
        if not self.min_free:
            return ""
        with self._turn:
            left = {each.cell: each.free_percent(self._since.get(each.cell)) for each in self.rooms()}
        if any(percent > self.min_free for percent in left.values()):
            return ""
        told = ", ".join(f"{cell} has {max(percent, 0):.0f} % left" for cell, percent in left.items())
        return f"--min-free {self.min_free:g}: {told}"

    @contextmanager
    def choosing(self, server_id: str) -> Iterator[Choice]:
        """While a host is chosen for a server: see :class:`cellmove.gateway.Choice`."""
        if not self.per_host and not self.min_free:
            choice = Choice()
            yield choice
            if choice.chosen:
                self.queue.note(server_id, target_host=choice.chosen)
            return
        with self._turn, self.queue.journal.named_lock(f"cellmove-hosts-{self.queue.drain_id}"):
            needs = self._needs(server_id) if self.min_free else {}
            scarce = self._scarce(needs)
            busy = self.queue.on_target_hosts(server_id) if self.per_host else {}
            crowded = {host for host, number in busy.items() if number >= self.per_host}
            choice = Choice(tuple(sorted(crowded | scarce)))
            self.turned_away.pop(server_id, None)
            try:
                yield choice
            finally:
                # What the hosts of one cell refuse while another's are kept free is no matter of room.
                every = {host for each in self._known for host in each.hosts}
                if choice.turned_away and (crowded or scarce == every):
                    self.turned_away[server_id] = "per-target-host" if crowded else "min-free"
            if choice.chosen:
                self.queue.note(server_id, target_host=choice.chosen)
                cell = next((each.cell for each in self._known if choice.chosen in each.hosts), None)
                sums = self._since.setdefault(cell, {}) if cell is not None else {}
                for name, amount in needs.items():
                    sums[name] = sums.get(name, 0) + amount

    def _scarce(self, needs: Mapping[str, float]) -> set[str]:
        """The hosts of cells that would have too little left."""
        if not self.min_free:
            return set()
        found: set[str] = set()
        for room in self.rooms():
            since = self._since.get(room.cell, {})
            more = {name: since.get(name, 0) + needs.get(name, 0) for name in CLASSES}
            if room.free_percent(more) < self.min_free:
                found.update(room.hosts)
        return found

    def _needs(self, server_id: str) -> dict[str, float]:
        task = self.queue.task(server_id)
        if task is None:
            return {}
        return {"VCPU": task.vcpus, "MEMORY_MB": task.memory_mb, "DISK_GB": task.disk_gb}
