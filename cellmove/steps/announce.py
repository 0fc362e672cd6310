"""What a step tells the listeners of nova's notifications: the conductor's own, the computes send theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellmove.core.errors import Interrupted, scrub
from cellmove.hosts import conductor, notifications
from cellmove.hosts.context import request_context
from cellmove.steps import endpoints
from cellmove.steps.releases import SHARES_IN_NOTIFICATIONS, superconductor_version

if TYPE_CHECKING:
    from cellmove.db.cells import Cell
    from cellmove.engine.action import Context


def announce(context: Context, cell: Cell, action: str, phase: str, request_id: str) -> None:
    """Send a notification as ConfirmResizeTask and RevertResizeTask do; nothing where nova would send nothing.

    A notification that cannot be sent is a note to the operator and never the end of a move.

    :param cell: whose record of the server it tells of
    :param action: ``resize_confirm`` or ``resize_revert``
    :param phase: ``start`` or ``end``
    """
    gateway = context.gateway
    options = gateway.settings.notifications
    if not options.driver:
        return
    try:
        rpc = request_context(gateway, context.clock, request_id)
        instance = conductor.instance(gateway.bus(cell), rpc, endpoints.server_id(context))
        with_shares = superconductor_version(context) >= SHARES_IN_NOTIFICATIONS
        event = notifications.Event(action, phase, endpoints.here(), with_shares=with_shares)
        notifications.send(gateway.notification_bus, options, rpc, instance, event)
    except Interrupted:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the move is worth more
        context.note(f"the notification {action}.{phase} was not sent: {type(error).__name__}: {scrub(str(error))}")
