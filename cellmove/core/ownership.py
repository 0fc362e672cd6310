"""What a move leaves in the cloud itself while it is under way: who moves the server, and what cannot be seen later.

The rows stand in ``instance_system_metadata`` of the source cell from ``take_server`` on, travel to the
target with the other rows, and go when the move is finished or rolled back. With them another machine
can name the one that holds the journal, and a lost journal can be rebuilt (``cellmove adopt``).

The mark carries a generation, which keeps an older copy of the journal from acting on the move. cellmove raises
it by compare-and-swap before the first effect of every run of a step or an undo, and before every action that a
journal has to know of (see :attr:`cellmove.engine.action.Action.is_fenced`). The journal records each value together
with the line that announces the effect, so before the value is written. A journal that does not know the value in
the cloud is refused (:mod:`cellmove.steps.fence`). A crash between the two locks nobody out: the value that the
cloud still has is known, and so is the one that was announced.

One row is authoritative at each stage, and only that one is raised:

* prep-dest, prep-source, finish: the source's, before the pivot and after it. The target's row has the value
  that was copied, which counts for nothing;
* confirm: the target's, because the source's records are deleted on the way;
* revert: the source's, before the pivot and after it, because the target's records are deleted on the way;
* between finish and confirm or revert, and after the end of a move: none. The server carries no mark then, so that
  nova and any other tool may go on with it.

Marks of earlier versions have no generation; it is read as :data:`UNNUMBERED`.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

KEY = "cellmove"
"""The key whose value begins with the move's id; a server without it is not being moved by us."""

REQUEST, FLAVOR, CELL, HOST, BEFORE, TRANSFER, GENERATION = (
    f"{KEY}_{name}" for name in ("request", "flavor", "cell", "host", "before", "transfer", "generation")
)
KEYS = (KEY, REQUEST, FLAVOR, CELL, HOST, BEFORE, TRANSFER, GENERATION)
"""Every key that a move may have set."""

LENGTH = 255
"""How long a value may be in nova's tables."""

ABSENT = ""
"""In the place of a generation: the server carries no mark of the move."""

UNNUMBERED = "0"
"""The generation of a mark that has none: an earlier version of cellmove wrote it."""


@dataclass(frozen=True)
class OwnershipMark:
    """One server's mark.

    :param owner: who holds the journal: ``user@machine:path``, or the address of a shared one
    :param request_id: of the action that nova's history shows
    :param flavor_id: the new flavor of a resize; empty for a migration
    :param cell: UUID of the cell that the operator named, if any; its name in a mark of an earlier version
    :param host: the host that the operator named, if any
    :param before: the columns that taking the server changes, as they were
    :param transfer: of disks that are streamed: how; empty for all others
    :param generation: see the module; empty: none is written
    """

    move_id: str
    owner: str = ""
    request_id: str = ""
    flavor_id: str = ""
    cell: str = ""
    host: str = ""
    before: Mapping[str, Any] = field(default_factory=dict)
    transfer: Mapping[str, Any] = field(default_factory=dict)
    generation: str = ""


def move_id_of(value: str | None) -> str:
    """The id of the move that a value of :data:`KEY` names; empty when there is none."""
    return next(iter((value or "").split()), "")


def rows_of(mark: OwnershipMark) -> dict[str, str]:
    """A mark as system metadata: key to value. What is not known is left out."""
    values = {
        KEY: f"{mark.move_id} {mark.owner}".strip(),
        REQUEST: mark.request_id,
        FLAVOR: mark.flavor_id,
        CELL: mark.cell,
        HOST: mark.host,
        BEFORE: text_of(mark.before),
        TRANSFER: text_of(mark.transfer),
        GENERATION: mark.generation,
    }
    return {key: value[:LENGTH] for key, value in values.items() if value}


def text_of(values: Mapping[str, Any]) -> str:
    """Values as one value of the system metadata holds them; empty without any."""
    return json.dumps(dict(values)) if values else ""


def mark_of(metadata: Mapping[str, str]) -> OwnershipMark | None:
    """The mark in a server's system metadata, or None."""
    value = metadata.get(KEY)
    if not move_id_of(value):
        return None
    return OwnershipMark(
        move_id=move_id_of(value),
        owner=" ".join((value or "").split(" ")[1:]),
        request_id=metadata.get(REQUEST, ""),
        flavor_id=metadata.get(FLAVOR, ""),
        cell=metadata.get(CELL, ""),
        host=metadata.get(HOST, ""),
        before=_values(metadata.get(BEFORE)),
        transfer=_values(metadata.get(TRANSFER)),
        generation=metadata.get(GENERATION, ""),
    )


def generation_of(metadata: Mapping[str, str], move_id: str) -> str:
    """The generation of a move's mark in a server's system metadata; :data:`ABSENT` without such a mark."""
    if move_id_of(metadata.get(KEY)) != move_id:
        return ABSENT
    return metadata.get(GENERATION) or UNNUMBERED


def number_of(generation: str) -> int:
    """The number of a generation; -1 of none."""
    digits = generation.partition(" ")[0]
    return int(digits) if digits.isdecimal() else -1


def next_generation(known: Iterable[str], token: str) -> str:
    """A generation that comes after all known ones.

    :param token: tells two journals apart that announce the same number
    """
    highest = max((number_of(each) for each in known), default=0)
    return f"{max(highest, 0) + 1} {token}"


def _values(text: str | None) -> dict[str, Any]:
    """A value that is JSON; nothing when it was too long for its column."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def owner_of_journal(journal: str) -> str:
    """Who holds a journal, so that a person on another machine can go there.

    :param journal: its path or URL, as the settings have it; no password is kept
    :returns: plain ASCII, which every nova schema can hold
    """
    if "://" in journal:
        from sqlalchemy.engine import make_url

        url = make_url(journal)
        where = f"{url.get_backend_name()}://{url.host or ''}/{url.database or ''}"
    else:
        where = f"{_user()}@{socket.gethostname()}:{journal}"
    return where.encode("ascii", "backslashreplace").decode()


def local_path(owner: str) -> str:
    """The path of a journal that an owner names, if it is a file of this user on this machine; else empty."""
    own = f"{_user()}@{socket.gethostname()}:"
    return owner.removeprefix(own) if owner.startswith(own) else ""


def is_same_owner(one: str, other: str, move_id: str) -> bool:
    """Whether two owners are one, as far as a mark has room for them."""
    return rows_of(OwnershipMark(move_id, one)) == rows_of(OwnershipMark(move_id, other))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())  # no entry for it in the password database, as in some containers
