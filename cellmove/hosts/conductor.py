"""Versioned objects, fetched as primitives from nova's own conductors (the indirection API).

The computes of a cell understand every object that their own conductor made, whatever their release. Therefore this module
builds no object itself. Objects of the API database (flavors, request specs) come from the superconductor on the API-level bus.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cellmove.core.errors import CallFailed
from cellmove.hosts.bus import Bus, call
from cellmove.hosts.transport import Primitive, Result, RpcContext, Target

CONDUCTOR = Target(topic="conductor", version="3.0")

NEWEST = {"Instance": "2.8", "Migration": "1.8", "RequestSpec": "1.15", "Flavor": "1.2"}
"""The newest versions that cellmove knows. An older conductor names its own version, and the call is repeated with that."""

INSTANCE_ATTRIBUTES = (
    "flavor",
    "info_cache",
    "metadata",
    "system_metadata",
    "numa_topology",
    "pci_requests",
    "migration_context",
    "vcpu_model",
    "trusted_certs",
    "resources",
    "device_metadata",
)
"""The attributes that are loaded with an instance. Not pci_devices and services: they belong to a host, not to a server."""


@dataclass(frozen=True)
class Query:
    """A class method of a versioned object, to be run by a conductor.

    :param name: the object's class
    """

    name: str
    method: str
    arguments: tuple[str, ...]
    keywords: Mapping[str, Sequence[str]] = field(default_factory=dict)
    version: str = ""


def fetch(bus: Bus, context: RpcContext, query: Query) -> Primitive:
    """Fetch one object from a conductor, without any pending change.

    The receiver's first save would write the ``nova_object.changes`` of a primitive. RequestSpec.get_by_instance_uuid
    returns some, so this function removes them at every depth.

    :raises CallFailed: ``kind`` is the class of the conductor's exception, such as InstanceNotFound
    """
    try:
        result = _ask(bus, context, replace(query, version=NEWEST[query.name]))
    except CallFailed as error:
        supported = re.search(r"supported version is (\d+\.\d+)", str(error))
        if error.kind != "IncompatibleObjectVersion" or supported is None:
            raise
        result = _ask(bus, context, replace(query, version=supported.group(1)))
    cleaned: Primitive = without_changes(result)
    try:
        data(cleaned)
    except CallFailed as error:
        raise CallFailed(f"{query.name}.{query.method} on the bus of {bus.name}: {error}", kind=error.kind) from None
    return cleaned


def _ask(bus: Bus, context: RpcContext, query: Query) -> Result:
    arguments = {
        "objname": query.name,
        "objmethod": query.method,
        "object_versions": {query.name: query.version},
        "args": list(query.arguments),
        "kwargs": dict(query.keywords),
    }
    return call(bus, CONDUCTOR, context, "object_class_action_versions", arguments)


def without_changes(value: Result) -> Result:
    """Return a primitive without ``nova_object.changes``, at every depth."""
    if isinstance(value, Mapping):
        return {key: without_changes(item) for key, item in value.items() if key != "nova_object.changes"}
    if isinstance(value, list):
        return [without_changes(item) for item in value]
    return value


def instance(bus: Bus, context: RpcContext, server_id: str) -> Primitive:
    """Return the Instance object of a server in the bus's cell."""
    attributes = {"expected_attrs": list(INSTANCE_ATTRIBUTES)}
    return fetch(bus, context, Query("Instance", "get_by_uuid", (server_id,), attributes))


def migration(bus: Bus, context: RpcContext, migration_uuid: str) -> Primitive:
    """Return the Migration object with this UUID in the bus's cell."""
    return fetch(bus, context, Query("Migration", "get_by_uuid", (migration_uuid,)))


def request_spec(bus: Bus, context: RpcContext, server_id: str) -> Primitive:
    """Return the RequestSpec object of a server, from the superconductor."""
    return fetch(bus, context, Query("RequestSpec", "get_by_instance_uuid", (server_id,)))


def flavor(bus: Bus, context: RpcContext, flavor_id: str) -> Primitive:
    """Return the Flavor object with this flavorid, from the superconductor."""
    return fetch(bus, context, Query("Flavor", "get_by_flavor_id", (flavor_id,)))


def data(primitive: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an object primitive.

    :raises CallFailed: the value is no object primitive; ``kind`` is ``answer``
    """
    fields = primitive.get("nova_object.data") if isinstance(primitive, Mapping) else None
    if not isinstance(fields, dict):
        raise CallFailed("the answer is not a versioned object of nova", kind="answer")
    return fields
