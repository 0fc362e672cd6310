"""The cells of the cloud: their mappings, names and URLs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib import parse

from cellmove.core import bus_login, database_url
from cellmove.core.cell_names import CELL0_UUID, CellRef, display_names
from cellmove.core.errors import Usage
from cellmove.core.reference import means
from cellmove.db.engines import translate_errors
from cellmove.db.types import AnyRow, Record

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from cellmove.core.settings import Settings

API_DATABASE = "the API database"


@dataclass(frozen=True)
class Cell:
    """One row of ``cell_mappings``, its URLs resolved.

    :param nova_name: its name as nova stores it: None, blank, or equal to another cell's, too. Nothing is found by it
        but what an operator types
    :param database_problem: why the URL of its database cannot be used, without secrets; empty: nothing is known against it
    :param transport_problem: the same of its message bus
    :param display_name: its name for people among all cells of the cloud; empty: it is the only one
    """

    id: int
    uuid: str
    nova_name: str | None
    disabled: bool
    transport_url: str = field(repr=False)
    database_url: str = field(repr=False)
    database_problem: str = ""
    transport_problem: str = ""
    display_name: str = ""

    @property
    def label(self) -> str:
        """Return what people read: see :func:`cellmove.core.cell_names.display_names`."""
        return self.display_name or display_names([(self.uuid, self.nova_name)])[self.uuid]

    @property
    def words(self) -> tuple[str, str]:
        """Return what a setting may call it."""
        return self.uuid, self.label

    @property
    def ref(self) -> CellRef:
        """Return the cell as data that travels holds it."""
        return CellRef(self.uuid, self.label)


def resolve_url(template: str, default: str | None) -> str:
    """Fill in a cell mapping's URL template as nova does.

    Follows ``nova/objects/cell_mapping.py`` (``_format_url``, ``_parse_netloc``): values are put in
    as they stand in the default URL, percent-encoding and all; with several comma-separated hosts
    there are also ``{username1}``, ``{hostname1}`` … counted from 1; and whatever goes wrong, the
    template itself is returned.

    :param template: ``cell_mappings.database_connection`` or ``.transport_url``
    :param default: ``[database]connection`` or ``[DEFAULT]transport_url`` of the local nova.conf;
        None or empty when it is not set
    """
    if not default:
        return template
    try:
        return template.format(**_template_values(default))
    except Exception:  # noqa: BLE001  (nova catches just this much)
        return template


def _template_values(default: str) -> Record:
    url = parse.urlparse(default)
    values: Record = {
        "username": url.username,
        "password": url.password,
        "hostname": url.hostname,
        "port": url.port,
        "scheme": url.scheme,
        "query": url.query,
        "fragment": url.fragment,
        "path": url.path.lstrip("/"),
    }
    if "," in url.netloc:
        for number, location in enumerate(url.netloc.split(","), start=1):
            values |= {f"{name}{number}": value for name, value in _parse_location(location).items()}
    return values


def _parse_location(location: str) -> Record:
    """Take ``user:password@host:port`` apart as nova does (which splits at the first ``@``)."""
    from oslo_utils import netutils

    login, at, address = location.partition("@")
    if not at:
        login, address = "", location
    username, colon, password = login.partition(":")
    host, port = netutils.parse_host_port(address)
    return {
        "username": username,
        "password": password if colon else None,
        "hostname": host,
        "port": port,
    }


def read_cells(api_engine: Engine, settings: Settings) -> tuple[Cell, ...]:
    """All cells but cell0, in order of their ids. Whether their URLs can be used is said in the cells."""
    return tuple(cell for cell in _read_all(api_engine, settings) if cell.uuid != CELL0_UUID)


def read_cell0(api_engine: Engine, settings: Settings) -> Cell | None:
    """The cell of the API level and of servers that were never built; None when its URL cannot be used."""
    cell0 = next((cell for cell in _read_all(api_engine, settings) if cell.uuid == CELL0_UUID), None)
    return None if cell0 is None or cell0.database_problem else cell0


def _read_all(api_engine: Engine, settings: Settings) -> list[Cell]:
    """All cells, cell0 included, with names for people that tell them apart."""
    rows = _mappings(api_engine)
    names = display_names((row.uuid, row.name) for row in rows)
    return [_cell(row, settings, names[row.uuid]) for row in rows]


def _mappings(api_engine: Engine) -> Sequence[AnyRow]:
    from sqlalchemy import text

    statement = text(
        "SELECT id, uuid, name, disabled, transport_url, database_connection FROM cell_mappings ORDER BY id"
    )
    with translate_errors(API_DATABASE), api_engine.connect() as connection:
        return connection.execute(statement).all()


def _cell(row: AnyRow, settings: Settings, display_name: str) -> Cell:
    transport, database = row.transport_url or "", row.database_connection or ""
    # nova opens each cell with the options of [database]: nova/db/main/api.py, create_context_manager.
    opened = database_url.with_parameters(
        resolve_url(database, settings.main_database_url), settings.cell_database_parameters
    )
    return Cell(
        id=row.id,
        uuid=row.uuid,
        nova_name=row.name,
        disabled=bool(row.disabled),
        transport_url=bus_login.with_login(resolve_url(transport, settings.transport_url), settings.bus_login),
        database_url=database_url.with_login(opened, settings.database_login),
        transport_problem=problem_of(transport, settings.transport_url, "[DEFAULT]transport_url"),
        database_problem=problem_of(database, settings.main_database_url, "[database]connection"),
        display_name=display_name,
    )


PLACEHOLDER = re.compile(r"\{((?:username|password|hostname|port|scheme|query|fragment|path)\d*)\}")


def problem_of(template: str, default: str, key: str) -> str:
    """Why a cell mapping's URL cannot be used; empty when nothing is known against it.

    :param key: where the URL is set that fills the template in
    """
    if not template:
        return "it is empty"
    names = PLACEHOLDER.findall(template)
    if not names:
        return ""
    how = f"it is a template that is filled in from {key}"
    if not default:
        return f"{how}, which is not set; name the nova.conf of the API or superconductor host with --nova-conf"
    try:
        values = _template_values(default)
    except Exception:  # noqa: BLE001  (see resolve_url; the words would quote the URL)
        return f"{how}, which cannot be parsed; {database_url.ENCODE}"
    missing = [name for name in names if name not in values]
    if missing:
        return (
            f"{how}, which has no {{{missing[0]}}}: it names {default.count(',') + 1 if ',' in default else 'one'} host"
        )
    empty = [name for name in names if values[name] in (None, "") and name.startswith(("port", "hostname", "scheme"))]
    return f"{how}, which names no {empty[0]}" if empty else ""


def set_disabled(api_engine: Engine, uuid: str, *, disabled: bool) -> bool:
    """Keep the scheduler from choosing a cell, or let it again: nova-manage cell_v2 update_cell --disable, --enable.

    :returns: whether it was otherwise before
    """
    from sqlalchemy import column, table, update

    mappings = table("cell_mappings", column("uuid"), column("disabled"))
    query = update(mappings).where(mappings.c.uuid == uuid, mappings.c.disabled != disabled).values(disabled=disabled)
    with translate_errors(API_DATABASE), api_engine.begin() as connection:
        return bool(connection.execute(query).rowcount == 1)


def find_cell(cells: Sequence[Cell], word: str) -> Cell:
    """Find the cell that a word means: its UUID, its name, or the name that people are shown.

    :param word: what an operator typed, or what an older journal holds. What has the form of a UUID is never a name
    :raises Usage: it means no cell, or several of that name; the message lists the choices
    """
    found = [cell for cell in cells if means(word, cell.uuid, cell.nova_name or "")]
    found = found or [cell for cell in cells if word == cell.label]
    if len(found) == 1 and word:
        return found[0]
    if len(found) > 1 and word:
        raise Usage(f"several cells are called {word}; use the UUID: {_listed(found)}")
    choices = _listed(cells) if cells else "none (besides cell0)"
    raise Usage(f"there is no cell {word or repr(word)}; the cells are: {choices}")


def _listed(cells: Sequence[Cell]) -> str:
    return ", ".join(f"{cell.label} ({cell.uuid})" if cell.nova_name else cell.uuid for cell in cells)
