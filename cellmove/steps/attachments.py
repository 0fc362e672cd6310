"""Find out who uses an attachment that cinder knows and a server's record does not name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cellmove.core.errors import CannotConnect
from cellmove.db import look
from cellmove.steps.duplicates import distinct

if TYPE_CHECKING:
    from cellmove.cloud.volume import Attachment
    from cellmove.gateway import Gateway


def users_of(gateway: Gateway, attachments: Sequence[Attachment]) -> dict[str, tuple[str, ...]]:
    """Ask every cell, one query for each attachment; there are none as a rule.

    :returns: by the attachment's id who uses it, in words; nobody where that is empty. A cell that cannot be asked counts
        as a user.
    """
    found: dict[str, list[str]] = {each.id: [] for each in attachments}
    if not found:
        return {}
    for cell in distinct(gateway, gateway.cells):
        try:
            database = gateway.database(cell)
        except CannotConnect:
            for users in found.values():
                users.append(f"{cell.label} cannot be asked")
            continue
        for each in attachments:
            found[each.id] += [
                f"the record of {server} in {cell.label} names it"
                for server in look.attachment_users(database, each.id, each.volume_id)
            ]
    return {attachment: tuple(users) for attachment, users in found.items()}
