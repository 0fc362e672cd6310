"""Requests of operators, and the command lines that express them: plain data, kept in the journal.

A :class:`MoveRequest` is read from the command line, stored in the journal, and used for every command that is printed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from cellmove.core.documents import structure, to_document
from cellmove.core.move import Move, State
from cellmove.core.shell import command_line

KEY = "request"
"""The key of the request in a move's plan."""


@dataclass(frozen=True)
class Destination:
    """The target of a move. Without any value: any other cell.

    :param cell: name or UUID of the cell
    :param host: name of the compute host
    :param cells: the cells that a drain allows, the preferred one first; instead of ``cell`` and ``host``
    """

    cell: str = ""
    host: str = ""
    cells: tuple[str, ...] = ()


@dataclass(frozen=True)
class MoveRequest:
    """The arguments of ``plan``, ``resize`` or ``migrate``. Empty, 0 and False mean: the option was not given.

    :param server: name or UUID, as it was typed
    :param flavor: name or id of the new flavor; empty for a migration
    :param is_stepwise: the command was ``plan``, and the operator runs the steps one by one
    :param confirm: confirm the move when the guest runs at the target
    :param hold: wait before the guest is stopped
    :param cutover_at: HH:MM of the local clock, at which the wait ends
    :param probes: probes of the guest that have to succeed before the move is confirmed
    :param accept_loss: names of losses that the operator accepts
    :param max_hosts: how many of the scheduler's hosts are tried
    :param transfer: how local disks travel (:data:`cellmove.core.transfer.TRANSFERS`)
    :param bwlimit: bytes a second that are sent at most while the guest runs
    """

    server: str
    flavor: str = ""
    destination: Destination = field(default_factory=Destination)
    is_stepwise: bool = False
    confirm: bool = False
    hold: bool = False
    cutover_at: str = ""
    probes: tuple[str, ...] = ()
    force_locked: bool = False
    accept_loss: tuple[str, ...] = ()
    max_hosts: int = 0
    transfer: str = ""
    bwlimit: int = 0

    @property
    def verb(self) -> str:
        """The command that asks for it."""
        if self.is_stepwise:
            return "plan"
        return "resize" if self.flavor else "migrate"

    @property
    def command(self) -> str:
        """The command line that asks for it again."""
        destination = self.destination
        return command_line(
            self.verb,
            self.server,
            self.flavor,
            cell=destination.cell or next(iter(destination.cells), ""),
            host=destination.host,
            force_locked=self.force_locked,
            accept_loss=",".join(self.accept_loss),
            max_hosts=self.max_hosts or None,
            transfer=self.transfer,
            bwlimit=self.bwlimit or None,
            hold=self.hold,
            cutover_at=self.cutover_at,
            confirm=self.confirm,
            probe=self.probes,
        )


@dataclass(frozen=True)
class AuditRequest:
    """The arguments of ``audit``.

    :param cells: names or UUIDs of the cells to look at; none for all
    :param servers: names or UUIDs of the servers that are meant; none for all
    :param repair: repair what is safe
    :param dry_run: only print what ``repair`` would do
    :param older_than: minutes; a record that changed within them may belong to a move in progress. None: the longest time of
        a call to a compute (``[DEFAULT]long_rpc_timeout``)
    """

    cells: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    repair: bool = False
    dry_run: bool = False
    older_than: float | None = None

    @property
    def command(self) -> str:
        """The command line that repairs what this request finds."""
        return command_line("audit", cell=self.cells, server=self.servers, older_than=self.older_than, repair=True)


def continued_by(earlier: MoveRequest, later: MoveRequest) -> MoveRequest:
    """Return the request of a move that a later command continues.

    The later command decides how far the move goes and where it waits. Options that shaped the plan stay.
    """
    return dataclasses.replace(
        later,
        destination=earlier.destination if later.destination == Destination() else later.destination,
        force_locked=later.force_locked or earlier.force_locked,
        accept_loss=later.accept_loss or earlier.accept_loss,
        max_hosts=later.max_hosts or earlier.max_hosts,
        transfer=later.transfer or earlier.transfer,
        bwlimit=later.bwlimit or earlier.bwlimit,
    )


def plan_values(request: MoveRequest) -> dict[str, object]:
    """Return the values of a request in a plan. ``command`` is for older versions that share the journal."""
    return {KEY: to_document(request), "command": request.command}


def request_of(move: Move) -> MoveRequest | None:
    """Return the last request of a move; None when its journal is older than requests."""
    document = move.plan.get(KEY)
    return (
        structure(MoveRequest, document, f"the request of {move.id}")
        if document and isinstance(document, Mapping)
        else None
    )


def command_of(move: Move) -> str:
    """Return the command line that requests a move again; empty when the journal does not have it."""
    request = request_of(move)
    if request is not None:
        return request.command
    command = str(move.plan.get("command", ""))
    confirms = command and move.goal_state == State.CONFIRMED and "--confirm" not in command
    return f"{command} --confirm" if confirms else command
