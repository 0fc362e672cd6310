"""Writes down what the sandbox is made of: nova's tables and the rows of one ordinary server, as this lab has them.

    python -m lab.record [FILE]      (the lab has to be up; . .lab/env first)

So that the sandbox has the columns, the keys and the values of a real nova and not somebody's memory of them.
"""

import json
import pathlib
import sys

from lab import cloud
from lab.rows import connect_database, rows
from lab.snapshot import look

FILE = pathlib.Path(__file__).resolve().parents[1] / "cellmove" / "sandbox" / "nova.json"

CELL_TABLES = (
    "instances", "instance_extra", "instance_info_caches", "instance_metadata", "instance_system_metadata",
    "block_device_mapping", "virtual_interfaces", "tags", "instance_actions", "instance_actions_events",
    "migrations", "instance_faults", "instance_id_mappings", "security_group_instance_association",
    "console_auth_tokens", "share_mapping", "services", "compute_nodes", "pci_devices",
)  # fmt: skip
API_TABLES = (
    "cell_mappings", "host_mappings", "instance_mappings", "request_specs", "build_requests", "flavors",
    "flavor_extra_specs", "aggregates", "aggregate_hosts", "aggregate_metadata", "instance_groups",
    "instance_group_member", "instance_group_policy", "key_pairs",
)  # fmt: skip


def schema(connection, database, tables):
    """table -> its columns (name -> type), and what has to be unique."""
    found = {}
    for table in tables:
        columns = rows(
            connection,
            "SELECT column_name AS name, data_type AS type, character_maximum_length AS length, "
            "is_nullable AS nullable, extra FROM information_schema.columns "
            "WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
            database,
            table,
        )
        keys = rows(
            connection,
            "SELECT index_name AS name, GROUP_CONCAT(column_name ORDER BY seq_in_index) AS columns "
            "FROM information_schema.statistics WHERE table_schema = %s AND table_name = %s AND non_unique = 0 "
            "GROUP BY index_name",
            database,
            table,
        )
        found[table] = {
            "columns": {column["name"]: kind(column) for column in columns},
            "primary": next((key["columns"].split(",") for key in keys if key["name"] == "PRIMARY"), []),
            "unique": sorted(key["columns"].split(",") for key in keys if key["name"] != "PRIMARY"),
        }
    return found


def kind(column):
    """A column's type in one word: "varchar(36)!" is one that may not be NULL."""
    sized = column["type"] in ("varchar", "char")
    name = f"varchar({column['length']})" if sized else column["type"]
    return name + ("" if column["nullable"] == "YES" else "!")


def anonymous(value, names):
    """The same with words instead of this lab's ids."""
    text = json.dumps(value)
    for found, word in names.items():
        text = text.replace(found, word)
    return json.loads(text)


def templates(connection):
    """The rows of one server with everything on it, of a host, and of the flavors."""
    made = []
    try:
        made.append(cloud.boot("recorded", ports=1, volumes=1, metadata={"a": "b"}, keypair="k1", device_tags=True))
        made.append(cloud.boot("recorded-volume", volume_backed=True))
        shot, server_id, from_volume = look(made[0]), made[0], look(made[1])
    finally:
        for each in made:
            cloud.delete(each)
    cell = shot["cells"]["cell1"]
    instance, vif = cell["instances"][0], cell["instance_info_caches"][0]["network_info"][0]
    names = {
        server_id: "$server",
        instance["image_ref"]: "$image",
        instance["user_id"]: "$user",
        instance["project_id"]: "$project",
        "c1-host1": "$host",
        "recorded": "$name",
        vif["id"]: "$port",
        vif["devname"]: "$tap",
        vif["address"]: "$mac",
        vif["network"]["subnets"][0]["ips"][0]["address"]: "$address",
        next(iter(shot["volumes"])): "$volume",
        made[1]: "$server",
    }
    kept = {
        "instance": instance,
        "instance_extra": cell["instance_extra"][0],
        "vif": vif,
        "image_mapping": next(row for row in cell["block_device_mapping"] if row["source_type"] == "image"),
        "volume_mapping": next(row for row in cell["block_device_mapping"] if row["source_type"] == "volume"),
        "virtual_interface": cell["virtual_interfaces"][0],
        "action": cell["instance_actions"][0],
        "event": cell["instance_actions_events"][0],
        "system_metadata": {row["key"]: row["value"] for row in cell["instance_system_metadata"]},
        "instance_mapping": shot["api"]["mapping"],
        "request_spec": shot["api"]["request_spec"],
        # What differs when the server starts from a volume.
        "volume_system_metadata": {
            row["key"]: row["value"] for row in from_volume["cells"]["cell1"]["instance_system_metadata"]
        },
        "volume_image": from_volume["api"]["request_spec"]["nova_object.data"]["image"],
        "service": rows(connection, "SELECT * FROM nova_cell1.services WHERE host = 'c1-host1'")[0],
        "compute_node": rows(connection, "SELECT * FROM nova_cell1.compute_nodes WHERE host = 'c1-host1'")[0],
        "flavors": rows(connection, "SELECT * FROM nova_api.flavors WHERE name IN ('m1.tiny', 'm1.small')"),
    }
    return anonymous(kept, names)


def main():
    """Write the file."""
    where = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    connection = connect_database()
    try:
        recorded = {
            "cell": schema(connection, "nova_cell1", CELL_TABLES),
            "api": schema(connection, "nova_api", API_TABLES),
            "rows": templates(connection),
        }
    finally:
        connection.close()
    where.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
