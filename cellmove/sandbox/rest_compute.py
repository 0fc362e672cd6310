"""The REST calls of nova that cellmove makes."""

from __future__ import annotations

import bottle  # type: ignore[import-untyped]

from cellmove.sandbox import seed
from cellmove.sandbox.rest_routes import App, Response, document, links, route
from cellmove.sandbox.store import CELLS, Cloud, Record, Refusal


def show_server(cloud: Cloud, row: Record, cell: str) -> Record:
    """A server as nova's API gives it, as far as cellmove and the oracle look."""
    status = {"active": "ACTIVE", "stopped": "SHUTOFF", "resized": "VERIFY_RESIZE", "error": "ERROR"}
    return {
        "id": row["uuid"],
        "name": row["display_name"],
        "tenant_id": row["project_id"],
        "user_id": row["user_id"],
        "status": "VERIFY_RESIZE" if row["vm_state"] == "resized" else status.get(row["vm_state"], "UNKNOWN"),
        "OS-EXT-SRV-ATTR:host": row["host"],
        "OS-EXT-STS:task_state": row["task_state"],
        "OS-EXT-STS:vm_state": row["vm_state"],
        "OS-EXT-STS:power_state": row["power_state"],
        "locked": bool(row["locked"]),
        "cell": cell,
    }


def show_service(row: Record) -> Record:
    """A service as nova's API gives it."""
    status = "disabled" if row["disabled"] else "enabled"
    return {
        "id": row["uuid"],
        "host": row["host"],
        "binary": row["binary"],
        "status": status,
        "disabled_reason": row["disabled_reason"],
    }


def find_server(cloud: Cloud, server: str) -> Record:
    """The server that the mapping leads to, or 404; asked for by its id, a hidden one is shown as well."""
    for cell in CELLS:
        for row in cloud.rows(cell, "instances", uuid=server, deleted=0, hidden=1):
            mapping = cloud.row("api", "instance_mappings", instance_uuid=server) or {}
            if mapping.get("cell_id") == CELLS.index(cell) + 2:
                return show_server(cloud, row, cell)
    cell, row = seed._instance(cloud, server)
    return show_server(cloud, row, cell)


def add_nova(app: App, cloud: Cloud, base: str) -> None:
    version = {"id": "v2.1", "status": "CURRENT", "version": "2.104", "min_version": "2.1"}
    document(app, "/compute/v2.1", {"version": version | {"links": links(f"{base}/compute/v2.1/")}})

    @route(app, cloud, "GET", "/compute/v2.1/servers/detail")
    def servers() -> Response:
        found, query = [], bottle.request.query
        wants_deleted = query.get("deleted") == "true"
        for cell in CELLS:
            for row in cloud.rows(cell, "instances", hidden=0):
                wanted = query.get("name", "") in row["display_name"] and query.get("uuid", "") in row["uuid"]
                if wanted and bool(row["deleted"]) is wants_deleted:
                    found.append(show_server(cloud, row, cell))
        return {"servers": found}

    @route(app, cloud, "GET", "/compute/v2.1/servers/<server>")
    def show(server: str) -> Response:
        return {"server": find_server(cloud, server)}

    @route(app, cloud, "GET", "/compute/v2.1/os-services")
    def compute_services() -> Response:
        query = bottle.request.query
        return {
            "services": [
                show_service(row)
                for cell in CELLS
                for row in cloud.rows(cell, "services", deleted=0)
                if row["binary"] == query.get("binary", row["binary"]) and row["host"] == query.get("host", row["host"])
            ]
        }

    @route(app, cloud, "PUT", "/compute/v2.1/os-services/<service>")
    def change_service(service: str) -> Response:
        body = bottle.request.json
        values = {"disabled": int(body["status"] == "disabled"), "disabled_reason": body.get("disabled_reason")}
        for cell in CELLS:
            if cloud.update(cell, "services", values, uuid=service):
                return {"service": show_service(cloud.row(cell, "services", uuid=service) or {})}
        raise Refusal(404, f"Service {service} could not be found.")

    @route(app, cloud, "GET", "/compute/v2.1/os-quota-sets/<project>/detail")
    def quota(project: str) -> Response:
        rows = [row for cell in CELLS for row in cloud.rows(cell, "instances", deleted=0, hidden=0, project_id=project)]
        used = {"cores": sum(row["vcpus"] for row in rows), "ram": sum(row["memory_mb"] for row in rows)}
        detail = {
            name: {"limit": limit, "in_use": used[name], "reserved": 0} for name, limit in cloud.world.quota.items()
        }
        return {"quota_set": {"id": project, **detail}}

    @route(app, cloud, "POST", "/compute/v2.1/servers/<server>/action", 202)
    def act(server: str) -> None:
        if "reboot" in bottle.request.json:
            seed.hard_reboot(cloud, server)
        elif "os-stop" in bottle.request.json:
            seed.stop(cloud, server)
        else:
            raise Refusal(400, "There is no such action")
