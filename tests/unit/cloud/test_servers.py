"""What nova's API calls the states of servers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from cellmove.cloud import failures
from cellmove.cloud.servers import find_server, status_of
from cellmove.core.errors import Usage

ID = "6f1c0a52-1b7e-4d0e-9a53-0e8f5f0f6a11"


class Nova:
    """A nova with one server, which was deleted."""

    cellmove_credential = failures.OPERATOR

    def __init__(self) -> None:
        self.compute = self

    def request(self, path: str, _method: str, **options: Any) -> requests.Response:
        params = options.get("params") or {}
        made = requests.Response()
        made.request = requests.Request("GET", f"http://x{path}").prepare()
        is_meant = params.get("deleted") == "true" and params.get("uuid") == ID
        made.status_code, body = 200, {"servers": [{"id": ID, "name": "web-1"}] if is_meant else []}
        if path != "/servers/detail":
            made.status_code, body = 404, {}
        made._content = json.dumps(body).encode()
        return made


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (ID.upper(), f"the server web-1 ({ID}) was deleted"),
        (ID.replace("6f", "7a"), f"there is no server {ID.replace('6f', '7a')} in any project"),
        ("web-1", "there is no server web-1 in any project"),
    ],
)
def test_a_server_that_was_deleted_is_said_to_be(server: str, words: str) -> None:
    nova: Any = Nova()
    with pytest.raises(Usage) as refused:
        find_server(nova, server)
    assert refused.value.message == words


@pytest.mark.parametrize(
    ("vm_state", "task_state", "status"),
    [
        ("active", "", "ACTIVE"),
        ("stopped", "", "SHUTOFF"),
        ("stopped", "powering-on", "SHUTOFF"),
        ("active", "reboot_started", "REBOOT"),
        ("active", "rebooting", "REBOOT"),
        ("active", "rebooting_hard", "HARD_REBOOT"),
        ("active", "resize_prep", "RESIZE"),
        ("stopped", "resize_migrating", "RESIZE"),
        ("resized", "", "VERIFY_RESIZE"),
        ("resized", "resize_reverting", "REVERT_RESIZE"),
        ("resized", "resize_confirming", "VERIFY_RESIZE"),
        ("paused", "migrating", "MIGRATING"),
        ("error", "rebuild_spawning", "REBUILD"),
        ("rescued", "", "RESCUE"),
        ("soft-delete", "", "SOFT_DELETED"),
        ("", "", "UNKNOWN"),
    ],
)
def test_status(vm_state: str, task_state: str, status: str) -> None:
    assert status_of(vm_state, task_state) == status
