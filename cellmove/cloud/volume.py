"""Volumes and their attachments in cinder (microversion 3.44, the one nova uses: nova/volume/cinder.py)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cellmove.cloud.failures import parsed
from cellmove.cloud.identity import read, request, rpc_credentials
from cellmove.cloud.types import Body, Fields
from cellmove.core.errors import NotFound

if TYPE_CHECKING:
    from openstack.connection import Connection

T = TypeVar("T")

MICROVERSION = "3.44"
PAGE = 1000
FEW_VOLUMES = 2
"""As many calls take no longer than a list."""


@dataclass(frozen=True)
class Attachment:
    """One attachment. A ``reserved`` one is empty: no host uses it yet.

    Which host uses one, cinder tells only in the volume's own ``attachments``.
    """

    id: str
    volume_id: str
    server_id: str
    status: str


@dataclass(frozen=True)
class Volume:
    """What matters of a volume. ``size`` is in GiB."""

    id: str
    status: str
    bootable: bool
    size: int
    multiattach: bool
    encrypted: bool
    volume_type: str = ""
    project_id: str = ""
    zone: str = ""


def get_volume(connection: Connection, volume_id: str) -> Volume:
    """One volume, of any project.

    :raises NotFound: there is none
    """
    return read(connection, "block_storage", f"/volumes/{volume_id}", _volume, microversion=MICROVERSION)


def volumes_in_use(connection: Connection, volume_ids: Collection[str], project_id: str) -> dict[str, Volume]:
    """Volumes of one server by id; those that cinder does not know are left out.

    A few are asked for one by one. Of more, the project's volumes that are in use are listed, a page of :data:`PAGE`;
    only those that are not on it (of another project or status) are asked for one by one.

    :param project_id: of the server
    """
    found: dict[str, Volume] = {}
    if len(volume_ids) > FEW_VOLUMES:
        params = {"all_tenants": "1", "project_id": project_id, "status": "in-use", "limit": str(PAGE)}
        listed = read(
            connection, "block_storage", "/volumes/detail", _volumes, params=params, microversion=MICROVERSION
        )
        found = {volume.id: volume for volume in listed if volume.id in volume_ids}
    for volume_id in sorted(set(volume_ids) - set(found)):
        with suppress(NotFound):
            found[volume_id] = get_volume(connection, volume_id)
    return found


def _volume(body: Body) -> Volume:
    return _volume_of(body["volume"])


def _volumes(body: Body) -> list[Volume]:
    return [_volume_of(each) for each in body["volumes"]]


def _volume_of(volume: Body) -> Volume:
    return Volume(
        id=volume["id"],
        status=volume["status"],
        bootable=str(volume.get("bootable")).lower() == "true",
        size=int(volume["size"]),
        multiattach=bool(volume.get("multiattach")),
        encrypted=bool(volume.get("encrypted")),
        volume_type=volume.get("volume_type") or "",
        project_id=volume.get("os-vol-tenant-attr:tenant_id") or "",
        zone=volume.get("availability_zone") or "",
    )


def attachments_of(connection: Connection, server_id: str, volume_id: str = "") -> list[Attachment]:
    """The server's attachments, of all projects, in the order of their ids.

    :param volume_id: only those to this volume; empty for all
    """
    params = {"all_tenants": "1", "instance_id": server_id}
    if volume_id:
        params["volume_id"] = volume_id
    found = read(
        connection, "block_storage", "/attachments/detail", _attachments, params=params, microversion=MICROVERSION
    )
    wanted = [
        attachment
        for attachment in found
        if attachment.server_id == server_id and volume_id in ("", attachment.volume_id)
    ]
    return sorted(wanted, key=lambda attachment: attachment.id)


def lost_attachments(connection: Connection, server_id: str, known: Collection[str]) -> dict[str, str]:
    """The server's attachments whose ids an earlier try did not learn, by volume, in one call.

    :param known: ids of the attachments that the server had before that try
    """
    return {each.volume_id: each.id for each in attachments_of(connection, server_id) if each.id not in known}


def all_states(connection: Connection) -> Iterator[tuple[str, str, str]]:
    """The ids, statuses and availability zones of all volumes of all projects, a page a call."""
    return _listed(connection, "/volumes/detail", "volumes", {}, _state)


def _state(body: Fields) -> tuple[str, str, str]:
    return body["id"], body["status"], body.get("availability_zone") or ""


def all_attachments(connection: Connection) -> Iterator[Attachment]:
    """All attachments of servers, of all projects, a page a call. Not the detailed list, see :func:`reserved_attachments`."""
    found = _listed(connection, "/attachments", "attachments", {}, _attachment)
    return (each for each in found if each.server_id)


def reserved_attachments(connection: Connection) -> Iterator[Attachment]:
    """Yield all empty attachments of servers, of all projects, a page a call. Those without a server are left out.

    The filter is ``attach_status``: for ``status``, which the answers call it, cinder finds nothing. Not the detailed list: that one shows what a host is given to connect with.
    """
    found = _listed(connection, "/attachments", "attachments", {"attach_status": "reserved"}, _attachment)
    return (each for each in found if each.server_id and each.status == "reserved")


def _listed(
    connection: Connection, path: str, what: str, wanted: Mapping[str, str], make: Callable[[Body], T]
) -> Iterator[T]:
    """All items of a list, page by page.

    :param make: makes an item of its body
    """
    params = {"all_tenants": "1", **wanted, "limit": str(PAGE)}
    while True:
        page = read(
            connection,
            "block_storage",
            path,
            lambda body: [(make(item), item["id"]) for item in body[what]],
            params=params,
            microversion=MICROVERSION,
        )
        yield from (item for item, _id in page)
        if not page:  # cinder may give fewer than asked for, and not always says that there is a next page
            return
        params["marker"] = page[-1][1]


def get_attachment(connection: Connection, attachment_id: str) -> Attachment:
    """One attachment.

    :raises NotFound: there is none
    """
    path = f"/attachments/{attachment_id}"
    return read(
        connection, "block_storage", path, lambda body: _attachment(body["attachment"]), microversion=MICROVERSION
    )


def _attachments(body: Body) -> list[Attachment]:
    return [_attachment(each) for each in body["attachments"]]


def _attachment(body: Body) -> Attachment:
    return Attachment(
        id=body["id"],
        volume_id=body["volume_id"],
        server_id=body.get("instance") or body.get("instance_uuid") or "",
        status=body.get("status") or "",
    )


def create_empty_attachment(connection: Connection, volume_id: str, server_id: str) -> str:
    """Reserve the volume for the server once more, for a host that will fill in its connector later.

    Not idempotent, since cinder chooses the id: after an uncertain answer look at
    :func:`attachments_of` for one that is ``reserved`` and not known.

    :returns: the id of the new attachment
    :raises CallFailed: refused, for instance because of the volume's status (``kind`` 400)
    """
    body = {"attachment": {"volume_uuid": volume_id, "instance_uuid": server_id, "connector": None}}
    response = request(connection, "block_storage", "POST", "/attachments", json=body, microversion=MICROVERSION)
    return parsed(response, "block_storage", lambda answer: str(answer["attachment"]["id"]))


def complete_attachment(connection: Connection, attachment_id: str) -> None:
    """Say that a host uses the volume now (``os-complete``); fine when that was said before.

    :raises CallFailed: refused, for instance because no host has filled in its connector
    """
    path = f"/attachments/{attachment_id}/action"
    request(connection, "block_storage", "POST", path, json={"os-complete": attachment_id}, microversion=MICROVERSION)


def delete_attachment(connection: Connection, attachment_id: str, *, service: Connection | None = None) -> None:
    """Delete an attachment; fine when it is gone.

    An empty one needs nothing special. One that nova uses is refused (409,
    ``ConflictNovaUsingAttachment``, since CVE-2023-2088) unless a service token goes with the call;
    being logged in as a service is not enough.

    :param service: the service connection, to delete one that nova uses; to leave it out is the
        safety catch for calls that mean an empty one
    :raises CallFailed: refused
    """
    headers = {"X-Service-Token": rpc_credentials(service)[0]} if service is not None else None
    path = f"/attachments/{attachment_id}"
    request(connection, "block_storage", "DELETE", path, microversion=MICROVERSION, headers=headers, accept={404})
