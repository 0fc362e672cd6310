"""The cloud as a process of its own: ``python -m cellmove.sandbox FOLDER``."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer, make_server

import bottle  # type: ignore[import-untyped]
from sqlalchemy.exc import SQLAlchemyError

from cellmove.sandbox import buses, disks, rest, rest_identity, seed
from cellmove.sandbox.fault_injection import CONNECTION, FaultInjector
from cellmove.sandbox.instances import Instances
from cellmove.sandbox.store import HOSTS, Cloud, Refusal, cell_of, files, make_databases

HEARTBEAT = 10.0  # seconds
WHOLE_WORLD = 2**26  # bytes of one request: a test puts a whole world back


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128  # a drain's threads come all at once


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 2**16

    def handle(self) -> None:
        """Answer one call after the other until the client closes the connection."""
        with contextlib.suppress(ConnectionError):  # the client was killed
            self.close_connection = False
            while not self.close_connection:
                self._handle_next()

    def _handle_next(self) -> None:
        stream: Any = self.wfile
        self.raw_requestline = self.rfile.readline(2**16)
        self.close_connection = True
        if not self.raw_requestline or not self.parse_request():
            return
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionAbortedError
        answering = ServerHandler(BytesIO(body), stream, self.get_stderr(), self.get_environ())
        answering.http_version = "1.1"
        answering.request_handler = self  # type: ignore[attr-defined]
        answering.run(self.server.get_app())  # type: ignore[attr-defined]
        self.wfile.flush()

    def get_environ(self) -> dict[str, Any]:
        """Return the environment of a request, with its connection for fault injection."""
        return super().get_environ() | {CONNECTION: self.connection}

    def log_message(self, *_words: Any) -> None:
        """Say nothing: the history tells what happened."""


def write_configuration(
    folder: Path, base: str, urls: dict[str, str], instances: Instances | None = None
) -> dict[str, str]:
    """The files by which cellmove finds this cloud; returns the environment that names them.

    :param instances: where the hosts' disks are, if they are files: cellmove is told that it reaches them by ssh
    """
    bus = base.replace("http://", "sandbox://", 1) + "/bus"
    login = {
        "auth_url": f"{base}/identity/v3",
        "username": "admin",
        "password": rest_identity.PASSWORD,
        "project_name": "admin",
        "user_domain_name": "Default",
        "project_domain_name": "Default",
    }
    clouds = {"clouds": {"sandbox": {"auth": login, "region_name": "RegionOne", "identity_api_version": "3"}}}
    (folder / "clouds.yaml").write_text(json.dumps(clouds))
    neutron = login | {"auth_type": "password", "username": "nova", "region_name": "RegionOne"}
    sections: dict[str, dict[str, Any]] = {
        "DEFAULT": {"transport_url": f"{bus}/api", "rpc_response_timeout": 60, "long_rpc_timeout": 120},
        "api_database": {"connection": urls["api"]},
        "database": {"connection": urls["cell1"]},
        "neutron": neutron,
    }
    lines = [
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in each.items()) for name, each in sections.items()
    ]
    (folder / "nova.conf").write_text("\n".join(lines))
    config = ["[policy]", "unattended = true"]
    if instances is not None:
        config += ["[ssh]", f'python = "{sys.executable}"']
        config += [f'[ssh.hosts."{host}"]\ninstances_path = "{instances.seen(host)}"' for host in HOSTS]
    (folder / "config.toml").write_text("\n".join(config) + "\n")
    return {
        "OS_CLIENT_CONFIG_FILE": str(folder / "clouds.yaml"),
        "OS_CLOUD": "sandbox",
        "CELLMOVE_NOVA_CONF": str(folder / "nova.conf"),
        "CELLMOVE_CONFIG": str(folder / "config.toml"),
        "CELLMOVE_DISK_STORES": "separate",
    }


CHANGES = (
    seed.rename,
    seed.lock,
    seed.attach,
    seed.detach,
    seed.delete,
    seed.hard_reboot,
    seed.make_volume,
    seed.make_flavor,
    seed.name_cell,
    seed.map_again,
    disks.write,
    disks.add_base,
)
"""The functions that a test may call by name, with the cloud as their first argument."""


def add_control(app: Any, cloud: Cloud, pace: list[float], faults: FaultInjector) -> None:
    """Add the control calls of tests and the demo: POST /sandbox/NAME with the arguments as JSON."""

    def state() -> Any:
        return vars(cloud.world)

    def host(name: str, up: bool) -> None:
        if up:
            buses.restart(cloud, name)
            seed.heartbeat(cloud)
        else:
            cloud.world.down.append(name)
            long_ago = cloud.now() - datetime.timedelta(hours=1)  # nova has noticed by now
            cloud.update(cell_of(name), "services", {"last_seen_up": long_ago}, host=name)

    def fault(key: str, how: str) -> None:
        cloud.world.faults[key] = how

    def world(**values: Any) -> None:
        """Put the world back as it was."""
        for name, value in values.items():
            setattr(cloud.world, name, value)
        seed.heartbeat(cloud)

    def slow(seconds: float = 0.0, call: float = 0.0) -> None:
        """How long a compute waits between two writes, and once in each call."""
        pace[:] = [seconds, call]

    known: dict[str, Callable[..., Any]] = {
        "boot": lambda **how: seed.boot(cloud, **how),
        "state": state,
        "host": host,
        "fault": fault,
        "pace": slow,
        "world": world,
        "fault_injection": faults.start,
        **{change.__name__: lambda _do=change, **how: _do(cloud, **how) for change in CHANGES},
    }

    @app.post("/sandbox/<name>")  # type: ignore[untyped-decorator]
    def control(name: str) -> str:
        with cloud.lock:
            try:
                return json.dumps({"answer": known[name](**bottle.request.json)}, default=str)
            except Refusal as refusal:
                raise bottle.HTTPError(409, str(refusal)) from None


def main() -> None:
    """Serve until killed. Says where in one line of JSON once it listens."""
    parser = argparse.ArgumentParser(prog="python -m cellmove.sandbox")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--database", default="", help="URL in front of api, cell1 and cell2 (default: SQLite)")
    parser.add_argument("--disks", action="store_true", help="local disks are files in FOLDER/disks/HOST")
    parser.add_argument("--with-parent", action="store_true", help="end when the parent process ends")
    chosen = parser.parse_args()
    parent = os.getppid()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    urls = (
        {name: f"{chosen.database}{name}" for name in ("api", "cell1", "cell2")}
        if chosen.database
        else files(chosen.folder)
    )
    make_databases(urls)
    nothing: Any = None  # the application is made once the port is known
    server = make_server("127.0.0.1", chosen.port, nothing, _Server, _Quiet)
    base = f"http://127.0.0.1:{server.server_port}"
    cloud, pace = Cloud(urls), [0.0, 0.0]
    cloud.instances = Instances(chosen.folder.absolute() / "disks") if chosen.disks else None
    seed.make_cloud(cloud, base.replace("http://", "sandbox://", 1) + "/bus")
    app = rest.make_app(cloud, base)
    rest.add_bus(app, cloud, pace)
    faults = FaultInjector(app)
    add_control(app, cloud, pace, faults)
    server.set_app(faults)
    environment = write_configuration(chosen.folder, base, urls, cloud.instances)
    bottle.debug(False)
    bottle.BaseRequest.MEMFILE_MAX = WHOLE_WORLD

    def beat() -> None:
        while True:
            for _ in range(round(HEARTBEAT)):
                time.sleep(1.0)
                if chosen.with_parent and os.getppid() != parent:
                    os._exit(0)
            # Databases can be locked for long, or gone with their folder; there is a next time.
            with contextlib.suppress(SQLAlchemyError), cloud.lock:
                seed.heartbeat(cloud)

    threading.Thread(target=beat, daemon=True).start()
    print(json.dumps({"url": base, "environment": environment, "databases": urls}), flush=True)  # noqa: T201 - the parent process reads it
    server.serve_forever()


if __name__ == "__main__":
    main()
