"""The notifications that nova's conductor sends about a move.

Unversioned ones follow ``info_from_instance`` of nova/notifications/base.py, versioned ones
``InstanceActionPayload`` of nova/notifications/objects/instance.py, 1.9 with shares or 1.8 without.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.hosts.bus import Bus, notify
from cellmove.hosts.conductor import data
from cellmove.hosts.transport import Notification, Primitive, RpcContext

if TYPE_CHECKING:
    from cellmove.core.nova_conf import Notifications

Payload = Primitive

INSTANCE_FIELDS = (
    "uuid",
    "user_id",
    "reservation_id",
    "display_name",
    "display_description",
    "host",
    "node",
    "os_type",
    "architecture",
    "availability_zone",
    "key_name",
    "kernel_id",
    "ramdisk_id",
    "created_at",
    "launched_at",
    "terminated_at",
    "deleted_at",
    "updated_at",
    "task_state",
    "progress",
    "metadata",
    "locked",
)
"""Fields of a versioned payload that have the same name in the Instance object."""

FLAVOR_FIELDS = (
    "flavorid",
    "memory_mb",
    "vcpus",
    "root_gb",
    "ephemeral_gb",
    "name",
    "swap",
    "rxtx_factor",
    "vcpu_weight",
    "disabled",
    "is_public",
    "extra_specs",
    "description",
)
"""Fields of a FlavorPayload that have the same name in the Flavor object."""

POWER_STATES = {0: "pending", 1: "running", 3: "paused", 4: "shutdown", 6: "crashed", 7: "suspended"}

LEGACY_ACTIONS = {"resize_confirm": "resize.confirm", "resize_revert": "resize.revert"}


@dataclass(frozen=True)
class Event:
    """The event that a notification reports.

    :param action: ``resize_confirm`` or ``resize_revert``
    :param phase: ``start`` or ``end``
    :param host: of the conductor that nova would name as the sender
    :param with_shares: whether the versioned payload of that release names shares
    """

    action: str
    phase: str
    host: str
    with_shares: bool = True


def send(bus: Bus, options: Notifications, context: RpcContext, instance: Primitive, event: Event) -> None:
    """Send the notifications that nova is configured to send, as nova's conductor would.

    The context contains neither token nor catalog: a listener has no use for an administrator's credential.

    :param context: a request context (:mod:`cellmove.hosts.context`)
    :param instance: the Instance primitive
    :raises CannotConnect: the bus did not accept a notification
    """
    bare = {**context, "auth_token": None, "service_catalog": []}
    if options.form in ("both", "unversioned"):
        payload = unversioned(instance, image_endpoint(context["service_catalog"]))
        name = f"compute.instance.{LEGACY_ACTIONS[event.action]}.{event.phase}"
        notify(bus, bare, Notification(options.driver, options.topics, f"compute.{event.host}", name, payload))
    if options.form in ("both", "versioned"):
        payload = versioned(context, instance, with_shares=event.with_shares)
        name = f"instance.{event.action}.{event.phase}"
        sender = f"nova-compute:{event.host}"
        notify(bus, bare, Notification(options.driver, options.versioned_topics, sender, name, payload))


def image_endpoint(catalog: Sequence[Primitive]) -> str:
    """Return glance's address without its version; empty when the catalog has none.

    :param catalog: in keystone's v2 form
    """
    for service in catalog:
        if service["type"] == "image":
            endpoint = service["endpoints"][0]
            return re.sub(r"/v\d+(\.\d+)?/?$", "/", endpoint.get("internalURL") or endpoint["publicURL"])
    return ""


def unversioned(instance: Primitive, glance: str) -> Payload:
    """Return the payload of an unversioned notification.

    :param glance: the address of the image service, for ``image_ref_url``
    """
    fields = data(instance)
    flavor = data(fields["flavor"])
    image = {key[6:]: value for key, value in fields["system_metadata"].items() if key.startswith("image_")}
    created = _moment(fields["created_at"])
    return {
        "tenant_id": fields["project_id"],
        "user_id": fields["user_id"],
        "instance_id": fields["uuid"],
        "display_name": fields["display_name"],
        "reservation_id": fields["reservation_id"],
        "hostname": fields["hostname"],
        "instance_type": flavor["name"],
        "instance_type_id": fields["instance_type_id"],
        "instance_flavor_id": flavor["flavorid"],
        "architecture": fields["architecture"],
        "memory_mb": flavor["memory_mb"],
        "disk_gb": flavor["root_gb"] + flavor["ephemeral_gb"],
        "vcpus": flavor["vcpus"],
        "root_gb": flavor["root_gb"],
        "ephemeral_gb": flavor["ephemeral_gb"],
        "host": fields["host"],
        "node": fields["node"],
        "availability_zone": fields["availability_zone"],
        "cell_name": fields.get("cell_name") or "",
        "created_at": str(created),
        **{name: _legacy_time(fields[name]) for name in ("terminated_at", "deleted_at", "launched_at")},
        "image_ref_url": f"{glance}/images/{fields['image_ref']}",
        "os_type": fields["os_type"],
        "kernel_id": fields["kernel_id"],
        "ramdisk_id": fields["ramdisk_id"],
        "state": fields["vm_state"],
        "state_description": fields["task_state"] or "",
        "progress": fields["progress"] or "",
        "access_ip_v4": fields["access_ip_v4"],
        "access_ip_v6": fields["access_ip_v6"],
        "image_meta": image,
        "metadata": fields["metadata"],
    }


def versioned(context: RpcContext, instance: Primitive, *, with_shares: bool) -> Payload:
    """Return the payload of a versioned notification about an action that succeeded."""
    fields = data(instance)
    return _object(
        "InstanceActionPayload",
        "1.9" if with_shares else "1.8",
        {
            **{name: fields[name] for name in INSTANCE_FIELDS},
            "tenant_id": fields["project_id"],
            "host_name": fields["hostname"],
            "image_uuid": fields["image_ref"],
            "state": fields["vm_state"],
            "power_state": POWER_STATES.get(fields["power_state"]),
            "auto_disk_config": "AUTO" if fields["auto_disk_config"] else "MANUAL",
            "flavor": _flavor(data(fields["flavor"])),
            "ip_addresses": _addresses(fields["info_cache"]),
            "block_devices": None,
            **({"shares": None} if with_shares else {}),
            "fault": None,
            "request_id": context["request_id"],
            "action_initiator_user": context["user_id"],
            "action_initiator_project": context["project_id"],
            "locked_reason": fields["system_metadata"].get("locked_reason"),
        },
    )


def _flavor(fields: Primitive) -> Payload:
    known = {name: fields.get(name) for name in FLAVOR_FIELDS}
    return _object("FlavorPayload", "1.4", {**known, "projects": fields.get("projects")})


def _addresses(info_cache: Primitive | None) -> list[Payload]:
    stored = data(info_cache)["network_info"] if info_cache else None
    network_info = json.loads(stored) if isinstance(stored, str) else stored or []
    return [
        _object(
            "IpPayload",
            "1.0",
            {
                "label": vif["network"]["label"],
                "mac": vif["address"],
                "port_uuid": vif["id"],
                "meta": {key: str(value) for key, value in vif["meta"].items()},
                "version": address["version"],
                "address": address["address"],
                "device_name": vif["devname"],
            },
        )
        for vif in network_info
        for subnet in (vif["network"] or {}).get("subnets", ())
        for address in subnet["ips"]
    ]


def _object(name: str, version: str, fields: Payload) -> Payload:
    return {
        "nova_object.name": name,
        "nova_object.namespace": "nova",
        "nova_object.version": version,
        "nova_object.data": fields,
    }


def _moment(text: str | None) -> datetime.datetime | None:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None


def _legacy_time(text: str | None) -> str:
    moment = _moment(text)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") if moment else ""
