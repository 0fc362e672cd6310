"""Looks up what the operator's rules are held against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellmove.cloud import identity
from cellmove.db import look

if TYPE_CHECKING:
    from cellmove.core.policy import Policy
    from cellmove.gateway import Gateway


def values_of(
    gateway: Gateway,
    policy: Policy,
    cell_uuid: str,
    server_id: str,
    project_id: str,
    flavors: tuple[str, ...],
    host: str,
) -> dict[str, tuple[str, ...]]:
    """What rules are held against; the project's name and the tags are looked up only where a rule wants them.

    :param cell_uuid: the cell where the server is
    """
    named = policy.allow.keys() | policy.deny.keys()
    name = identity.project_name(gateway.admin, project_id) if "projects" in named else ""
    tags = look.tags_of(gateway.database(gateway.cell(cell_uuid)), server_id) if "tags" in named else ()
    return by_kind((project_id, name), flavors, tags, host)


def by_kind(
    project: tuple[str, str], flavors: tuple[str, ...], tags: tuple[str, ...], host: str
) -> dict[str, tuple[str, ...]]:
    """What rules are held against, of a server of which all that is known already.

    :param project: id and name
    """
    return {"projects": project, "flavors": tuple(dict.fromkeys(flavors)), "tags": tags, "hosts": (host,)}
