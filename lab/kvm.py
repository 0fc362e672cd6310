"""What tests ask about guests on the hosts with a real hypervisor, and how to have such guests.

A guest (lab/inside/guest/init) says on its console what it writes; `parse` turns that into something to compare:

    server = kvm.boot("one")
    kvm.wait_written(server, 3)
    cloud.native_move(server, host="c2-kvm1")
    before = kvm.console(server, "c1-kvm1")        # the source's console stays until the move is confirmed
    after = kvm.wait_checked(server, "c2-kvm1")
    assert kvm.lost(before, after) == {}
"""

import functools
import re
import shutil
from dataclasses import dataclass, field
from xml.etree import ElementTree

from lab import cloud, kvm_guest, kvm_hosts, processes
from lab.client import connect, layout, wait_for
from lab.kvm_config import CELL_OF
from lab.layout import KVM_HOSTS

HOSTS = tuple(KVM_HOSTS)
IMAGE = "kvm-guest"
DISKS = ("disk", "disk.eph0", "disk.swap")
BOOT_SECONDS = 120.0  # TCG takes 4 s alone on the machine, and 22 s have been seen at a load of 10
LINE = re.compile(r"^.*?lab: (.*?)\s*$", re.MULTILINE)


@dataclass
class Console:
    """What a guest has said since it was last started."""

    text: str
    boot: int | None = None
    found: dict[str, str] = field(default_factory=dict)
    """file -> sha256 of what was on its disks when it booted (`root/...`, `ephemeral/...`)."""
    written: dict[str, str] = field(default_factory=dict)
    """file -> sha256 of what it has written since, and fsynced."""
    checked: bool = False
    """Whether `found` is complete."""
    filled: bool = False
    """Whether it has written, at its first boot, what `fill` asked for."""
    size: int | None = None
    """MiB of its root file system."""
    complaints: tuple[str, ...] = ()


def parse(text):
    """The console's text, understood."""
    console = Console(text)
    for match in LINE.finditer(text):
        words = match.group(1).split()
        if match.group(1).startswith("boot="):
            console.boot = int(match.group(1)[5:])
        elif words[:2] == ["found", "all"]:
            console.checked = True
        elif words[:1] in (["found"], ["wrote"]) and len(words) == 3 and len(words[1]) == 64:
            (console.found if words[0] == "found" else console.written)[words[2]] = words[1]
        elif words == ["filled"]:
            console.filled = True
        elif words[:1] == ["size"]:
            console.size = int(words[1])
        elif words[:1] == ["no"]:
            console.complaints += (" ".join(words),)
    return console


def lost(before, after):
    """What the guest wrote or found before, and does not find any more: file -> (sha256 then, sha256 now or None)."""
    known = {**before.found, **before.written}
    known.pop("root/dirty", None)  # overwritten in place, all the time
    return {name: (then, after.found.get(name)) for name, then in known.items() if after.found.get(name) != then}


# Where things are


def present():
    """Whether the lab has these hosts just now."""
    return layout().kvm


def ssh_config():
    """For `ssh -F`: c1-kvm1 and c2-kvm1 by name."""
    return layout().ssh / "config"


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
            if found is not None and found.findtext("uuid") == server_id:
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


# Guests


@functools.cache
def image(fill=0, dirty=0, sums="all"):
    """The id of an image whose guests write `fill` MiB at their first boot and then overwrite `dirty` KiB a second.

    Made when first asked for: the same disk, another command line.  With `sums="small"` the guest leaves the filled
    and the overwritten files out of its checksums.
    """
    images = connect().image
    plain = images.find_image(IMAGE, ignore_missing=False)
    options = {"fill": (fill, 0), "dirty": (dirty, 0), "sums": (sums, "all")}
    words = [f"lab.{name}={value}" for name, (value, usual) in options.items() if value != usual]
    if not words:
        return plain.id
    name = "-".join([IMAGE, plain.id[:8], *words])
    made = images.find_image(name) or images.create_image(
        name,
        filename=str(kvm_guest.files(layout())["disk"]),
        disk_format="qcow2",
        container_format="bare",
        visibility="public",
        allow_duplicates=True,
        validate_checksum=False,
        kernel_id=plain.properties.get("kernel_id") or plain.kernel_id,
        ramdisk_id=plain.properties.get("ramdisk_id") or plain.ramdisk_id,
        os_command_line=" ".join(["console=ttyS0 quiet", *words]),
    )
    return made.id


def boot(name, *, host=HOSTS[0], flavor="kvm.small", fill=0, dirty=0, sums="all", seconds=BOOT_SECONDS, **how):
    """Boot a guest and return the server's id when it has written to its disk (and has filled it)."""
    server_id = cloud.boot(name, host=host, flavor=flavor, image=image(fill, dirty, sums), seconds=seconds, **how)
    try:
        wait_console(server_id, host, lambda said: said.filled and said.written, "be at work", seconds + fill / 4)
    except Exception:
        cloud.delete(server_id)
        raise
    return server_id


def console_path(server_id, host):
    """The file into which QEMU writes what a guest says."""
    return instance_folder(host, server_id) / "console.log"


def console(server_id, host):
    """What a guest has said on a host since it was last started there."""
    try:
        text = console_path(server_id, host).read_text(errors="replace")
    except FileNotFoundError:
        text = ""
    return parse(text)


def wait_console(server_id, host, check, what, seconds=BOOT_SECONDS):
    """Wait until check(console) holds; the console then."""

    def look():
        said = console(server_id, host)
        return said if check(said) else None

    try:
        return wait_for(f"guest {server_id} on {host} to {what}", look, seconds)
    except cloud.Unexpected as problem:
        raise cloud.Unexpected(f"{problem}; the end of its console:\n{console(server_id, host).text[-800:]}") from None


def wait_checked(server_id, host, seconds=BOOT_SECONDS):
    """Wait until a guest has said all checksums of what it found at its boot; its console then."""
    return wait_console(server_id, host, lambda said: said.checked, "have read its disks", seconds)


def wait_written(server_id, count, host=HOSTS[0], seconds=BOOT_SECONDS):
    """Wait until a guest has written so many files since it was started; its console then."""
    return wait_console(server_id, host, lambda said: len(said.written) >= count, f"write {count} files", seconds)


def other(host):
    """The host of the other cell."""
    return next(each for each in HOSTS if CELL_OF[each] != CELL_OF[host])
