"""The REST calls of placement that cellmove makes."""

from __future__ import annotations

import bottle  # type: ignore[import-untyped]

from cellmove.sandbox import services
from cellmove.sandbox.rest_routes import App, Response, document, links, route
from cellmove.sandbox.store import HOSTS, Cloud, Refusal


def add_placement(app: App, cloud: Cloud, base: str) -> None:
    version = {"id": "v1.0", "max_version": "1.39", "min_version": "1.0", "status": "CURRENT"}
    document(app, "/placement", {"versions": [version | {"links": links("")}]})

    @route(app, cloud, "GET", "/placement/allocations/<consumer>")
    def held(consumer: str) -> Response:
        found = services.held(cloud, consumer)
        kept = {name: found[name] for name in ("allocations", "project_id", "user_id") if name in found}
        return kept | ({"consumer_generation": found["generation"]} if "generation" in found else {})

    @route(app, cloud, "PUT", "/placement/allocations/<consumer>", 204)
    def put(consumer: str) -> None:
        services.put_allocations(cloud, {consumer: bottle.request.json})

    @route(app, cloud, "POST", "/placement/allocations", 204)
    def post() -> None:
        services.put_allocations(cloud, bottle.request.json)

    @route(app, cloud, "GET", "/placement/resource_providers/<uuid>")
    def provider(uuid: str) -> Response:
        if uuid not in services.PROVIDERS:
            raise Refusal(404, f"No resource provider with uuid {uuid} found")
        return {"uuid": uuid, "name": services.PROVIDERS[uuid]}

    @route(app, cloud, "GET", "/placement/resource_providers")
    def providers() -> Response:
        query = bottle.request.query
        wanted, member_of = query.get("required", ""), query.get("member_of", "").removeprefix("in:")
        return {"resource_providers": services.providers(cloud, [wanted] if wanted else [], member_of)}

    @route(app, cloud, "GET", "/placement/resource_providers/<uuid>/allocations")
    def consumers(uuid: str) -> Response:
        if uuid not in services.PROVIDERS:
            raise Refusal(404, f"Resource provider '{uuid}' not found: No resource provider with uuid {uuid} found")
        held = {
            consumer: each["allocations"][uuid]
            for consumer, each in cloud.world.allocations.items()
            if uuid in each["allocations"]
        }
        return {"allocations": held, "resource_provider_generation": 1}

    @route(app, cloud, "GET", "/placement/resource_providers/<uuid>/inventories")
    def inventories(uuid: str) -> Response:
        amounts = {"DISK_GB": 4000} if uuid in cloud.world.stores else cloud.world.capacity
        return {"inventories": {name: {"total": total} for name, total in amounts.items()}}

    @route(app, cloud, "GET", "/placement/resource_providers/<uuid>/usages")
    def usages(uuid: str) -> Response:
        return {"usages": services.usages(cloud, uuid), "resource_provider_generation": 1}

    @route(app, cloud, "GET", "/placement/resource_providers/<uuid>/aggregates")
    def aggregates(uuid: str) -> Response:
        return {"aggregates": [uuid] if uuid in cloud.world.stores else []}

    @route(app, cloud, "GET", "/placement/allocation_candidates")
    def candidates() -> Response:
        query = bottle.request.query
        wanted = {name: int(amount) for name, amount in (part.split(":") for part in query["resources"].split(","))}
        only = services.PROVIDERS.get(query.get("in_tree", ""))
        found = services.room(cloud, wanted, [only] if only else list(HOSTS))
        return {
            "allocation_requests": [{"allocations": {uuid: {"resources": wanted}}} for uuid in found],
            "provider_summaries": {uuid: {"root_provider_uuid": uuid} for uuid in found},
        }
