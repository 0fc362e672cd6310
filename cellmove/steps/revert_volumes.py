"""The volumes of a server that goes back: the source's records learn what was attached and detached meanwhile."""

from __future__ import annotations

from cellmove.cloud import volume
from cellmove.core.documents import NOTHING, Nothing
from cellmove.db import mappings, state
from cellmove.engine.action import Context
from cellmove.steps import endpoints
from cellmove.steps.action_types import KnownAttachments


def known_attachments(context: Context) -> KnownAttachments:
    """The server's attachments before the revert changes any."""
    known = volume.attachments_of(context.gateway.admin, endpoints.server_id(context))
    return KnownAttachments(tuple(attachment.id for attachment in known))


def match(context: Context, intent: KnownAttachments) -> Nothing:
    """Volumes attached or detached while resized: the source's records learn of them."""
    cinder, server, now = context.gateway.admin, endpoints.server_id(context), endpoints.now(context)
    source, target = endpoints.source(context), endpoints.target(context)
    here = {mapping["uuid"]: mapping for mapping in state.volume_mappings(source, server)}
    there = {mapping["uuid"]: mapping for mapping in state.volume_mappings(target, server)}
    # A volume of which the source's records have no attachment yet is a new one, or one whose answer was lost.
    known = {uuid for uuid, mapping in here.items() if mapping["attachment_id"] is not None}
    lost = volume.lost_attachments(cinder, server, intent.known) if set(there) - known else {}
    for uuid, mapping in there.items():
        if uuid not in here:
            mappings.copy_mapping(target, source, uuid)
            here[uuid] = next(m for m in state.volume_mappings(source, server) if m["uuid"] == uuid)
        elif here[uuid]["delete_on_termination"] != mapping["delete_on_termination"]:
            mappings.set_delete_on_termination(source, here[uuid]["id"], mapping["delete_on_termination"], now)
        if here[uuid]["attachment_id"] is None:
            volume_id = mapping["volume_id"]
            fresh = lost.get(volume_id) or volume.create_empty_attachment(cinder, volume_id, server)
            state.set_attachment(source, here[uuid]["id"], fresh, now)
    for uuid, mapping in here.items():
        if uuid not in there:
            if mapping["attachment_id"]:
                volume.delete_attachment(cinder, mapping["attachment_id"], service=context.gateway.service)
            mappings.delete_mapping(source, mapping["id"], now)
    return NOTHING
