"""Runs inside the lab's environment: flavors, an aggregate and images for the hosts with a real hypervisor.

Nova keeps everything else off these hosts: their aggregate says that their trait is required, so whatever does not
require it is never offered them ([scheduler]enable_isolated_aggregate_filtering), even when it names such a host.

python kvm_bootstrap.py <settings as JSON>
"""

import json
import sys

import openstack

IMAGE = "kvm-guest"
AGGREGATE = "agg-kvm"
# name -> vcpus, MiB, GB of root disk, GB of ephemeral disk, MiB of swap
AMOUNTS = ("vcpus", "ram", "disk", "ephemeral", "swap")
FLAVORS = {
    "kvm.tiny": (1, 192, 1, 0, 0),
    "kvm.small": (1, 192, 2, 0, 0),
    "kvm.large": (1, 256, 6, 0, 0),
    "kvm.big": (1, 256, 8, 0, 0),
    "kvm.ephemeral": (1, 192, 2, 1, 0),
    "kvm.full": (1, 192, 1, 1, 64),
}
FORMATS = {"kernel": ("aki", "aki"), "ramdisk": ("ari", "ari"), "disk": ("qcow2", "bare")}
COMMAND_LINE = "console=ttyS0 quiet"


def flavors(cloud, settings):
    """Each one for any cell, and tied to each cell, for a native resize takes no host."""
    there = {flavor.name: flavor for flavor in cloud.compute.flavors()}
    for name, amounts in FLAVORS.items():
        wanted = dict(zip(AMOUNTS, amounts, strict=True))
        for cell in ("", *settings["cells"]):
            full = f"{name}.{cell}" if cell else name
            known = there.get(full)
            if known is not None:
                if all(getattr(known, what) == amount for what, amount in wanted.items()):
                    continue
                cloud.compute.delete_flavor(known)
            flavor = cloud.compute.create_flavor(name=full, flavorid=full, **wanted)
            specs = {f"trait:{settings['trait']}": "required"}
            specs |= {"aggregate_instance_extra_specs:cell": cell} if cell else {}
            cloud.compute.create_flavor_extra_specs(flavor, specs)


def aggregates(cloud, settings):
    """First the aggregate that keeps others off, then those of the cells."""
    there = {aggregate.name: aggregate for aggregate in cloud.compute.aggregates()}
    isolated = there.get(AGGREGATE)
    if isolated is None:
        isolated = cloud.compute.create_aggregate(name=AGGREGATE)
        cloud.compute.set_aggregate_metadata(isolated, {f"trait:{settings['trait']}": "required"})
    for cell, hosts in settings["cells"].items():
        for aggregate in (isolated, there[f"agg-{cell}"]):
            for host in hosts:
                if host not in (aggregate.hosts or []):
                    cloud.compute.add_host_to_aggregate(aggregate, host)


def images(cloud, settings):
    """Kernel, ramdisk, and the disk that names both; what was made of another guest is removed."""
    for old in list(cloud.image.images()):
        if old.name.startswith(IMAGE):
            cloud.image.delete_image(old)
    properties = {}
    for kind, (disk_format, container_format) in FORMATS.items():
        name = IMAGE if kind == "disk" else f"{IMAGE}-{kind}"
        image = cloud.image.create_image(
            name,
            filename=settings["files"][kind],
            disk_format=disk_format,
            container_format=container_format,
            visibility="public",
            allow_duplicates=True,
            validate_checksum=False,
            **(properties if kind == "disk" else {}),
        )
        properties[f"{kind}_id"] = image.id
        properties["os_command_line"] = COMMAND_LINE


def main(settings):
    """All of it."""
    cloud = openstack.connect(cloud="lab")
    for part in (flavors, aggregates, images):
        part(cloud, settings)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
