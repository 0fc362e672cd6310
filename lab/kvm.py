"""What tests ask about guests on the hosts with a real hypervisor, and how to have such guests.

A guest (lab/inside/guest/init) says on its console what it writes; `parse` turns that into something to compare:

    server = kvm.boot("one")
    kvm.wait_written(server, 3)
    cloud.native_move(server, host="c2-kvm1")
    before = kvm.console(server, "c1-kvm1")        # the source's console stays until the move is confirmed
    after = kvm.wait_checked(server, "c2-kvm1")
    assert kvm.lost(before, after) == {}
"""

import fcntl
import functools
import re
import signal
from dataclasses import dataclass, field

from lab import cloud, kvm_guest, kvm_hosts, processes, services
from lab.client import connect, layout, wait_for
from lab.kvm_config import CELL_OF
from lab.kvm_files import (
    DISKS,
    HOSTS,
    configuration,
    disks,
    domain,
    folders,
    forget,
    guest,
    instance_folder,
    ssh,
    ssh_config,
)

__all__ = [
    "DISKS",
    "HOSTS",
    "configuration",
    "disks",
    "domain",
    "folders",
    "forget",
    "guest",
    "instance_folder",
    "ssh",
    "ssh_config",
]

IMAGE = "kvm-guest"
COMMAND_LINE = "console=ttyS0 quiet"
FILL_SPEED = 4  # MiB a second at least: 20 are usual
BOOT_SECONDS = 120.0  # TCG takes 4 s alone on the machine, and 22 s have been seen at a load of 10
# Whole lines only: a guest may end, or be read, in the middle of one.
LINE = re.compile(r"lab: (.*?)\r*\n")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass
class Console:
    """What a guest has said since it was last started."""

    text: str
    boot: int | None = None
    """How often it has booted, this time included."""
    found: dict[str, str] = field(default_factory=dict)
    """file -> sha256 of what was on its disks when it booted (`root/...`, `ephemeral/...`)."""
    written: dict[str, str] = field(default_factory=dict)
    """file -> sha256 of what it has written since, and fsynced."""
    config: dict[str, str] = field(default_factory=dict)
    """file -> sha256 of what its config drive holds (`config/openstack/latest/...`), and of it as a whole (`sr0`)."""
    swap: tuple[str, int, str] | None = None
    """A swap disk that it uses: its device, KiB, and UUID."""
    checked: bool = False
    """Whether `found` is complete (`config` and `swap` are by then, too)."""
    filled: bool = False
    """Whether it has written, at its first boot, what `fill` and `ephemeral` asked for."""
    stopping: bool = False
    """Whether it has seen the power button."""
    size: int | None = None
    """MiB of its root file system."""
    complaints: tuple[str, ...] = ()

    @property
    def known(self):
        """file -> sha256 of everything that has to be on its disks: found or written, and not touched since."""
        return {**self.found, **self.written}


def parse(text):
    """The console's text, understood; the words are explained in lab/inside/guest/init."""
    console = Console(text)
    for match in LINE.finditer(text):
        words = match.group(1).split()
        match words:
            case [("found" | "wrote" | "config") as word, digest, name] if SHA256.fullmatch(digest):
                about = {"found": console.found, "wrote": console.written, "config": console.config}
                about[word][name] = digest
            case ["writes", name]:
                console.found.pop(name, None)
                console.written.pop(name, None)
            case ["found", "all"]:
                console.checked = True
            case ["swap", device, kib, identity]:
                console.swap = (device, int(kib), identity)
            case ["size", mib]:
                console.size = int(mib)
            case ["filled"]:
                console.filled = True
            case ["stopping"]:
                console.stopping = True
            case ["no", *_]:
                console.complaints += (" ".join(words),)
            case [word] if word.startswith("boot="):
                console.boot = int(word.removeprefix("boot="))
    return console


def lost(before, after):
    """What must be there by a console of before, and is not by one of a later boot: file -> (sha256 then, now or None).

    Of what was being overwritten when the guest was ended nothing is known, so nothing is lost.
    """
    return {name: (then, after.found.get(name)) for name, then in before.known.items() if after.found.get(name) != then}


# Where things are


def present():
    """Whether the lab has these hosts just now."""
    return layout().kvm


def kill_host(host):
    """Switch a host off, as a power cut would: its guests, nova-compute, libvirtd, every ssh connection into it."""
    names = [kvm_hosts.daemon(part, host) for part in kvm_hosts.PARTS]
    kvm_hosts.end_machine(layout(), host)
    processes.end(layout(), [services.compute_name(host), *names], number=signal.SIGKILL)


def start_host(host):
    """Switch it on again; its guests stay off, as nova leaves them, and their disks are what they were."""
    kvm_hosts.start(layout(), host)
    cloud.start_compute(host)


# Guests


@functools.cache
def image(fill=0, dirty=0, sums="all", ephemeral=0, holds=0):
    """The id of an image whose guests write as they are told; made when first asked for.

    At their first boot they write `fill` MiB to the root disk and `ephemeral` MiB to the ephemeral disk, and from then
    on they overwrite `dirty` KiB a second.  With `sums="small"` they tell no sums of files of more than 1 MiB.
    It is the same disk every time, with another command line for the kernel; only with `holds` there are so many MiB in
    the image itself, as in that of a distribution.
    """
    options = {"fill": (fill, 0), "dirty": (dirty, 0), "sums": (sums, "all"), "ephemeral": (ephemeral, 0)}
    words = [f"lab.{name}={value}" for name, (value, usual) in options.items() if value != usual]
    images = connect().image
    plain = images.find_image(IMAGE, ignore_missing=False)
    if not words and not holds:
        return plain.id
    name = "-".join([IMAGE, *words, *([f"holds={holds}"] if holds else [])])
    with open(layout().run / "guest-images.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two of the same name could not be told apart
        made = images.find_image(name) or images.create_image(
            name,
            filename=str(kvm_guest.disk(layout(), holds)),
            disk_format="qcow2",
            container_format="bare",
            visibility="public",
            allow_duplicates=True,
            validate_checksum=False,
            kernel_id=plain.kernel_id or plain.properties["kernel_id"],
            ramdisk_id=plain.ramdisk_id or plain.properties["ramdisk_id"],
            os_command_line=" ".join([COMMAND_LINE, *words]),
        )
    return made.id


def boot(name, *, host=HOSTS[0], flavor="kvm.small", fill=0, dirty=0, sums="all", ephemeral=0, holds=0,
         seconds=BOOT_SECONDS, **how):  # fmt: skip
    """Boot a guest and return the server's id when it has filled its disks and is writing.

    `fill`, `dirty`, `sums`, `ephemeral` and `holds` are those of `image`; the rest (config_drive, ports, user_data, metadata ...)
    is for `cloud.boot`.  Flavors: lab/inside/kvm_bootstrap.py.
    """
    chosen = image(fill, dirty, sums, ephemeral, holds)
    server_id = cloud.boot(name, host=host, flavor=flavor, image=chosen, seconds=seconds, **how)
    try:
        patience = seconds + (fill + ephemeral) / FILL_SPEED
        wait_console(server_id, host, lambda said: said.filled and said.written, "be at work", patience)
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


def wait_checked(server_id, host, seconds=BOOT_SECONDS, boot=None):
    """Wait until a guest has booted (for that time) and told the sums of all that it found; its console then."""

    def check(said):
        return said.checked and boot in (None, said.boot)

    return wait_console(server_id, host, check, "have read its disks", seconds)


def wait_written(server_id, count, host=HOSTS[0], seconds=BOOT_SECONDS):
    """Wait until a guest has written so many files since it was started; its console then."""
    return wait_console(server_id, host, lambda said: len(said.written) >= count, f"write {count} files", seconds)


def other(host):
    """The host of the other cell."""
    return next(each for each in HOSTS if CELL_OF[each] != CELL_OF[host])
