"""How many guests a run stops at once, where it prepares more servers than that ahead."""

from __future__ import annotations

import threading


class Turnstile:
    """So many servers are inside at once; each gives up its place when its move is through.

    :param places: how many
    """

    def __init__(self, places: int) -> None:
        self._places, self._inside, self._lock = places, set[str](), threading.Lock()

    def enter(self, server_id: str, *, at_once: bool = False) -> bool:
        """Whether there was a place.

        :param at_once: there has to be one: its guest is down
        """
        with self._lock:
            if at_once or server_id in self._inside or len(self._inside) < self._places:
                self._inside.add(server_id)
                return True
            return False

    def is_inside(self, server_id: str) -> bool:
        """Whether it has a place."""
        with self._lock:
            return server_id in self._inside

    def leave(self, server_id: str) -> None:
        """Give the place up; one that has none is no error."""
        with self._lock:
            self._inside.discard(server_id)
