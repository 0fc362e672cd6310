"""Versioned objects, fetched as primitives from nova's own conductors (the indirection API).

Objects that a cell's own conductor made are always understood by that cell's computes, whatever
their release; that is why nothing here builds one by hand. Objects of the API database (flavors,
request specs) come from the superconductor on the API-level bus.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cellmove.core.errors import CallFailed
from cellmove.hosts.bus import Bus, Target, call

Primitive = dict[str, Any]

CONDUCTOR = Target(topic="conductor", version="3.0")

NEWEST = {"Instance": "2.8", "Migration": "1.8", "RequestSpec": "1.15", "Flavor": "1.2"}
"""The newest versions known here; an older conductor names its own and is asked again."""

INSTANCE_ATTRIBUTES = (
    "flavor", "info_cache", "metadata", "system_metadata", "numa_topology", "pci_requests",
    "migration_context", "vcpu_model", "trusted_certs", "resources", "device_metadata",
)  # fmt: skip
"""What is loaded with an instance. Not pci_devices and services: they belong to a host, not a server."""


def fetch(
    bus: Bus, context: Mapping[str, Any], name: str, method: str, arguments: Sequence[Any], **keywords: Any
) -> Primitive:
    """One object from a conductor, clean: without any pending change.

    A primitive's ``nova_object.changes`` would be written by the receiver's first save, so they are
    taken off at every depth (RequestSpec.get_by_instance_uuid does come with some).

    :raises CallFailed: ``kind`` is the remote exception's class, such as InstanceNotFound
    """
    version = NEWEST[name]
    try:
        answer = _ask(bus, context, name, method, version, arguments, keywords)
    except CallFailed as error:
        supported = re.search(r"supported version is (\d+\.\d+)", str(error))
        if error.kind != "IncompatibleObjectVersion" or supported is None:
            raise
        answer = _ask(bus, context, name, method, supported.group(1), arguments, keywords)
    cleaned: Primitive = without_changes(answer)
    try:
        data(cleaned)
    except CallFailed as error:
        raise CallFailed(f"{name}.{method} on the bus of {bus.name}: {error}", kind=error.kind) from None
    return cleaned


def _ask(
    bus: Bus, context: Mapping[str, Any], name: str, method: str, version: str,
    arguments: Sequence[Any], keywords: Mapping[str, Any],
) -> Any:  # fmt: skip
    return call(
        bus,
        CONDUCTOR,
        context,
        "object_class_action_versions",
        {
            "objname": name,
            "objmethod": method,
            "object_versions": {name: version},
            "args": list(arguments),
            "kwargs": dict(keywords),
        },
    )


def without_changes(value: Any) -> Any:
    """A primitive without ``nova_object.changes``, at every depth."""
    if isinstance(value, Mapping):
        return {key: without_changes(item) for key, item in value.items() if key != "nova_object.changes"}
    if isinstance(value, list):
        return [without_changes(item) for item in value]
    return value


def instance(bus: Bus, context: Mapping[str, Any], server_id: str) -> Primitive:
    """The Instance object of a server in the bus's cell."""
    return fetch(bus, context, "Instance", "get_by_uuid", [server_id], expected_attrs=list(INSTANCE_ATTRIBUTES))


def migration(bus: Bus, context: Mapping[str, Any], migration_uuid: str) -> Primitive:
    """The Migration object with this uuid in the bus's cell."""
    return fetch(bus, context, "Migration", "get_by_uuid", [migration_uuid])


def request_spec(bus: Bus, context: Mapping[str, Any], server_id: str) -> Primitive:
    """The RequestSpec object of a server, from the superconductor."""
    return fetch(bus, context, "RequestSpec", "get_by_instance_uuid", [server_id])


def flavor(bus: Bus, context: Mapping[str, Any], flavor_id: str) -> Primitive:
    """The Flavor object with this flavorid, from the superconductor."""
    return fetch(bus, context, "Flavor", "get_by_flavor_id", [flavor_id])


def data(primitive: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an object primitive.

    :raises CallFailed: it is none; ``kind`` is ``answer``
    """
    fields = primitive.get("nova_object.data") if isinstance(primitive, Mapping) else None
    if not isinstance(fields, dict):
        raise CallFailed("the answer is no object of nova's, and is not understood", kind="answer")
    return fields
