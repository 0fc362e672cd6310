"""What tests do to the lab's cloud: boot, move natively, break, look at guests and disks.

Runs in the caller's own environment (openstacksdk), on the machine of the lab.  Knows nothing of cellmove.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import signal
import time

from lab import processes, services
from lab.layout import HOSTS, cell_of, load

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
            found = show(server_id)
            if found and found["status"] == "ERROR" and not found.get("OS-EXT-STS:task_state"):
                connection.compute.delete(f"/servers/{server_id}", microversion=MICROVERSION)
            return found is None

        wait_for(f"server {server_id} to be gone", gone, seconds)
    for port in ports:
        connection.network.delete_port(port, ignore_missing=True)
    for volume in volumes:
        delete_volume(volume)
    for host in HOSTS:  # what a broken move left behind must not be found by the next test
        forget_guest(host, server_id)


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


# Hosts


def service(name):
    """One daemon of the lab, by its name in `make lab-status`."""
    for found in services.all_services(layout()):
        if found.name == name:
            return found
    raise ValueError(f"no such daemon: {name}")


def compute_state(host):
    """`up` or `down`, as the compute API says."""
    response = connect().compute.get(f"/os-services?binary=nova-compute&host={host}", microversion=MICROVERSION)
    raise_for(response)
    return response.json()["services"][0]["state"]


def stop_daemon(name, number=signal.SIGKILL):
    """End one daemon at once, as a crash would."""
    processes.end(layout(), [name], number=number)


def start_daemon(name, seconds=60.0):
    """Start one daemon and wait until it answers."""
    found = service(name)
    begun = time.time()
    services.start(layout(), [found])
    wait_for(
        f"{name} to answer",
        lambda: services.problem(layout(), found, time.time() - begun) is None,
        seconds,
    )


def stop_compute(host, wait=True, number=signal.SIGKILL):
    """Kill the nova-compute of a host; `wait` until nova calls it down (about 15 s)."""
    stop_daemon(services.compute_name(host), number)
    if wait:
        wait_for(f"nova-compute on {host} to be down", lambda: compute_state(host) == "down", 60)


def start_compute(host):
    """Start the nova-compute of a host, and wait until nova calls it up."""
    start_daemon(services.compute_name(host))
    wait_for(f"nova-compute on {host} to be up", lambda: compute_state(host) == "up", 30)


@contextlib.contextmanager
def stopped_compute(host):
    """A host whose nova-compute is down, for the length of a `with`."""
    stop_compute(host)
    try:
        yield
    finally:
        start_compute(host)


def fault_path(host, call, server_id=None):
    """The file of a fault, for all guests of a host or for one."""
    cell_of(host)  # says so if there is no such host
    return layout().faults / host / (f"{call}.{server_id}" if server_id else call)


def set_fault(host, call, how, server_id=None):
    """Let a virt call of a host (or its network `agent`) go wrong; see lab/README.md for the words.

    With `server_id` only for that server's guest, so that tests that run at the same time do not meet it.
    """
    path = fault_path(host, call, server_id)
    part = path.parent.parent / f".{host}-{path.name}-{os.getpid()}"
    part.write_text(how)
    part.rename(path)
    if call == "agent":
        wait_for(f"the agent of {host} to be gone", lambda: not agent_is_there(host), 20)


def clear_fault(host, call, server_id=None):
    """Let it go right again; what hangs there goes on."""
    fault_path(host, call, server_id).unlink(missing_ok=True)
    if call == "agent":
        wait_for(f"the agent of {host} to be back", lambda: agent_is_there(host), 30)


def agent_is_there(host):
    """Whether neutron knows a network agent on a host."""
    return any(connect().network.agents(host=host))


@contextlib.contextmanager
def fault(host, call, how="fail", server_id=None):
    """`with fault("c2-host1", "spawn", "fail once"):`"""
    set_fault(host, call, how, server_id)
    try:
        yield
    finally:
        clear_fault(host, call, server_id)


def clear_faults():
    """Remove every fault of every host."""
    for host in HOSTS:
        for path in (layout().faults / host).iterdir():
            clear_fault(host, path.name)


# Guests and disks: the hypervisors' own truth


def guest(host, server_id):
    """The record that a host's driver keeps of a guest, or None."""
    path = layout().host_state(host) / "guests" / f"{server_id}.json"
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def guests(server_id):
    """host -> power state (`running`, `shutdown`) of a guest, for every host that knows it."""
    found = {host: guest(host, server_id) for host in HOSTS}
    return {host: POWER_STATES[record["state"]] for host, record in found.items() if record}


def disks(server_id):
    """host -> {file name: sha256} of a guest's disk files, for every host that has any."""
    found = {}
    for host in HOSTS:
        for folder in (layout().host_state(host) / "instances").glob(f"{server_id}*"):
            for path in sorted(folder.iterdir()):
                name = path.name if folder.name == server_id else f"{folder.name}/{path.name}"
                found.setdefault(host, {})[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def disk_hash(server_id):
    """host -> one sha256 over all disk files of a guest there; {} for a server without local disks."""
    return {
        host: hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        for host, files in disks(server_id).items()
    }


def write_to_disk(server_id, data):
    """Let the guest write something to its root disk, as it would while it runs."""
    (host,) = (host for host, state in guests(server_id).items() if state == "running")
    with open(layout().host_state(host) / "instances" / server_id / "disk", "ab") as file:
        file.write(data)


def forget_guest(host, server_id):
    """Remove what a host still has of a server that is gone."""
    for folder in (layout().host_state(host) / "instances").glob(f"{server_id}*"):
        shutil.rmtree(folder, ignore_errors=True)
