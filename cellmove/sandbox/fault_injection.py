"""Makes some of the calls to the sandbox fail, chosen by a seed."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

Environment: TypeAlias = dict[str, Any]
"""Of a request, after PEP 3333."""

StartResponse: TypeAlias = Callable[..., Any]
"""The WSGI callable of that name."""

Application: TypeAlias = Callable[[Environment, StartResponse], Iterable[bytes]]

FAULTS = ("error", "refused", "cut", "lost")
"""An error, or a refusal, before the effect; the connection cut before it; the effect done and its reply lost."""

CONNECTION = "sandbox.connection"
"""The key of the environment under which the server puts the connection of a request."""

CONTROL_PREFIX = "/sandbox/"
"""The control calls of tests never fail."""


class FaultInjector:
    """An application some of whose calls fail, after :meth:`start`.

    The draw for a call depends on its method and path and on how often both were called before. So the same seed hits nearly the
    same calls in every order of a run's threads.
    """

    def __init__(self, app: Application) -> None:
        self.app = app
        self.hits: Counter[str] = Counter()
        self._rate, self._seed = 0.0, ""
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def start(self, rate: float, seed: int | str = "") -> dict[str, int]:
        """Let this fraction of the calls fail from now on; 0: none.

        :returns: the number of failures so far, by fault
        """
        with self._lock:
            self._rate, self._seed = rate, str(seed)
            self._counts.clear()
            return dict(self.hits)

    def __call__(self, environment: Environment, start: StartResponse) -> Iterable[bytes]:
        path = environment["PATH_INFO"]
        fault = "" if path.startswith(CONTROL_PREFIX) else self._draw(f"{environment['REQUEST_METHOD']} {path}")
        if fault in ("error", "refused"):
            return _error_response(start, path, 500 if fault == "error" else 503)
        if fault != "cut":
            response = self.app(environment, start)
        if fault in ("cut", "lost"):
            environment[CONNECTION].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError(fault)  # to the server it looks like a client that disconnected
        return response

    def _draw(self, call: str) -> str:
        """Return the fault of a call; empty when it succeeds."""
        with self._lock:
            if not self._rate:
                return ""
            self._counts[call] += 1
            draw = random.Random(f"{self._seed} {call} {self._counts[call]}")  # noqa: S311 - reproducible, not secret
            if draw.random() >= self._rate:
                return ""
            fault = draw.choice(FAULTS)
            self.hits[fault] += 1
            return fault


def _error_response(start: StartResponse, path: str, status: int) -> list[bytes]:
    """Answer as a failing service does. A bus carries the error of the called service instead."""
    text = "injected fault"
    body: dict[str, Any] = {"errors": [{"status": status, "title": text, "detail": text}]}
    if path.startswith("/bus/") and status == 500:
        status, body = 200, {"error": {"kind": "NovaException", "message": text}}
    content = json.dumps(body).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    start(f"{status} {'OK' if status == 200 else 'Injected Fault'}", headers)
    return [content]
