"""Ports and their bindings in neutron.

All functions take a connection with role ``service``: neutron's default policy allows no other role
create, activate or delete a binding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cellmove.cloud.failures import parsed
from cellmove.cloud.identity import read, request
from cellmove.cloud.types import Body, Fields
from cellmove.core.errors import CallFailed, NotFound

if TYPE_CHECKING:
    from openstack.connection import Connection

ACTIVE = "ACTIVE"
PAGE = 1000  # ports of one answer; the cloud may give fewer
WORKERS = 4  # calls at once: other people use neutron, too
SERVERS = 100  # in one query, whose length is limited
FIELDS = (
    "id",
    "device_id",
    "device_owner",
    "status",
    "binding:host_id",
    "binding:vnic_type",
    "binding:vif_type",
    "resource_request",
)
UNBOUND = frozenset({"unbound", "binding_failed"})  # FAILED_VIF_TYPES in nova/network/neutron.py


@dataclass(frozen=True)
class Port:
    """A port of a server, with its active binding (``host``, ``vif_type``, ``profile``)."""

    id: str
    host: str
    status: str
    vnic_type: str
    vif_type: str
    device_owner: str
    profile: Fields = field(default_factory=dict)
    resource_request: Fields | None = None  # minimum bandwidth or packet rate
    mac_address: str = ""
    network_id: str = ""
    project_id: str = ""
    addresses: tuple[str, ...] = ()  # its fixed ones
    device_id: str = ""


@dataclass(frozen=True)
class Binding:
    """A port bound to one host; at most one binding of a port is ACTIVE."""

    host: str
    status: str
    vif_type: str
    vnic_type: str
    profile: Fields = field(default_factory=dict)


def has_extended_binding(connection: Connection) -> bool:
    """Whether neutron can bind a port to two hosts (extension ``binding-extended``)."""
    aliases = read(connection, "network", "/extensions", lambda body: [each["alias"] for each in body["extensions"]])
    return "binding-extended" in aliases


def ports_of(connection: Connection, server_id: str) -> list[Port]:
    """The server's ports, of every project."""
    return read(connection, "network", "/ports", _ports, params={"device_id": server_id})


def _ports(body: Body) -> list[Port]:
    return [_port(port) for port in body["ports"]]


def ports_on(connection: Connection, host: str) -> Iterator[tuple[str, Port]]:
    """The ports that have any binding for a host, each with its server; see :func:`ports_also_bound`.

    They hold what the checks of a plan look at, and no more: :data:`FIELDS`.
    """
    for port in _listed(connection, {"binding:host_id": host, "fields": FIELDS}):
        yield port.device_id, port


def ports_of_servers(connection: Connection, server_ids: Iterable[str]) -> Iterator[tuple[str, Port]]:
    """As :func:`ports_on`, the ports of these servers wherever they are bound, a call for :data:`SERVERS` of them."""
    every = sorted(set(server_ids))
    for at in range(0, len(every), SERVERS):
        for port in _listed(connection, {"device_id": every[at : at + SERVERS], "fields": FIELDS}):
            yield port.device_id, port


def _port(body: Body) -> Port:
    return Port(
        id=str(body["id"]),
        device_id=body.get("device_id") or "",
        host=body.get("binding:host_id") or "",
        status=body.get("status") or "",
        vnic_type=body.get("binding:vnic_type") or "normal",
        vif_type=body.get("binding:vif_type") or "",
        device_owner=body.get("device_owner") or "",
        profile=body.get("binding:profile") or {},
        resource_request=body.get("resource_request"),
        mac_address=body.get("mac_address") or "",
        network_id=body.get("network_id") or "",
        project_id=body.get("project_id") or "",
        addresses=tuple(ip["ip_address"] for ip in body.get("fixed_ips") or ()),
    )


def ports_also_bound(connection: Connection, host: str) -> Iterator[tuple[str, str, str]]:
    """The servers' ports that have a binding for a host which is not their active one.

    neutron lists by host every port with *any* binding there (``_ml2_port_result_filter_hook``,
    neutron/plugins/ml2/plugin.py) and shows the active one: so this takes a call a thousand ports of
    the host, and none a port.

    :returns: port, server, host of the active binding (empty for none)
    """
    fields = ["id", "device_id", "device_owner", "binding:host_id"]
    for port in _listed(connection, {"binding:host_id": host, "fields": fields}):
        if port.host != host and port.device_owner.startswith("compute:"):
            yield port.id, port.device_id, port.host


def _listed(connection: Connection, wanted: Fields) -> Iterator[Port]:
    """Ports page by page, in the order of their ids."""
    params = {**wanted, "limit": PAGE, "sort_key": "id", "sort_dir": "asc"}

    def page(body: Body) -> tuple[list[Port], bool]:
        return _ports(body), any(link["rel"] == "next" for link in body.get("ports_links") or ())

    while True:
        ports, more = read(connection, "network", "/ports", page, params=params)
        yield from ports
        if not more or not ports:
            return
        params["marker"] = ports[-1].id


def bindings(connection: Connection, port_id: str) -> list[Binding]:
    """All bindings of a port.

    :raises NotFound: there is no such port
    """
    path = f"/ports/{port_id}/bindings"
    return read(connection, "network", path, lambda body: [_binding(each) for each in body["bindings"]])


def bindings_of_ports(connection: Connection, port_ids: Sequence[str]) -> dict[str, list[Binding]]:
    """All bindings of several ports, by port. neutron has no list of them, so a few calls run at once.

    :raises NotFound: one of the ports is gone
    """
    if not port_ids:
        return {}
    with ThreadPoolExecutor(min(WORKERS, len(port_ids))) as pool:
        return dict(zip(port_ids, pool.map(lambda port_id: bindings(connection, port_id), port_ids), strict=True))


def _binding(body: Body, vnic_type: str = "normal") -> Binding:
    return Binding(
        host=str(body["host"]),
        status=str(body["status"]),
        vif_type=body.get("vif_type") or "",
        vnic_type=body.get("vnic_type") or vnic_type,
        profile=body.get("profile") or {},
    )


def binding_for(connection: Connection, port_id: str, host: str) -> Binding | None:
    """The port's binding for a host, or None.

    :raises NotFound: there is no such port
    """
    return next((binding for binding in bindings(connection, port_id) if binding.host == host), None)


def create_binding(connection: Connection, port_id: str, host: str, vnic_type: str, profile: Fields) -> Binding:
    """Bind the port to one more host; the new binding is INACTIVE (``bind_ports_to_host``, nova/network/neutron.py).

    Doing it again is fine: neutron answers 409 when there is a binding for the host, and then that
    binding is returned, whatever its status and profile are.

    :param vnic_type: of the present binding
    :param profile: of the present binding, which is what nova sends
    :raises CallFailed: refused. An unknown host, or one whose agent is dead, is a 500
        (``PortBindingError``), and no binding is left; a port that does not exist is a 500 as well
    """
    body = {"binding": {"host": host, "vnic_type": vnic_type, "profile": dict(profile)}}
    response = request(connection, "network", "POST", f"/ports/{port_id}/bindings", json=body, accept={409})
    if response.status_code == 409:
        present = binding_for(connection, port_id, host)
        if present is None:
            raise CallFailed(f"neutron refuses to bind port {port_id} to {host}", kind="409")
        return present
    return parsed(response, "network", lambda answer: _binding(answer["binding"], vnic_type))


def activate_binding(connection: Connection, port_id: str, host: str) -> None:
    """Make the binding for this host the active one, and make sure that it works.

    The binding that was active becomes INACTIVE, and neutron forgets how it was bound (``vif_type``
    becomes ``unbound``: ``Ml2Plugin.activate``). Activated again later, it stays unbound and the port
    stays DOWN until the next update of the port, which nova's own revert does at its end
    (``_update_port_binding_for_instance``, nova/network/neutron.py). So this does as well.

    Fine when it is active already (neutron answers 409). The request has no body; with one, even an
    empty one, neutron answers 500.

    :raises NotFound: no such port, or no binding for this host. nova silently goes on then, and the
        port stays where it was
    :raises CallFailed: refused; ``kind`` is ``unbound`` when neutron cannot bind the port to the host
    """
    path = f"/ports/{port_id}/bindings/{host}/activate"
    request(connection, "network", "PUT", path, accept={409})
    present = binding_for(connection, port_id, host)
    if present is None or present.status != ACTIVE:
        raise CallFailed(f"neutron refuses to activate the binding of port {port_id} on {host}", kind="409")
    if present.vif_type in UNBOUND:
        request(connection, "network", "PUT", f"/ports/{port_id}", json={"port": {"binding:host_id": host}})
        present = binding_for(connection, port_id, host)
        if present is None or present.vif_type in UNBOUND:
            raise CallFailed(f"neutron cannot bind port {port_id} to {host}", kind="unbound")


def delete_binding(connection: Connection, port_id: str, host: str) -> None:
    """Take away the port's binding for a host. Fine when it, or the port, is gone.

    neutron would delete an active binding too, and leave the port without any (nova bug in the
    rollback of its cross-cell resize), so this looks first.

    :raises CallFailed: the binding is ACTIVE (``kind`` "active"), or neutron refuses
    """
    try:
        present = binding_for(connection, port_id, host)
    except NotFound:
        return
    if present is None:
        return
    if present.status == ACTIVE:
        raise CallFailed(f"port {port_id} is active on {host}; its binding there is not deleted", kind="active")
    request(connection, "network", "DELETE", f"/ports/{port_id}/bindings/{host}", accept={404})
