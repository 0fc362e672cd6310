"""The cloud's memory: nova's databases, and everything else as plain dicts that can be put back."""

from __future__ import annotations

import datetime
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, MetaData, Table

    from cellmove.sandbox.instances import Instances

Record = dict[str, Any]

HOSTS: Mapping[str, str] = {"c1-host1": "cell1", "c1-host2": "cell1", "c2-host1": "cell2", "c2-host2": "cell2"}
CELLS = ("cell1", "cell2")
CAPACITY = {"VCPU": 32, "MEMORY_MB": 16384, "DISK_GB": 200}


class Refusal(Exception):
    """What a service of the cloud answers instead of doing it.

    :param kind: an HTTP status, or the class of nova's exception
    """

    def __init__(self, kind: int | str, message: str = "", code: str = "") -> None:
        super().__init__(message or str(kind))
        self.kind = kind
        self.code = code


@dataclass
class World:
    """All that is not in nova's databases. Plain values only: it is copied and put back whole."""

    ports: dict[str, Record] = field(default_factory=dict)
    volumes: dict[str, Record] = field(default_factory=dict)
    attachments: dict[str, Record] = field(default_factory=dict)
    images: dict[str, Record] = field(default_factory=dict)
    used_image_ids: list[str] = field(default_factory=list)
    allocations: dict[str, Record] = field(default_factory=dict)
    guests: dict[str, dict[str, Record]] = field(default_factory=lambda: {host: {} for host in HOSTS})
    disks: dict[str, dict[str, Record]] = field(default_factory=lambda: {host: {} for host in HOSTS})
    tokens: dict[str, dict[str, str]] = field(default_factory=lambda: {host: {} for host in HOSTS})  # written last
    usage: dict[str, dict[str, int]] = field(default_factory=lambda: {host: {} for host in HOSTS})
    queues: dict[str, list[Record]] = field(default_factory=lambda: {host: [] for host in HOSTS})
    down: list[str] = field(default_factory=list)
    deaf: list[str] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)
    history: list[Record] = field(default_factory=list)
    counter: int = 0
    traits: dict[str, list[str]] = field(default_factory=dict)  # of hosts' providers
    stores: dict[str, list[str]] = field(default_factory=dict)  # sharing providers, and the hosts that use them
    capacity: dict[str, int] = field(default_factory=lambda: dict(CAPACITY))  # of each host
    quota: dict[str, int] = field(default_factory=lambda: {"cores": -1, "ram": -1})
    extensions: list[str] = field(default_factory=lambda: ["binding-extended"])
    broken: dict[str, int] = field(default_factory=dict)  # "METHOD /how/a/path/begins": the status that it answers


@cache
def recorded() -> Any:
    """What was recorded of a real nova: tables, and the rows of one server."""
    return json.loads(resources.files(__package__).joinpath("nova.json").read_text())


def filled(name: str, /, **words: str) -> Any:
    """A recorded row with the real values in place of its words ($server, $port, ...)."""
    text = json.dumps(recorded()["rows"][name])
    for word, value in words.items():
        text = text.replace(f"${word}", value)
    return json.loads(text)


@cache
def metadata(which: str) -> MetaData:
    """The tables of ``cell`` or ``api``, for SQLAlchemy."""
    from sqlalchemy import Column, MetaData, Table, UniqueConstraint

    made = MetaData()
    for name, table in recorded()[which].items():
        columns = [
            Column(column, _type(kind), primary_key=column in table["primary"], nullable=not kind.endswith("!"))
            for column, kind in table["columns"].items()
        ]
        Table(name, made, *columns, *(UniqueConstraint(*key) for key in table["unique"]))
    return made


def _type(kind: str) -> Any:
    from sqlalchemy import DateTime, Float, Integer, String, Text

    name = kind.rstrip("!")
    if name.startswith(("varchar", "char")):
        return String(int(name.partition("(")[2].rstrip(")")))
    plain = {"int": Integer, "bigint": Integer, "tinyint": Integer, "float": Float, "double": Float}
    return (plain | {"datetime": DateTime}).get(name, Text)


def envelope(name: str, version: str, data: Record) -> Record:
    """A versioned object as nova writes it."""
    return {
        "nova_object.name": name,
        "nova_object.namespace": "nova",
        "nova_object.version": version,
        "nova_object.data": data,
    }


class Cloud:
    """The cloud: its databases, its world, and who is told of every effect.

    :param urls: database URL of ``api``, ``cell1`` and ``cell2``
    :param now: UTC without a zone
    """

    def __init__(self, urls: Mapping[str, str], now: Callable[[], datetime.datetime] | None = None) -> None:
        from sqlalchemy import create_engine, event

        self.urls = dict(urls)
        self.now = now or (lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None, microsecond=0))
        self.world = World()
        self.instances: Instances | None = None  # where disks are files; see cellmove.sandbox.disks
        self.lock = threading.RLock()
        self.engines: dict[str, Engine] = {}
        for name, url in urls.items():
            self.engines[name] = engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
            if url.startswith("sqlite"):
                event.listen(
                    engine, "connect", lambda connection, _record: connection.execute("PRAGMA busy_timeout=10000")
                )

    def create(self) -> None:
        """Make the tables anew."""
        for name, engine in self.engines.items():
            tables = metadata("api" if name == "api" else "cell")
            tables.drop_all(engine)
            tables.create_all(engine)

    def table(self, name: str, which: str = "cell") -> Table:
        """A table of the cells' or the API database."""
        return metadata(which).tables[name]

    @contextmanager
    def write(self, where: str) -> Iterator[Connection]:
        """One transaction in a database."""
        with self.engines[where].begin() as connection:
            yield connection

    def rows(self, where: str, table: str, **match: Any) -> list[Record]:
        """The rows of a table that match, in the order of their ids."""
        from sqlalchemy import select

        found = self.table(table, "api" if where == "api" else "cell")
        query = select(found).where(*(found.c[name] == value for name, value in match.items()))
        query = query.order_by(*found.primary_key.columns)
        with self.engines[where].connect() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def row(self, where: str, table: str, **match: Any) -> Record | None:
        """The first row that matches."""
        return next(iter(self.rows(where, table, **match)), None)

    def insert(self, where: str, table: str, values: Mapping[str, Any]) -> int:
        """Insert a row; returns its id."""
        from sqlalchemy import insert

        found = self.table(table, "api" if where == "api" else "cell")
        dated = {"created_at": self.now(), "deleted": 0} | dict(values)
        kept = {name: value for name, value in dated.items() if name in found.c}
        with self.write(where) as connection:
            key = connection.execute(insert(found).values(kept)).inserted_primary_key
        return int(key[0]) if key and isinstance(key[0], int) else 0

    def update(self, where: str, table: str, values: Mapping[str, Any], **match: Any) -> int:
        """Change the rows that match (a tuple: any of); returns how many there were."""
        from sqlalchemy import update

        found = self.table(table, "api" if where == "api" else "cell")
        clauses = []
        for name, value in match.items():
            choices = value if isinstance(value, tuple) else (value,)
            clause = found.c[name].in_([choice for choice in choices if choice is not None])
            clauses.append(clause | found.c[name].is_(None) if None in choices else clause)
        changed = dict(values) | ({"updated_at": self.now()} if "updated_at" in found.c else {})
        with self.write(where) as connection:
            return connection.execute(update(found).where(*clauses).values(changed)).rowcount

    def delete(self, where: str, table: str, **match: Any) -> None:
        """Delete the rows that match."""
        from sqlalchemy import delete

        found = self.table(table, "api" if where == "api" else "cell")
        with self.write(where) as connection:
            connection.execute(delete(found).where(*(found.c[name] == value for name, value in match.items())))

    def tell(self, what: str, **details: Any) -> None:
        """Put an effect into the history."""
        self.world.history.append({"what": what, **details})

    def new_id(self, seed: str = "") -> str:
        """A new UUID; the same ones in every run of the same events."""
        self.world.counter += 1
        digest = hashlib.sha256(f"{seed}{self.world.counter}".encode()).hexdigest()
        return f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-8{digest[17:20]}-{digest[20:32]}"

    def fault(self, host: str, call: str, server_id: str = "") -> str:
        """What is to go wrong with a virt call of a host ("" for nothing); "fail once" is used up."""
        for key in (f"{host}:{call}:{server_id}", f"{host}:{call}"):
            how = self.world.faults.get(key, "")
            if how == "fail once":
                del self.world.faults[key]
            if how:
                return how
        return ""


def cell_of(host: str) -> str:
    """The cell of a host."""
    return HOSTS[host]


def files(folder: Path) -> dict[str, str]:
    """The databases' URLs for a cloud in a folder."""
    return {name: f"sqlite:///{folder / name}.db" for name in ("api", *CELLS)}


def make_databases(urls: Mapping[str, str]) -> None:
    """Create the databases that a server does not have yet. SQLite makes its files itself."""
    from sqlalchemy import create_engine, make_url, text

    for url in map(make_url, urls.values()):
        if url.get_backend_name() != "sqlite":
            engine = create_engine(url.set(database=""))
            with engine.begin() as connection:
                name = engine.dialect.identifier_preparer.quote(url.database or "")
                connection.execute(text(f"CREATE DATABASE IF NOT EXISTS {name}"))
            engine.dispose()
