"""Block device mappings that came or went while a server was resized."""

from __future__ import annotations

import datetime

from cellmove.core.errors import CallFailed
from cellmove.db.state import transaction
from cellmove.db.tables import CellDatabase


def copy_mapping(source: CellDatabase, target: CellDatabase, mapping_uuid: str) -> None:
    """Copy one BDM without its attachment, which belongs to the other cell's host.

    Its connection does, too, but stays: nova-compute's finish_revert gets a new one for those that have
    one, and starts the guest without the others (nova/virt/block_device.py, refresh_connection_info).

    :raises CallFailed: ``kind`` conflict when the volume was detached meanwhile
    """
    from sqlalchemy import insert, select

    table = source["block_device_mapping"]
    with transaction(source.engine, source.name) as connection:
        row = connection.execute(select(table).where(table.c.uuid == mapping_uuid, table.c.deleted == 0)).one_or_none()
    if row is None:
        raise CallFailed(f"block device mapping {mapping_uuid} was deleted meanwhile in {source.name}", kind="conflict")
    values = {name: value for name, value in row._mapping.items() if name in target["block_device_mapping"].c}
    values.pop("id")
    values |= {"attachment_id": None}
    with transaction(target.engine, target.name) as connection:
        connection.execute(insert(target["block_device_mapping"]).values(values))


def delete_mapping(database: CellDatabase, mapping_id: int, now: datetime.datetime) -> None:
    """Soft-delete one BDM, as nova does when a volume is detached."""
    from sqlalchemy import update

    table = database["block_device_mapping"]
    with transaction(database.engine, database.name) as connection:
        connection.execute(
            update(table)
            .where(table.c.id == mapping_id, table.c.deleted == 0)
            .values(deleted=table.c.id, deleted_at=now)
        )


def set_delete_on_termination(
    database: CellDatabase, mapping_id: int, value: int | None, now: datetime.datetime
) -> None:
    """Whether a volume goes with its server, which the owner may change at any time (compute API 2.85)."""
    from sqlalchemy import update

    table = database["block_device_mapping"]
    with transaction(database.engine, database.name) as connection:
        connection.execute(
            update(table)
            .where(table.c.id == mapping_id, table.c.deleted == 0)
            .values(delete_on_termination=value, updated_at=now)
        )
