"""Guests and disks of the hosts with a real hypervisor, as the hosts' own files show them."""

import shutil
from xml.etree import ElementTree

from lab import kvm_hosts, processes
from lab.client import layout
from lab.layout import KVM_HOSTS

HOSTS = tuple(KVM_HOSTS)
DISKS = ("disk", "disk.eph0", "disk.swap")


def ssh_config():
    """For `ssh -F`: c1-kvm1 and c2-kvm1 by name."""
    return layout().ssh / "config"


def configuration():
    """cellmove's own, for tests and benchmarks on these hosts: streamed or refused, and unattended."""
    ends = "".join(f'[ssh.hosts."{host}"]\ninstances_path = "{instance_folder(host, "x").parent}"\n' for host in HOSTS)
    return f'transfer = "stream"\n[policy]\nunattended = true\n[ssh]\nconfig = "{ssh_config()}"\n{ends}'


def ssh(host, *words):
    """Run a command on a host over ssh; its output."""
    return processes.call("ssh", "-F", ssh_config(), host, *words)


def instance_folder(host, server_id):
    """`instances/<uuid>` of a server on a host; it need not be there. The host itself knows it by the same path."""
    return layout().host_state(host) / "instances" / server_id


def folders(server_id):
    """host -> the names of a server's files there, for every host that has any."""
    found = {host: instance_folder(host, server_id) for host in HOSTS}
    return {host: sorted(path.name for path in folder.iterdir()) for host, folder in found.items() if folder.is_dir()}


def disks(host, server_id):
    """The disk files of a server on a host, in place of a sha256 the same words for each: a guest that runs writes."""
    there = {name for name in DISKS if (instance_folder(host, server_id) / name).exists()}
    return dict.fromkeys(sorted(there), "compare by its console")


def domain(host, server_id):
    """(is it running, its XML) of a server's domain by libvirt's own files; None if the host has no such domain."""
    for folder, running in (("/run/libvirt/qemu", True), ("/etc/libvirt/qemu", False)):
        for path in kvm_hosts.private(layout(), host, folder).glob("*.xml"):
            try:
                tree = ElementTree.parse(path).getroot()
            except (OSError, ElementTree.ParseError):
                continue  # gone, or being written
            found = tree if tree.tag == "domain" else tree.find("domain")
            if found is None or found.findtext("uuid") != server_id:
                continue
            if running and processes.start_time(tree.get("pid")) is None:
                continue  # QEMU was killed, and libvirtd with it, which would have noticed
            return running, found
    return None


def guest(host, server_id):
    """What a host's libvirt knows of a guest, in the words of the other hosts' driver; None if nothing."""
    known = domain(host, server_id)
    if known is None:
        return None
    running, tree = known
    # The interfaces are libvirt's word; which port each is for, nova has written beside them.
    taps = {target.get("dev") for target in tree.iterfind("devices/interface/target")}
    ports = {each.get("uuid") for each in tree.iterfind("metadata//{*}port")}
    return {
        "name": tree.findtext("name"),
        "uuid": server_id,
        "state": 1 if running else 4,
        "ports": sorted(port for port in ports if f"tap{port}"[:14] in taps),
        "volumes": {},
    }


def forget(host, server_id):
    """Remove what a host still has of a server that is gone."""
    known = domain(host, server_id)
    if known is not None:
        name, virsh = known[1].findtext("name"), ("virsh", "-c", "qemu:///system")
        if known[0]:
            kvm_hosts.run(layout(), host, *virsh, "destroy", name)
        if kvm_hosts.private(layout(), host, f"/etc/libvirt/qemu/{name}.xml").exists():
            kvm_hosts.run(layout(), host, *virsh, "undefine", name)
    shutil.rmtree(instance_folder(host, server_id), ignore_errors=True)
    shutil.rmtree(f"{instance_folder(host, server_id)}_resize", ignore_errors=True)
