"""What nova's conductor tells the listeners of a move: payloads from an Instance primitive, and their sending.

Unversioned ones follow ``info_from_instance`` of nova/notifications/base.py, versioned ones
``InstanceActionPayload`` of nova/notifications/objects/instance.py, 1.9 with shares or 1.8 without.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cellmove.hosts.bus import Bus, Notice, notify
from cellmove.hosts.conductor import data

if TYPE_CHECKING:
    from cellmove.core.nova_conf import Notifications

Payload = dict[str, Any]

SAME = (
    "uuid", "user_id", "reservation_id", "display_name", "display_description", "host", "node", "os_type",
    "architecture", "availability_zone", "key_name", "kernel_id", "ramdisk_id", "created_at", "launched_at",
    "terminated_at", "deleted_at", "updated_at", "task_state", "progress", "metadata", "locked",
)  # fmt: skip
"""Fields of a versioned payload that are called as in the Instance object."""

OF_FLAVOR = (
    "flavorid", "memory_mb", "vcpus", "root_gb", "ephemeral_gb", "name", "swap", "rxtx_factor", "vcpu_weight",
    "disabled", "is_public", "extra_specs", "description",
)  # fmt: skip

POWER_STATES = {0: "pending", 1: "running", 3: "paused", 4: "shutdown", 6: "crashed", 7: "suspended"}

LEGACY_ACTIONS = {"resize_confirm": "resize.confirm", "resize_revert": "resize.revert"}


def send(
    bus: Bus, options: Notifications, context: Mapping[str, Any], instance: Mapping[str, Any], *,
    action: str, phase: str, host: str, with_shares: bool = True,
) -> None:  # fmt: skip
    """Send what nova is configured to send of a server, as nova's conductor would.

    The context goes without token and catalog: whoever listens has no use for an administrator's.

    :param context: a request context (:mod:`cellmove.hosts.context`)
    :param instance: the Instance primitive
    :param action: ``resize_confirm`` or ``resize_revert``
    :param phase: ``start`` or ``end``
    :param host: whose conductor it would be
    :param with_shares: whether that release's versioned payload names shares
    :raises CannotConnect: the bus did not take one
    """
    bare = {**context, "auth_token": None, "service_catalog": []}
    if options.form in ("both", "unversioned"):
        legacy = unversioned(instance, image_endpoint(context["service_catalog"]))
        event = f"compute.instance.{LEGACY_ACTIONS[action]}.{phase}"
        notify(bus, bare, Notice(options.driver, options.topics, f"compute.{host}", event, legacy))
    if options.form in ("both", "versioned"):
        payload, event = versioned(context, instance, with_shares=with_shares), f"instance.{action}.{phase}"
        notify(bus, bare, Notice(options.driver, options.versioned_topics, f"nova-compute:{host}", event, payload))


def image_endpoint(catalog: list[Mapping[str, Any]]) -> str:
    """glance's address without its version, from a catalog in keystone's v2 form; empty when it names none."""
    for service in catalog:
        if service["type"] == "image":
            endpoint = service["endpoints"][0]
            return re.sub(r"/v\d+(\.\d+)?/?$", "/", endpoint.get("internalURL") or endpoint["publicURL"])
    return ""


def unversioned(instance: Mapping[str, Any], glance: str) -> Payload:
    """The payload of an unversioned notification.

    :param glance: the address of the image service, for ``image_ref_url``
    """
    fields = data(instance)
    flavor = data(fields["flavor"])
    image = {key[6:]: value for key, value in fields["system_metadata"].items() if key.startswith("image_")}
    created = _moment(fields["created_at"])
    return {
        "tenant_id": fields["project_id"], "user_id": fields["user_id"], "instance_id": fields["uuid"],
        "display_name": fields["display_name"], "reservation_id": fields["reservation_id"],
        "hostname": fields["hostname"], "instance_type": flavor["name"],
        "instance_type_id": fields["instance_type_id"], "instance_flavor_id": flavor["flavorid"],
        "architecture": fields["architecture"], "memory_mb": flavor["memory_mb"],
        "disk_gb": flavor["root_gb"] + flavor["ephemeral_gb"], "vcpus": flavor["vcpus"],
        "root_gb": flavor["root_gb"], "ephemeral_gb": flavor["ephemeral_gb"], "host": fields["host"],
        "node": fields["node"], "availability_zone": fields["availability_zone"],
        "cell_name": fields.get("cell_name") or "", "created_at": str(created),
        **{name: _legacy_time(fields[name]) for name in ("terminated_at", "deleted_at", "launched_at")},
        "image_ref_url": f"{glance}/images/{fields['image_ref']}", "os_type": fields["os_type"],
        "kernel_id": fields["kernel_id"], "ramdisk_id": fields["ramdisk_id"], "state": fields["vm_state"],
        "state_description": fields["task_state"] or "", "progress": fields["progress"] or "",
        "access_ip_v4": fields["access_ip_v4"], "access_ip_v6": fields["access_ip_v6"], "image_meta": image,
        "metadata": fields["metadata"],
    }  # fmt: skip


def versioned(context: Mapping[str, Any], instance: Mapping[str, Any], *, with_shares: bool) -> Payload:
    """The payload of a versioned notification about an action that went well."""
    fields = data(instance)
    return _object(
        "InstanceActionPayload",
        "1.9" if with_shares else "1.8",
        {
            **{name: fields[name] for name in SAME},
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


def _flavor(fields: Mapping[str, Any]) -> Payload:
    known = {name: fields.get(name) for name in OF_FLAVOR}
    return _object("FlavorPayload", "1.4", {**known, "projects": fields.get("projects")})


def _addresses(info_cache: Mapping[str, Any] | None) -> list[Payload]:
    stored = data(info_cache)["network_info"] if info_cache else None
    network_info = json.loads(stored) if isinstance(stored, str) else stored or []
    return [
        _object(
            "IpPayload",
            "1.0",
            {
                "label": vif["network"]["label"], "mac": vif["address"], "port_uuid": vif["id"],
                "meta": {key: str(value) for key, value in vif["meta"].items()}, "version": address["version"],
                "address": address["address"], "device_name": vif["devname"],
            },
        )
        for vif in network_info
        for subnet in (vif["network"] or {}).get("subnets", ())
        for address in subnet["ips"]
    ]  # fmt: skip


def _object(name: str, version: str, fields: Payload) -> Payload:
    return {
        "nova_object.name": name, "nova_object.namespace": "nova", "nova_object.version": version,
        "nova_object.data": fields,
    }  # fmt: skip


def _moment(text: str | None) -> datetime.datetime | None:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None


def _legacy_time(text: str | None) -> str:
    moment = _moment(text)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") if moment else ""
