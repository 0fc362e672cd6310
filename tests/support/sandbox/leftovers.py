"""What interrupted moves leave in a cloud, made directly: each function returns the subject of what an audit is to find."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from cellmove.core import ownership
from cellmove.sandbox import services
from cellmove.sandbox.store import Cloud, Record
from tests.scenarios.environment import Server
from tests.support.sandbox.environment import Sandbox

UUID = "7c9e6679-7425-40de-944b-e07fc1f90a{:02x}"
KEY = {"id": 1, "name": "k1", "fingerprint": "ae:e5", "type": "ssh", "created_at": None}


def change(sandbox: Sandbox, part: str, how: Callable[[Any], None]) -> None:
    """Change a part of the world that is not in nova's databases."""
    value = getattr(sandbox.process.cloud().world, part)
    how(value)
    sandbox.process.control("world", **{part: value})


def record(cloud: Cloud, server_id: str, cell: str = "cell1", **values: Any) -> str:
    """A cross-cell migration of the server."""
    uuid = UUID.format(len(cloud.rows("cell1", "migrations")) + len(cloud.rows("cell2", "migrations")))
    known = {"uuid": uuid, "instance_uuid": server_id, "status": "error", "migration_type": "migration"}
    known |= {"cross_cell_move": 1, "source_compute": "c1-host1", "dest_compute": "c2-host1", "hidden": 0}
    cloud.insert(cell, "migrations", known | {"updated_at": cloud.now()} | values)
    return str((known | values)["uuid"])


def copy_row(cloud: Cloud, server_id: str, **values: Any) -> None:
    """The server's row in the other cell too, hidden unless it is said otherwise."""
    for table, key in (("instances", "uuid"), ("instance_extra", "instance_uuid")):
        (row,) = cloud.rows("cell1", table, **{key: server_id})
        del row["id"]
        changed = {"hidden": 1, "compute_id": None} | values if table == "instances" else {}
        cloud.insert("cell2", table, row | changed)


# made by whoever died: each returns the subject of what is to be found


def hidden_copy(sandbox: Sandbox, server: Server) -> str:
    copy_row(sandbox.process.cloud(), server.id)
    uuid = record(sandbox.process.cloud(), server.id)
    record(sandbox.process.cloud(), server.id, "cell2", status="pre-migrating", uuid=uuid)
    return server.id


def binding(sandbox: Sandbox, server: Server) -> str:
    (port,) = [each for each in sandbox.process.cloud().world.ports.values() if each["device_id"] == server.id]
    left = {"status": "INACTIVE", "vif_type": "ovs", "vnic_type": "normal", "profile": {}}
    change(sandbox, "ports", lambda ports: ports[port["id"]]["bindings"].update({"c2-host1": left}))
    return str(port["id"])


def attachment(sandbox: Sandbox, server: Server) -> str:
    cloud = sandbox.process.cloud()
    (row,) = [row for row in cloud.rows("cell1", "block_device_mapping", instance_uuid=server.id) if row["volume_id"]]
    left = {"id": UUID.format(0xA1), "volume_id": row["volume_id"], "instance": server.id, "status": "reserved"}
    left |= {"host": None, "mountpoint": None}
    change(sandbox, "attachments", lambda attachments: attachments.update({left["id"]: left}))
    return str(left["id"])


def reserved_volume(sandbox: Sandbox, server: Server) -> str:
    """Its data volume's attachment is empty, as one that a host's death left it."""
    cloud = sandbox.process.cloud()
    (row,) = [row for row in cloud.rows("cell1", "block_device_mapping", instance_uuid=server.id) if row["volume_id"]]
    empty = {"status": "reserved", "host": None, "mountpoint": None}
    change(sandbox, "attachments", lambda attachments: attachments[row["attachment_id"]].update(empty))
    return str(row["volume_id"])


def lost_attachment(sandbox: Sandbox, server: Server) -> str:
    """Cinder does not have the attachment that its block device names."""
    cloud = sandbox.process.cloud()
    (row,) = [row for row in cloud.rows("cell1", "block_device_mapping", instance_uuid=server.id) if row["volume_id"]]
    change(sandbox, "attachments", lambda attachments: attachments.pop(row["attachment_id"]) and None)
    return str(row["volume_id"])


def unnamed_attachment(sandbox: Sandbox, server: Server) -> str:
    """Its block device names no attachment, and cinder has none."""
    volume = lost_attachment(sandbox, server)
    cloud = sandbox.process.cloud()
    cloud.update("cell1", "block_device_mapping", {"attachment_id": None}, instance_uuid=server.id, volume_id=volume)
    return volume


def give_up(sandbox: Sandbox, server: Server) -> str:
    uuid, cloud = record(sandbox.process.cloud(), server.id), sandbox.process.cloud()
    held = cloud.world.allocations[server.id]
    there = {services.provider_of("c2-host1"): {"resources": {"VCPU": 1}}}
    change(sandbox, "allocations", lambda all_: all_.update({uuid: {**held, "generation": 1, "allocations": there}}))
    return uuid


def give_back(sandbox: Sandbox, server: Server) -> str:
    uuid = record(sandbox.process.cloud(), server.id)
    change(sandbox, "allocations", lambda all_: all_.update({uuid: all_.pop(server.id)}))
    return uuid


def temporary_image(sandbox: Sandbox, server: Server) -> str:
    cloud = sandbox.process.cloud()
    record(cloud, server.id)
    left = {"id": UUID.format(0xA2), "name": f"{server.name}-resize-temp", "instance_uuid": server.id}
    left |= {"image_type": "snapshot", "status": "active", "created_at": f"{cloud.now().isoformat()}Z"}
    change(sandbox, "images", lambda images: images.update({left["id"]: left}))
    return str(left["id"])


def stale_mark(sandbox: Sandbox, server: Server) -> str:
    move = str(sandbox.cellmove("plan", server.id, "--cell", "cell2", "-f", "json").json["move"])
    sandbox.cellmove("rollback", move)
    for key, value in (
        (ownership.KEY, f"{move} {ownership.owner_of_journal(str(sandbox.folder / 'journal.db'))}"),
        (ownership.CELL, "x"),
    ):
        row = {"instance_uuid": server.id, "key": key, "value": value[: ownership.LENGTH]}
        sandbox.process.cloud().insert("cell1", "instance_system_metadata", row)
    return move


def lose_keypairs(cloud: Cloud, server: Server) -> Record:
    (row,) = cloud.rows("cell1", "instances", uuid=server.id)
    cloud.update("cell1", "instance_extra", {"keypairs": None}, instance_uuid=server.id)
    return row


def api_keypair(sandbox: Sandbox, server: Server) -> str:
    cloud = sandbox.process.cloud()
    row = lose_keypairs(cloud, server)
    cloud.delete("api", "key_pairs", user_id=row["user_id"])
    cloud.insert("api", "key_pairs", KEY | {"user_id": row["user_id"], "public_key": row["key_data"]})
    return "k1"


def hidden_keypair(sandbox: Sandbox, server: Server) -> str:
    cloud = sandbox.process.cloud()
    copy_row(cloud, server.id, host="c2-host1")
    row = lose_keypairs(cloud, server)
    cloud.delete("api", "key_pairs", user_id=row["user_id"])
    return "k1"


def stale_context(sandbox: Sandbox, server: Server) -> str:
    cloud = sandbox.process.cloud()
    record(cloud, server.id)
    (extra,) = cloud.rows("cell1", "instance_extra", instance_uuid=server.id)
    flavors = json.loads(extra["flavor"])
    text = json.dumps(flavors | {"old": flavors["cur"], "new": flavors["cur"]})
    cloud.update("cell1", "instance_extra", {"flavor": text, "migration_context": "{}"}, instance_uuid=server.id)
    return server.id


def stuck(sandbox: Sandbox, server: Server) -> None:
    cloud = sandbox.process.cloud()
    cloud.update("cell1", "instances", {"task_state": "resize_prep"}, uuid=server.id)
    record(cloud, server.id, status="pre-migrating")
