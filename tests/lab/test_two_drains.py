"""Two processes on one host drain two cells at once, over buses whose queue manager names reply queues after the host."""

from __future__ import annotations

import uuid

import pytest

from lab import cloud, oracle

HOSTS = {"cell1": "c1-host1", "cell2": "c2-host1"}
OTHER = {"cell1": "cell2", "cell2": "cell1"}
THROUGH = (0, 8)
"""Exit codes of a drain that is through: with 8, servers were left that its filter excludes."""


@pytest.mark.lab
def test_two_drains_at_once_do_not_disturb_each_other(cellmove, started, boot):
    token = uuid.uuid4().hex[:6]
    servers = {
        cell: [boot(f"{cell}-{token}", host=HOSTS[cell], volume_backed=backed, ports=2) for backed in (True, False)]
        for cell in HOSTS
    }
    before = {server.id: oracle.snapshot(server.id) for cell in servers for server in servers[cell]}
    try:
        runs = {
            cell: started(
                "drain-cell",
                cell,
                "--to",
                OTHER[cell],
                "--include",
                f"name={cell}-{token}-*",
                "--parallel",
                "2",
                "--no-cordon",
            )
            for cell in HOSTS
        }
        for cell, run in runs.items():
            outcome = run.end()
            assert outcome.code in THROUGH, f"{cell}: {outcome.stderr}"
            counts = cellmove("drain", "status", cell, "-f", "json").json["counts"]
            assert (counts["moved"], counts["failed"], counts["waiting"]) == (2, 0, 0), outcome.stderr
        for cell, moved in servers.items():
            for server in moved:
                after = oracle.snapshot(server.id)
                (host,) = cloud.guests(server.id)
                found = oracle.problems(after, cell=OTHER[cell], host=host, flavor="m1.tiny", status="ACTIVE")
                assert found == [], server.name
                assert oracle.compare(before[server.id], after, moved=True) == []
    finally:
        for cell in HOSTS:
            cellmove("drain", "abort", cell, expect=None)
