"""The rules that explain a refusal of nova's scheduler, held against the filters and the scheduler of a real nova."""

from __future__ import annotations

import contextlib
import json
import subprocess
import uuid
from typing import Any

import pytest

from cellmove.checks import hosts
from cellmove.db.shapes import Aggregate
from lab import cloud, oracle
from lab.client import layout
from tests.unit.checks.test_hosts import refused
from tests.unit.checks.test_preflight import instance

pytestmark = pytest.mark.lab

HOST = "c2-host1"

FILTERS = """
import json, sys
from types import SimpleNamespace as Object
from nova import objects
objects.register_all()
from nova.objects import ImageMeta, ImageMetaProps
from nova.scheduler.filters import aggregate_image_properties_isolation as image
from nova.scheduler.filters import aggregate_multitenancy_isolation as tenant
from nova.scheduler.filters import type_filter as flavor
filters = [image.AggregateImagePropertiesIsolation(), tenant.AggregateMultiTenancyIsolation(),
           flavor.AggregateTypeAffinityFilter()]
answers = []
for case in json.load(sys.stdin):
    host = Object(host="h", aggregates=[Object(metadata=each) for each in case["aggregates"]])
    spec = Object(image=ImageMeta(properties=ImageMetaProps(**case["image"])), project_id=case["project"],
                  flavor=Object(name=case["flavor"]))
    answers.append([each.host_passes(host, spec) for each in filters])
print(json.dumps(answers))
"""
"""Asks nova's own filters, with nova's own Python."""

METADATA: tuple[tuple[dict[str, str], ...], ...] = (
    (),
    ({},),
    ({"os_type": "windows"},),
    ({"os_type": "linux"},),
    ({"os_type": "windows, linux"},),
    ({"os_type": "windows"}, {"os_type": "linux"}),
    ({"os_type": "windows"}, {"os_distro": "debian"}),
    ({"hw_cpu_cores": "2"},),
    ({"instance_type": "m1.huge"},),
    ({"instance_type": "m1.small"},),
    ({"instance_type": "m1.huge, m1.small"},),
    ({"instance_type": "m1.huge"}, {"instance_type": "m1.small"}),
    ({"instance_type": "m1.huge"}, {"os_type": "linux"}),
    ({"filter_tenant_id": "other"},),
    ({"filter_tenant_id": "project"},),
    ({"filter_tenant_id": "other,project"},),
    ({"filter_tenant_id": "other"}, {"filter_tenant_id": "project"}),
    ({"filter_tenant_id": "other", "filter_tenant_id2": "project"},),
    ({"filter_tenant_id2": "other"}, {"availability_zone": "east"}),
)
"""The metadata of the aggregates that a host is in."""

IMAGES: tuple[dict[str, str], ...] = ({}, {"os_type": "linux"}, {"os_type": "linux", "os_distro": "debian"})


def test_the_rules_refuse_what_nova_s_own_filters_refuse(lab_environment: dict[str, str]) -> None:
    assert lab_environment
    cases = [(metadata, image) for metadata in METADATA for image in IMAGES]
    asked = [
        {"aggregates": metadata, "image": image, "project": "project", "flavor": "m1.small"}
        for metadata, image in cases
    ]
    ended = subprocess.run(
        [layout().python, "-c", FILTERS], input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    answers = json.loads(ended.stdout.splitlines()[-1])
    refusals = 0
    for (metadata, image), passes in zip(cases, answers, strict=True):
        aggregates = tuple(Aggregate(f"a{n}", frozenset({HOST}), each) for n, each in enumerate(metadata))
        snapshot = refused(aggregates=aggregates, server=instance(image=image, project_id="project"), wanted_host=HOST)
        node = next(node for each in snapshot.targets for node in each.nodes if node.host == HOST)
        assert len(list(hosts.reasons(node, snapshot))) == passes.count(False), (metadata, image)
        refusals += passes.count(False)
    assert refusals > 15


@contextlib.contextmanager
def flavor_for_an_aggregate(key: str) -> Any:
    """A flavor whose servers may only go to hosts of an aggregate with this metadata; no host is in one."""
    compute, name = cloud.connect().compute, f"bound-{uuid.uuid4().hex[:6]}"
    body = {"flavor": {"name": name, "ram": 64, "vcpus": 1, "disk": 1, "id": name}}
    response = compute.post("/flavors", json=body)
    cloud.raise_for(response)
    try:
        specs = {"extra_specs": {f"aggregate_instance_extra_specs:{key}": "true"}}
        cloud.raise_for(compute.post(f"/flavors/{name}/os-extra_specs", json=specs))
        yield name
    finally:
        cloud.raise_for(compute.delete(f"/flavors/{name}"))


def test_a_host_that_the_scheduler_will_refuse_for_the_flavor(cellmove, boot):
    server = boot("bound", volumes=1)
    before = oracle.snapshot(server.id)
    with flavor_for_an_aggregate("lab_fast") as name:
        ended = cellmove("plan", server.id, name, "--host", "c2-host2", "--dry-run", "-f", "json", expect=5)
    found = {check["code"]: check for check in ended.json["checks"] if check["level"] == "refusal"}
    assert set(found) == {"no-valid-host"}
    assert "nova-scheduler does not accept c2-host2 for it: No valid host was found." in found["no-valid-host"]["text"]
    assert "the flavor asks for" in found["no-valid-host"]["text"]
    assert "lab_fast" in found["no-valid-host"]["text"]
    assert oracle.snapshot(server.id) == before, "nothing was claimed"
