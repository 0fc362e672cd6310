"""What the guests of the real hypervisors boot: Debian's cloud kernel, a ramdisk with busybox, an ext4 disk.

Made once into the lab's cache.  Nothing in it is downloaded by the guests themselves: they need no network.
"""

import gzip
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from lab import install
from lab.layout import REPOSITORY, LabError
from lab.processes import call

INIT = REPOSITORY / "lab" / "inside" / "guest" / "init"
BUSYBOX = "/bin/busybox"
RESIZE = "/sbin/resize2fs"  # nova makes a disk as large as the flavor; the file system has to be told
# In the order in which they need each other: disks, the power button, the CD-ROM drive that a config drive is in.
MODULES = (
    "drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev", "drivers/virtio/virtio_pci", "drivers/block/virtio_blk",
    "drivers/acpi/button", "drivers/input/evdev",
    "drivers/scsi/scsi_common", "drivers/scsi/scsi_mod", "drivers/ata/libata", "drivers/ata/ata_piix",
    "drivers/cdrom/cdrom", "drivers/scsi/sr_mod", "fs/isofs/isofs",
)  # fmt: skip
DISK_MIB = 1024
KERNEL_PACKAGE = re.compile(r"linux-image-\d[^ ]*-cloud-amd64")


def kernel(layout, folder):
    """Unpack Debian's newest cloud kernel, without installing it; the folder it is in."""
    unpacked = folder / "kernel"
    if not unpacked.exists():
        install.update_lists(layout)
        found = KERNEL_PACKAGE.search(call("apt-cache", "depends", "linux-image-cloud-amd64"))
        if found is None:
            raise LabError("apt knows no linux-image-cloud-amd64: run apt-get update")
        part = folder / "kernel.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        call("apt-get", "download", found.group(), cwd=part)
        (package,) = part.glob("*.deb")
        call("dpkg-deb", "-x", package, part)
        package.unlink()
        part.rename(unpacked)
    return unpacked


def libraries(program):
    """The shared libraries of a program, the loader among them."""
    return sorted(set(re.findall(r"(/\S+) \(0x", call("ldd", program))))


def ramdisk_files(unpacked):
    """path in the ramdisk -> file of this machine."""
    (modules,) = unpacked.glob("lib/modules/*/kernel")
    files = {"init": INIT, "bin/busybox": BUSYBOX, "sbin/resize2fs": RESIZE}
    files |= {f"modules/{name.rpartition('/')[2]}.ko": modules / f"{name}.ko" for name in MODULES}
    return files | {path.lstrip("/"): path for path in libraries(RESIZE)}


def make_ramdisk(unpacked, target):
    """A gzipped cpio archive in the kernel's own format."""
    tree = target.with_suffix(".tree")
    shutil.rmtree(tree, ignore_errors=True)
    for path, source in ramdisk_files(unpacked).items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, tree / path)
        (tree / path).chmod(0o755)
    (tree / "modules" / "list").write_text("".join(f"{name.rpartition('/')[2]}\n" for name in MODULES))
    names = "\n".join(sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))) + "\n"
    packed = subprocess.run(
        [BUSYBOX, "cpio", "-o", "-H", "newc"], input=names.encode(), cwd=tree, capture_output=True, check=True
    )
    target.write_bytes(gzip.compress(packed.stdout, compresslevel=6))
    shutil.rmtree(tree)


def make_disk(target, holds=0):
    """An ext4 file system as qcow2, with so many MiB that cannot be compressed in it; without, a few hundred KiB."""
    raw = target.with_suffix(".raw")
    with open(raw, "wb") as file:
        file.truncate(DISK_MIB << 20)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        if holds:  # an empty file would be one more that the guest finds
            with open(pathlib.Path(folder) / "system", "wb") as file:
                for _each in range(holds):
                    file.write(os.urandom(1 << 20))
        lazy = "lazy_itable_init=0,lazy_journal_init=0"
        call("mkfs.ext4", "-q", "-F", "-L", "lab", "-i", "65536", "-E", lazy, "-d", folder, raw)
    call("qemu-img", "convert", "-O", "qcow2", raw, target)
    raw.unlink()


def disk(layout, holds=0):
    """The disk's file, which :func:`make` has made; one that holds something is made when first asked for."""
    if not holds:
        return files(layout)["disk"]
    made = layout.cache / "guest" / f"disk-{holds}.qcow2"
    if not made.exists():
        part = made.with_suffix(".part")
        make_disk(part, holds)
        part.rename(made)
    return made


def fingerprint():
    """Another init or another way of packing makes other files."""
    return hashlib.sha256(INIT.read_bytes() + open(__file__, "rb").read()).hexdigest()[:12]


def make(layout):
    """The guest's three files in the cache: kernel, ramdisk, disk; made if they are not there or not from this init."""
    folder = layout.cache / "guest"
    paths = files(layout)
    marker = folder / "made-of"
    if marker.exists() and marker.read_text() == fingerprint() and all(path.exists() for path in paths.values()):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    unpacked = kernel(layout, folder)
    (image,) = unpacked.glob("boot/vmlinuz-*")
    shutil.copyfile(image, paths["kernel"])
    make_ramdisk(unpacked, paths["ramdisk"])
    make_disk(paths["disk"])
    marker.write_text(fingerprint())
    return paths


def files(layout):
    """Where `make` puts them."""
    folder = layout.cache / "guest"
    return {"kernel": folder / "vmlinuz", "ramdisk": folder / "ramdisk.gz", "disk": folder / "disk.qcow2"}
