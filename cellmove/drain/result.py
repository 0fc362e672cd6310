"""The result of a run of a drain, and the error that carries its exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.core.cell_names import CellRef
from cellmove.core.errors import CellmoveError, ServersRemain, SomeFailed
from cellmove.core.move import State
from cellmove.core.shell import command_line
from cellmove.drain.item import IN_PROGRESS, TROUBLED, Stage, Task

if TYPE_CHECKING:
    from cellmove.core.move import Move

MAX_NAMED_SERVERS = 20
"""Number of servers that an error names."""


@dataclass(frozen=True)
class Decommission:
    """What the deletion of a cell needs.

    :param obstacles: why nova would refuse, in the order of its checks; empty: the cell can be deleted
    :param commands: the commands that delete the cell, in order
    """

    obstacles: tuple[str, ...]
    commands: tuple[str, ...]


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    :param record: the drain; None when none was needed
    :param stop_reason: why no more servers were started although some wait
    :param tasks: every server of the drain
    :param unconfirmed: servers in VERIFY_RESIZE that no run will confirm
    :param incomplete: servers whose move failed and is open
    :param decommission: None while servers wait, and when the cell could not be checked
    :param leftovers: of moves, in the cell
    :param unchecked_reason: why the cell could not be checked at the end
    :param had_work: whether servers were there to move
    """

    record: Move | None
    cell: CellRef
    stop_reason: str
    tasks: tuple[Task, ...]
    decommission: Decommission | None = None
    unconfirmed: tuple[Task, ...] = ()
    incomplete: tuple[Task, ...] = ()
    leftovers: tuple[str, ...] = ()
    unchecked_reason: str = ""
    had_work: bool = True

    @property
    def state(self) -> str:
        """Return the state of the servers, in addition to their results."""
        if not self.incomplete:
            return "no move is in progress"
        names = ", ".join(task.name for task in self.incomplete)
        return (
            f"the move of {names} is incomplete"
            if len(self.incomplete) == 1
            else f"the moves of {names} are incomplete"
        )

    def in_stages(self, *stages: Stage) -> list[Task]:
        """Return the servers in these stages."""
        return [task for task in self.tasks if task.stage in stages]

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of servers by stage, without empty stages."""
        return {stage.value: len(self.in_stages(stage)) for stage in Stage if self.in_stages(stage)}


def error_of(result: RunResult, command: str, *, is_listed: bool = False) -> CellmoveError | None:
    """Return the error whose exit code tells the result; None when all servers were moved.

    :param command: the command of the run
    :param is_listed: whether the reader has a list of the servers already
    """
    if result.record is not None and result.record.state is State.ROLLED_BACK:
        command = command_line("drain status", result.cell.uuid)  # the same command would start a new drain
    waiting, soaking = result.in_stages(Stage.WAITING, *IN_PROGRESS), result.in_stages(Stage.SOAKING)
    if waiting or (result.stop_reason and soaking):
        remaining = [*waiting, *soaking]
        verb = "remains" if len(remaining) == 1 else "remain"
        return ServersRemain(
            f"{_servers(remaining)} {verb} in {result.cell}: {result.stop_reason or 'stopped'}",
            state=result.state,
            next_command=command,
        )
    if soaking:
        verb = "waits" if len(soaking) == 1 else "wait"
        return ServersRemain(
            f"{_servers(soaking)} of {result.cell} {verb} in VERIFY_RESIZE to be confirmed",
            state="they run at the target" if len(soaking) > 1 else "it runs at the target",
            next_command=command,
        )
    return _failure(result, is_listed=is_listed)


def _failure(result: RunResult, *, is_listed: bool) -> SomeFailed | None:
    failed, kept = result.in_stages(*TROUBLED), result.in_stages(Stage.SKIPPED, Stage.REFUSED)
    if not failed and not kept:
        return None
    parts = [f"{_servers(failed)} of {result.cell} failed"] if failed else []
    parts += [f"{_servers(kept)} {'was' if len(kept) == 1 else 'were'} not moved from {result.cell}"] if kept else []
    lines = [", ".join(parts)]
    if not is_listed:
        named = [*failed, *kept][:MAX_NAMED_SERVERS]
        lines += [f"{task.name}: {task.stage}: {task.reason}" for task in named]
        more = len(failed) + len(kept) - len(named)
        lines += [f"and {more} more: {command_line('drain status', result.cell.uuid)}"] if more else []
    commands = [task.next_command for task in (*failed, *kept) if task.next_command]
    return SomeFailed("\n".join(lines), state=result.state, next_command=commands[0] if commands else "")


def _servers(tasks: Sequence[Task]) -> str:
    return f"{len(tasks)} server{'s' if len(tasks) != 1 else ''}"
