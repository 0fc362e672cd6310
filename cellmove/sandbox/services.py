"""neutron, cinder, glance and placement: what their calls do to the world. Used by REST and by computes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from cellmove.sandbox.store import HOSTS, Cloud, Record, Refusal

PROVIDER = "10000000-0000-4000-8000-00000000000{}"
PROVIDERS: Mapping[str, str] = {PROVIDER.format(number): host for number, host in enumerate(HOSTS, 1)}
"""Resource providers: the uuids of the compute nodes, and their hosts."""

ADDRESSES: Mapping[str, str] = {host: f"127.0.{cell[-1]}.{host[-1]}" for host, cell in HOSTS.items()}


def provider_of(host: str) -> str:
    """The resource provider of a host."""
    return next(uuid for uuid, name in PROVIDERS.items() if name == host)


# neutron


def port(cloud: Cloud, port_id: str) -> Record:
    """A port, or 404."""
    if port_id not in cloud.world.ports:
        raise Refusal(404, f"Port {port_id} could not be found.")
    return cloud.world.ports[port_id]


def ports_of(cloud: Cloud, server_id: str) -> list[Record]:
    """The ports of a server."""
    return [port for port in cloud.world.ports.values() if port["device_id"] == server_id]


def active_binding(port: Record) -> tuple[str, Record]:
    """The host and the binding that is ACTIVE; an empty host for none."""
    return next(((host, b) for host, b in port["bindings"].items() if b["status"] == "ACTIVE"), ("", {}))


def port_status(cloud: Cloud, port: Record) -> str:
    """ACTIVE when the guest runs where the port is bound, which is what the agent there reports."""
    host, binding = active_binding(port)
    guest = cloud.world.guests.get(host, {}).get(port["device_id"])
    up = guest is not None and guest["state"] == 1 and port["id"] in guest["ports"] and binding["vif_type"] == "ovs"
    return "ACTIVE" if up else "DOWN"


def create_binding(cloud: Cloud, port_id: str, host: str, vnic_type: str, profile: Mapping[str, Any]) -> Record:
    """One more binding, INACTIVE. A port or host that is not there is a 500, as in neutron."""
    if port_id not in cloud.world.ports:
        raise Refusal(500, "Request Failed: internal server error while processing your request.")
    bindings = cloud.world.ports[port_id]["bindings"]
    if not cloud.world.ports[port_id]["device_owner"].startswith("compute:"):
        raise Refusal(400, "Port does not support multiple bindings: it is not owned by a server")
    if host in bindings:
        raise Refusal(409, f"Binding for port {port_id} on host {host} already exists.")
    if host not in HOSTS or cloud.fault(host, "agent"):
        raise Refusal(500, f"Binding for port {port_id} on host {host} could not be created.")
    bindings[host] = {"status": "INACTIVE", "vif_type": "ovs", "vnic_type": vnic_type, "profile": dict(profile)}
    cloud.tell("binding created", port=port_id, host=host)
    return {"host": host, **bindings[host]}


def activate_binding(cloud: Cloud, port_id: str, host: str) -> Record:
    """Make a binding the active one; the one that was active is unbound for good."""
    bindings = port(cloud, port_id)["bindings"]
    if host not in bindings:
        raise Refusal(404, f"Binding for port {port_id} on host {host} could not be found.")
    if bindings[host]["status"] == "ACTIVE":
        raise Refusal(409, f"Binding for port {port_id} on host {host} is already active.")
    for binding in bindings.values():
        if binding["status"] == "ACTIVE":
            binding |= {"status": "INACTIVE", "vif_type": "unbound"}
    bindings[host]["status"] = "ACTIVE"
    cloud.tell("binding activated", port=port_id, host=host)
    return {"host": host, **bindings[host]}


def delete_binding(cloud: Cloud, port_id: str, host: str) -> None:
    """Delete a binding, the active one too."""
    bindings = port(cloud, port_id)["bindings"]
    if host not in bindings:
        raise Refusal(404, f"Binding for port {port_id} on host {host} could not be found.")
    del bindings[host]
    cloud.tell("binding deleted", port=port_id, host=host)


def bind_port(cloud: Cloud, port_id: str, host: str) -> None:
    """What an update of binding:host_id does: the active binding is that host's, and is bound anew."""
    bindings = port(cloud, port_id)["bindings"]
    was, binding = active_binding(cloud.world.ports[port_id])
    if was:
        del bindings[was]
    plain = {"vnic_type": "normal", "profile": {}}
    bindings[host] = plain | binding | {"status": "ACTIVE", "vif_type": "ovs"}
    cloud.tell("port bound", port=port_id, host=host)


# cinder


def attachment(cloud: Cloud, attachment_id: str) -> Record:
    """An attachment, or 404."""
    if attachment_id not in cloud.world.attachments:
        raise Refusal(404, f"Volume attachment could not be found with filter: attachment_id = {attachment_id}.")
    return cloud.world.attachments[attachment_id]


def attachments_of_volume(cloud: Cloud, volume_id: str) -> list[Record]:
    """The attachments of a volume."""
    return [each for each in cloud.world.attachments.values() if each["volume_id"] == volume_id]


def volume_status(cloud: Cloud, volume_id: str) -> str:
    """A volume's status follows from its attachments."""
    return _status({each["status"] for each in attachments_of_volume(cloud, volume_id)})


def volume_states(cloud: Cloud) -> dict[str, str]:
    """The statuses of all volumes that have an attachment."""
    found: dict[str, set[str]] = {}
    for each in cloud.world.attachments.values():
        found.setdefault(each["volume_id"], set()).add(each["status"])
    return {volume: _status(states) for volume, states in found.items()}


def _status(states: Collection[str]) -> str:
    names = (("attached", "in-use"), ("attaching", "attaching"), ("reserved", "reserved"))
    return next((status for state, status in names if state in states), "available")


def volume_attach_status(cloud: Cloud, volume_id: str) -> str:
    """Cinder's second word for it."""
    return "attached" if volume_status(cloud, volume_id) == "in-use" else "detached"


def create_attachment(cloud: Cloud, volume_id: str, server_id: str) -> Record:
    """Reserve a volume; one that another server uses is refused."""
    if volume_id not in cloud.world.volumes:
        raise Refusal(404, f"Volume {volume_id} could not be found.")
    if any(each["instance"] != server_id for each in attachments_of_volume(cloud, volume_id)):
        raise Refusal(400, f"Invalid volume: Volume {volume_id} status must be available or downloading to reserve.")
    made: Record = {
        "id": cloud.new_id("attachment"),
        "volume_id": volume_id,
        "instance": server_id,
        "status": "reserved",
        "host": None,
        "mountpoint": None,
    }
    cloud.world.attachments[made["id"]] = made
    cloud.tell("attachment created", attachment=made["id"], volume=volume_id, server=server_id)
    return made


def connect_attachment(cloud: Cloud, attachment_id: str, host: str, mountpoint: str) -> None:
    """Give an attachment its connector."""
    attachment(cloud, attachment_id).update(status="attaching", host=host, mountpoint=mountpoint)
    cloud.tell("attachment connected", attachment=attachment_id, host=host)


def complete_attachment(cloud: Cloud, attachment_id: str) -> None:
    """The volume is in use from here on."""
    attachment(cloud, attachment_id)["status"] = "attached"
    cloud.tell("attachment completed", attachment=attachment_id)


def delete_attachment(cloud: Cloud, attachment_id: str, *, by_service: bool) -> None:
    """Delete an attachment; one that nova uses only for a service (CVE-2023-2088)."""
    found = attachment(cloud, attachment_id)
    if found["host"] is not None and not by_service:
        raise Refusal(409, "Detach volume from instance using the Compute API", "ConflictNovaUsingAttachment")
    del cloud.world.attachments[attachment_id]
    cloud.tell("attachment deleted", attachment=attachment_id, volume=found["volume_id"])


# glance


def create_image(cloud: Cloud, body: Record, owner: str) -> Record:
    """An empty image. An id is never given out twice, not even after a deletion."""
    if body["id"] in cloud.world.used_image_ids:
        raise Refusal(409, f"Image ID {body['id']} already exists!")
    cloud.world.used_image_ids.append(body["id"])
    cloud.world.images[body["id"]] = image = {
        "status": "queued",
        "size": None,
        "created_at": cloud.now().isoformat() + "Z",
        "owner": owner,
        "members": [],
        **body,
    }
    cloud.tell("image created", image=body["id"])
    return image


def image(cloud: Cloud, image_id: str) -> Record:
    """An image, or 404."""
    if image_id not in cloud.world.images:
        raise Refusal(404, f"No image found with ID {image_id}")
    return cloud.world.images[image_id]


def upload(cloud: Cloud, image_id: str, content: Record) -> None:
    """Fill an image with a disk's content (``data``: its hash)."""
    image(cloud, image_id).update(status="active", size=1048576, **content)
    cloud.tell("image uploaded", image=image_id)


def delete_image(cloud: Cloud, image_id: str) -> None:
    """Delete an image."""
    image(cloud, image_id)
    del cloud.world.images[image_id]
    cloud.tell("image deleted", image=image_id)


# placement


def held(cloud: Cloud, consumer: str) -> Record:
    """What a consumer holds."""
    return cloud.world.allocations.get(consumer, {"allocations": {}})


def put_allocations(cloud: Cloud, bodies: Mapping[str, Record]) -> None:
    """Replace what consumers hold, all or none; generations must be what they are now.

    :raises Refusal: 409, as a concurrent update or for want of room
    """
    for consumer, body in bodies.items():
        present = cloud.world.allocations.get(consumer)
        if body.get("consumer_generation") != (present["generation"] if present else None):
            words = f"consumer generation conflict - expected {present and present['generation']} but got another"
            raise Refusal(409, words, "placement.concurrent_update")
    after = {name: each["allocations"] for name, each in cloud.world.allocations.items()}
    after |= {consumer: body["allocations"] for consumer, body in bodies.items()}
    for provider in PROVIDERS:
        for name, capacity in cloud.world.capacity.items():
            if _used(after.values(), provider, name) > capacity:
                raise Refusal(409, f"Unable to allocate inventory: {name} on {provider}")
    for consumer, body in bodies.items():
        generation = cloud.world.allocations.get(consumer, {"generation": 0})["generation"] + 1
        cloud.world.allocations.pop(consumer, None)
        if body["allocations"]:
            kept = {uuid: {"resources": dict(held["resources"])} for uuid, held in body["allocations"].items()}
            owner = {name: body[name] for name in ("project_id", "user_id")}
            cloud.world.allocations[consumer] = {"allocations": kept, "generation": generation, **owner}
        cloud.tell("allocations set", consumer=consumer, providers=sorted(body["allocations"]))


def _used(allocations: Iterable[Mapping[str, Any]], provider: str, name: str) -> int:
    return sum(each[provider]["resources"].get(name, 0) for each in allocations if provider in each)


def room(cloud: Cloud, resources: Mapping[str, int], hosts: Iterable[str] = tuple(HOSTS)) -> list[str]:
    """The providers, of these hosts, that have room for an amount."""
    every = [each["allocations"] for each in cloud.world.allocations.values()]
    return [
        provider
        for provider, host in PROVIDERS.items()
        if host in hosts
        and all(
            amount + _used(every, provider, name) <= cloud.world.capacity.get(name, 0)
            for name, amount in resources.items()
        )
    ]


def usages(cloud: Cloud, provider: str) -> dict[str, int]:
    """What is taken of a provider."""
    every = [each["allocations"] for each in cloud.world.allocations.values()]
    return {name: _used(every, provider, name) for name in cloud.world.capacity}


SHARES = "MISC_SHARES_VIA_AGGREGATE"


def providers(cloud: Cloud, required: Iterable[str], member_of: str) -> list[Record]:
    """The resource providers with these traits (without those with ``!``) and in this aggregate, if one is named.

    A store that hosts share is called by its UUID, and so is the aggregate that they have in common with it.
    """
    world = cloud.world
    traits = {uuid: set(world.traits.get(host, ())) for uuid, host in PROVIDERS.items()}
    traits |= {uuid: {SHARES} for uuid in world.stores}
    for trait in required:
        if trait.removeprefix("!") not in set().union(*traits.values()) | {SHARES}:
            raise Refusal(400, f"No such trait(s): {trait.removeprefix('!')}.")
        traits = {
            uuid: has for uuid, has in traits.items() if (trait.removeprefix("!") in has) != trait.startswith("!")
        }
    if member_of:
        users = {provider_of(host) for host in world.stores.get(member_of, ())} | {member_of}
        traits = {uuid: has for uuid, has in traits.items() if uuid in users}
    return [{"uuid": uuid, "name": PROVIDERS.get(uuid, f"store-{uuid}")} for uuid in traits]


def move_allocations(cloud: Cloud, giver: str, taker: str) -> None:
    """Give all that one consumer holds to another, as nova-compute does at the end of a revert."""
    present, other = cloud.world.allocations.get(giver), cloud.world.allocations.get(taker)
    if present is None:
        return
    owner = {"project_id": present["project_id"], "user_id": present["user_id"]}
    put_allocations(
        cloud,
        {
            giver: {"allocations": {}, "consumer_generation": present["generation"], **owner},
            taker: {
                "allocations": present["allocations"],
                "consumer_generation": other["generation"] if other else None,
                **owner,
            },
        },
    )


def drop_allocations(cloud: Cloud, consumer: str) -> None:
    """Take everything from a consumer."""
    if cloud.world.allocations.pop(consumer, None):
        cloud.tell("allocations set", consumer=consumer, providers=[])
