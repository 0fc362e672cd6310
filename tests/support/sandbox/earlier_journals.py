"""Journals that an earlier version wrote, each with the cloud as it was at that moment.

``earlier_journals.tar.xz`` holds a directory for each moment: the journal, the databases, the rest of the cloud, and what the
server was before its move. It was written by the last version before intents and results had declared types, and is never
written anew: it stands for the journals that are out there.
"""

from __future__ import annotations

import functools
import json
import lzma
import pickle
import sqlite3
import tarfile
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from cellmove.sandbox.store import World
from tests.support.sandbox.cloud_oracle import Scene
from tests.support.sandbox.harness import Harness, Snapshot

ARCHIVE = Path(__file__).with_suffix(".tar.xz")


@dataclass(frozen=True)
class Moment:
    """One journal and its cloud."""

    name: str
    move: str
    scene: Scene
    snapshot: Snapshot


@functools.cache
def moments() -> dict[str, Moment]:
    """All of them, by name."""
    files: dict[str, dict[str, bytes]] = {}
    with tarfile.open(fileobj=BytesIO(lzma.decompress(ARCHIVE.read_bytes()))) as archive:
        for member in archive:
            moment, _slash, name = member.name.partition("/")
            content = archive.extractfile(member)
            assert content is not None
            files.setdefault(moment, {})[name] = content.read()
    return {name: _moment(name, own) for name, own in files.items()}


def _moment(name: str, files: dict[str, bytes]) -> Moment:
    about = json.loads(files.pop("about.json"))
    world, journal = World(**json.loads(files.pop("world.json"))), files.pop("journal.db")
    disks = about["files"]
    pieces = disks and {path: (*kind, _bytes(parts)) for path, (*kind, parts) in disks.items()}
    snapshot = Snapshot(pickle.dumps(world), files, journal, about["seconds"], about["ids"], pieces)
    return Moment(name, about["move"], Scene(**about["scene"]), snapshot)


def _bytes(parts: list[Any]) -> tuple[tuple[int, bytes], ...]:
    return tuple((at, bytes.fromhex(content)) for at, content in parts)


def put(harness: Harness, moment: Moment) -> None:
    """Put everything as it was; the cells' databases are where the harness has its own."""
    with closing(sqlite3.connect(harness.folder / "api.db")) as api:
        urls = api.execute("SELECT database_connection, transport_url, uuid FROM cell_mappings").fetchall()
    harness.restore(moment.snapshot)
    with closing(sqlite3.connect(harness.folder / "api.db")) as api, api:
        api.executemany("UPDATE cell_mappings SET database_connection = ?, transport_url = ? WHERE uuid = ?", urls)
