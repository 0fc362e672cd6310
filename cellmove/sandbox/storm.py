"""Bad weather: some of the calls that reach the cloud go wrong, drawn by a seed."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

WAYS = ("error", "refused", "cut", "lost")
"""An error, or a refusal, before the effect; the connection cut before it; the effect done and its reply lost."""

CONNECTION = "sandbox.connection"
"""Where the server puts the connection of a request, to be cut."""

SHELTERED = "/sandbox/"
"""What a test says to the cloud always arrives."""


class Storm:
    """The application, with some calls that go wrong. Calm until it is told to blow.

    The draw of a call depends on what is called, and how often it was before: however the threads of
    a run take turns, the same seed hits much the same calls.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app
        self.hits: Counter[str] = Counter()
        self._rate, self._seed = 0.0, ""
        self._counts: Counter[str] = Counter()
        self._turn = threading.Lock()

    def blow(self, rate: float, seed: int | str = "") -> dict[str, int]:
        """Let so many of a hundred calls, as a fraction of one, go wrong from now on; 0: none.

        :returns: how many went wrong so far, by way
        """
        with self._turn:
            self._rate, self._seed = rate, str(seed)
            self._counts.clear()
            return dict(self.hits)

    def __call__(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environment["PATH_INFO"]
        way = "" if path.startswith(SHELTERED) else self._draw(f"{environment['REQUEST_METHOD']} {path}")
        if way in ("error", "refused"):
            return _answer(start, path, 500 if way == "error" else 503)
        if way != "cut":
            answer = self.app(environment, start)
        if way in ("cut", "lost"):
            environment[CONNECTION].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError(way)  # which the server takes for a client that went away
        return answer

    def _draw(self, what: str) -> str:
        """How a call is to go wrong; empty when it is not."""
        with self._turn:
            if not self._rate:
                return ""
            self._counts[what] += 1
            draw = random.Random(f"{self._seed} {what} {self._counts[what]}")  # noqa: S311 - to be repeated, not secret
            if draw.random() >= self._rate:
                return ""
            way = draw.choice(WAYS)
            self.hits[way] += 1
            return way


def _answer(start: Callable[..., Any], path: str, status: int) -> list[bytes]:
    """What a service says that is not well; a bus carries the error of whoever was called."""
    words = "the storm's own"
    body: Any = {"errors": [{"status": status, "title": words, "detail": words}]}
    if path.startswith("/bus/") and status == 500:
        status, body = 200, {"error": {"kind": "NovaException", "message": words}}
    content = json.dumps(body).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    start(f"{status} {'OK' if status == 200 else 'Storm'}", headers)
    return [content]
