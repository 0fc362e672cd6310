"""Whether cellmove gets at what the move needs: message buses, and databases with the rights to write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellmove.checks.result import refusal

if TYPE_CHECKING:
    from cellmove.checks.result import CheckResults
    from cellmove.checks.snapshot import ServerSnapshot
    from cellmove.db.rights import Rights

UNREACHABLE = frozenset({"bus", "target-bus"})
"""Codes of what cannot be reached or does not let us in: alone they end a command with exit code 4."""

API = "API"


def check_buses(snapshot: ServerSnapshot) -> CheckResults:
    """The buses that every move of the server needs: the API level's and the source cell's."""
    for whose, error in snapshot.bus_errors.items():
        if whose == API:
            remedy = (
                "make the bus reachable, or correct [DEFAULT]transport_url in nova.conf (or CELLMOVE_TRANSPORT_URL)"
            )
        else:
            remedy = correct_bus(f"of {snapshot.source_cell}", whose)
        yield refusal("bus", error, remedy)


def check_rights(snapshot: ServerSnapshot) -> CheckResults:
    """The databases that every move of the server writes to: the API database and the source cell's."""
    for whose, rights in snapshot.rights.items():
        name = "the API database" if whose == API else f"the database of {snapshot.source_cell}"
        yield refusal("rights", *rights_words(name, rights))


def rights_words(name: str, rights: Rights) -> tuple[str, str]:
    """What lacks in a database, and what to type."""
    if rights.read_only:
        return f"{name}: {rights.read_only}", f"name the writable server in the URL of {name}"
    text = f"the user {rights.account} lacks rights for a move in {name}: it lacks {rights.in_words}"
    return text, f"at that database: {rights.grants}"


def correct_bus(whose: str, cell_uuid: str) -> str:
    """How the setting of a cell's bus is corrected."""
    return (
        f"make the bus reachable, or correct transport_url {whose}: nova-manage cell_v2 update_cell --cell_uuid {cell_uuid} "
        "--transport-url URL (where it is a template: [DEFAULT]transport_url in nova.conf); "
        "for TLS see [oslo_messaging_rabbit] in nova.conf"
    )
