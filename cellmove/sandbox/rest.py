"""The REST calls that cellmove makes, behind one loopback server: keystone, nova, neutron, cinder, glance, placement."""

from __future__ import annotations

import json
from collections.abc import Sequence

import bottle  # type: ignore[import-untyped]

from cellmove.sandbox import buses
from cellmove.sandbox.rest_compute import add_nova
from cellmove.sandbox.rest_identity import add_keystone, add_projects
from cellmove.sandbox.rest_network import add_neutron
from cellmove.sandbox.rest_placement import add_placement
from cellmove.sandbox.rest_routes import App, Response, error_response
from cellmove.sandbox.rest_storage import add_cinder, add_glance
from cellmove.sandbox.store import Cloud, Refusal

SERVICES = (add_keystone, add_projects, add_nova, add_neutron, add_cinder, add_glance, add_placement)


def make_app(cloud: Cloud, base: str) -> Response:
    """The WSGI application.

    :param base: URL under which it is reached
    """
    app = bottle.Bottle()
    for add in SERVICES:
        add(app, cloud, base)
    app.default_error_handler = lambda error: error_response(error.status_code, str(error.body))
    return app


def add_bus(app: App, cloud: Cloud, pace: Sequence[float]) -> None:
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
