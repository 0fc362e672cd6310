"""The hosts with a real hypervisor, as daemons: each has its own mounts, host name and network, and in them libvirtd,
Open vSwitch and an ssh server, at the paths at which a real host has them.

    machine-<host>         only holds the namespaces; what ends it ends the host
    ovsdb-server-<host>    Open vSwitch, all in userspace: no kernel module is needed
    ovs-vswitchd-<host>
    libvirtd-<host>
    sshd-<host>            in the host's mounts and name, but on the loopback of this machine

The network is private because two labs on one machine would otherwise fight for `br-int`.  A nova-compute joins mounts
and name only (lab/inside/starter.py): it has to reach the lab's APIs.
"""

import json
import os
import shlex
import shutil
import signal
import time
import uuid
from pathlib import Path

from lab import kvm_config, kvm_store, processes
from lab.layout import HOSTS, KVM_HOSTS, LabError
from lab.processes import call

PATIENCE = 60
PARTS = ("machine", "ovsdb-server", "ovs-vswitchd", "libvirtd", "sshd")
BRIDGE = "br-int"
OVSDB = "/run/openvswitch/db.sock"
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"

# What a host has for itself.  /run is where libvirt, Open vSwitch and sshd have their sockets.
PRIVATE = ("/run", "/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt")
# libvirt makes what it wants below these, but not these.
MADE = ("run/libvirt", "run/openvswitch", "run/sshd", "run/lock", "etc/libvirt/qemu", "openvswitch")


def daemon(part, host):
    """A daemon's name in `make lab-status`."""
    return f"{part}-{host}"


def daemons():
    """All of them, in the order in which they have to be started."""
    return [daemon(part, host) for host in KVM_HOSTS for part in PARTS]


def private(layout, host, path):
    """What a host sees at an absolute path."""
    return layout.machine(host) / path.lstrip("/")


def write_once(path, text):
    """Something that has to stay what it is, such as an identity."""
    if not path.exists():
        path.write_text(text)


def prepare(layout, host):
    """Folders, libvirt's configuration, identities and keys."""
    for name in (*MADE, *(path.lstrip("/") for path in PRIVATE)):
        (layout.machine(host) / name).mkdir(parents=True, exist_ok=True)
    (layout.host_state(host) / "lock").mkdir(parents=True, exist_ok=True)
    kvm_store.mount(layout, host)
    (layout.faults / host).mkdir(parents=True, exist_ok=True)
    identity = layout.machine(host) / "uuid"
    write_once(identity, str(uuid.uuid4()))
    (layout.machine(host) / "hosts").write_text(kvm_config.hosts_file())
    libvirt = private(layout, host, "/etc/libvirt")
    (libvirt / "libvirtd.conf").write_text(kvm_config.libvirtd(identity.read_text()))
    (libvirt / "qemu.conf").write_text(kvm_config.QEMU)
    make_key(layout.ssh / host / "host_key", host)


def make_key(path, comment):
    """A key pair without a passphrase, once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path)


def write(layout):
    """All that these hosts need on disk before they start."""
    for path, text in kvm_config.files(layout).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    make_key(layout.ssh / "client_key", "lab")
    for host in KVM_HOSTS:
        prepare(layout, host)
    keys = {host: (layout.ssh / host / "host_key.pub").read_text() for host in KVM_HOSTS}
    known = "".join(kvm_config.known_host(layout, host, key) for host, key in keys.items())
    (layout.ssh / "known_hosts").write_text(known)


# Commands


def machine_script(layout, host):
    """What the holder of the namespaces does before it falls asleep."""
    root, quote = layout.machine(host), shlex.quote
    lines = ["set -e", f"hostname {quote(host)}", "ip link set lo up"]
    # As on a real host nobody sees the disks of another: whoever copies a path from there must fail here.
    for other in (*HOSTS, *KVM_HOSTS):
        folder = layout.host_state(other)
        if other != host and folder.exists():
            lines.append(f"mount -t tmpfs -o ro,size=4k hidden {quote(str(folder))}")
    lines += [f"mount --bind {quote(str(private(layout, host, path)))} {path}" for path in PRIVATE]
    lines.append(f"mount --bind {quote(str(root / 'hosts'))} /etc/hosts")
    lines += [f"echo $$ >{quote(str(root / 'ready'))}", "exec sleep infinity"]
    return "\n".join(lines)


def command(layout, part, host):
    """The command line of one of PARTS."""
    if part == "machine":
        return ["unshare", "--mount", "--uts", "--net", "sh", "-c", machine_script(layout, host)]
    program = {
        "ovsdb-server": [
            "/usr/sbin/ovsdb-server", layout.machine(host) / "openvswitch" / "conf.db", f"--remote=punix:{OVSDB}",
            "--unixctl=/run/openvswitch/ovsdb-server.ctl",
        ],
        "ovs-vswitchd": ["/usr/sbin/ovs-vswitchd", f"unix:{OVSDB}", "--unixctl=/run/openvswitch/ovs-vswitchd.ctl"],
        "libvirtd": ["/usr/sbin/libvirtd", "--config", "/etc/libvirt/libvirtd.conf"],
        "sshd": ["/usr/sbin/sshd", "-D", "-e", "-f", layout.ssh / host / "sshd_config"],
    }[part]  # fmt: skip
    return [*inside(layout, host, network=part != "sshd"), *program]


def inside(layout, host, network=True):
    """The words before a command that is to run on a host."""
    pid = processes.running_pid(layout, daemon("machine", host))
    if pid is None:
        raise LabError(f"{daemon('machine', host)} does not run")
    return ["nsenter", f"--target={pid}", "--mount", "--uts", *(["--net"] if network else []), "--wd=/"]


def run(layout, host, *words):
    """Run a command on a host, its network included; its output, or an error that shows it."""
    return call(*inside(layout, host), *words)


# Asking


def machine_answers(layout, host):
    """None if the namespaces are made."""
    try:
        made = (layout.machine(host) / "ready").read_text().strip()
    except OSError:
        made = ""
    return None if made == str(processes.running_pid(layout, daemon("machine", host))) else "its mounts are not made"


def sshd_answers(layout, host):
    """None if somebody is let in and sees the host's name."""
    name = call("ssh", "-F", layout.ssh / "config", host, "hostname").strip()
    return None if name == host else f"it calls itself {name}"


def problem(layout, part, host):
    """None if one of PARTS runs and answers; else what is wrong, in a few words."""
    if not processes.running_pid(layout, daemon(part, host)):
        return "it has ended"
    questions = {
        "ovsdb-server": ("ovs-vsctl", "--timeout=5", "get", "Open_vSwitch", ".", "_uuid"),
        "ovs-vswitchd": ("ovs-appctl", "--timeout=5", "-t", "/run/openvswitch/ovs-vswitchd.ctl", "version"),
        "libvirtd": ("virsh", "-c", "qemu:///system", "hostname"),
    }
    try:
        if part == "machine":
            return machine_answers(layout, host)
        if part == "sshd":
            return sshd_answers(layout, host)
        run(layout, host, *questions[part])
        return None
    except LabError as wrong:
        return str(wrong).splitlines()[-1]


# Starting and ending


def start_part(layout, part, host):
    """Start one daemon if it is dead, and wait until it answers."""
    name = daemon(part, host)
    if not processes.running_pid(layout, name):
        processes.end(layout, [name], patience=0)
        if part == "machine":
            new_machine(layout, host)
        processes.start_daemon(layout, name, command(layout, part, host), renames=part == "sshd")
    deadline = time.monotonic() + PATIENCE
    while (wrong := problem(layout, part, host)) is not None:
        ended = not processes.running_pid(layout, name)
        if ended or time.monotonic() > deadline:
            raise LabError(f"{name}: {wrong}; the end of its log:\n{processes.log_tail(layout, name)}")
        time.sleep(0.1)
    if part == "machine":
        remember(layout, host)


def new_machine(layout, host):
    """Nothing of a machine that has been switched off is left in its /run, its switch, or running."""
    end_machine(layout, host)
    for folder in (private(layout, host, "/run"), layout.machine(host) / "openvswitch"):
        shutil.rmtree(folder, ignore_errors=True)
    (layout.machine(host) / "ready").unlink(missing_ok=True)
    prepare(layout, host)
    call("ovsdb-tool", "create", layout.machine(host) / "openvswitch" / "conf.db", SCHEMA)


def start(layout, host):
    """Start what is dead of one host."""
    if not processes.running_pid(layout, daemon("machine", host)):
        # What is left of the others has lost the host that it belongs to.
        processes.end(layout, [daemon(part, host) for part in PARTS], number=signal.SIGKILL)
    for part in PARTS:
        start_part(layout, part, host)
        if part == "ovs-vswitchd":
            bridge = ("--may-exist", "add-br", BRIDGE, "--", "set", "Bridge", BRIDGE, "datapath_type=netdev")
            run(layout, host, "ovs-vsctl", "--timeout=20", *bridge)


def namespaces(pid):
    """The mounts and the host name that a process has, as the kernel numbers them since it was booted; None if gone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [boot, *(os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("mnt", "uts"))]
    except OSError:
        return None


def record_path(layout, host):
    """Where the namespaces of a host are remembered, so that they are known when their holder has been killed."""
    return layout.run / f"{daemon('machine', host)}.namespaces"


def remember(layout, host):
    """Write it down."""
    mine = namespaces(processes.running_pid(layout, daemon("machine", host)))
    record_path(layout, host).write_text(json.dumps(mine))


def inhabitants(layout, host):
    """All processes of a host: guests too, which no longer know who started them."""
    try:
        wanted = json.loads(record_path(layout, host).read_text())
    except (OSError, ValueError):
        return []
    if wanted == namespaces("self"):
        return []
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    return [pid for pid in pids if namespaces(pid) == wanted and processes.start_time(pid) is not None]


def end_machine(layout, host):
    """Switch a host off: everything that is left in its namespaces."""
    while pids := inhabitants(layout, host):
        processes.send(pids, signal.SIGKILL)
        time.sleep(0.05)
    record_path(layout, host).unlink(missing_ok=True)


def end(layout):
    """Switch all of them off, and forget that they are part of the lab."""
    for host in KVM_HOSTS:
        end_machine(layout, host)
    kvm_store.unmount(layout)
    layout.kvm_marker.unlink(missing_ok=True)
