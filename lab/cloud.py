"""What tests do to the lab's cloud: boot, move natively, break, look at guests and disks.

Runs in the caller's own environment (openstacksdk), on the machine of the lab.  Knows nothing of cellmove.
"""

import contextlib
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

from lab import processes, services
from lab.layout import HOSTS, REPOSITORY, cell_of, load

IMAGE = "lab-image"
NETWORK = "lab-net"
POLL_SECONDS = 0.25
POWER_STATES = {0: "pending", 1: "running", 3: "paused", 4: "shutdown", 6: "crashed", 7: "suspended"}
MICROVERSION = "2.95"


class Unexpected(Exception):
    """The cloud did not get to where the test wanted it."""


@functools.cache
def layout():
    """The lab of this checkout."""
    return load()


@functools.cache
def connect(cloud="lab"):
    """An openstacksdk connection: `lab` is the administrator, `lab-demo` an ordinary user."""
    import openstack

    files = [str(layout().home / "clouds.yaml")]
    config = openstack.config.OpenStackConfig(config_files=files, load_envvars=False)
    return openstack.connection.Connection(config=config.get_one(cloud=cloud), pool_executor=None)


def wait_for(what, check, seconds=60.0):
    """Poll until check() gives something true, which is returned."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Unexpected(f"waited {seconds:.0f} s for {what}")
        time.sleep(POLL_SECONDS)


# Servers


def show(server_id, cloud="lab"):
    """The server as the compute API shows it (a plain dict); None if there is none."""
    response = connect(cloud).compute.get(f"/servers/{server_id}", microversion=MICROVERSION)
    if response.status_code == 404:
        return None
    raise_for(response)
    return response.json()["server"]


def raise_for(response):
    """Turn an HTTP error into an exception with the API's own words."""
    if response.status_code >= 400:
        raise Unexpected(f"{response.request.method} {response.url}: {response.status_code} {response.text[:500]}")


def act(server_id, action, body=None, cloud="lab", microversion=MICROVERSION):
    """One server action."""
    response = connect(cloud).compute.post(
        f"/servers/{server_id}/action", json={action: body}, microversion=microversion
    )
    raise_for(response)
    return response.json() if response.content else None


def wait_status(server_id, *statuses, seconds=90.0, cloud="lab"):
    """Wait until a server has one of these statuses and no task; an ERROR that is not wanted ends the waiting."""

    def look():
        server = show(server_id, cloud)
        if server is None:
            raise Unexpected(f"server {server_id} is gone; wanted {' or '.join(statuses)}")
        if server["status"] in statuses and not server.get("OS-EXT-STS:task_state"):
            return server
        if server["status"] == "ERROR":
            raise Unexpected(f"server {server_id} is in ERROR: {server.get('fault', {}).get('message')}")
        return None

    return wait_for(f"server {server_id} to be {' or '.join(statuses)}", look, seconds)


@functools.cache
def image_id():
    """The lab's image."""
    return connect().image.find_image(IMAGE, ignore_missing=False).id


@functools.cache
def network_id():
    """The lab's network."""
    return connect().network.find_network(NETWORK, ignore_missing=False).id


@functools.cache
def flavor_id(name):
    """A flavor's id."""
    return connect().compute.find_flavor(name, ignore_missing=False).id


def project_id(cloud):
    """The project of a cloud's user."""
    return connect(cloud).current_project_id


def create_volume(name, *, size=1, bootable=False, cloud="lab", seconds=60.0):
    """A blank volume that is available."""
    volumes = connect(cloud).block_storage
    volume = volumes.create_volume(name=name, size=size)

    def available():
        found = volumes.get_volume(volume.id)
        if found.status == "error":
            raise Unexpected(f"volume {name} is in error")
        return found if found.status == "available" else None

    wait_for(f"volume {name}", available, seconds)
    if bootable:
        volumes.set_volume_bootable_status(volume.id, True)
    return volume.id


def block_devices(name, volume_backed, volumes, tags, cloud):
    """block_device_mapping_v2 for a server: its root volume, if it has one, and its data volumes."""
    mappings = []
    if volume_backed:
        root = create_volume(f"{name}-root", bootable=True, cloud=cloud)
        mappings.append({"boot_index": 0, "uuid": root, "source_type": "volume", "destination_type": "volume"})
    elif volumes:
        mappings.append(
            {"boot_index": 0, "uuid": image_id(), "source_type": "image", "destination_type": "local",
             "delete_on_termination": True}
        )  # fmt: skip
    for number in range(volumes):
        data = create_volume(f"{name}-data{number}", cloud=cloud)
        mapping = {"boot_index": -1, "uuid": data, "source_type": "volume", "destination_type": "volume"}
        mappings.append(mapping | ({"tag": f"data{number}"} if tags else {}))
    return mappings


def boot(
    name,
    *,
    flavor="m1.tiny",
    host="c1-host1",
    volume_backed=False,
    active=True,
    ports=1,
    volumes=0,
    tags=(),
    metadata=None,
    keypair=None,
    cloud="lab",
    device_tags=False,
    config_drive=None,
    hints=None,
    seconds=90.0,
):
    """Boot a server on a named host and return its id when it is ACTIVE with all ports up (or SHUTOFF).

    Its ports (`<name>-port0` ...) and volumes (`<name>-root`, `<name>-data0` ...) are made first, so they are the
    caller's own and nova does not delete them; `delete` does.  `device_tags` gives ports and volumes tags of their own.
    Only an administrator may name a host: with another cloud the server is made there and `host` is asked for by
    the administrator's scheduler hint, so pass host=None.
    """
    connection = connect(cloud)
    networks = []
    for number in range(ports):
        port = connection.network.create_port(network_id=network_id(), name=f"{name}-port{number}")
        networks.append({"port": port.id} | ({"tag": f"nic{number}"} if device_tags else {}))
    server = {
        "name": name,
        "flavorRef": flavor_id(flavor),
        "networks": networks or "none",
        "metadata": metadata or {},
        "tags": list(tags),
    }
    if not volume_backed:
        server["imageRef"] = image_id()
    mappings = block_devices(name, volume_backed, volumes, device_tags, cloud)
    if mappings:
        server["block_device_mapping_v2"] = mappings
    if host:
        server["host"] = host
    if keypair:
        server["key_name"] = keypair
    if config_drive is not None:
        server["config_drive"] = config_drive
    body = {"server": server} | ({"os:scheduler_hints": hints} if hints else {})
    response = connection.compute.post("/servers", json=body, microversion=MICROVERSION)
    raise_for(response)
    server_id = response.json()["server"]["id"]
    wait_status(server_id, "ACTIVE", seconds=seconds, cloud=cloud)
    wait_ports(server_id, "ACTIVE")
    if not active:
        stop(server_id, cloud=cloud)
    return server_id


def stop(server_id, cloud="lab"):
    """Stop a server through the API, and wait until its ports are down."""
    act(server_id, "os-stop", cloud=cloud)
    wait_status(server_id, "SHUTOFF", cloud=cloud)
    wait_ports(server_id, "DOWN")


def start(server_id, cloud="lab"):
    """Start a server through the API."""
    act(server_id, "os-start", cloud=cloud)
    wait_status(server_id, "ACTIVE", cloud=cloud)
    wait_ports(server_id, "ACTIVE")


def wait_ports(server_id, status, seconds=30.0):
    """Wait until all ports of a server have a status."""
    network = connect().network
    wait_for(
        f"the ports of {server_id} to be {status}",
        lambda: all(port.status == status for port in network.ports(device_id=server_id)),
        seconds,
    )
