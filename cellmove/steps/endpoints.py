"""Where a move's ends are, and the calls to the computes there: shared by all steps."""

from __future__ import annotations

import datetime
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from cellmove.cloud import network
from cellmove.core import ownership
from cellmove.core.errors import CallFailed, CallUncertain, CannotConnect, Unexpected
from cellmove.core.move import State
from cellmove.db import history, look, move_records, state
from cellmove.engine.action import Context, ProbeOutcome, ProbeResult
from cellmove.hosts import bus as bus_module
from cellmove.hosts import compute, conductor
from cellmove.hosts.context import request_context
from cellmove.steps.action_types import CREATE_IMAGE, RECORD_MIGRATION, SCHEDULE

if TYPE_CHECKING:
    from cellmove.cloud.network import Port
    from cellmove.core.documents import NovaObject
    from cellmove.core.move_plan import ChosenHost
    from cellmove.db.cells import Cell
    from cellmove.db.tables import CellDatabase
    from cellmove.db.types import Record
    from cellmove.engine.record import MoveRecord
    from cellmove.hosts.compute import Method

R = TypeVar("R")

NOVA = "nova"
"""Who began a move that is adopted half-way and is none of ours: the value of the fact ``begun_by``."""

LOOKS = 5
"""How often, a second apart, it is looked for the first trace of a call before it counts as never sent."""


def source_cell(context: Context) -> Cell:
    """The cell that the server comes from."""
    return context.gateway.cell(context.plan.source_cell_uuid)


def target_cell(context: Context) -> Cell:
    """The cell that the server goes to; known once the scheduler has chosen."""
    return context.gateway.cell(chosen_host(context.record).target_cell_uuid)


def source(context: Context) -> CellDatabase:
    """The source cell's database."""
    return context.gateway.database(source_cell(context))


def target(context: Context) -> CellDatabase:
    """The target cell's database."""
    return context.gateway.database(target_cell(context))


def chosen_host(record: MoveRecord) -> ChosenHost:
    """The host that the server goes to: the scheduler's choice, or what a rebuilt journal says of it until then.

    :raises Unexpected: none is chosen
    """
    return record.plan.arrival if record.plan.arrival and record.get(SCHEDULE) is None else record[SCHEDULE]


def has_chosen(record: MoveRecord) -> bool:
    """Whether it is known where the server goes."""
    return record.get(SCHEDULE) is not None or record.plan.arrival is not None


def target_host(context: Context) -> str:
    """The compute host that the server goes to."""
    return chosen_host(context.record).target_host


def new_flavor(context: Context) -> NovaObject:
    """The flavor that the server will have.

    :raises Unexpected: a rebuilt journal does not know it
    """
    flavor = chosen_host(context.record).new_flavor
    if flavor is None:
        raise Unexpected("the journal does not name the server's new flavor")
    return flavor


def migration_uuid(record: MoveRecord) -> str:
    """The UUID of the move's migration record."""
    recorded, chosen = record.get(RECORD_MIGRATION), record.get(SCHEDULE)
    if recorded is None and chosen is not None and chosen.migration_uuid:
        return chosen.migration_uuid
    return record[RECORD_MIGRATION].migration_uuid


def image_id(context: Context) -> str | None:
    """The temporary image with the root disk; None for a move without one."""
    created = context.get(CREATE_IMAGE)
    return created.image_id if created is not None else None


def server_id(context: Context) -> str:
    """The server's UUID."""
    return context.move.server_id


def now(context: Context) -> datetime.datetime:
    """The current time as nova's tables hold it."""
    return context.clock.database_time()


def here() -> str:
    """This machine's name, as the host of events that nova's conductor would write."""
    return socket.gethostname()


def ports(context: Context) -> list[Port]:
    """The server's ports that nova knows as its interfaces at the source; others that carry its id are not part of the move."""
    server = server_id(context)
    known = look.interfaces_of(source(context), server)
    return [port for port in network.ports_of(context.gateway.service, server) if port.id in known]


def row(database: CellDatabase, server: str) -> Record:
    """The server's live row in a cell.

    :raises CallFailed: when there is none
    """
    found = state.read_instance(database, server)
    if found is None:
        raise CallFailed(f"the server has no live row in {database.name}", kind="404")
    return found


def migration_row(context: Context, database: CellDatabase) -> Record:
    """This move's migration record in a cell.

    :raises CallFailed: when there is none
    """
    found = state.read_migration(database, migration_uuid(context.record))
    if found is None:
        raise CallFailed(f"the migration record is not in {database.name}", kind="404")
    return found


def is_up(context: Context, database: CellDatabase, host: str) -> bool:
    """Whether there is a nova-compute on a host and it reports itself alive."""
    service = state.read_service(database, host)
    moment = context.clock.heartbeat_time()
    return service is not None and look.is_up(service, moment, context.gateway.settings.service_down_time)


def target_version(context: Context) -> int:
    """The service version of nova-compute on the target host; 0 when it has no service there."""
    service = state.read_service(target(context), target_host(context))
    return int(service["version"] or 0) if service is not None else 0


def is_marked(context: Context, database: CellDatabase) -> bool:
    """Whether a cell's row of the server says that this move is working on it.

    What nova began carries no mark until we go on with it: then the conductor's event says so, which
    stays open until the move is over or rolled back.
    """
    server = server_id(context)
    marked = ownership.move_id_of(state.read_system_metadata(database, server).get(ownership.KEY))
    if marked or context.plan.begun_by != NOVA:
        return marked == context.move.id
    request_id, event = context.plan.request_id, move_records.CONDUCTED["migrate"]
    return history.event_state(database, server, request_id, event) in ("", "running")


def ending_mark(context: Context) -> dict[str, str]:
    """The mark that a confirm or a revert leaves while it is under way, as system metadata."""
    owner = ownership.owner_of_journal(context.gateway.settings.journal)
    return ownership.rows_of(ownership.OwnershipMark(context.move.id, owner, generation=context.generation))


def map_to_target(context: Context) -> None:
    """Point the server's mapping at the target cell, from the source or already there."""
    _map(context, source_cell(context), target_cell(context))


def map_to_source(context: Context) -> None:
    """Point the server's mapping at the source cell, from the target or already there."""
    _map(context, target_cell(context), source_cell(context))


def _map(context: Context, old: Cell, new: Cell) -> None:
    state.swap_mapping(context.gateway.api_engine, server_id(context), old.id, new.id, now(context))


def call_source(context: Context, method: Method, request_id: str, **more: object) -> None:
    """Make one of the six calls to the source host, with fresh objects of the source cell."""
    cell = source_cell(context)
    _call(context, cell, context.plan.source_host, method, request_id, more)


def call_target(context: Context, method: Method, request_id: str, **more: object) -> None:
    """Make one of the six calls to the target host, with fresh objects of the target cell."""
    cell = target_cell(context)
    _call(context, cell, target_host(context), method, request_id, more)


def _call(context: Context, cell: Cell, host: str, method: Method, request_id: str, more: Mapping[str, object]) -> None:
    database = context.gateway.database(cell)
    service = state.read_service(database, host)
    if service is None or not is_up(context, database, host):
        raise CannotConnect(f"nova-compute on {host} is down")
    bus = context.gateway.bus(cell)
    rpc = request_context(context.gateway, context.clock, request_id)
    arguments = {
        "instance": conductor.instance(bus, rpc, server_id(context)),
        "migration": conductor.migration(bus, rpc, migration_uuid(context.record)),
        **more,
    }
    compute_service = compute.ComputeService(host, int(service["version"]))
    compute.invoke(bus, rpc, method, compute_service, arguments, context.gateway.sent_calls)
    # nova ends the first event of that name; after a call that was sent again, one is still open.
    history.finish_event(database, server_id(context), request_id=request_id, event=method.event, now=now(context))


def _seen_soon(context: Context, seen: Callable[[], str]) -> str:
    """Look again for a while: a call taken before the ping may still be on the way to its first write."""
    for _ in range(LOOKS):
        how = seen()
        if how:
            return how
        context.clock.sleep(1.0)
    return seen()


def how_it_stands(context: Context, database: CellDatabase, method: Method, request_id: str) -> str:
    """How a call stands by its event: "" (never began), "running", "Success" or "Error".

    The event of a call that died with its nova-compute stays open for ever, and nothing else that
    nova writes tells a host at work from one that was restarted: the heartbeat's count goes on where
    it was, and a starting nova-compute looks only at servers whose ``host`` it is
    (ComputeManager.init_host). So it takes the operator's word, which ends the event as an error.
    """
    server = server_id(context)
    how = history.event_state(database, server, request_id, method.event)
    if how != "running" or not context.host_restarted or context.gateway.sent_calls.has(request_id, method):
        return how
    # Ended when it began, by the host's own clock: a second call of the same second must count as later.
    history.finish_event(
        database,
        server,
        request_id=request_id,
        event=method.event,
        now=history.event_begun(database, server, request_id, method.event) or now(context),
        error="nova-compute was restarted during the call",
    )
    return history.ERROR


def still_at_work(context: Context, host: str, method: Method) -> str:
    """What to say of a call that has not ended, and of what an operator can do when it never will."""
    verb = "rollback" if context.move.state is State.ROLLING_BACK else "resume"
    return (
        f"{host} is still at work on {method.name}; should that never end, restart nova-compute there, then type"
        f" cellmove {verb} {context.move.id} --host-restarted"
    )


def is_overdue(context: Context, database: CellDatabase, method: Method, request_id: str) -> bool:
    """Whether a call began so long ago that its host has lost it, or would not mind a second one."""
    begun = history.event_begun(database, server_id(context), request_id, method.event)
    patience = context.gateway.settings.rpc_response_timeout
    return begun is not None and (now(context) - begun).total_seconds() > patience


def _answers(context: Context, cell: Cell, host: str, method: Method) -> bool:
    """Whether the host has taken everything that was sent to it before: queues keep their order."""
    database = context.gateway.database(cell)
    if not is_up(context, database, host):
        return False
    version = (state.read_service(database, host) or {}).get("version") or 0
    bus = context.gateway.bus(cell)
    return not bus_module.has_abandoned_calls(bus) and bus_module.ping(
        bus, compute.topic_of(method, int(version)), host
    )


def find_out(context: Context, cell: Cell, host: str, method: Method, request_id: str) -> ProbeResult[R]:
    """What became of a call that may not be sent twice, from the event that nova-compute writes around it.

    No event and the host answers a ping on the same queue: queues keep their order, so the call was
    never sent. No event and no answer: it may still lie in the queue, and nobody can tell. One that
    may be sent again is not waited for longer than its answer would take.
    """
    database = context.gateway.database(cell)
    server = server_id(context)

    def seen() -> str:
        return how_it_stands(context, database, method, request_id)

    how = seen()
    if not how and _answers(context, cell, host, method):
        how = _seen_soon(context, seen) or "never"
    if how == "running" and method.repeatable and is_overdue(context, database, method, request_id):
        how = "never" if _answers(context, cell, host, method) else how
    if how == history.SUCCESS:
        return ProbeResult(ProbeOutcome.HAPPENED)
    if how == history.ERROR and context.host_restarted:
        return ProbeResult(ProbeOutcome.FAILED, text=f"nova-compute on {host} was restarted during {method.name}")
    if how == history.ERROR:
        fault = history.last_fault(database, server)
        return ProbeResult(ProbeOutcome.FAILED, text=f"{method.name} failed on {host}: {fault or 'see its log'}")
    if how == "never":
        return ProbeResult(ProbeOutcome.NOT_HAPPENED)
    if how == "running":
        return ProbeResult(ProbeOutcome.UNDER_WAY, text=still_at_work(context, host, method))
    return ProbeResult(
        ProbeOutcome.UNKNOWN, text=f"nova-compute on {host} does not answer; {method.name} may still reach it"
    )


def require_settled(
    context: Context, cell: Cell, host: str, method: Method, request_id: str, *, was_sent: bool = False
) -> None:
    """Make sure, before a call is sent, that an earlier one is neither at work on the host nor in its queue.

    :param was_sent: an earlier run may have sent the call. This process knows by itself what it sent
    :raises CallUncertain: it is, or the host does not tell
    """
    begun = how_it_stands(context, context.gateway.database(cell), method, request_id)
    if not begun and not was_sent and not context.gateway.sent_calls.has(request_id, method):
        return
    finding: ProbeResult[object] = find_out(context, cell, host, method, request_id)
    if finding.outcome in (ProbeOutcome.UNDER_WAY, ProbeOutcome.UNKNOWN):
        raise CallUncertain(finding.text)
