"""Servers and flavors, as the operator names them, from nova's API (with admin rights)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.cloud.identity import read, request
from cellmove.cloud.types import Body, Resource
from cellmove.core.errors import NotFound, Usage
from cellmove.core.reference import is_uuid

if TYPE_CHECKING:
    from openstack.connection import Connection

SERVER_MICROVERSION = "2.79"  # Train; every release that cellmove works with has it
FLAVOR_MICROVERSION = "2.61"  # extra specs within the flavor

STATUSES = {
    "active": "ACTIVE",
    "building": "BUILD",
    "deleted": "DELETED",
    "error": "ERROR",
    "paused": "PAUSED",
    "rescued": "RESCUE",
    "resized": "VERIFY_RESIZE",
    "shelved": "SHELVED",
    "shelved_offloaded": "SHELVED_OFFLOADED",
    "soft-delete": "SOFT_DELETED",
    "stopped": "SHUTOFF",
    "suspended": "SUSPENDED",
}
"""What nova's API calls the states of servers (nova/api/openstack/common.py)."""

BUSY = (
    ("rebooting_hard", "HARD_REBOOT"),
    ("reboot_pending_hard", "HARD_REBOOT"),
    ("reboot_started_hard", "HARD_REBOOT"),
    ("reboot", "REBOOT"),
    ("updating_password", "PASSWORD"),
    ("rebuild", "REBUILD"),
    ("migrating", "MIGRATING"),
    ("resize_reverting", "REVERT_RESIZE"),
    ("resize_confirming", "VERIFY_RESIZE"),
    ("resize_", "RESIZE"),
)
"""Beginnings of task states that have a word of their own there, and the word."""


@dataclass(frozen=True)
class ShownServer:
    """A server as nova's API shows it, as far as a plan needs it.

    :param name: empty where its cell is down
    :param status: empty where its cell is down
    """

    id: str
    name: str = ""
    status: str = ""


def show_server(connection: Connection, name_or_id: str) -> ShownServer:
    """Return a server of any project, by its UUID, or by its exact name where that is no UUID.

    :raises Usage: there is none, or several of that name; the message lists them
    """
    found = find_server(connection, name_or_id)
    return ShownServer(str(found["id"]), str(found.get("name") or ""), str(found.get("status") or ""))


def find_server(connection: Connection, name_or_id: str) -> Resource:
    """A server of any project, by its UUID, or by its exact name where that is no UUID.

    :returns: as :func:`get_server`
    :raises Usage: there is none, or several of that name; the message lists them
    """
    if is_uuid(name_or_id):
        try:
            return get_server(connection, name_or_id.lower())
        except NotFound:
            pass
    found = servers_named(connection, name_or_id)
    if len(found) == 1 and not is_uuid(name_or_id):
        return found[0]
    if not found:
        deleted = _deleted_name(connection, name_or_id.lower()) if is_uuid(name_or_id) else ""
        if deleted:
            raise Usage(f"the server {deleted} ({name_or_id.lower()}) was deleted", state="nothing was written")
        raise Usage(f"there is no server {name_or_id} in any project")
    lines = "\n".join(
        f"  {server['id']}  project {server['tenant_id']}  {server['status']}  "
        f"on {server.get('OS-EXT-SRV-ATTR:host') or 'no host'}"
        for server in found
    )
    if is_uuid(name_or_id):
        raise Usage(f"no server has the id {name_or_id}; a server is called so, use its UUID:\n{lines}")
    raise Usage(f"{len(found)} servers are called {name_or_id}; use the UUID of one:\n{lines}")


def _deleted_name(connection: Connection, server_id: str) -> str:
    """The name of a server whose record nova keeps as deleted; empty when it has none (any more)."""
    params = {"all_tenants": "1", "deleted": "true", "uuid": server_id}
    found = _listed(connection, "servers", params, SERVER_MICROVERSION, _server)
    return next((str(server.get("name") or "without a name") for server in found if server["id"] == server_id), "")


def get_server(connection: Connection, server_id: str) -> Resource:
    """A server as nova's API gives it (microversion 2.79), ``OS-EXT-*`` included.

    Its ``flavor`` is what the server was made with (``original_name``, ``vcpus``, …), without an id.

    :raises NotFound: there is none
    """
    path = f"/servers/{server_id}"
    return read(connection, "compute", path, lambda body: _server(body["server"]), microversion=SERVER_MICROVERSION)


def _server(body: Body) -> Resource:
    server: Resource = dict(body)
    # One in a cell that is down has little more.
    return server | {"id": str(server["id"]), "tenant_id": server.get("tenant_id"), "status": server.get("status")}


def servers_named(connection: Connection, name: str) -> list[Resource]:
    """All servers of exactly this name, of all projects, in the order of their UUIDs.

    A server that is in two cells' databases just while it moves is listed once.
    """
    # nova takes the name for a regular expression (on SQLite for LIKE): ask for the longest beginning
    # that means itself, and compare here.
    plain = re.match(r"[\w @:,-]*", name)
    params = {"all_tenants": "1"} | ({"name": plain[0]} if plain and plain[0] else {})
    found: dict[str, Resource] = {}
    for server in _listed(connection, "servers", params, SERVER_MICROVERSION, _server):
        if server.get("name") == name:  # one in a cell that is down has no name
            found.setdefault(server["id"], server)
    return [found[server_id] for server_id in sorted(found)]


def _listed(
    connection: Connection, what: str, params: dict[str, str], microversion: str, make: Callable[[Body], Resource]
) -> Iterator[Resource]:
    """All items of a list, page by page (the cloud sets the size of a page: ``[api]max_limit``).

    :param make: makes an item of its body, with its id
    """

    def page(body: Body) -> tuple[list[Resource], bool]:
        more = any(link["rel"] == "next" for link in body.get(f"{what}_links") or ())
        return [make(item) for item in body[what]], more

    while True:
        items, more = read(connection, "compute", f"/{what}/detail", page, params=params, microversion=microversion)
        yield from items
        if not more or not items:
            return
        params = params | {"marker": items[-1]["id"]}


def find_flavor(connection: Connection, name_or_id: str) -> Resource:
    """A flavor, public or not, by its id (``flavorid``) or, failing that, its exact name.

    :returns: ``id`` (the flavorid), ``name``, ``vcpus``, ``ram`` (MiB), ``disk`` and ``ephemeral``
        (GiB), ``swap`` (MiB), ``extra_specs``, ``disabled``
    :raises Usage: there is none
    """
    flavors = list(_listed(connection, "flavors", {"is_public": "None"}, FLAVOR_MICROVERSION, flavor_of))
    # Both are unique in nova; one flavor's name may be another's id, and the id goes first as in nova's client.
    found = [flavor for flavor in flavors if flavor["id"] == name_or_id] or [
        flavor for flavor in flavors if flavor["name"] == name_or_id
    ]
    if not found:
        names = ", ".join(sorted(flavor["name"] for flavor in flavors)[:30]) or "none"
        raise Usage(f"there is no flavor {name_or_id}; there are: {names}")
    return found[0]


def flavor_of(body: Body) -> Resource:
    """A flavor as nova's API gives it, under plain names; see :func:`find_flavor`."""
    return {
        "id": body["id"],
        "name": body["name"],
        "vcpus": int(body["vcpus"]),
        "ram": int(body["ram"]),
        "disk": int(body["disk"]),
        "ephemeral": int(body.get("OS-FLV-EXT-DATA:ephemeral") or 0),
        "swap": int(body.get("swap") or 0),  # an empty string for none, before 2.75
        "extra_specs": dict(body.get("extra_specs") or {}),
        "disabled": bool(body.get("OS-FLV-DISABLED:disabled")),
    }


def hard_reboot(connection: Connection, server_id: str) -> None:
    """Ask nova for a hard reboot, which builds the guest anew from the database. Returns at once.

    :raises CallFailed: refused; 409 when the server's state forbids it
    """
    path = f"/servers/{server_id}/action"
    request(connection, "compute", "POST", path, json={"reboot": {"type": "HARD"}})


def status_of(vm_state: str, task_state: str) -> str:
    """The status under which nova's API and its clients show a server."""
    busy = next((word for beginning, word in BUSY if task_state.startswith(beginning)), "")
    return busy or STATUSES.get(vm_state, "UNKNOWN")


def stop(connection: Connection, server_id: str) -> None:
    """Ask nova to stop a server; returns when nova has taken the request.

    :raises CallFailed: refused, for instance because of the server's state (``kind`` 409)
    """
    request(connection, "compute", "POST", f"/servers/{server_id}/action", json={"os-stop": None})
