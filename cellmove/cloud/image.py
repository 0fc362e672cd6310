"""The temporary image in glance by which an image-backed server's root disk travels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.cloud.identity import caller, read, request
from cellmove.cloud.types import Body, Resource
from cellmove.core.errors import CallFailed, NotFound

if TYPE_CHECKING:
    from openstack.connection import Connection

SUFFIX = "-resize-temp"  # nova/compute/utils.py, create_image, as the conductor calls it
PAGE = 1000  # images of one answer; the cloud may give fewer
PREFIX = "image_"  # nova/utils.py SM_IMAGE_PROP_PREFIX
TOP_LEVEL = frozenset({"min_ram", "min_disk"})  # SM_INHERITABLE_KEYS without the formats
FORMATS = frozenset({"disk_format", "container_format"})  # set by the driver at upload
SKIPPED = frozenset({"mappings", "block_device_mapping", "img_mappings", "img_block_device_mapping"})
NOT_INHERITED = frozenset(  # nova/compute/utils.py NON_INHERITABLE_IMAGE_PROPERTIES
    {
        "cinder_encryption_key_id",
        "cinder_encryption_key_deletion_policy",
        "img_signature",
        "img_signature_hash_method",
        "img_signature_key_type",
        "img_signature_certificate_uuid",
    }
)
NOT_INHERITED_NAMESPACE = "os_glance"
READ_ONLY = frozenset({"status", "updated_at", "created_at", "deleted_at"})  # nova/image/glance.py _remove_read_only


@dataclass(frozen=True)
class TemporaryImage:
    """The image that the source host uploads the root disk to.

    :param image_id: the id that the image will have
    :param server_name: ``instances.display_name``
    :param project_id: the server's
    :param system_metadata: ``instance_system_metadata`` of the server
    :param not_inherited: ``[DEFAULT]non_inheritable_image_properties`` of nova.conf
    """

    image_id: str
    server_id: str
    server_name: str
    project_id: str
    system_metadata: Mapping[str, str]
    not_inherited: Iterable[str] = ("cache_in_nova", "bittorrent")


def create_temporary_image(connection: Connection, image: TemporaryImage) -> None:
    """Create the empty image.

    The body is nova's (``create_image``, nova/compute/utils.py, called with ``<name>-resize-temp``). If the server belongs to
    another project than the credential, the image is ``shared`` and that project becomes a member.

    The call is idempotent: an image with that id that belongs to this server is kept, and a missing membership is added.

    :raises CallFailed: refused; ``kind`` is ``foreign`` when the id belongs to another image
    """
    own = caller(connection)
    is_foreign = own["project_id"] != image.project_id
    body = image_body(image, user_id=own["user_id"], shared=is_foreign)
    response = request(connection, "image", "POST", "/images", json=body, accept={409})
    if response.status_code == 409 and _server_of(connection, image.image_id) != image.server_id:
        raise CallFailed(f"the image id {image.image_id} belongs to another image", kind="foreign")
    if is_foreign:
        # 409: is a member already.
        path = f"/images/{image.image_id}/members"
        request(connection, "image", "POST", path, json={"member": image.project_id}, accept={409})


def _server_of(connection: Connection, image_id: str) -> str:
    try:
        return str(get_image(connection, image_id).get("instance_uuid") or "")
    except NotFound:
        return ""  # not ours to see, or deleted: glance never gives out an id twice


def image_body(image: TemporaryImage, *, user_id: str, shared: bool) -> Resource:
    """Return the body that creates the image.

    Follows ``get_image_from_system_metadata`` (nova/utils.py), which takes *every* key of
    ``system_metadata`` and only strips the prefix ``image_``, then
    ``initialize_instance_snapshot_metadata`` (nova/compute/utils.py) and the conversion in
    nova/image/glance.py.

    :param shared: whether the image is for another project than the caller's
    :returns: the body of ``POST /v2/images``
    """
    unwanted = SKIPPED | NOT_INHERITED | FORMATS | READ_ONLY | frozenset(image.not_inherited)
    body: Resource = {}
    for stored, value in image.system_metadata.items():
        key = stored.removeprefix(PREFIX)
        if value is None or key in unwanted or key.startswith(NOT_INHERITED_NAMESPACE):
            continue
        if key in TOP_LEVEL:
            try:
                body[key] = int(value)
            except ValueError:  # "None", for instance: nova's own snapshot would fail at it
                continue
        elif key not in ("kernel_id", "ramdisk_id") or value.strip().lower() not in ("none", ""):
            body[key] = str(value)
    # These win over what the server's image had.
    return body | {
        "id": image.image_id,
        "name": f"{image.server_name}{SUFFIX}",
        "visibility": "shared" if shared else "private",
        "instance_uuid": image.server_id,
        "user_id": user_id,
        "image_type": "snapshot",
    }


def get_image(connection: Connection, image_id: str) -> Resource:
    """One image as glance gives it: properties stand beside ``status``, ``size`` (bytes), ``visibility``.

    :raises NotFound: there is none, or we may not see it
    """
    return read(connection, "image", f"/images/{image_id}", _image)


def _image(body: Body) -> Resource:
    image: Resource = dict(body)
    image["id"]  # what is no image has none
    return image


def _images(body: Body) -> list[Resource]:
    return [_image(image) for image in body["images"]]


def temporary_images(connection: Connection, server_id: str) -> list[Resource]:
    """The images by which a cross-cell move of this server lets its root disk travel, ours or nova's own."""
    params = {"instance_uuid": server_id, "image_type": "snapshot", "sort": "created_at:asc"}
    return [
        image
        for image in read(connection, "image", "/images", _images, params=params)
        if image.get("instance_uuid") == server_id and str(image.get("name")).endswith(SUFFIX)
    ]


def all_temporary_images(connection: Connection) -> Iterator[Resource]:
    """The temporary images of all servers' moves, of all projects, a page a call."""
    params: dict[str, str] = {"image_type": "snapshot", "visibility": "all", "limit": str(PAGE)}
    while True:
        images, more = read(
            connection, "image", "/images", lambda body: (_images(body), body.get("next")), params=params
        )
        for image in images:
            if image.get("instance_uuid") and str(image.get("name")).endswith(SUFFIX):
                yield image
        if not more or not images:
            return
        params = params | {"marker": images[-1]["id"]}


def image_exists(connection: Connection, image_id: str) -> bool:
    """Whether the image is there."""
    try:
        return get_image(connection, image_id).get("status") not in ("deleted", "pending_delete")
    except NotFound:
        return False


def delete_image(connection: Connection, image_id: str) -> None:
    """Delete an image; fine when it is gone.

    :raises CallFailed: refused; 409 while an upload or a clone holds it
    """
    request(connection, "image", "DELETE", f"/images/{image_id}", accept={404, 410})
