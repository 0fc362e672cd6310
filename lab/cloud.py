"""What tests do to the lab's servers: boot, delete, move natively.

Runs in the caller's own environment (openstacksdk), on the machine of the lab.  Knows nothing of cellmove.  Everything
of `lab.client` and `lab.hosts` is to be had here, too.
"""

import functools

from lab.client import MICROVERSION, POLL_SECONDS, Unexpected, connect, layout, raise_for, wait_for
from lab.hosts import (
    POWER_STATES,
    agent_is_there,
    clear_fault,
    clear_faults,
    compute_state,
    disk_hash,
    disks,
    fault,
    forget_guest,
    guest,
    guests,
    restart_compute,
    set_fault,
    start_compute,
    start_daemon,
    stop_compute,
    stop_daemon,
    stopped_compute,
    wait_for_all,
    write_to_disk,
)
from lab.layout import HOSTS
from lab.rows import is_in_task, port_statuses, purge

__all__ = [
    "HOSTS", "POLL_SECONDS", "POWER_STATES", "Unexpected", "act", "agent_is_there", "boot", "clear_fault",
    "clear_faults", "compute_state", "connect", "delete", "disk_hash", "disks", "fault", "guest", "guests", "layout",
    "migrations", "native_confirm", "native_move", "native_revert", "restart_compute", "set_fault", "show", "start",
    "start_compute", "start_daemon", "stop", "stop_compute", "stop_daemon", "stopped_compute", "wait_for",
    "wait_for_all", "wait_migration", "wait_ports", "wait_status", "write_to_disk",
]  # fmt: skip

IMAGE = "lab-image"
NETWORK = "lab-net"
CONFLICT = 409
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICdBqkyp6O5JZX07XspyttK+enUTf5ZE8KXapfBDmKsB lab"


# Servers


def show(server_id, cloud="lab"):
    """The server as the compute API shows it (a plain dict); None if there is none."""
    response = connect(cloud).compute.get(f"/servers/{server_id}", microversion=MICROVERSION)
    if response.status_code == 404:
        return None
    raise_for(response)
    return response.json()["server"]


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
        if is_in_task(server_id):
            return None
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


def create_keypair(name, cloud="lab"):
    """A keypair of that name, made if it is not there; another thread may be making it at this moment."""
    compute = connect(cloud).compute
    if compute.find_keypair(name) is None:
        answer = compute.post("/os-keypairs", json={"keypair": {"name": name, "public_key": PUBLIC_KEY}})
        if answer.status_code != CONFLICT:
            raise_for(answer)


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


def block_devices(name, volume_backed, volumes, tags, cloud, image):
    """block_device_mapping_v2 for a server: its root volume, if it has one, and its data volumes."""
    mappings = []
    if volume_backed:
        root = create_volume(f"{name}-root", bootable=True, cloud=cloud)
        mappings.append({"boot_index": 0, "uuid": root, "source_type": "volume", "destination_type": "volume"})
    elif volumes:
        mappings.append(
            {"boot_index": 0, "uuid": image, "source_type": "image", "destination_type": "local",
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
    user_data=None,
    image=None,
    seconds=90.0,
):
    """Boot a server on a named host and return its id when it is ACTIVE with all ports up (or SHUTOFF).

    Its ports (`<name>-port0` ...) and volumes (`<name>-root`, `<name>-data0` ...) are made first, so they are the
    caller's own and nova does not delete them; `delete` does.  `device_tags` gives ports and volumes tags of their own.
    Only an administrator may name a host, so with another cloud pass host=None.  `keypair` is made if need be.
    `image` is the id of another image than the lab's own.
    """
    connection = connect(cloud)
    image = image or image_id()
    server = {
        "name": name,
        "flavorRef": flavor_id(flavor),
        "metadata": metadata or {},
        "tags": list(tags),
    }
    if not volume_backed:
        server["imageRef"] = image
    if host:
        server["host"] = host
    if keypair:
        create_keypair(keypair, cloud)
        server["key_name"] = keypair
    if config_drive is not None:
        server["config_drive"] = config_drive
    if user_data is not None:
        server["user_data"] = user_data
    networks = []
    server_id = None
    try:
        for number in range(ports):
            port = connection.network.create_port(network_id=network_id(), name=f"{name}-port{number}")
            networks.append({"port": port.id} | ({"tag": f"nic{number}"} if device_tags else {}))
        server["networks"] = networks or "none"
        mappings = block_devices(name, volume_backed, volumes, device_tags, cloud, image)
        if mappings:
            server["block_device_mapping_v2"] = mappings
        body = {"server": server} | ({"os:scheduler_hints": hints} if hints else {})
        response = connection.compute.post("/servers", json=body, microversion=MICROVERSION)
        raise_for(response)
        server_id = response.json()["server"]["id"]
        wait_status(server_id, "ACTIVE", seconds=seconds, cloud=cloud)
        wait_ports(server_id, "ACTIVE")
    except Exception:
        # Nobody will know the id of a server that was never returned.
        if server_id:
            delete(server_id)
        for network in networks:
            connection.network.delete_port(network["port"])
        raise
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


def make_group(name, policy="anti-affinity"):
    """A server group; its id. Servers are booted into it by the hint ``group``."""
    compute = connect().compute
    body = {"server_group": {"name": name, "policy": policy}}
    answer = compute.post("/os-server-groups", json=body, microversion=MICROVERSION)
    raise_for(answer)
    return answer.json()["server_group"]["id"]


def delete_group(group):
    """Delete a server group; its members live on."""
    connect().compute.delete(f"/os-server-groups/{group}")


def wait_ports(server_id, status, seconds=30.0):
    """Wait until all ports of a server have a status."""
    wait_for(
        f"the ports of {server_id} to be {status}",
        lambda: all(found == status for found in port_statuses(server_id)),
        seconds,
    )


def attached_volumes(server_id):
    """The ids of the volumes that cinder says are attached to a server."""
    found = set()
    for attachment in connect().block_storage.attachments(all_projects=True, instance_id=server_id):
        found.add(attachment.volume_id)
    return found


def delete(server_id, seconds=60.0):
    """Delete a server with its ports and volumes, whatever state it is in; one that is gone is no error."""
    connection = connect()
    server = show(server_id)
    ports = [port.id for port in connection.network.ports(device_id=server_id)]
    volumes = {volume["id"] for volume in (server or {}).get("os-extended-volumes:volumes_attached", [])}
    volumes |= attached_volumes(server_id)
    if server is not None:
        if server.get("OS-EXT-STS:task_state") or server["status"] not in ("ACTIVE", "SHUTOFF", "VERIFY_RESIZE"):
            # In the middle of something that will not go on: let the API accept a delete.
            act(server_id, "os-resetState", {"state": "error"})
        if server.get("locked"):
            act(server_id, "unlock")
        connection.compute.delete(f"/servers/{server_id}", microversion=MICROVERSION)

        def gone():
            if is_in_task(server_id):
                return False
            found = show(server_id)
            if found and found["status"] == "ERROR" and not found.get("OS-EXT-STS:task_state"):
                connection.compute.delete(f"/servers/{server_id}", microversion=MICROVERSION)
            return found is None

        wait_for(f"server {server_id} to be gone", gone, seconds)
    for port in ports:
        connection.network.delete_port(port, ignore_missing=True)
    for volume in volumes:
        delete_volume(volume)
    # What a broken move has left must not be found, or counted, by the next test.
    for host in layout().hosts:
        forget_guest(host, server_id)
    purge(server_id)


def delete_volume(volume_id):
    """Delete a volume, even one that cinder believes to be in use."""
    storage = connect().block_storage
    volume = storage.find_volume(volume_id)
    if volume is None:
        return
    for attachment in list(storage.attachments(all_projects=True, volume_id=volume_id)):
        storage.delete(f"/attachments/{attachment.id}", microversion="3.70")
    storage.post(
        f"/volumes/{volume_id}/action", json={"os-reset_status": {"status": "available", "attach_status": "detached"}}
    )
    storage.delete_volume(volume_id, ignore_missing=True, force=True)


def native_move(server_id, flavor=None, host=None, seconds=180.0, wait=True, cloud="lab"):
    """Let nova itself cold-migrate (or, with a flavor, resize) a server; returns the host it is on then.

    Nova prefers the cell that a server is in, and its API takes a host only for a migration.  So a resize to another
    cell needs a flavor with `aggregate_instance_extra_specs:cell`, such as `m1.small.cell2`.
    """
    if flavor:
        if host:
            raise ValueError("nova's API takes a host for a migration only; use a flavor tied to a cell")
        act(server_id, "resize", {"flavorRef": flavor_id(flavor)}, cloud=cloud)
    else:
        act(server_id, "migrate", {"host": host}, cloud=cloud)
    if not wait:
        return None

    def moved():
        if is_in_task(server_id):
            return None
        server = show(server_id, cloud)
        if server["status"] == "VERIFY_RESIZE" and not server.get("OS-EXT-STS:task_state"):
            return server
        if server["status"] == "ERROR" or (not server.get("OS-EXT-STS:task_state") and last_action_failed(server_id)):
            fault = server.get("fault", {}).get("message")
            raise Unexpected(f"nova did not move {server_id}: it is {server['status']}, {fault or 'without a fault'}")
        return None

    server = wait_for(f"nova to move {server_id}", moved, seconds)
    settle_ports(server_id, server)
    return server.get("OS-EXT-SRV-ATTR:host")


def last_action_failed(server_id):
    """Whether the newest instance action ended with an error."""
    response = connect().compute.get(f"/servers/{server_id}/os-instance-actions", microversion=MICROVERSION)
    raise_for(response)
    return (response.json()["instanceActions"] or [{}])[0].get("message") == "Error"


def settle_ports(server_id, server):
    """Wait until the ports are what the guest's power state makes them."""
    wait_ports(server_id, "ACTIVE" if server["OS-EXT-STS:power_state"] == 1 else "DOWN")


def native_confirm(server_id, seconds=90.0, cloud="lab"):
    """Let nova confirm."""
    act(server_id, "confirmResize", cloud=cloud)
    server = wait_status(server_id, "ACTIVE", "SHUTOFF", seconds=seconds, cloud=cloud)
    wait_migration(server_id, "confirmed")
    settle_ports(server_id, server)


def native_revert(server_id, seconds=90.0, cloud="lab"):
    """Let nova revert."""
    act(server_id, "revertResize", cloud=cloud)
    server = wait_status(server_id, "ACTIVE", "SHUTOFF", seconds=seconds, cloud=cloud)
    wait_migration(server_id, "reverted")
    settle_ports(server_id, server)


def migrations(server_id):
    """The migrations of a server, newest first, as the API shows them (plain dicts)."""
    response = connect().compute.get(f"/os-migrations?instance_uuid={server_id}", microversion="2.80")
    raise_for(response)
    return response.json()["migrations"]


def wait_migration(server_id, status, seconds=60.0):
    """Wait until the newest migration has a status: it is written after the server's own status."""
    return wait_for(
        f"the newest migration of {server_id} to be {status}",
        lambda: next((m for m in migrations(server_id)[:1] if m["status"] == status), None),
        seconds,
    )
