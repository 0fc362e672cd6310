"""The REST calls of keystone that cellmove makes."""

from __future__ import annotations

import datetime

import bottle  # type: ignore[import-untyped]

from cellmove.sandbox import seed
from cellmove.sandbox.rest_routes import App, Response, document, links, route
from cellmove.sandbox.store import Cloud, Refusal

PASSWORD = "sandbox-secret"  # noqa: S105 - of a cloud that lives on loopback and owns nothing


ROLES = ("admin", "service", "member", "reader")


ENDPOINTS = {
    "identity": "identity/v3",
    "compute": "compute/v2.1",
    "network": "network",
    "image": "image",
    "block-storage": "volume/v3",
    "placement": "placement",
}


def add_keystone(app: App, cloud: Cloud, base: str) -> None:
    version = {"id": "v3.14", "status": "stable", "links": links(f"{base}/identity/v3/")}
    document(app, "/identity/v3", {"version": version})

    @route(app, cloud, "POST", "/identity/v3/auth/tokens", 201)
    def token() -> Response:
        user = bottle.request.json["auth"]["identity"]["password"]["user"]
        if user["password"] != PASSWORD:
            raise Refusal(401, "The request you have made requires authentication.")
        now = datetime.datetime.now(datetime.UTC)
        bottle.response.set_header("X-Subject-Token", f"sandbox-token-{user['name']}")
        catalog = [
            {
                "type": kind,
                "name": kind,
                "endpoints": [
                    {"interface": face, "region": "RegionOne", "region_id": "RegionOne", "url": f"{base}/{path}"}
                    for face in ("public", "internal", "admin")
                ],
            }
            for kind, path in ENDPOINTS.items()
        ]
        domain = {"id": "default", "name": "Default"}
        return {
            "token": {
                "methods": ["password"],
                "user": {"id": seed.USER, "name": user["name"], "domain": domain},
                "project": {"id": seed.PROJECT, "name": "admin", "domain": domain},
                "catalog": catalog,
                "roles": [{"id": name, "name": name} for name in ROLES],
                "issued_at": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "expires_at": (now + datetime.timedelta(hours=24)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            }
        }


def add_projects(app: App, cloud: Cloud, _base: str) -> None:
    @route(app, cloud, "GET", "/identity/v3/projects/<project>")
    def show(project: str) -> Response:
        if project != seed.PROJECT:
            raise Refusal(404, f"Could not find project: {project}.")
        return {"project": {"id": project, "name": "admin", "domain_id": "default", "enabled": True}}
