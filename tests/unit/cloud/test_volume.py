"""The volumes of one server are read with one list, and those that are not on it one by one."""

from __future__ import annotations

import json
from typing import Any

import requests

from cellmove.cloud import failures, volume

SERVER, PROJECT = "11111111-1111-1111-1111-111111111111", "p1"


class Cinder:
    """A cinder with some volumes, which records the calls."""

    cellmove_credential = failures.OPERATOR

    def __init__(self, volumes: dict[str, dict[str, Any]], attachments: tuple[dict[str, Any], ...] = ()) -> None:
        self.volumes, self.attachments = volumes, attachments
        self.calls: list[str] = []
        self.block_storage = self

    def request(self, path: str, _method: str, **options: Any) -> requests.Response:
        params = options.get("params") or {}
        self.calls.append(path)
        made = requests.Response()
        made.status_code, made.request = 200, requests.Request("GET", f"http://x{path}").prepare()
        body: dict[str, Any] = {"attachments": list(self.attachments)}
        if path == "/volumes/detail":
            wanted = {"os-vol-tenant-attr:tenant_id": params["project_id"], "status": params["status"]}
            listed = [each for each in self.volumes.values() if wanted.items() <= each.items()]
            body = {"volumes": listed[: int(params["limit"])]}
        elif path.startswith("/volumes/"):
            found = self.volumes.get(path.rpartition("/")[2])
            made.status_code, body = (200, {"volume": found}) if found else (404, {})
        made._content = json.dumps(body).encode()
        return made


def a_volume(name: str, *, status: str = "in-use", project: str = PROJECT) -> dict[str, Any]:
    return {"id": name, "status": status, "size": 1, "os-vol-tenant-attr:tenant_id": project}


def states(cinder: Any, *names: str) -> dict[str, str]:
    return {each.id: each.status for each in volume.volumes_in_use(cinder, set(names), PROJECT).values()}


def test_sixteen_volumes_take_one_call() -> None:
    names = [f"v{number:02}" for number in range(16)]
    cinder = Cinder({name: a_volume(name) for name in (*names, "other")})
    assert states(cinder, *names) == dict.fromkeys(names, "in-use")
    assert cinder.calls == ["/volumes/detail"]


def test_volumes_that_are_not_in_the_list_are_asked_for_one_by_one() -> None:
    known = (a_volume("a"), a_volume("b", status="reserved"), a_volume("c", project="p2"))
    cinder = Cinder({each["id"]: each for each in known})
    assert states(cinder, "a", "b", "c", "gone") == {"a": "in-use", "b": "reserved", "c": "in-use"}
    assert cinder.calls == ["/volumes/detail", "/volumes/b", "/volumes/c", "/volumes/gone"]


def test_a_volume_alone_needs_no_list() -> None:
    cinder = Cinder({"a": a_volume("a")})
    assert states(cinder, "a") == {"a": "in-use"}
    assert states(cinder) == {}
    assert cinder.calls == ["/volumes/a"]


def test_attachments_that_an_earlier_try_made_are_found_by_their_volumes_in_one_call() -> None:
    made = [{"id": f"a{number}", "volume_id": f"v{number}", "instance": SERVER} for number in range(3)]
    cinder = Cinder({}, (*made, {"id": "a9", "volume_id": "v9", "instance": "another"}))
    assert volume.lost_attachments(cinder, SERVER, ["a1"]) == {"v0": "a0", "v2": "a2"}
    assert cinder.calls == ["/attachments/detail"]
