"""What tests do to the lab's hosts: stop and start daemons, make virt calls fail, look at guests and disks."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import time

from lab import kvm_files, kvm_hosts, processes, services, up
from lab.client import MICROVERSION, connect, layout, raise_for, wait_for
from lab.layout import HOSTS, KVM_HOSTS, cell_of

POWER_STATES = {0: "pending", 1: "running", 3: "paused", 4: "shutdown", 6: "crashed", 7: "suspended"}


# Daemons


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
    """Start one daemon, MariaDB and RabbitMQ too, and wait until it answers."""
    if name in ("mariadb", "rabbitmq"):
        getattr(up.Up(layout()), name)()
        return
    for host in KVM_HOSTS:
        for part in kvm_hosts.PARTS:
            if name == kvm_hosts.daemon(part, host):
                kvm_hosts.start_part(layout(), part, host)
                return
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


def restart_compute(host):
    """Kill the nova-compute of a host, at whatever it is, and start it again."""
    stop_compute(host, wait=False)
    start_compute(host)


def wait_for_all(seconds=90.0):
    """Wait until every daemon is at work again after one that all depend on was away.

    Those that only a heartbeat shows to be alive must have made one after this was called.
    """
    begun = time.time()

    def all_answer():
        ages = services.heartbeats(layout())
        since = time.time() - begun
        return all(services.problem(layout(), each, since, ages) is None for each in services.all_services(layout()))

    wait_for("every daemon to answer", all_answer, seconds)


@contextlib.contextmanager
def stopped_compute(host):
    """A host whose nova-compute is down, for the length of a `with`."""
    stop_compute(host)
    try:
        yield
    finally:
        start_compute(host)


# Faults


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
    for host in layout().hosts:
        for path in (layout().faults / host).iterdir():
            clear_fault(host, path.name)


# Guests and disks: the hypervisors' own truth


def guest(host, server_id):
    """The record that a host's driver keeps of a guest, or None."""
    if host in KVM_HOSTS:
        return kvm_files.guest(host, server_id)
    path = layout().host_state(host) / "guests" / f"{server_id}.json"
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def guests(server_id):
    """host -> power state (`running`, `shutdown`) of a guest, for every host that knows it."""
    found = {host: guest(host, server_id) for host in layout().hosts}
    return {host: POWER_STATES[record["state"]] for host, record in found.items() if record}


def disks(server_id):
    """host -> {file name: sha256} of a guest's disk files, for every host that has any."""
    found = {}
    if layout().kvm:
        found |= {host: files for host in KVM_HOSTS if (files := kvm_files.disks(host, server_id))}
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
    """Remove what a host still has of a server that is gone: its record and its disks."""
    if host in KVM_HOSTS:
        kvm_files.forget(host, server_id)
        return
    (layout().host_state(host) / "guests" / f"{server_id}.json").unlink(missing_ok=True)
    for folder in (layout().host_state(host) / "instances").glob(f"{server_id}*"):
        shutil.rmtree(folder, ignore_errors=True)
