"""What the plan says of a real nova: refusals that a sandbox could make up, quotas, and what becomes of accepted losses."""

from __future__ import annotations

import contextlib
import re

import pytest

from lab import cloud, oracle
from lab.rows import connect_database

TARGET = "c2-host1"
PLACEMENT = "placement 1.26"  # from here on all of an inventory may be reserved


def codes(cellmove, *arguments, expect=5):
    """The codes of everything that a dry run finds wrong."""
    found = cellmove("plan", *arguments, "--dry-run", "-f", "json", expect=expect).json
    return {check["code"]: check for check in found["checks"] if check["level"] != "ok"}


def placement(method, path, **body):
    """One call to placement."""
    call = getattr(cloud.connect().placement, method)
    headers = {"OpenStack-API-Version": PLACEMENT}
    response = call(path, headers=headers, json=body) if body else call(path, headers=headers)
    cloud.raise_for(response)
    return response.json() if response.content else {}


def provider(host):
    """The UUID of a host's resource provider."""
    (found,) = placement("get", f"/resource_providers?name={host}")["resource_providers"]
    return found["uuid"]


@contextlib.contextmanager
def quota(project, **limits):
    """The project's limits are others for a while."""
    compute = cloud.connect().compute
    cloud.raise_for(compute.put(f"/os-quota-sets/{project}", json={"quota_set": limits}))
    try:
        yield
    finally:
        cloud.raise_for(compute.delete(f"/os-quota-sets/{project}"))


def used(project):
    """What a project uses, as nova counts it."""
    response = cloud.connect().compute.get(f"/os-quota-sets/{project}/detail")
    cloud.raise_for(response)
    return {name: response.json()["quota_set"][name]["in_use"] for name in ("cores", "ram")}


@pytest.mark.lab
def test_refusals_of_a_real_cloud(cellmove, boot):
    server = boot("refused", volumes=1, config_drive=True)
    before = oracle.snapshot(server.id)
    there = ("--host", TARGET)
    assert set(codes(cellmove, server.id, *there, expect=0)) == {"config-drive"}

    cloud.act(server.id, "lock")
    assert set(codes(cellmove, server.id, *there)) == {"config-drive", "locked"}
    assert set(codes(cellmove, server.id, *there, "--force-locked", expect=0)) == {"config-drive"}
    cloud.act(server.id, "unlock")

    assert set(codes(cellmove, server.id, "m1.huge", *there)) == {"config-drive", "no-room"}
    refused = codes(cellmove, server.id, "m1.small.cell1", "--cell", "cell2")["no-valid-host"]
    assert "c2-host1: the flavor asks for an aggregate with cell=cell1" in refused["text"]
    assert set(codes(cellmove, server.id, "--cell", "cell1")) == {"config-drive", "same-cell"}

    connection = connect_database()
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO nova_cell2.instances (uuid, deleted, hidden) SELECT uuid, 7, 0 FROM nova_cell1.instances"
                " WHERE uuid = %s AND deleted = 0",
                (server.id,),
            )
            try:
                left = codes(cellmove, server.id, *there)["leftovers"]
            finally:
                cursor.execute("DELETE FROM nova_cell2.instances WHERE uuid = %s AND deleted = 7", (server.id,))
    finally:
        connection.close()
    assert "1 in instances" in left["text"]
    assert oracle.compare(before, oracle.snapshot(server.id)) == []


@pytest.mark.lab
def test_an_ephemeral_and_a_swap_disk_are_lost_only_where_that_is_accepted(cellmove, boot):
    server = boot("ephemeral", flavor="m1.ephemeral")
    before, disks = oracle.snapshot(server.id), cloud.disks(server.id)
    assert set(disks["c1-host1"]) == {"disk", "disk.eph0", "disk.swap"}
    there = ("--host", TARGET)

    assert set(codes(cellmove, server.id, *there)) == {"loses-ephemeral", "loses-swap"}
    refused = cellmove("migrate", server.id, *there, "--accept-loss=swap", expect=5)
    assert "[loses-ephemeral]" in refused.stdout
    assert "--accept-loss swap" in refused.stderr
    assert "there is no 'disk'" in cellmove("plan", server.id, "--accept-loss=disk", expect=2).stderr
    assert oracle.snapshot(server.id) == before

    command = ("migrate", server.id, *there, "--accept-loss=ephemeral,swap")
    moved = cellmove(*command, "-f", "json").json
    assert moved["accepted_losses"] == ["ephemeral", "swap"]
    now = cloud.disks(server.id)
    assert now["c1-host1"] == disks["c1-host1"], "what was there stays until confirm"
    assert set(now[TARGET]) == {"disk", "disk.eph0", "disk.swap"}
    assert now[TARGET]["disk"] == disks["c1-host1"]["disk"]
    assert now[TARGET]["disk.eph0"] != disks["c1-host1"]["disk.eph0"]

    cellmove("revert", server.id)
    assert cloud.disks(server.id) == disks, "and comes back with a revert, as it was"
    assert oracle.compare(before, oracle.snapshot(server.id)) == []

    cellmove(*command, "--confirm")
    after = oracle.snapshot(server.id)
    assert oracle.problems(after, cell="cell2", host=TARGET, flavor="m1.ephemeral", status="ACTIVE") == []
    changed = [
        line
        for line in oracle.compare(before, after, moved=True)
        if not re.match(r"disks on .*disk\.(eph0|swap)", line)
    ]
    assert changed == []
    assert {host: set(files) for host, files in cloud.disks(server.id).items()} == {
        TARGET: {"disk", "disk.eph0", "disk.swap"}
    }


@pytest.mark.lab
def test_an_up_size_and_a_revert_keep_to_the_quota_as_nova_does(cellmove, boot):
    server = boot("quota", cloud="lab-demo", host=None, flavor="m1.small")
    shown = cloud.show(server.id)
    project, host = shown["tenant_id"], shown["OS-EXT-SRV-ATTR:host"]
    target = "c2-host1" if host.startswith("c1") else "c1-host1"
    big = cloud.flavor_id("m1.big")
    for name, more in (("cores", 6), ("ram", 1920)):
        with quota(project, **{name: used(project)[name] + more - 1}):
            found = codes(cellmove, server.id, "m1.big", "--host", target)["quota"]
            assert re.search(rf"the project's quota does not allow {more} more", found["text"])
            assert project in found["remedy"]
            with pytest.raises(Exception, match=r"(?i)quota"):
                cloud.act(server.id, "resize", {"flavorRef": big}, cloud="lab-demo")
            assert codes(cellmove, server.id, "--host", target, expect=0) == {}, "a migration asks for no more"
        with quota(project, **{name: used(project)[name] + more}):
            assert codes(cellmove, server.id, "m1.big", "--host", target, expect=0) == {}

    cellmove("resize", server.id, "m1.tiny", "--host", target)
    with quota(project, cores=used(project)["cores"]):
        with pytest.raises(Exception, match="TooManyInstances"):  # nova-api answers its own refusal with a 500
            cloud.act(server.id, "revertResize", cloud="lab-demo")
        refused = cellmove("revert", server.id, expect=5)
        assert "the project's quota does not allow 1 more vCPUs" in refused.stderr
        assert "next: cellmove rollback move-" in refused.stderr
        assert cloud.show(server.id)["status"] == "VERIFY_RESIZE"
        cellmove("rollback", server.id)
    assert cloud.show(server.id)["OS-EXT-SRV-ATTR:host"] == host
    assert cloud.show(server.id)["flavor"]["original_name"] == "m1.small"


@pytest.mark.lab
@pytest.mark.alone
@pytest.mark.breaks_hosts
@pytest.mark.xdist_group("hosts")
def test_a_store_that_placement_shows_to_be_shared_is_refused_whatever_was_said(cellmove, boot):
    server = boot("stores")
    aggregate, store = "a0000000-0000-4000-8000-00000000005e", "b0000000-0000-4000-8000-00000000005e"
    nodes = [provider(host) for host in ("c1-host1", TARGET)]
    kept = {node: placement("get", f"/resource_providers/{node}/aggregates")["aggregates"] for node in nodes}

    def member_of(node, aggregates):
        generation = placement("get", f"/resource_providers/{node}")["generation"]
        body = {"aggregates": aggregates, "resource_provider_generation": generation}
        placement("put", f"/resource_providers/{node}/aggregates", **body)

    placement("post", "/resource_providers", name="lab-shared-store", uuid=store)
    try:
        # Nothing of it is free: no server is ever put there.
        inventory = {"DISK_GB": {"total": 1, "reserved": 1}}
        placement(
            "put", f"/resource_providers/{store}/inventories", inventories=inventory, resource_provider_generation=0
        )
        traits = ["MISC_SHARES_VIA_AGGREGATE"]
        placement("put", f"/resource_providers/{store}/traits", traits=traits, resource_provider_generation=1)
        for node in nodes:
            member_of(node, [*kept[node], aggregate])
        member_of(store, [aggregate])
        shared = codes(cellmove, server.id, "--host", TARGET)["shared-disk-store"]
        assert "lab-shared-store" in shared["text"]
        assert set(codes(cellmove, server.id, "--cell", "cell2")) == {"shared-disk-store"}
        assert codes(cellmove, server.id, "--host", "c2-host2", expect=0) == {}, "that one does not share it"
    finally:
        for node in nodes:
            member_of(node, kept[node])
        placement("delete", f"/resource_providers/{store}")
    assert codes(cellmove, server.id, "--host", TARGET, expect=0) == {}
