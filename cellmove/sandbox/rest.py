"""The REST calls that cellmove makes, behind one loopback server: keystone, nova, neutron, cinder, glance, placement."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import bottle  # type: ignore[import-untyped]

from cellmove.sandbox import buses, seed, services
from cellmove.sandbox.store import CELLS, HOSTS, Cloud, Record, Refusal

PASSWORD = "sandbox-secret"  # noqa: S105 - of a cloud that lives on loopback and owns nothing
ROLES = ("admin", "service", "member", "reader")
ENDPOINTS = {
    "identity": "identity/v3", "compute": "compute/v2.1", "network": "network", "image": "image",
    "block-storage": "volume/v3", "placement": "placement",
}  # fmt: skip


def make_app(cloud: Cloud, base: str) -> Any:
    """The WSGI application.

    :param base: URL under which it is reached
    """
    app = bottle.Bottle()
    for add in (_keystone, _project, _nova, _neutron, _cinder, _glance, _placement):
        add(app, cloud, base)
    app.default_error_handler = lambda error: _error(error.status_code, str(error.body))
    return app


def _error(status: int, message: str, code: str = "") -> Any:
    body = {"errors": [{"status": status, "title": message, "detail": message, "code": code or "placement.undefined"}]}
    return bottle.HTTPResponse(json.dumps(body), status, {"Content-Type": "application/json"})


def _route(app: Any, cloud: Cloud, method: str, path: str, status: int = 200) -> Callable[[Any], Any]:
    """A call: its function gives the body; refusals become what the service would answer."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        def answer(**parts: str) -> Any:
            if path.startswith("/") and not path.startswith("/identity") and not _has_token():
                return _error(401, "The request you have made requires authentication.")
            with cloud.lock:
                status_instead = _broken(cloud, method, bottle.request.path)
                if status_instead:
                    return _error(status_instead, f"the sandbox was told to answer so to {method}")
                try:
                    body = function(**parts)
                except Refusal as refusal:
                    return _error(int(refusal.kind), str(refusal), refusal.code)
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


def _document(app: Any, path: str, body: Any) -> None:
    """A version document: needs no token."""

    def answer() -> Any:
        bottle.response.content_type = "application/json"
        return json.dumps(body)

    for each in (path, f"{path}/"):
        app.route(each, "GET", answer)


def _page(found: list[Record], query: Any) -> tuple[list[Record], bool]:
    """The page that a list call asks for by marker and limit, and whether there are more."""
    ids = [each["id"] for each in found]
    begin = ids.index(query["marker"]) + 1 if query.get("marker") in ids else 0
    end = begin + int(query.get("limit", len(found)))
    return found[begin:end], end < len(found)


def _links(url: str) -> list[Record]:
    return [{"rel": "self", "href": url}]


def _keystone(app: Any, cloud: Cloud, base: str) -> None:
    version = {"id": "v3.14", "status": "stable", "links": _links(f"{base}/identity/v3/")}
    _document(app, "/identity/v3", {"version": version})

    @_route(app, cloud, "POST", "/identity/v3/auth/tokens", 201)
    def token() -> Any:
        user = bottle.request.json["auth"]["identity"]["password"]["user"]
        if user["password"] != PASSWORD:
            raise Refusal(401, "The request you have made requires authentication.")
        now = datetime.datetime.now(datetime.UTC)
        bottle.response.set_header("X-Subject-Token", f"sandbox-token-{user['name']}")
        catalog = [
            {"type": kind, "name": kind, "endpoints": [
                {"interface": face, "region": "RegionOne", "region_id": "RegionOne", "url": f"{base}/{path}"}
                for face in ("public", "internal", "admin")
            ]}
            for kind, path in ENDPOINTS.items()
        ]  # fmt: skip
        domain = {"id": "default", "name": "Default"}
        return {
            "token": {
                "methods": ["password"], "user": {"id": seed.USER, "name": user["name"], "domain": domain},
                "project": {"id": seed.PROJECT, "name": "admin", "domain": domain}, "catalog": catalog,
                "roles": [{"id": name, "name": name} for name in ROLES],
                "issued_at": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "expires_at": (now + datetime.timedelta(hours=24)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            }
        }  # fmt: skip


def _project(app: Any, cloud: Cloud, _base: str) -> None:
    @_route(app, cloud, "GET", "/identity/v3/projects/<project>")
    def show(project: str) -> Any:
        if project != seed.PROJECT:
            raise Refusal(404, f"Could not find project: {project}.")
        return {"project": {"id": project, "name": "admin", "domain_id": "default", "enabled": True}}


def show_server(cloud: Cloud, row: Record, cell: str) -> Record:
    """A server as nova's API gives it, as far as cellmove and the oracle look."""
    status = {"active": "ACTIVE", "stopped": "SHUTOFF", "resized": "VERIFY_RESIZE", "error": "ERROR"}
    return {
        "id": row["uuid"], "name": row["display_name"], "tenant_id": row["project_id"], "user_id": row["user_id"],
        "status": "VERIFY_RESIZE" if row["vm_state"] == "resized" else status.get(row["vm_state"], "UNKNOWN"),
        "OS-EXT-SRV-ATTR:host": row["host"], "OS-EXT-STS:task_state": row["task_state"],
        "OS-EXT-STS:vm_state": row["vm_state"], "OS-EXT-STS:power_state": row["power_state"],
        "locked": bool(row["locked"]), "cell": cell,
    }  # fmt: skip


def show_service(row: Record) -> Record:
    """A service as nova's API gives it."""
    status = "disabled" if row["disabled"] else "enabled"
    return {
        "id": row["uuid"], "host": row["host"], "binary": row["binary"], "status": status,
        "disabled_reason": row["disabled_reason"],
    }  # fmt: skip


def find_server(cloud: Cloud, server: str) -> Record:
    """The server that the mapping leads to, or 404; asked for by its id, a hidden one is shown as well."""
    for cell in CELLS:
        for row in cloud.rows(cell, "instances", uuid=server, deleted=0, hidden=1):
            mapping = cloud.row("api", "instance_mappings", instance_uuid=server) or {}
            if mapping.get("cell_id") == CELLS.index(cell) + 2:
                return show_server(cloud, row, cell)
    cell, row = seed._instance(cloud, server)
    return show_server(cloud, row, cell)


def _nova(app: Any, cloud: Cloud, base: str) -> None:
    version = {"id": "v2.1", "status": "CURRENT", "version": "2.104", "min_version": "2.1"}
    _document(app, "/compute/v2.1", {"version": version | {"links": _links(f"{base}/compute/v2.1/")}})

    @_route(app, cloud, "GET", "/compute/v2.1/servers/detail")
    def servers() -> Any:
        found, query = [], bottle.request.query
        wants_deleted = query.get("deleted") == "true"
        for cell in CELLS:
            for row in cloud.rows(cell, "instances", hidden=0):
                wanted = query.get("name", "") in row["display_name"] and query.get("uuid", "") in row["uuid"]
                if wanted and bool(row["deleted"]) is wants_deleted:
                    found.append(show_server(cloud, row, cell))
        return {"servers": found}

    @_route(app, cloud, "GET", "/compute/v2.1/servers/<server>")
    def show(server: str) -> Any:
        return {"server": find_server(cloud, server)}

    @_route(app, cloud, "GET", "/compute/v2.1/os-services")
    def compute_services() -> Any:
        query = bottle.request.query
        return {
            "services": [
                show_service(row)
                for cell in CELLS
                for row in cloud.rows(cell, "services", deleted=0)
                if row["binary"] == query.get("binary", row["binary"]) and row["host"] == query.get("host", row["host"])
            ]
        }

    @_route(app, cloud, "PUT", "/compute/v2.1/os-services/<service>")
    def change_service(service: str) -> Any:
        body = bottle.request.json
        values = {"disabled": int(body["status"] == "disabled"), "disabled_reason": body.get("disabled_reason")}
        for cell in CELLS:
            if cloud.update(cell, "services", values, uuid=service):
                return {"service": show_service(cloud.row(cell, "services", uuid=service) or {})}
        raise Refusal(404, f"Service {service} could not be found.")

    @_route(app, cloud, "GET", "/compute/v2.1/os-quota-sets/<project>/detail")
    def quota(project: str) -> Any:
        rows = [row for cell in CELLS for row in cloud.rows(cell, "instances", deleted=0, hidden=0, project_id=project)]
        used = {"cores": sum(row["vcpus"] for row in rows), "ram": sum(row["memory_mb"] for row in rows)}
        detail = {
            name: {"limit": limit, "in_use": used[name], "reserved": 0} for name, limit in cloud.world.quota.items()
        }
        return {"quota_set": {"id": project, **detail}}

    @_route(app, cloud, "POST", "/compute/v2.1/servers/<server>/action", 202)
    def act(server: str) -> None:
        if "reboot" in bottle.request.json:
            seed.hard_reboot(cloud, server)
        elif "os-stop" in bottle.request.json:
            seed.stop(cloud, server)
        else:
            raise Refusal(400, "There is no such action")


def _neutron(app: Any, cloud: Cloud, base: str) -> None:
    version = {"id": "v2.0", "status": "CURRENT", "links": _links(f"{base}/network/v2.0/")}
    _document(app, "/network", {"versions": [version]})

    def shown(port: Record) -> Record:
        host, binding = services.active_binding(port)
        return {
            **{name: port[name] for name in ("id", "name", "device_id", "device_owner", "mac_address", "network_id",
                                             "project_id")},
            "status": services.port_status(cloud, port), "binding:host_id": host,
            "binding:vif_type": binding.get("vif_type", "unbound"), "binding:profile": binding.get("profile", {}),
            "binding:vnic_type": binding.get("vnic_type", "normal"), "resource_request": port.get("resource_request"),
            "fixed_ips": [{"ip_address": port["ip"]}],
        }  # fmt: skip

    @_route(app, cloud, "GET", "/network/v2.0/extensions")
    def extensions() -> Any:
        return {"extensions": [{"alias": alias} for alias in cloud.world.extensions]}

    @_route(app, cloud, "GET", "/network/v2.0/ports")
    def ports() -> Any:
        query = bottle.request.query
        devices, fields = set(query.getall("device_id")), query.getall("fields")
        found = [
            port
            for port in sorted(cloud.world.ports.values(), key=lambda port: str(port["id"]))
            if (not devices or port["device_id"] in devices)
            and query.get("binding:host_id", "") in ("", *port["bindings"])
        ]  # any binding, as neutron does it
        page, more = _page(found, query)
        links = [{"rel": "next", "href": f"{base}/network/v2.0/ports?marker={page[-1]['id']}"}] if more else []
        bodies = [shown(port) for port in page]
        wanted = [{name: each[name] for name in fields} for each in bodies] if fields else bodies
        return {"ports": wanted, "ports_links": links}

    @_route(app, cloud, "PUT", "/network/v2.0/ports/<port_id>")
    def update(port_id: str) -> Any:
        services.bind_port(cloud, port_id, bottle.request.json["port"]["binding:host_id"])
        return {"port": shown(services.port(cloud, port_id))}

    @_route(app, cloud, "GET", "/network/v2.0/ports/<port_id>/bindings")
    def bindings(port_id: str) -> Any:
        port = services.port(cloud, port_id)
        if not port["device_id"]:
            raise Refusal(400, "Port is not owned by a server")
        return {"bindings": [{"host": host, **binding} for host, binding in port["bindings"].items()]}

    @_route(app, cloud, "POST", "/network/v2.0/ports/<port_id>/bindings", 201)
    def bind(port_id: str) -> Any:
        body = bottle.request.json["binding"]
        return {"binding": services.create_binding(cloud, port_id, body["host"], body["vnic_type"], body["profile"])}

    @_route(app, cloud, "PUT", "/network/v2.0/ports/<port_id>/bindings/<host>/activate")
    def activate(port_id: str, host: str) -> Any:
        return services.activate_binding(cloud, port_id, host)

    @_route(app, cloud, "DELETE", "/network/v2.0/ports/<port_id>/bindings/<host>", 204)
    def unbind(port_id: str, host: str) -> None:
        services.delete_binding(cloud, port_id, host)


def _cinder(app: Any, cloud: Cloud, base: str) -> None:
    version = {"id": "v3.0", "status": "CURRENT", "version": "3.71", "min_version": "3.0"}
    _document(app, "/volume/v3", {"versions": [version | {"links": _links(f"{base}/volume/v3/")}]})

    @_route(app, cloud, "GET", "/volume/v3/volumes/detail")
    def volumes() -> Any:
        page, more = _page(sorted(cloud.world.volumes.values(), key=lambda each: str(each["id"])), bottle.request.query)
        links = [{"rel": "next", "href": f"{base}/volume/v3/volumes/detail?marker={page[-1]['id']}"}] if more else []
        states = services.volume_states(cloud)
        return {"volumes": [shown(each, states) for each in page], "volumes_links": links}

    @_route(app, cloud, "GET", "/volume/v3/volumes/<volume>")
    def show(volume: str) -> Any:
        if volume not in cloud.world.volumes:
            raise Refusal(404, f"Volume {volume} could not be found.")
        return {"volume": shown(cloud.world.volumes[volume], {volume: services.volume_status(cloud, volume)})}

    def shown(volume: Record, states: Mapping[str, str]) -> Record:
        return {"availability_zone": "nova", **volume, "status": states.get(volume["id"], "available"), "volume_type": "", "multiattach": False,
                "encrypted": False, "os-vol-tenant-attr:tenant_id": seed.PROJECT}  # fmt: skip

    @_route(app, cloud, "GET", "/volume/v3/attachments/detail")
    def listed() -> Any:
        query = bottle.request.query
        return {
            "attachments": [
                attachment
                for attachment in cloud.world.attachments.values()
                if attachment["instance"] == query.get("instance_id", attachment["instance"])
                and attachment["volume_id"] == query.get("volume_id", attachment["volume_id"])
            ]
        }

    @_route(app, cloud, "GET", "/volume/v3/attachments")
    def summaries() -> Any:
        query = bottle.request.query
        names = ("id", "volume_id", "instance", "status")
        found = [
            each
            for each in sorted(cloud.world.attachments.values(), key=lambda each: str(each["id"]))
            # cinder has no such column as "status", and answers with nothing
            if "status" not in query and each["status"] == query.get("attach_status", each["status"])
        ]
        return {"attachments": [{name: each[name] for name in names} for each in _page(found, query)[0]]}

    @_route(app, cloud, "GET", "/volume/v3/attachments/<attachment>")
    def one(attachment: str) -> Any:
        return {"attachment": services.attachment(cloud, attachment)}

    @_route(app, cloud, "POST", "/volume/v3/attachments")
    def create() -> Any:
        body = bottle.request.json["attachment"]
        return {"attachment": services.create_attachment(cloud, body["volume_uuid"], body["instance_uuid"])}

    @_route(app, cloud, "POST", "/volume/v3/attachments/<attachment>/action", 204)
    def complete(attachment: str) -> None:
        services.complete_attachment(cloud, attachment)

    @_route(app, cloud, "DELETE", "/volume/v3/attachments/<attachment>")
    def remove(attachment: str) -> Any:
        by_service = bool(bottle.request.headers.get("X-Service-Token"))
        services.delete_attachment(cloud, attachment, by_service=by_service)
        return {"attachments": []}


def _glance(app: Any, cloud: Cloud, base: str) -> None:
    version = {"id": "v2.17", "status": "CURRENT", "links": _links(f"{base}/image/v2/")}
    _document(app, "/image", {"versions": [version]})

    @_route(app, cloud, "POST", "/image/v2/images", 201)
    def create() -> Any:
        return services.create_image(cloud, bottle.request.json, seed.PROJECT)

    @_route(app, cloud, "GET", "/image/v2/images/<image>")
    def show(image: str) -> Any:
        return services.image(cloud, image)

    @_route(app, cloud, "GET", "/image/v2/images")
    def listed() -> Any:
        query = bottle.request.query
        wanted = {name: query[name] for name in ("instance_uuid", "image_type") if name in query}
        found = [
            each
            for each in cloud.world.images.values()
            if all(each.get(name) == value for name, value in wanted.items())
        ]
        page, more = _page(found, query)
        return {"images": page} | ({"next": f"/v2/images?marker={page[-1]['id']}"} if more else {})

    @_route(app, cloud, "DELETE", "/image/v2/images/<image>", 204)
    def remove(image: str) -> None:
        services.delete_image(cloud, image)


def _placement(app: Any, cloud: Cloud, base: str) -> None:
    version = {"id": "v1.0", "max_version": "1.39", "min_version": "1.0", "status": "CURRENT"}
    _document(app, "/placement", {"versions": [version | {"links": _links("")}]})

    @_route(app, cloud, "GET", "/placement/allocations/<consumer>")
    def held(consumer: str) -> Any:
        found = services.held(cloud, consumer)
        kept = {name: found[name] for name in ("allocations", "project_id", "user_id") if name in found}
        return kept | ({"consumer_generation": found["generation"]} if "generation" in found else {})

    @_route(app, cloud, "PUT", "/placement/allocations/<consumer>", 204)
    def put(consumer: str) -> None:
        services.put_allocations(cloud, {consumer: bottle.request.json})

    @_route(app, cloud, "POST", "/placement/allocations", 204)
    def post() -> None:
        services.put_allocations(cloud, bottle.request.json)

    @_route(app, cloud, "GET", "/placement/resource_providers/<uuid>")
    def provider(uuid: str) -> Any:
        if uuid not in services.PROVIDERS:
            raise Refusal(404, f"No resource provider with uuid {uuid} found")
        return {"uuid": uuid, "name": services.PROVIDERS[uuid]}

    @_route(app, cloud, "GET", "/placement/resource_providers")
    def providers() -> Any:
        query = bottle.request.query
        wanted, member_of = query.get("required", ""), query.get("member_of", "").removeprefix("in:")
        return {"resource_providers": services.providers(cloud, [wanted] if wanted else [], member_of)}

    @_route(app, cloud, "GET", "/placement/resource_providers/<uuid>/allocations")
    def consumers(uuid: str) -> Any:
        if uuid not in services.PROVIDERS:
            raise Refusal(404, f"Resource provider '{uuid}' not found: No resource provider with uuid {uuid} found")
        held = {
            consumer: each["allocations"][uuid]
            for consumer, each in cloud.world.allocations.items()
            if uuid in each["allocations"]
        }
        return {"allocations": held, "resource_provider_generation": 1}

    @_route(app, cloud, "GET", "/placement/resource_providers/<uuid>/inventories")
    def inventories(uuid: str) -> Any:
        amounts = {"DISK_GB": 4000} if uuid in cloud.world.stores else cloud.world.capacity
        return {"inventories": {name: {"total": total} for name, total in amounts.items()}}

    @_route(app, cloud, "GET", "/placement/resource_providers/<uuid>/usages")
    def usages(uuid: str) -> Any:
        return {"usages": services.usages(cloud, uuid), "resource_provider_generation": 1}

    @_route(app, cloud, "GET", "/placement/resource_providers/<uuid>/aggregates")
    def aggregates(uuid: str) -> Any:
        return {"aggregates": [uuid] if uuid in cloud.world.stores else []}

    @_route(app, cloud, "GET", "/placement/allocation_candidates")
    def candidates() -> Any:
        query = bottle.request.query
        wanted = {name: int(amount) for name, amount in (part.split(":") for part in query["resources"].split(","))}
        only = services.PROVIDERS.get(query.get("in_tree", ""))
        found = services.room(cloud, wanted, [only] if only else list(HOSTS))
        return {
            "allocation_requests": [{"allocations": {uuid: {"resources": wanted}}} for uuid in found],
            "provider_summaries": {uuid: {"root_provider_uuid": uuid} for uuid in found},
        }


def add_bus(app: Any, cloud: Cloud, pace: Sequence[float]) -> None:
    """The buses, as calls of the same server: what sandbox:// URLs lead to.

    :param pace: how computes take their time, as :func:`cellmove.sandbox.buses.finish` is given it; may change
    """

    @app.get("/bus/<bus>")  # type: ignore[untyped-decorator]
    def probe(bus: str) -> str:
        if bus in cloud.world.deaf:
            bottle.abort(503, "this broker is down")
        return "{}"

    @app.post("/bus/<bus>")  # type: ignore[untyped-decorator]
    def receive(bus: str) -> str:
        message = bottle.request.json
        try:
            answer = buses.deliver(cloud, bus, message, lambda _call, work: buses.finish(cloud, work, *pace))
            return json.dumps({"answer": answer})
        except Refusal as refusal:
            return json.dumps({"error": {"kind": str(refusal.kind), "message": str(refusal)}})
        except buses.NoAnswer as reason:
            return json.dumps({"unanswered": str(reason)})
