"""The plan of a drain: the servers in order, the capacity of the target cells and an estimate of the duration."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.drain.item import Census, Item, Stage, Task, Verdict
from cellmove.drain.options import DrainOptions, plan_command

if TYPE_CHECKING:
    from cellmove.drain.capacity import CellCapacity

MIN_PAST_MOVES = 3
"""Number of past moves that an estimate needs."""

DEFAULT_SERVER_SECONDS = 60.0
DEFAULT_GIB_SECONDS = 8.0
"""The pace without past moves. A GiB is uploaded and downloaded again."""

CODES_LENGTH = 64

SortKey = tuple[int | str, ...]
ORDER_KEYS: Mapping[str, Callable[[Item], SortKey]] = {
    "smallest": lambda item: (item.disk_gb, item.memory_mb, item.name, item.server_id),
    "largest": lambda item: (-item.disk_gb, -item.memory_mb, item.name, item.server_id),
    "oldest": lambda item: (item.created_at, item.name, item.server_id),
    "host": lambda item: (item.host, item.disk_gb, item.memory_mb, item.name, item.server_id),
}


@dataclass(frozen=True)
class MovePace:
    """How long a move takes.

    :param server_seconds: for each server
    :param gib_seconds: for each GiB of local disk, in addition
    :param is_guess: whether there are too few past moves for an estimate
    """

    server_seconds: float = DEFAULT_SERVER_SECONDS
    gib_seconds: float = DEFAULT_GIB_SECONDS
    is_guess: bool = True


@dataclass(frozen=True)
class DrainPlan:
    """The plan of a drain.

    :param items: every server of the cell, in the order of the drain
    :param capacities: of the target cells
    :param left_today: number of moves that ``policy.moves_a_day`` still allows; None: no such rule
    :param excluded_cells: why cells take no servers: their database cannot be read, or another cell mapping leads to it
    """

    census: Census
    options: DrainOptions
    items: tuple[Item, ...]
    capacities: tuple[CellCapacity, ...]
    pace: MovePace
    left_today: int | None = None
    excluded_cells: tuple[str, ...] = ()

    @property
    def movable(self) -> tuple[Item, ...]:
        """Return the movable servers, in order."""
        return tuple(item for item in self.items if item.verdict is Verdict.MOVABLE)

    @property
    def seconds(self) -> float:
        """Return the estimated duration."""
        total = sum(self.pace.server_seconds + self.pace.gib_seconds * item.disk_gb for item in self.movable)
        return total / max(self.options.parallel, 1)

    @property
    def has_capacity(self) -> bool:
        """Return whether the target cells could take all movable servers at once. One host may still be too small."""
        wanted = {
            "VCPU": sum(item.vcpus for item in self.movable),
            "MEMORY_MB": sum(item.memory_mb for item in self.movable),
            "DISK_GB": sum(item.disk_gb for item in self.movable),
        }
        usable = 1 - self.options.min_free / 100
        return all(
            sum(
                max(usable * capacity.total.get(name, 0) - capacity.used.get(name, 0), 0)
                for capacity in self.capacities
            )
            >= amount
            for name, amount in wanted.items()
            if any(name in capacity.total for capacity in self.capacities) or amount
        )


def make_plan(
    census: Census,
    options: DrainOptions,
    capacities: Sequence[CellCapacity],
    past_moves: Sequence[tuple[int, float]],
    left_today: int | None = None,
) -> DrainPlan:
    """Make a plan from a census.

    :param past_moves: of each its GiB of local disk, and its seconds from plan to finish
    """
    items = tuple(sorted(census.items, key=ORDER_KEYS[options.order]))
    return DrainPlan(census, options, items, tuple(capacities), _pace(past_moves), left_today)


def _pace(past_moves: Sequence[tuple[int, float]]) -> MovePace:
    """Estimate the pace by the medians of past moves, which a single slow move does not change."""
    if len(past_moves) < MIN_PAST_MOVES:
        return MovePace()
    without_disk = [seconds for gib, seconds in past_moves if not gib]
    with_disk = [(gib, seconds) for gib, seconds in past_moves if gib]
    base = statistics.median(without_disk or [seconds for _gib, seconds in past_moves])
    if not with_disk:
        return MovePace(base, DEFAULT_GIB_SECONDS, is_guess=False)
    if not without_disk:
        base = min(seconds for _gib, seconds in with_disk) / 2
    gib_seconds = statistics.median((seconds - base) / gib for gib, seconds in with_disk)
    return MovePace(base, max(gib_seconds, 0.0), is_guess=False)


def tasks_of(plan: DrainPlan) -> list[Task]:
    """Return the rows of the queue for every server of the cell."""
    return [_task(plan.options, item, position) for position, item in enumerate(plan.items)]


def _task(options: DrainOptions, item: Item, position: int) -> Task:
    stages = {Verdict.MOVABLE: Stage.WAITING, Verdict.SKIPPED: Stage.SKIPPED, Verdict.REFUSED: Stage.REFUSED}
    is_movable, is_refused = item.verdict is Verdict.MOVABLE, item.verdict is Verdict.REFUSED
    return Task(
        server_id=item.server_id,
        name=item.name,
        project_id=item.project_id,
        host=item.host,
        flavor=item.flavor,
        new_flavor=item.new_flavor,
        disk_gb=item.disk_gb,
        vcpus=item.vcpus,
        memory_mb=item.memory_mb,
        position=position,
        stage=stages[item.verdict],
        code="" if is_movable else ",".join(item.codes)[:CODES_LENGTH],
        reason="" if is_movable else "; ".join(item.reasons),
        next_command=plan_command(options, item.server_id, item.new_flavor) if is_refused else "",
    )
