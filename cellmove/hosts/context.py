"""nova's RequestContext as it travels (nova/context.py, to_dict and from_dict)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cellmove.cloud import identity

if TYPE_CHECKING:
    from openstack.connection import Connection

    from cellmove.core.clock import Clock
    from cellmove.hosts.transport import Primitive


class Administrator(Protocol):
    """Holds a connection with an administrator's credential: the gateway."""

    @property
    def admin(self) -> Connection: ...


def request_context(gateway: Administrator, clock: Clock, request_id: str) -> Primitive:
    """Return an administrator's request context, with both a fresh token and the service catalog.

    With a token and no catalog, nova-compute fails with EmptyCatalog after it has destroyed the guest.

    :param request_id: of an instance action of the server in the cell of the call; otherwise every method of nova-compute
        fails at its start (InstanceActionNotFound)
    """
    token, catalog = identity.rpc_credentials(gateway.admin)
    caller = identity.caller(gateway.admin)
    return {
        "is_admin": True,
        "is_admin_project": True,
        "user_id": caller["user_id"],
        "project_id": caller["project_id"],
        "user": caller["user_id"],
        "project": caller["project_id"],
        "user_name": caller["user_name"],
        "project_name": caller["project_name"],
        "user_domain": caller["user_domain"],
        "project_domain": caller["project_domain"],
        "roles": list(caller.get("roles") or ["admin"]),
        "auth_token": token,
        "service_catalog": catalog,
        "request_id": request_id,
        "global_request_id": None,
        "read_deleted": "no",
        "remote_address": None,
        "quota_class": None,
        "read_only": False,
        "show_deleted": False,
        "resource_uuid": None,
        "timestamp": clock.utc_now().replace(tzinfo=None).strftime("%Y-%m-%dT%H:%M:%S.%f"),
    }
