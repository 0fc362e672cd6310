"""Runs inside the lab's environment: what the cloud is furnished with, through its own APIs.  Everything idempotent.

python bootstrap.py identity <settings as JSON>      users, roles, the catalog: needs keystone only
python bootstrap.py <part> <settings as JSON>        image, network, flavors: needs that service
"""

import json
import os
import sys

import openstack

FLAVORS = {
    # name: (vcpus, MiB, GB, ephemeral GB, swap MiB)
    "m1.tiny": (1, 64, 1, 0, 0),
    "m1.small": (2, 128, 1, 0, 0),
    "m1.big": (8, 2048, 4, 0, 0),
    "m1.huge": (4096, 128, 1, 0, 0),  # no host is large enough
    "m1.ephemeral": (1, 64, 1, 1, 64),
}
# Of these there is one more for each cell, `m1.small.cell2`, which only the hosts of that cell satisfy: nova prefers
# the cell that a server is in, and its resize takes no host.
TIED = ("m1.tiny", "m1.small")
SERVICES = {
    # type: (name, user, path of its endpoint)
    "placement": ("placement", "placement", ""),
    "image": ("glance", "glance", ""),
    "block-storage": ("cinder", "cinder", "/v3"),
    "network": ("neutron", "neutron", ""),
    "compute": ("nova", "nova", "/v2.1"),
}
NETWORK, SUBNET, RANGE = "lab-net", "lab-subnet", "10.90.0.0/16"
IMAGE, IMAGE_SIZE = "lab-image", 1024 * 1024


def identity(cloud, settings):
    """The users of the services, an ordinary user, and where everything is."""
    domain = cloud.identity.find_domain("default").id
    roles = {}
    for name in ("admin", "service", "member", "reader"):
        roles[name] = cloud.identity.find_role(name) or cloud.identity.create_role(name=name)
    projects = {}
    for name in ("service", "demo"):
        found = cloud.identity.find_project(name, domain_id=domain)
        projects[name] = found or cloud.identity.create_project(name=name, domain_id=domain)
    users = {project.name: project for project in cloud.identity.users(domain_id=domain)}
    wanted = [(user, "service", ("admin", "service")) for _, user, _ in SERVICES.values()]
    wanted.append(("demo", "demo", ("member", "reader")))
    for name, project, grants in wanted:
        user = users.get(name) or cloud.identity.create_user(
            name=name, password=settings["password"], domain_id=domain, default_project_id=projects[project].id
        )
        for role in grants:
            cloud.identity.assign_project_role_to_user(projects[project], user, roles[role])
    services = {service.type: service for service in cloud.identity.services()}
    endpoints = {(endpoint.service_id, endpoint.interface) for endpoint in cloud.identity.endpoints()}
    for kind, (name, _, path) in SERVICES.items():
        service = services.get(kind) or cloud.identity.create_service(type=kind, name=name)
        for interface in ("public", "internal", "admin"):
            if (service.id, interface) not in endpoints:
                cloud.identity.create_endpoint(
                    service_id=service.id,
                    interface=interface,
                    url=settings["urls"][name] + path,
                    region_id=settings["region"],
                )


def image(cloud, settings):
    """One small image of random content, so that no two disks agree by accident."""
    if cloud.image.find_image(IMAGE) is None:
        cloud.image.create_image(
            IMAGE,
            data=os.urandom(IMAGE_SIZE),
            disk_format="raw",
            container_format="bare",
            visibility="public",
            allow_duplicates=True,
            validate_checksum=False,
        )


def network(cloud, settings):
    """One network for everybody."""
    found = cloud.network.find_network(NETWORK) or cloud.network.create_network(name=NETWORK, shared=True)
    if cloud.network.find_subnet(SUBNET) is None:
        cloud.network.create_subnet(
            name=SUBNET, network_id=found.id, ip_version=4, cidr=RANGE, enable_dhcp=False, gateway_ip=None
        )


def flavors(cloud, settings):
    """Flavors for everybody."""
    there = {flavor.name for flavor in cloud.compute.flavors()}
    for name, (vcpus, ram, disk, ephemeral, swap) in FLAVORS.items():
        for tied in ("", *(f".{cell}" for cell in settings["cells"])):
            full = name + tied
            if full in there or (tied and name not in TIED):
                continue
            flavor = cloud.compute.create_flavor(
                name=full, vcpus=vcpus, ram=ram, disk=disk, ephemeral=ephemeral, swap=swap, flavorid=full
            )
            if tied:
                specs = {"aggregate_instance_extra_specs:cell": tied[1:]}
                cloud.compute.create_flavor_extra_specs(flavor, specs)


def aggregates(cloud, settings):
    """One aggregate for each cell; without availability zones, which a server could not leave."""
    there = {aggregate.name: aggregate for aggregate in cloud.compute.aggregates()}
    for cell, hosts in settings["cells"].items():
        name = f"agg-{cell}"
        aggregate = there.get(name)
        if aggregate is None:
            aggregate = cloud.compute.create_aggregate(name=name)
            cloud.compute.set_aggregate_metadata(aggregate, {"cell": cell})
        for host in hosts:
            if host not in (aggregate.hosts or []):
                cloud.compute.add_host_to_aggregate(aggregate, host)


PARTS = {"identity": identity, "image": image, "network": network, "flavors": flavors, "aggregates": aggregates}


def main(arguments):
    """Do the named parts, in the order given."""
    *parts, settings = arguments
    cloud = openstack.connect(cloud="lab")
    for part in parts:
        PARTS[part](cloud, json.loads(settings))


if __name__ == "__main__":
    main(sys.argv[1:])
