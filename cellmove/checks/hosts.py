"""Why nova's scheduler may have refused a host. It gives no reason itself: these are its filters' rules.

Which filters a cloud has switched on is not known here, so that these words only explain a refusal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellmove.checks.snapshot import likely_nodes
from cellmove.db.shapes import object_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cellmove.checks.snapshot import ServerSnapshot, Target
    from cellmove.db.shapes import Aggregate, Node

SHOWN = 3
"""How many hosts of a cell are explained."""

TENANT = "filter_tenant_id"


def explanation(target: Target, snapshot: ServerSnapshot) -> tuple[str, str]:
    """What is known of the refusal of all hosts of a cell (or of the one that is wanted), and what to do about it.

    :returns: a text, empty when no rule explains it, and a remedy
    """
    log = f"look in the log of nova-scheduler, which names the filter: {snapshot.no_host[target.uuid].request_id}"
    known = {node.host: list(reasons(node, snapshot)) for node in likely_nodes(target, snapshot)}
    explained = {host: found for host, found in known.items() if found}
    if not explained:
        return "", log
    text = "; ".join(f"{host}: {', '.join(found)}" for host, found in list(explained.items())[:SHOWN])
    if len(explained) > SHOWN:
        text += f"; and {len(explained) - SHOWN} more"
    other = (
        "name another host with --host, or another cell with --cell" if snapshot.wanted_host else "name another cell"
    )
    return text, f"{other}; or {log}"


def reasons(node: Node, snapshot: ServerSnapshot) -> Iterator[str]:
    """What the scheduler's filters have against a host."""
    required, properties = required_traits(snapshot), image_properties(snapshot)
    own = [aggregate for aggregate in snapshot.aggregates if node.host in aggregate.hosts]
    yield from _of_traits(own, required)
    yield from _of_metadata(own, snapshot, properties)
    for what, able in sorted(snapshot.narrowed.items()):
        if node.uuid not in able:
            yield f"the flavor asks for {what}"
    group = snapshot.group
    if (
        group is not None
        and group.policy == "affinity"
        and snapshot.group_hosts
        and node.host not in snapshot.group_hosts
    ):
        yield f"the server group {group.name} (affinity) is on {', '.join(snapshot.group_hosts)}"
    if group is not None and group.policy == "anti-affinity" and node.host in snapshot.group_hosts:
        yield f"another member of the server group {group.name} (anti-affinity) is there"


def _of_traits(aggregates: Sequence[Aggregate], required: frozenset[str]) -> Iterator[str]:
    """Which of the host's aggregates are only for other servers: ``isolate_aggregates`` of nova/scheduler/request_filter.py."""
    for aggregate in aggregates:
        for key, value in sorted(aggregate.metadata.items()):
            trait = key.removeprefix("trait:")
            if trait != key and value == "required" and trait not in required:
                yield f"its aggregate {aggregate.name} is only for servers whose flavor or image requires the trait {trait}"


def _of_metadata(
    aggregates: Sequence[Aggregate], snapshot: ServerSnapshot, properties: Mapping[str, str]
) -> Iterator[str]:
    """What the metadata of the host's aggregates has against the server. The values of all of them count together.

    In nova/scheduler/filters ``aggregate_image_properties_isolation.py``, ``aggregate_multitenancy_isolation.py`` and
    ``type_filter.py``, which read them with ``utils.aggregate_metadata_get_by_host``.
    """
    wanted = snapshot.new_flavor or snapshot.flavor
    options: dict[str, set[str]] = {}
    names: dict[str, list[str]] = {}
    for aggregate in aggregates:
        for key, value in aggregate.metadata.items():
            options.setdefault(key, set()).update(option.strip() for option in value.split(","))
            names.setdefault(key, []).append(aggregate.name)
    for key, allowed in sorted(options.items()):
        where, listed = " and ".join(names[key]), " or ".join(sorted(allowed))
        if properties.get(key) and properties[key] not in allowed:
            yield f"its aggregate {where} is for images with {key}={listed}, and this one has {properties[key]}"
        if key == "instance_type" and wanted.name not in allowed:
            yield f"its aggregate {where} is for the flavor {listed}"
    tenants = {tenant for key, allowed in options.items() if key.startswith(TENANT) for tenant in allowed}
    if tenants and snapshot.instance.project_id not in tenants:
        where = " and ".join(name for key, found in sorted(names.items()) if key.startswith(TENANT) for name in found)
        yield f"its aggregate {where} belongs to other projects ({TENANT})"


def required_traits(snapshot: ServerSnapshot) -> frozenset[str]:
    """The traits that the flavor (in any of its groups) and the image require."""
    flavor = snapshot.new_flavor or snapshot.flavor
    specs = {**flavor.extra_specs, **snapshot.instance.image}
    own = {key.partition(":")[2] for key, value in specs.items() if key.startswith("trait") and value == "required"}
    of_image = _image(snapshot).get("traits_required")
    return frozenset(own | {str(trait) for trait in (of_image if isinstance(of_image, list) else ())})


def image_properties(snapshot: ServerSnapshot) -> Mapping[str, str]:
    """The image's properties, as the request spec and the server's own record of them have it."""
    plain = {key: str(value) for key, value in _image(snapshot).items() if isinstance(value, str | int)}
    return {**plain, **snapshot.instance.image}


def _image(snapshot: ServerSnapshot) -> Mapping[str, object]:
    """The ImageMetaProps of the request spec."""
    image = object_fields(snapshot.spec.get("image"))
    return object_fields(image.get("properties"))
