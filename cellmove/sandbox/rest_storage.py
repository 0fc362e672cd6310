"""The REST calls of cinder and glance that cellmove makes."""

from __future__ import annotations

from collections.abc import Mapping

import bottle  # type: ignore[import-untyped]

from cellmove.sandbox import seed, services
from cellmove.sandbox.rest_routes import App, Response, document, links, page_of, route
from cellmove.sandbox.store import Cloud, Record, Refusal


def add_cinder(app: App, cloud: Cloud, base: str) -> None:
    version = {"id": "v3.0", "status": "CURRENT", "version": "3.71", "min_version": "3.0"}
    document(app, "/volume/v3", {"versions": [version | {"links": links(f"{base}/volume/v3/")}]})

    @route(app, cloud, "GET", "/volume/v3/volumes/detail")
    def volumes() -> Response:
        page, more = page_of(
            sorted(cloud.world.volumes.values(), key=lambda each: str(each["id"])), bottle.request.query
        )
        links = [{"rel": "next", "href": f"{base}/volume/v3/volumes/detail?marker={page[-1]['id']}"}] if more else []
        states = services.volume_states(cloud)
        return {"volumes": [shown(each, states) for each in page], "volumes_links": links}

    @route(app, cloud, "GET", "/volume/v3/volumes/<volume>")
    def show(volume: str) -> Response:
        if volume not in cloud.world.volumes:
            raise Refusal(404, f"Volume {volume} could not be found.")
        return {"volume": shown(cloud.world.volumes[volume], {volume: services.volume_status(cloud, volume)})}

    def shown(volume: Record, states: Mapping[str, str]) -> Record:
        return {
            "availability_zone": "nova",
            **volume,
            "status": states.get(volume["id"], "available"),
            "volume_type": "",
            "multiattach": False,
            "encrypted": False,
            "os-vol-tenant-attr:tenant_id": seed.PROJECT,
        }

    @route(app, cloud, "GET", "/volume/v3/attachments/detail")
    def listed() -> Response:
        query = bottle.request.query
        return {
            "attachments": [
                attachment
                for attachment in cloud.world.attachments.values()
                if attachment["instance"] == query.get("instance_id", attachment["instance"])
                and attachment["volume_id"] == query.get("volume_id", attachment["volume_id"])
            ]
        }

    @route(app, cloud, "GET", "/volume/v3/attachments")
    def summaries() -> Response:
        query = bottle.request.query
        names = ("id", "volume_id", "instance", "status")
        found = [
            each
            for each in sorted(cloud.world.attachments.values(), key=lambda each: str(each["id"]))
            # cinder has no such column as "status", and answers with nothing
            if "status" not in query and each["status"] == query.get("attach_status", each["status"])
        ]
        return {"attachments": [{name: each[name] for name in names} for each in page_of(found, query)[0]]}

    @route(app, cloud, "GET", "/volume/v3/attachments/<attachment>")
    def one(attachment: str) -> Response:
        return {"attachment": services.attachment(cloud, attachment)}

    @route(app, cloud, "POST", "/volume/v3/attachments")
    def create() -> Response:
        body = bottle.request.json["attachment"]
        return {"attachment": services.create_attachment(cloud, body["volume_uuid"], body["instance_uuid"])}

    @route(app, cloud, "POST", "/volume/v3/attachments/<attachment>/action", 204)
    def complete(attachment: str) -> None:
        services.complete_attachment(cloud, attachment)

    @route(app, cloud, "DELETE", "/volume/v3/attachments/<attachment>")
    def remove(attachment: str) -> Response:
        by_service = bool(bottle.request.headers.get("X-Service-Token"))
        services.delete_attachment(cloud, attachment, by_service=by_service)
        return {"attachments": []}


def add_glance(app: App, cloud: Cloud, base: str) -> None:
    version = {"id": "v2.17", "status": "CURRENT", "links": links(f"{base}/image/v2/")}
    document(app, "/image", {"versions": [version]})

    @route(app, cloud, "POST", "/image/v2/images", 201)
    def create() -> Response:
        return services.create_image(cloud, bottle.request.json, seed.PROJECT)

    @route(app, cloud, "GET", "/image/v2/images/<image>")
    def show(image: str) -> Response:
        return services.image(cloud, image)

    @route(app, cloud, "GET", "/image/v2/images")
    def listed() -> Response:
        query = bottle.request.query
        wanted = {name: query[name] for name in ("instance_uuid", "image_type") if name in query}
        found = [
            each
            for each in cloud.world.images.values()
            if all(each.get(name) == value for name, value in wanted.items())
        ]
        page, more = page_of(found, query)
        return {"images": page} | ({"next": f"/v2/images?marker={page[-1]['id']}"} if more else {})

    @route(app, cloud, "DELETE", "/image/v2/images/<image>", 204)
    def remove(image: str) -> None:
        services.delete_image(cloud, image)
