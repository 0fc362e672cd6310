"""Two servers that are alike in everything, one for nova and one for cellmove."""

from __future__ import annotations

import base64
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lab import cloud, oracle
from lab.layout import HOSTS
from lab.rows import connect_database, rows
from tests.scenarios.normal import normalised

PAST_ACTIONS = 40
TARGET_HOSTS = ("c2-host1", "c2-host2")
USER_DATA = base64.b64encode(b"#!/bin/sh\necho a server with a past\n").decode()


@dataclass(frozen=True)
class Rich:
    """A server with everything on it.

    :param first_name: what it was booted as; its ports, volumes and server group are named after it
    :param group: the id of its server group
    """

    id: str
    first_name: str
    name: str
    group: str


def boot_pair(*, volume_backed: bool) -> tuple[Rich, Rich]:
    """One for nova and one for us, booted at the same time."""
    token = uuid.uuid4().hex[:6]
    names = [f"{who}-{token}" for who in ("native", "ours")]
    with ThreadPoolExecutor(2) as threads:
        native, ours = threads.map(lambda name: boot(name, volume_backed=volume_backed), names)
    return native, ours


def boot(name: str, *, volume_backed: bool) -> Rich:
    """A server with ports, volumes, tags, metadata, user data, keypair, server group, config drive, and a past."""
    group = cloud.make_group(name)
    server = cloud.boot(
        name, volume_backed=volume_backed, ports=2, volumes=2, device_tags=True, keypair="k1", config_drive=True,
        tags=("blue", "grün"), metadata={"purpose": "differs", "empty": ""}, user_data=USER_DATA, hints={"group": group},
    )  # fmt: skip
    renamed = f"{name}-umbenannt-żółw"
    cloud.connect().compute.update_server(server, name=renamed)
    give_a_past(server)
    return Rich(server, name, renamed, group)


def delete(server: Rich) -> None:
    """The server and its group."""
    cloud.delete(server.id)
    cloud.delete_group(server.group)


def give_a_past(server: str) -> None:
    """Forty finished actions with two events each, and a fault, as nova writes them."""
    connection = connect_database()
    long_ago = "DATE_SUB(UTC_TIMESTAMP(), INTERVAL %s MINUTE)"
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT user_id, project_id FROM nova_cell1.instances WHERE uuid = %s", (server,))
            owner = cursor.fetchone()
            for number in range(PAST_ACTIONS):
                ago = 500 - number
                cursor.execute(
                    "INSERT INTO nova_cell1.instance_actions (created_at, updated_at, action, instance_uuid, request_id, "
                    f"user_id, project_id, start_time, finish_time, deleted) VALUES ({long_ago}, {long_ago}, %s, %s, %s, "
                    f"%s, %s, {long_ago}, {long_ago}, 0)",
                    (ago, ago, "reboot" if number % 2 else "lock", server, f"req-{uuid.uuid4()}", owner["user_id"],
                     owner["project_id"], ago, ago),
                )  # fmt: skip
                action = cursor.lastrowid
                for event in ("compute_reboot_instance", "compute_something_else"):
                    cursor.execute(
                        "INSERT INTO nova_cell1.instance_actions_events (created_at, updated_at, event, action_id, "
                        f"start_time, finish_time, result, host, deleted) VALUES ({long_ago}, {long_ago}, %s, %s, "
                        f"{long_ago}, {long_ago}, 'Success', 'c1-host1', 0)",
                        (ago, ago, event, action, ago, ago),
                    )
            cursor.execute(
                "INSERT INTO nova_cell1.instance_faults (created_at, updated_at, instance_uuid, code, message, host, "
                f"deleted) VALUES ({long_ago}, {long_ago}, %s, 500, 'it failed once', 'c1-host1', 0)",
                (400, 400, server),
            )
    finally:
        connection.close()


# what is looked at


def leaves(server: Rich) -> dict[str, Any]:
    """Everything about a server as path -> value, with words for what only this run knows.

    The hosts of the target cell have one name and one address: nova's resize cannot be told to which it is to go.
    """
    shot = oracle.snapshot(server.id)
    shot["more"] = more(shot)
    hosts = dict.fromkeys(TARGET_HOSTS, "target-host") | {HOSTS[host]: "target-address" for host in TARGET_HOSTS}
    literal = {server.name: "NAME", server.first_name: "FIRST-NAME", **hosts, **requests(shot)}
    said = normalised(shot, literal)
    said["more"] = normalised_rows(shot["more"], server, literal)
    found: dict[str, Any] = {}
    for part, content in said.items():
        if part.startswith("cell"):
            for table, content_rows in content.items():
                for key, row in named(table, content_rows):
                    spread(found, f"{part}.{table}[{key}]", row)
        else:
            spread(found, part, content)
    return found


def more(shot: dict[str, Any]) -> dict[str, Any]:
    """What the oracle's snapshot lacks: the other tables of the API database, and who placement thinks holds what."""
    connection = connect_database()
    try:
        tables = rows(
            connection,
            "SELECT table_name AS name FROM information_schema.columns WHERE table_schema = 'nova_api' "
            "AND column_name = 'instance_uuid'",
        )
        found: dict[str, Any] = {
            row["name"]: rows(connection, f"SELECT * FROM nova_api.{row['name']} WHERE instance_uuid = %s", shot["id"])
            for row in tables
            if row["name"] not in ("instance_mappings", "request_specs", "build_requests", "instance_group_member")
        }
        found["groups"] = rows(
            connection,
            "SELECT g.name, g.user_id, g.project_id, p.policy, p.rules FROM nova_api.instance_group_member m "
            "JOIN nova_api.instance_groups g ON g.id = m.group_id "
            "LEFT JOIN nova_api.instance_group_policy p ON p.group_id = g.id WHERE m.instance_uuid = %s",
            shot["id"],
        )
        consumers = {shot["id"]: "server"}
        for cell in shot["cells"].values():
            consumers |= {row["uuid"]: "migration" for row in cell.get("migrations", [])}
        found["consumers"] = [
            row | {"uuid": whose}
            for uuid_, whose in consumers.items()
            for row in rows(
                connection,
                "SELECT c.uuid, p.external_id AS project, u.external_id AS user, t.name AS type FROM placement.consumers c "
                "JOIN placement.projects p ON p.id = c.project_id JOIN placement.users u ON u.id = c.user_id "
                "LEFT JOIN placement.consumer_types t ON t.id = c.consumer_type_id WHERE c.uuid = %s",
                uuid_,
            )
        ]
        return found
    finally:
        connection.close()


def normalised_rows(tables: dict[str, Any], server: Rich, literal: dict[str, str]) -> dict[str, Any]:
    """Those rows with words; the numbers of rows left out."""
    text = json.dumps(tables, default=str)
    for found, word in {server.id: "server", **literal}.items():
        text = text.replace(found, word)
    kept = json.loads(text)
    return {
        table: [{k: v for k, v in row.items() if k not in ("id", "created_at", "updated_at")} for row in content]
        for table, content in kept.items()
    }


def requests(shot: dict[str, Any]) -> dict[str, str]:
    """A word for each request id: the action it made, and which of its kind that was."""
    known: dict[str, tuple[str, str]] = {}
    for tables in shot["cells"].values():
        for row in tables.get("instance_actions", []):
            known.setdefault(row["request_id"], (str(row["start_time"]), row["action"]))
    words, counts = {}, {}
    for request, (_time, action) in sorted(known.items(), key=lambda pair: pair[1]):
        counts[action] = counts.get(action, 0) + 1
        words[request] = f"request-of-{action}-{counts[action]}"
    return words


NAMED_BY = {
    "instance_system_metadata": ("key",),
    "instance_metadata": ("key",),
    "tags": ("tag",),
    "block_device_mapping": ("volume_id", "deleted"),
    "virtual_interfaces": ("uuid",),
    "instance_actions": ("request_id",),
    "instance_actions_events": ("action_id", "event"),
    "instance_faults": ("message",),
}
"""What tells the rows of a table apart. Their order is another question: see :func:`named`."""


def named(table: str, content: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The rows with their names; of rows of one name, the oldest first."""
    counts: dict[str, int] = {}
    found = []
    for row in content:
        key = " ".join(str(row.get(column)) for column in NAMED_BY.get(table, ()))
        counts[key] = counts.get(key, 0) + 1
        found.append((f"{key} #{counts[key]}" if counts[key] > 1 or not key else key, row))
    return found


def spread(found: dict[str, Any], path: str, value: Any) -> None:
    """Every leaf of a value under its own path."""
    if isinstance(value, dict) and value:
        for name, each in value.items():
            spread(found, f"{path}.{name}", each)
    elif isinstance(value, list) and value:
        for number, each in enumerate(value):
            spread(found, f"{path}.{number}", each)
    else:
        found[path] = value


def differences(native: dict[str, Any], ours: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Path -> what nova left there and what we did; "absent" where there is nothing."""
    return {
        path: (native.get(path, "absent"), ours.get(path, "absent"))
        for path in sorted({*native, *ours})
        if native.get(path, "absent") != ours.get(path, "absent")
    }
