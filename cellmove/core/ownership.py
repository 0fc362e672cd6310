"""The ownership mark: the rows by which a move in progress claims its server in the cloud.

The rows are in ``instance_system_metadata`` of the source cell from ``take_server`` on. They are copied to the target with
the other rows, and removed when the move has finished or is rolled back. With the mark another machine can name the owner
of the journal, and ``cellmove adopt`` can rebuild a lost journal.

The mark has a generation, which keeps an older copy of the journal from acting on the move. cellmove raises it by
compare-and-swap before the first effect of every run of a step or an undo, and before every action that a journal has to
know of (see :attr:`cellmove.engine.action.Action.is_fenced`). The journal records each value with the line that announces
the effect, which is before the value is written. A journal that does not know the value in the cloud is refused
(:mod:`cellmove.steps.fence`). A crash between the two writes locks no journal out: it knows both the value that the cloud
still has and the announced one.

One row is authoritative at each stage, and only its generation is raised:

* prep-dest, prep-source, finish: the source's, before the pivot and after it. The target's row has the copied value,
  which is ignored;
* confirm: the target's, because the source's records are deleted on the way;
* revert: the source's, before the pivot and after it, because the target's records are deleted on the way;
* between finish and confirm or revert, and after the end of a move: none. The server has no mark then, so that nova and
  any other tool can act on it.

Marks of earlier versions have no generation; it is read as :data:`UNNUMBERED`.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

KEY = "cellmove"
"""The key whose value begins with the id of the move. A server without it is not in a move of cellmove."""

REQUEST, FLAVOR, CELL, HOST, BEFORE, TRANSFER, GENERATION = (
    f"{KEY}_{name}" for name in ("request", "flavor", "cell", "host", "before", "transfer", "generation")
)
KEYS = (KEY, REQUEST, FLAVOR, CELL, HOST, BEFORE, TRANSFER, GENERATION)
"""Every key of a mark."""

LENGTH = 255
"""The length of a value in nova's tables."""

ABSENT = ""
"""Instead of a generation: the server has no mark of the move."""

UNNUMBERED = "0"
"""The generation of a mark that has none: an earlier version of cellmove wrote it."""


@dataclass(frozen=True)
class OwnershipMark:
    """The ownership mark of one server.

    :param owner: the owner of the journal: ``user@machine:path``, or the address of a shared journal
    :param request_id: of the action that nova's history shows
    :param flavor_id: the new flavor of a resize; empty for a migration
    :param cell: UUID of the cell that the operator named, if any; its name in a mark of an earlier version
    :param host: the host that the operator named, if any
    :param before: the columns that ``take_server`` changes, with their previous values
    :param transfer: how the disks are streamed; empty when they are not
    :param generation: see the module; empty: no row is written for it
    """

    move_id: str
    owner: str = ""
    request_id: str = ""
    flavor_id: str = ""
    cell: str = ""
    host: str = ""
    before: Mapping[str, object] = field(default_factory=dict)
    transfer: Mapping[str, object] = field(default_factory=dict)
    generation: str = ""


def move_id_of(value: str | None) -> str:
    """The id of the move that a value of :data:`KEY` names; empty when there is none."""
    return next(iter((value or "").split()), "")


def rows_of(mark: OwnershipMark) -> dict[str, str]:
    """Return the rows of a mark in the system metadata, key to value. Unknown values are omitted."""
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


def text_of(values: Mapping[str, object]) -> str:
    """Return values as one value of the system metadata; empty when there are none."""
    return json.dumps(dict(values)) if values else ""


def mark_of(metadata: Mapping[str, str]) -> OwnershipMark | None:
    """Return the mark in a server's system metadata, or None."""
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
    """Return the generation of a move's mark; :data:`ABSENT` without such a mark."""
    if move_id_of(metadata.get(KEY)) != move_id:
        return ABSENT
    return metadata.get(GENERATION) or UNNUMBERED


def number_of(generation: str) -> int:
    """Return the number of a generation; -1 when there is none."""
    digits = generation.partition(" ")[0]
    return int(digits) if digits.isdecimal() else -1


def next_generation(known: Iterable[str], token: str) -> str:
    """Return the generation after all known ones.

    :param token: distinguishes two journals that announce the same number
    """
    highest = max((number_of(each) for each in known), default=0)
    return f"{max(highest, 0) + 1} {token}"


def _values(text: str | None) -> dict[str, object]:
    """Return the values of a JSON text; none when the text was cut off by its column."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def owner_of_journal(journal: str) -> str:
    """Return the owner of a journal, by which an operator finds it from another machine.

    :param journal: its path or URL, as the settings have it
    :returns: ASCII text without any password, which every nova schema can hold
    """
    if "://" in journal:
        from sqlalchemy.engine import make_url

        url = make_url(journal)
        where = f"{url.get_backend_name()}://{url.host or ''}/{url.database or ''}"
    else:
        where = f"{_user()}@{socket.gethostname()}:{journal}"
    return where.encode("ascii", "backslashreplace").decode()


def local_path(owner: str) -> str:
    """Return the path of an owner's journal if it is a file of this user on this machine; else an empty text."""
    own = f"{_user()}@{socket.gethostname()}:"
    return owner.removeprefix(own) if owner.startswith(own) else ""


def is_same_owner(one: str, other: str, move_id: str) -> bool:
    """Return whether two owners are equal in the length that a mark can hold."""
    return rows_of(OwnershipMark(move_id, one)) == rows_of(OwnershipMark(move_id, other))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())  # no entry for it in the password database, as in some containers
