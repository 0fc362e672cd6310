"""The REST calls of neutron that cellmove makes."""

from __future__ import annotations

import bottle  # type: ignore[import-untyped]

from cellmove.sandbox import services
from cellmove.sandbox.rest_routes import App, Response, document, links, page_of, route
from cellmove.sandbox.store import Cloud, Record, Refusal


def add_neutron(app: App, cloud: Cloud, base: str) -> None:
    version = {"id": "v2.0", "status": "CURRENT", "links": links(f"{base}/network/v2.0/")}
    document(app, "/network", {"versions": [version]})

    def shown(port: Record) -> Record:
        host, binding = services.active_binding(port)
        return {
            **{
                name: port[name]
                for name in ("id", "name", "device_id", "device_owner", "mac_address", "network_id", "project_id")
            },
            "status": services.port_status(cloud, port),
            "binding:host_id": host,
            "binding:vif_type": binding.get("vif_type", "unbound"),
            "binding:profile": binding.get("profile", {}),
            "binding:vnic_type": binding.get("vnic_type", "normal"),
            "resource_request": port.get("resource_request"),
            "fixed_ips": [{"ip_address": port["ip"]}],
        }

    @route(app, cloud, "GET", "/network/v2.0/extensions")
    def extensions() -> Response:
        return {"extensions": [{"alias": alias} for alias in cloud.world.extensions]}

    @route(app, cloud, "GET", "/network/v2.0/ports")
    def ports() -> Response:
        query = bottle.request.query
        devices, fields = set(query.getall("device_id")), query.getall("fields")
        found = [
            port
            for port in sorted(cloud.world.ports.values(), key=lambda port: str(port["id"]))
            if (not devices or port["device_id"] in devices)
            and query.get("binding:host_id", "") in ("", *port["bindings"])
        ]  # any binding, as neutron does it
        page, more = page_of(found, query)
        links = [{"rel": "next", "href": f"{base}/network/v2.0/ports?marker={page[-1]['id']}"}] if more else []
        bodies = [shown(port) for port in page]
        wanted = [{name: each[name] for name in fields} for each in bodies] if fields else bodies
        return {"ports": wanted, "ports_links": links}

    @route(app, cloud, "PUT", "/network/v2.0/ports/<port_id>")
    def update(port_id: str) -> Response:
        services.bind_port(cloud, port_id, bottle.request.json["port"]["binding:host_id"])
        return {"port": shown(services.port(cloud, port_id))}

    @route(app, cloud, "GET", "/network/v2.0/ports/<port_id>/bindings")
    def bindings(port_id: str) -> Response:
        port = services.port(cloud, port_id)
        if not port["device_id"]:
            raise Refusal(400, "Port is not owned by a server")
        return {"bindings": [{"host": host, **binding} for host, binding in port["bindings"].items()]}

    @route(app, cloud, "POST", "/network/v2.0/ports/<port_id>/bindings", 201)
    def bind(port_id: str) -> Response:
        body = bottle.request.json["binding"]
        return {"binding": services.create_binding(cloud, port_id, body["host"], body["vnic_type"], body["profile"])}

    @route(app, cloud, "PUT", "/network/v2.0/ports/<port_id>/bindings/<host>/activate")
    def activate(port_id: str, host: str) -> Response:
        return services.activate_binding(cloud, port_id, host)

    @route(app, cloud, "DELETE", "/network/v2.0/ports/<port_id>/bindings/<host>", 204)
    def unbind(port_id: str, host: str) -> None:
        services.delete_binding(cloud, port_id, host)
