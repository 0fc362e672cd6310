"""nova's own scenarios of a cross-cell resize (nova/tests/functional/test_cross_cell_migrate.py), with our commands.

Those that fail on purpose stand in tests/scenarios/failures.py. After each the server moves again, there and back.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from lab import cloud, oracle, rows
from lab.client import MICROVERSION, raise_for
from tests.support.lab.shared_server import HOSTS, settle

pytestmark = pytest.mark.lab


@pytest.fixture
def traveller(request, travellers):
    """A server at rest with the backing that the test is grouped by."""
    (backing,) = [mark.args[0] for mark in request.node.iter_markers("xdist_group")]
    return travellers(backing)


@pytest.fixture
def volume(lab_environment):
    """A volume that nobody has."""
    made = cloud.create_volume(f"late-{uuid.uuid4().hex[:6]}")
    yield made
    cloud.delete_volume(made)


image_backed, volume_backed = (pytest.mark.xdist_group(name) for name in ("image", "volume"))


def attach(server_id, volume_id):
    """As the owner does it."""
    body = {"volumeAttachment": {"volumeId": volume_id}}
    compute = cloud.connect().compute
    raise_for(compute.post(f"/servers/{server_id}/os-volume_attachments", json=body, microversion=MICROVERSION))
    wait_volume(volume_id, "in-use")
    cloud.wait_for("the guest to have it", lambda: guest_has(server_id, volume_id), 30)


def detach(server_id, volume_id):
    """As the owner does it."""
    raise_for(cloud.connect().compute.delete(f"/servers/{server_id}/os-volume_attachments/{volume_id}"))
    cloud.wait_for("the guest to have given it up", lambda: not guest_has(server_id, volume_id), 30)


def guest_has(server_id, volume_id):
    return any(
        volume_id in cloud.guest(host, server_id)["volumes"] for host in cloud.guests(server_id)
    )  # fmt: skip


def wait_volume(volume_id, status):
    storage = cloud.connect().block_storage
    cloud.wait_for(f"the volume to be {status}", lambda: storage.get_volume(volume_id).status == status, 60)


def check(server_id, *, cell, flavor, status="ACTIVE"):
    """Whole, in this cell, and nowhere else."""
    settle(server_id)
    found = oracle.problems(oracle.snapshot(server_id), cell=cell, host=HOSTS[cell], flavor=flavor, status=status)
    assert found == []


def move_again(cellmove, traveller):
    """To the other cell and back; then it is at rest."""
    status = cloud.show(traveller.id)["status"]
    cellmove("migrate", traveller.id, "--host", HOSTS[traveller.away])
    check(traveller.id, cell=traveller.away, flavor=traveller.flavor, status="VERIFY_RESIZE")
    cellmove("revert", traveller.id)
    check(traveller.id, cell=traveller.cell, flavor=traveller.flavor, status=status)
    traveller.at_rest = status == "ACTIVE"


@image_backed
def test_a_volume_attached_while_resized_is_there_after_confirm(cellmove, traveller, volume):
    cellmove(*traveller.move_command())
    attach(traveller.id, volume)
    cellmove("confirm", traveller.id)
    traveller.arrive()
    check(traveller.id, cell=traveller.cell, flavor=traveller.flavor)
    assert guest_has(traveller.id, volume)
    detach(traveller.id, volume)
    wait_volume(volume, "available")
    move_again(cellmove, traveller)


@volume_backed
def test_a_volume_attached_while_resized_is_there_after_revert(cellmove, traveller, volume):
    cellmove(*traveller.move_command())
    attach(traveller.id, volume)
    cellmove("revert", traveller.id)
    check(traveller.id, cell=traveller.cell, flavor=traveller.flavor)
    assert guest_has(traveller.id, volume)
    detach(traveller.id, volume)
    wait_volume(volume, "available")
    move_again(cellmove, traveller)


@volume_backed
def test_a_volume_detached_while_resized_does_not_come_back(cellmove, traveller, volume):
    attach(traveller.id, volume)
    cellmove(*traveller.move_command())
    detach(traveller.id, volume)
    cellmove("revert", traveller.id)
    check(traveller.id, cell=traveller.cell, flavor=traveller.flavor)
    assert not guest_has(traveller.id, volume)
    wait_volume(volume, "available")
    move_again(cellmove, traveller)


def test_a_server_deleted_while_resized_leaves_nothing(cellmove, boot):
    server = boot("resized", volumes=1)
    cellmove("resize", server.id, "m1.small", "--host", HOSTS["cell2"])
    cloud.connect().compute.delete_server(server.id)
    cloud.wait_for("the server to be gone", lambda: cloud.show(server.id) is None, 60)

    shot = oracle.snapshot(server.id)
    assert (shot["guests"], shot["disks"], shot["images"]) == ({}, {}, [])
    assert not any(shot["allocations"].values())
    assert not any(each.get("attachments") for each in shot["volumes"].values())
    assert shot["cells"]["cell1"] == {}
    assert [row for row in shot["cells"]["cell2"].get("instances", []) if not row["deleted"]] == []
    assert cellmove("show", server.id, "-f", "json").json["state"] == "server-gone"


@image_backed
def test_the_host_that_was_named_is_taken_though_its_own_cell_has_room(cellmove, traveller):
    cellmove("migrate", traveller.id, "--host", HOSTS[traveller.away], "--confirm")
    traveller.cell = traveller.away
    check(traveller.id, cell=traveller.cell, flavor=traveller.flavor)
    move_again(cellmove, traveller)


def test_within_its_cell_a_server_is_left_to_nova(cellmove, boot):
    """nova's weigher would stay in the cell; whoever wants that is given the command, and it works."""
    server = boot("stays")
    before = oracle.snapshot(server.id)
    for where in (("--cell", "cell1"), ("--host", "c1-host2")):
        refused = cellmove("resize", server.id, "m1.small", *where, expect=5)
        assert f"openstack server resize --flavor m1.small {server.id}" in refused.stdout
    refused = cellmove("migrate", server.id, "--host", "c1-host2", expect=5)
    (said,) = [line for line in refused.stdout.splitlines() if "openstack server migrate" in line]
    words = shlex.split(said[said.index("openstack server migrate") :])
    assert words[:5] == ["openstack", "server", "migrate", "--host", "c1-host2"]
    assert oracle.snapshot(server.id) == before

    assert cloud.native_move(server.id, host=words[4]) == "c1-host2"
    refused = cellmove("confirm", server.id, expect=2)
    assert f"next: cellmove adopt {server.id}" in refused.stderr
    refused = cellmove("adopt", server.id, expect=5)
    assert f"next: openstack server resize confirm {server.id}" in refused.stderr
    cloud.native_confirm(server.id)
    cellmove("migrate", server.id, "--cell", "cell2")
    cellmove("revert", server.id)
    shot = oracle.snapshot(server.id)
    assert oracle.problems(shot, cell="cell1", host="c1-host2", flavor="m1.tiny", status="ACTIVE") == []


def test_a_flavor_says_which_cell_may_have_it(cellmove, boot):
    server = boot("bound")
    before = oracle.snapshot(server.id)
    refused = cellmove("resize", server.id, "m1.small.cell1", expect=None)
    assert refused.code in (1, 5), refused.stderr
    assert oracle.compare(before, oracle.snapshot(server.id)) == []
    moved = cellmove("resize", server.id, "m1.small.cell2", "--confirm", "-f", "json").json
    assert moved["target"]["cell"] == "cell2"
    shot = oracle.snapshot(server.id)
    host = moved["target"]["host"]
    assert oracle.problems(shot, cell="cell2", host=host, flavor="m1.small.cell2", status="ACTIVE") == []
    cellmove("resize", server.id, "m1.tiny", "--cell", "cell1")
    cellmove("revert", server.id)
    shot = oracle.snapshot(server.id)
    assert oracle.problems(shot, cell="cell2", host=host, flavor="m1.small.cell2", status="ACTIVE") == []


@pytest.fixture
def group(lab_environment):
    """A server group whose members stand on hosts of their own."""
    made = cloud.make_group(f"apart-{uuid.uuid4().hex[:6]}")
    yield made
    cloud.delete_group(made)


def test_members_of_a_group_stay_apart_across_cells(cellmove, boot, group):
    first = boot("apart", hints={"group": group}, host="c1-host1")
    second = boot("apart", hints={"group": group}, host="c1-host2")
    cellmove("migrate", first.id, "--host", "c2-host1", "--confirm")
    before = oracle.snapshot(second.id)

    refused = cellmove("migrate", second.id, "--host", "c2-host1", expect=None)

    assert refused.code in (1, 5), refused.stderr
    assert oracle.compare(before, oracle.snapshot(second.id)) == []
    cellmove("migrate", second.id, "--cell", "cell2", "--confirm")
    shot = oracle.snapshot(second.id)
    assert oracle.problems(shot, cell="cell2", host="c2-host2", flavor="m1.tiny", status="ACTIVE") == []
    cellmove("migrate", first.id, "--host", "c1-host1")
    cellmove("revert", first.id)
    shot = oracle.snapshot(first.id)
    assert oracle.problems(shot, cell="cell2", host="c2-host1", flavor="m1.tiny", status="ACTIVE") == []


@pytest.mark.parametrize(
    ("backing", "way"),
    [
        pytest.param("volume", "confirm", marks=volume_backed), pytest.param("image", "revert", marks=image_backed),
        pytest.param("image", "confirm", marks=(image_backed, pytest.mark.long)),
        pytest.param("volume", "revert", marks=(volume_backed, pytest.mark.long)),
    ],
)  # fmt: skip
def test_a_stopped_server_stays_stopped(cellmove, travellers, backing, way):
    traveller = travellers(backing)
    cloud.stop(traveller.id)
    cellmove(*traveller.move_command())
    cellmove(way, traveller.id)
    if way == "confirm":
        traveller.arrive()
    check(traveller.id, cell=traveller.cell, flavor=traveller.flavor, status="SHUTOFF")
    move_again(cellmove, traveller)
    cloud.start(traveller.id)
    check(traveller.id, cell=traveller.cell, flavor=traveller.flavor)
    traveller.at_rest = True


def auto_confirm(server_id, folder, *, up_call):
    """A compute that confirms by itself what has waited for a second; what it said.

    In most clouds with cells a compute cannot make the up-call that this needs: neither the API database nor the
    superconductor's bus is its own.
    """
    layout, lines = cloud.layout(), ["[DEFAULT]", f"host = {HOSTS['cell2']}", "resize_confirm_window = 1"]
    lines.append("compute_driver = fake.MediumFakeDriver")
    if up_call:
        lines += [f"transport_url = {layout.transport_url()}", "[api_database]"]
        lines.append(f"connection = {os.environ['CELLMOVE_LAB_API_DB']}")
    own = folder / "compute.conf"
    own.write_text("\n".join(lines))
    script = Path(oracle.__file__).parent / "inside" / "auto_confirm.py"
    files = ("--config-file", layout.etc / "nova" / "nova-cell2.conf", "--config-file", own)
    words = [str(word) for word in (layout.python, script, server_id, *files)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "1 waiting" in ended.stdout
    return ended.stderr


CONFIRM = "conductor_confirm_snapshot_based_resize"


def test_nova_may_confirm_by_itself(cellmove, boot, tmp_path):
    server = boot("window", volumes=1)
    move = cellmove("migrate", server.id, "--host", HOSTS["cell2"], "-f", "json").json["move"]
    time.sleep(2)

    said = auto_confirm(server.id, tmp_path, up_call=False)
    assert "Error auto-confirming resize" in said
    check(server.id, cell="cell2", flavor="m1.tiny", status="VERIFY_RESIZE")

    assert "Error auto-confirming resize" not in auto_confirm(server.id, tmp_path, up_call=True)
    cloud.wait_status(server.id, "ACTIVE")
    cloud.wait_for("nova to have ended", lambda: CONFIRM not in rows.open_events(server.id, "cell2"), 20)
    found = oracle.problems(
        oracle.snapshot(server.id), cell="cell2", host=HOSTS["cell2"], flavor="m1.tiny", status="ACTIVE"
    )
    # The periodic task asks for the server without its flavors, so that nova forgets to drop the stashed ones.
    assert [each for each in found if not each.startswith("instance_extra.flavor still has")] == []
    shown = cellmove("confirm", move)
    assert f"{move} was ended outside of cellmove: confirmed" in shown.stderr
    assert cellmove("show", move, "-f", "json").json["state"] == "confirmed"
    cellmove("migrate", server.id, "--host", HOSTS["cell1"])
    auto = cellmove("rollback", server.id, "-f", "json").json
    assert auto["state"] == "reverted"
    check(server.id, cell="cell2", flavor="m1.tiny")
