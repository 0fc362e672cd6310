"""Where a host with a real hypervisor keeps its guests' disks: one of them on XFS, as hosts of the RHEL family do, which
can tell what was written to a file since a moment; the other on what this machine has, which may not.
"""

import os

from lab.layout import LabError
from lab.processes import call

XFS_HOSTS = ("c1-kvm1",)
GIB = 60  # at most: the file behind it has holes


def mount(layout, host):
    """Mount the file system of a host that has one of its own; seen by all that is started on the host later."""
    folder = layout.host_state(host) / "instances"
    folder.mkdir(parents=True, exist_ok=True)
    if host not in XFS_HOSTS or os.path.ismount(folder):
        return
    if any(folder.iterdir()):
        raise LabError(f"{folder} holds disks of an older lab: run `make lab-wipe` first")
    image = layout.host_state(host) / "instances.xfs"
    if not image.exists():
        part = image.with_suffix(".part")
        with open(part, "wb") as file:
            file.truncate(GIB << 30)
        call("mkfs.xfs", "-q", "-f", part)
        part.rename(image)
    # One may be left that a process of before is still in: the same file system cannot be mounted by a second one.
    known = call("losetup", "--noheadings", "--output", "NAME", "--associated", image).split()
    # Not `mount -o loop`: that would put this machine's cache between the host and its disk.
    device = known[0] if known else call("losetup", "--find", "--show", "--direct-io=on", image).strip()
    try:
        call("mount", device, folder)
    finally:
        call("losetup", "--detach", device)  # as soon as it is no longer mounted


def unmount(layout):
    """Take them away again; what is on them stays."""
    for host in XFS_HOSTS:
        folder = layout.host_state(host) / "instances"
        if os.path.ismount(folder):
            call("umount", "--lazy", folder)  # a process that has just been ended may still be in it
