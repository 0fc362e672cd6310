"""What the flavor asks for: of the server as it is, and of a resize."""

from __future__ import annotations

from cellmove.checks.result import CheckResults, refusal
from cellmove.checks.snapshot import ServerSnapshot
from cellmove.db.shapes import Flavor

TOPOLOGY_SPECS = (
    "hw:numa",
    "hw:cpu_policy",
    "hw:cpu_thread_policy",
    "hw:cpu_dedicated_mask",
    "hw:cpu_realtime",
    "hw:emulator_threads_policy",
    "hw:mem_page_size",
    "resources:PCPU",
)
"""What a NUMA topology is made from (nova/virt/hardware.py, numa_get_constraints); beginnings of names."""

PCI_SPECS = ("pci_passthrough:", "hw:pci_numa_affinity_policy")
"""What PCI requests are made from (nova/pci/request.py)."""


def check_flavor(snapshot: ServerSnapshot) -> CheckResults:
    """Flavors that cannot cross, or that nova-api would not resize to."""
    old, new = snapshot.flavor, snapshot.new_flavor
    for flavor in (old, new):
        if flavor is not None and flavor.extra_specs.get("accel:device_profile"):
            yield refusal(
                "accelerator",
                f"flavor {flavor.name} asks for an accelerator (accel:device_profile)",
                "nova cannot move accelerators" if flavor is old else "choose another flavor",
            )
    if new is None:
        return
    if new.id == old.id:
        yield refusal(
            "same-flavor",
            f"the server has the flavor {new.name} already",
            "use cellmove migrate, which keeps the flavor",
        )
    elif new.disabled:
        yield refusal("flavor-disabled", f"flavor {new.name} is disabled", "choose another flavor")
    minimum = _number(snapshot.instance.image.get("min_ram"))
    if new.memory_mb < minimum:
        yield refusal(
            "too-little-memory",
            f"flavor {new.name} has {new.memory_mb} MiB of memory; the server's image wants {minimum}",
            "choose a flavor with more memory",
        )


def check_disk(snapshot: ServerSnapshot) -> CheckResults:
    """Local disks, which have to fit: the root disk of an image-backed server, and ephemeral ones.

    Nova would make ephemeral disks of the old size at the target, whatever the new flavor claims (within a
    cell nova/virt/libvirt/driver.py, migrate_disk_and_power_off, refuses).
    """
    old, new = snapshot.flavor, snapshot.new_flavor
    if new is not None and new.ephemeral_gb < old.ephemeral_gb:
        yield refusal(
            "disk-too-small",
            f"flavor {new.name} has {new.ephemeral_gb} GiB of ephemeral disk; the server's has {old.ephemeral_gb}",
            "choose a flavor with at least as much: disks cannot shrink",
        )
    if new is None or snapshot.is_volume_backed:
        return
    root_gb, minimum = snapshot.instance.root_gb, _number(snapshot.instance.image.get("min_disk"))
    if new.root_gb == 0:
        if snapshot.flavor.root_gb != 0:
            yield refusal(
                "zero-disk",
                f"flavor {new.name} has no root disk, which only a volume-backed server can do with",
                "choose a flavor with a disk",
            )
    elif new.root_gb < root_gb:
        yield refusal(
            "disk-too-small",
            f"flavor {new.name} has a root disk of {new.root_gb} GiB; the server's has {root_gb}",
            "choose a flavor whose disk is at least as large: disks cannot shrink",
        )
    elif new.root_gb < minimum:
        yield refusal(
            "disk-too-small",
            f"flavor {new.name} has a root disk of {new.root_gb} GiB; the server's image wants {minimum}",
            "choose a flavor with a larger disk",
        )


def check_topology(snapshot: ServerSnapshot) -> CheckResults:
    """A resize for which nova-api would compute a new NUMA topology or new PCI requests.

    Only nova-api can (nova/compute/api.py, ``resize``: numa_get_constraints and
    get_pci_requests_from_flavor). With the old ones the guest would come up pinned wrongly, or without
    its devices. A migration keeps both as they are.
    """
    old, new = snapshot.flavor, snapshot.new_flavor
    if new is None:
        return
    remedy = "cellmove migrate to the other cell first, then openstack server resize within it"
    why = "only nova-api computes the {} of a resized server"
    specs = sorted(_starting(old, TOPOLOGY_SPECS).items() ^ _starting(new, TOPOLOGY_SPECS).items())
    has_topology = snapshot.instance.has_numa_topology or bool(snapshot.spec.get("numa_topology"))
    if specs:
        names = ", ".join(sorted({name for name, _value in specs}))
        yield refusal("numa", f"the flavors differ in {names}, and {why.format('NUMA topology')}", remedy)
    elif (has_topology or _starting(new, TOPOLOGY_SPECS)) and (old.vcpus, old.memory_mb) != (new.vcpus, new.memory_mb):
        yield refusal(
            "numa",
            f"the server has a NUMA topology, which has to change with vCPUs and memory, and {why.format('NUMA topology')}",
            remedy,
        )
    specs = sorted(_starting(old, PCI_SPECS).items() ^ _starting(new, PCI_SPECS).items())
    if specs:
        names = ", ".join(sorted({name for name, _value in specs}))
        yield refusal("pci", f"the flavors differ in {names}, and {why.format('PCI requests')}", remedy)


def flavor_ok(snapshot: ServerSnapshot) -> str:
    """When the flavor fits."""
    old, new = snapshot.flavor, snapshot.new_flavor
    return (
        f"the server keeps its flavor {old.name}" if new is None else f"flavor {new.name} fits in place of {old.name}"
    )


def _starting(flavor: Flavor, beginnings: tuple[str, ...]) -> dict[str, str]:
    return {key: value for key, value in flavor.extra_specs.items() if key.startswith(beginnings)}


def _number(text: str | None) -> int:
    try:
        return int(text or 0)
    except ValueError:
        return 0
