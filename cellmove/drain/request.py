"""The request of a run, as the queue stores it, and the name of a run."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from cellmove.core.cell_names import CellRef
from cellmove.core.reference import is_uuid
from cellmove.drain.options import DrainOptions, from_document, to_document

COMMAND = "command"
"""Stored beside the options: the command of the newest run."""

TARGET_NAMES = "target_names"
"""Stored beside the options: the display names of the target cells, by UUID."""


@dataclass(frozen=True)
class DrainRequest:
    """The options and the command of the newest run, as the queue stores them.

    :param options: None when no run has stored any
    """

    options: DrainOptions | None = None
    command: str = ""
    target_names: Mapping[str, str] = field(default_factory=dict)


def target_cells(request: DrainRequest) -> tuple[CellRef, ...]:
    """Return the target cells of a drain. An earlier version stored names instead of UUIDs."""
    names = request.target_names
    to = request.options.to if request.options is not None else ()
    return tuple(CellRef(word if is_uuid(word) else "", names.get(word, word)) for word in to)


def request_document(request: DrainRequest) -> dict[str, object]:
    """Return a request as plain JSON values."""
    options = to_document(request.options) if request.options is not None else {}
    return options | {COMMAND: request.command, TARGET_NAMES: dict(request.target_names)}


def read_request(document: Mapping[str, object]) -> DrainRequest:
    """Read what :func:`request_document` wrote; an empty document is that of no request."""
    options = {name: value for name, value in document.items() if name not in (COMMAND, TARGET_NAMES)}
    names = document.get(TARGET_NAMES, {})
    return DrainRequest(
        from_document(options) if options else None,
        str(document.get(COMMAND, "")),
        {str(uuid): str(name) for uuid, name in names.items()} if isinstance(names, Mapping) else {},
    )


def worker_name(token: str) -> str:
    """Return the name of this run: machine, process and a token."""
    return f"{socket.gethostname()}:{os.getpid()}:{token}"


def is_dead(worker: str) -> bool:
    """Return whether a run of this machine has ended, although its leases have not expired."""
    machine, pid, _token = worker.rsplit(":", 2)
    if machine != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # the process belongs to another user
    return False
