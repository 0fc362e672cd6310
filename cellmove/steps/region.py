"""Whether nova's API and the databases are those of one cloud and region, learnt from the first server that is looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellmove.cloud import servers
from cellmove.core.errors import CannotConnect, Refused, Usage
from cellmove.core.reference import is_uuid
from cellmove.db import look
from cellmove.db.shapes import InstanceMapping

if TYPE_CHECKING:
    from cellmove.cloud.servers import ShownServer
    from cellmove.gateway import Gateway

REMEDY = (
    "Name the region of the databases with --os-region-name or OS_REGION_NAME (or another cloud with --os-cloud), or the "
    "nova.conf of the APIs' region with --nova-conf"
)


def find_server(gateway: Gateway, server: str) -> ShownServer:
    """Find a server in nova's API; see :func:`cellmove.cloud.servers.show_server`.

    :raises Usage: there is none, or there are several of that name
    :raises Refused: the databases have a server of this UUID, and nova's API has not
    """
    try:
        return servers.show_server(gateway.admin, server)
    except Usage:
        if is_uuid(server):
            _refuse_if_recorded(gateway, server.lower())
        raise


def _refuse_if_recorded(gateway: Gateway, server_id: str) -> None:
    mapping = look.mapping_of(gateway.api_engine, server_id)
    cell = next((cell for cell in gateway.cells if mapping and cell.uuid == mapping.cell_uuid), None)
    if cell is None or mapping is None or mapping.queued_for_delete:
        return
    if look.instance_of(gateway.database(cell), server_id) is not None:
        raise Refused(
            f"the databases have the server {server_id} (in {cell.label}), and nova's API{_region(gateway)} does not know "
            f"it: they belong to different regions or clouds. {REMEDY}",
            state="nothing was written",
        )


def refuse_other_region(gateway: Gateway, server_id: str, mapping: InstanceMapping | None) -> None:
    """Refuse a server that nova's API knows and none of the databases does.

    :param mapping: its instance mapping, if it has one
    :raises Refused: the APIs belong to another cloud or region than the databases
    """
    if mapping is not None or look.has_build_request(gateway.api_engine, server_id):
        return
    for cell in gateway.cells:
        try:
            if look.instance_of(gateway.database(cell), server_id) is not None:
                return
        except CannotConnect:
            return  # it may be there
    raise Refused(
        f"nova's API{_region(gateway)} knows the server {server_id}, and neither the API database nor any cell does: they "
        f"belong to different regions or clouds. {REMEDY}",
        state="nothing was written",
    )


def _region(gateway: Gateway) -> str:
    region = getattr(getattr(gateway.admin, "config", None), "region_name", None)
    return f" of the region {region}" if region else ""
