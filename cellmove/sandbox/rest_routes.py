"""Routes of the sandbox's REST server: how a call is answered, refused and made to fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import bottle  # type: ignore[import-untyped]

from cellmove.sandbox.store import Cloud, Record, Refusal

App: TypeAlias = Any
"""``bottle.Bottle``."""

Query: TypeAlias = Any
"""``bottle.FormsDict``."""

Response: TypeAlias = Any
"""The body of an answer, before it becomes JSON."""

Handler: TypeAlias = Callable[..., Response]


def error_response(status: int, message: str, code: str = "") -> Response:
    body = {"errors": [{"status": status, "title": message, "detail": message, "code": code or "placement.undefined"}]}
    return bottle.HTTPResponse(json.dumps(body), status, {"Content-Type": "application/json"})


def route(app: App, cloud: Cloud, method: str, path: str, status: int = 200) -> Callable[[Handler], Handler]:
    """A call: its function gives the body; refusals become what the service would answer."""

    def add(function: Handler) -> Handler:
        def answer(**parts: str) -> Response:
            if path.startswith("/") and not path.startswith("/identity") and not _has_token():
                return error_response(401, "The request you have made requires authentication.")
            with cloud.lock:
                status_instead = _broken(cloud, method, bottle.request.path)
                if status_instead:
                    return error_response(status_instead, f"the sandbox was told to answer so to {method}")
                try:
                    body = function(**parts)
                except Refusal as refusal:
                    return error_response(int(refusal.kind), str(refusal), refusal.code)
            bottle.response.status = status
            bottle.response.content_type = "application/json"
            return "" if body is None else json.dumps(body, default=str)

        app.route(path, method, answer)
        return function

    return add


def _broken(cloud: Cloud, method: str, path: str) -> int:
    """The status that a call was told to answer instead of doing anything; 0 for none."""
    return next((status for begin, status in cloud.world.broken.items() if f"{method} {path}".startswith(begin)), 0)


def _has_token() -> bool:
    return bool(bottle.request.headers.get("X-Auth-Token"))


def document(app: App, path: str, body: Response) -> None:
    """A version document: needs no token."""

    def answer() -> Response:
        bottle.response.content_type = "application/json"
        return json.dumps(body)

    for each in (path, f"{path}/"):
        app.route(each, "GET", answer)


def page_of(found: list[Record], query: Query) -> tuple[list[Record], bool]:
    """The page that a list call asks for by marker and limit, and whether there are more."""
    ids = [each["id"] for each in found]
    begin = ids.index(query["marker"]) + 1 if query.get("marker") in ids else 0
    end = begin + int(query.get("limit", len(found)))
    return found[begin:end], end < len(found)


def links(url: str) -> list[Record]:
    return [{"rel": "self", "href": url}]
