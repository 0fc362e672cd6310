"""What commands say and advise when two journals want one server, and of a move whose server is gone."""

from __future__ import annotations

import json
from typing import Any

from cellmove.sandbox import seed
from cellmove.sandbox.store import Cloud
from tests.sandbox.test_next_command import next_of
from tests.support.sandbox.environment import Sandbox, change_cloud


def fields_of_spec(cloud: Cloud, server_id: str) -> dict[str, Any]:
    """The fields of the stored request spec of a server."""
    (row,) = cloud.rows("api", "request_specs", instance_uuid=server_id)
    fields: dict[str, Any] = json.loads(row["spec"])["nova_object.data"]
    return fields


def force(cloud: Cloud, server_id: str) -> None:
    """Keep a server to the host that it was built on."""
    (row,) = cloud.rows("api", "request_specs", instance_uuid=server_id)
    spec = json.loads(row["spec"])
    spec["nova_object.data"] |= {"force_hosts": ["c1-host1"], "force_nodes": ["c1-host1"]}
    cloud.update("api", "request_specs", {"spec": json.dumps(spec)}, instance_uuid=server_id)


def test_the_loser_of_two_journals_is_told_who_has_the_server_and_what_to_type(sandbox: Sandbox) -> None:
    server = sandbox.boot("wanted")
    other = {"CELLMOVE_JOURNAL": str(sandbox.folder / "other.db")}
    winner = sandbox.cellmove("plan", server.name, "--cell", "cell2", "-f", "json").json["move"]
    loser = sandbox.cellmove("plan", server.name, "--cell", "cell2", "-f", "json", env=other).json["move"]
    sandbox.cellmove("prep-dest", winner)
    lost = sandbox.cellmove("prep-dest", loser, expect=1, env=other)
    assert f"cellmove is moving it already: {winner}, recorded in " in lost.stderr
    assert "hidden=0" not in lost.stderr
    assert next_of(lost.stderr) == ["rollback", loser]
    assert sandbox.cellmove(*next_of(lost.stderr), env=other).code == 0
    assert sandbox.cellmove("list", "-f", "value", env=other).stdout == ""
    sandbox.cellmove("rollback", winner)


def test_the_rollback_of_a_move_whose_server_is_gone_has_nothing_to_do(sandbox: Sandbox) -> None:
    server = sandbox.boot("gone")
    move = sandbox.cellmove("plan", server.name, "--cell", "cell2", "-f", "json").json["move"]
    sandbox.cellmove("prep-dest", move)
    standing = sandbox.cellmove("list").stdout
    assert "dest-prepared" in standing
    change_cloud(sandbox, seed.delete, server.id)
    assert sandbox.cellmove("rollback", move, "-f", "json").json["state"] == "server-gone"
    assert sandbox.cellmove("rollback", move, "-f", "json").json["state"] == "server-gone"
    deleted = sandbox.cellmove("plan", server.id, "--cell", "cell2", expect=2)
    assert f"({server.id}) was deleted" in deleted.stderr


def test_the_host_that_a_server_was_built_on_by_force_is_forgotten(sandbox: Sandbox) -> None:
    server = sandbox.boot("forced")
    change_cloud(sandbox, force, server.id)
    sandbox.cellmove("migrate", server.name, "--cell", "cell2")
    fields = fields_of_spec(sandbox.process.cloud(), server.id)
    assert (fields["force_hosts"], fields["force_nodes"]) == (None, None)
