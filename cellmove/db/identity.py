"""Tells which cell mappings lead to one database (nova bug 1923899), by asking the databases.

URLs do not say it: a name and an address, two nodes of one Galera cluster, a server and the proxy in front of it are
one database under several URLs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cellmove.db.engines import translate_errors

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from cellmove.db.tables import CellDatabase

CLUSTER = ("wsrep_cluster_state_uuid",)
"""Status variables that name a Galera cluster, whichever of its nodes answers."""

SERVER = ("group_replication_group_name", "server_uuid", "server_uid")
"""Variables that name a group of MySQL servers, or one server: the first that has a value counts."""

UNSET = frozenset({"", "00000000-0000-0000-0000-000000000000"})


@dataclass(frozen=True)
class DatabaseIdentity:
    """What a database says about itself.

    :param location: the cluster or server and the schema in it; of SQLite the file
    :param services: the UUIDs of nova's services in it, which nova draws at random: no other database has them
    """

    location: str
    services: frozenset[str]


def identity_of(database: CellDatabase) -> DatabaseIdentity:
    """Ask a database who it is.

    :raises CallError: it does not answer
    """
    from sqlalchemy import select

    services = database["services"].c.uuid
    with translate_errors(database.engine), database.engine.connect() as connection:
        uuids = connection.execute(select(services).where(services.is_not(None))).scalars().all()
        return DatabaseIdentity(_location(database, connection), frozenset(uuids))


def is_same(one: DatabaseIdentity, other: DatabaseIdentity) -> bool:
    """Whether two identities are one database.

    Two servers made from one copy share their identifiers, and one database is reached by several addresses. So the
    services decide where there are any. They may change between the two questions: at one location one common
    service is enough.
    """
    if not one.services and not other.services:
        return one.location == other.location
    if one.location == other.location:
        return not one.services.isdisjoint(other.services)
    return one.services == other.services


def _location(database: CellDatabase, connection: Connection) -> str:
    """The cluster or the server, and the schema."""
    from sqlalchemy import bindparam, text

    url = database.engine.url
    if url.get_backend_name() == "sqlite":
        return str(Path(url.database or "").resolve())
    known: dict[str, str] = {}
    for what, names in (("STATUS", CLUSTER), ("VARIABLES", (*SERVER, "hostname", "port"))):
        query = text(f"SHOW GLOBAL {what} WHERE Variable_name IN :names")  # one of two words of our own
        query = query.bindparams(bindparam("names", expanding=True))
        known |= {str(row[0]): str(row[1]) for row in connection.execute(query, {"names": names})}
    named = (known[name] for name in (*CLUSTER, *SERVER) if known.get(name, "") not in UNSET)
    server = next(named, f"{known.get('hostname')}:{known.get('port')}")
    return f"{server}/{connection.execute(text('SELECT DATABASE()')).scalar_one()}"
