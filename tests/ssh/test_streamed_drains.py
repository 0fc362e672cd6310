"""A cell is emptied of servers whose disks are streamed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellmove.core.clock import Clock
from cellmove.engine.journal_open import open_journal
from tests.support.folders import shared_memory
from tests.support.sandbox.cloud_process import start
from tests.support.sandbox.fake_ssh import make_ssh
from tests.support.sandbox.streaming import SOURCE, TARGET, Streaming

AHEAD = ("--parallel", "1", "--ahead", "2")


@pytest.fixture
def streaming(tmp_path: Path) -> Iterator[Streaming]:
    """A cloud whose hosts have disks, and three servers on one of them."""
    with tempfile.TemporaryDirectory(prefix="cellmove-ahead-", dir=shared_memory()) as folder:
        process = start(Path(folder) / "cloud", disks=True)
        yield Streaming(process, tmp_path, ssh=make_ssh(Path(folder) / "ssh", Path(folder) / "cloud" / "disks"))
        process.end()


@pytest.mark.parametrize("transfer", ["stream", "image"])
def test_disks_travel_as_the_command_says(streaming: Streaming, transfer: str) -> None:
    """The configuration would take either; what is limited stands in the journal."""
    servers = [streaming.boot() for _each in range(3)]
    for each in servers:
        streaming.process.control("write", host=SOURCE, server=each.id)
    said_all = streaming.cellmove(
        "drain-cell", "cell1", "--to", "cell2", *AHEAD, "--transfer", transfer, "--bwlimit", "40M", "-f", "json"
    )
    assert said_all.code == 0
    for each in servers:
        plan = streaming.plan(each.id)
        assert (plan["transfer"], plan["bwlimit"]) == (transfer, 40 << 20)
        host = next(name for name in (TARGET, "c2-host2") if streaming.path(name, f"{each.id}/disk").exists())
        streaming.has_moved(each.id, host, status="ACTIVE")


def test_the_disks_of_the_next_are_there_before_the_first_is_through(streaming: Streaming) -> None:
    for _each in range(3):
        streaming.boot()
    streaming.cellmove("drain-cell", "cell1", *AHEAD, "--transfer", "stream")
    journal = open_journal(str(streaming.folder / "journal.db"), Clock().text)
    lines = [(each, journal.entries_of(each.id)) for each in journal.all_moves() if not each.is_repair]
    copied = sorted(next(e.finished_at for e in entries if e.action == "copy_running") for _move, entries in lines)
    through = sorted(entries[-1].finished_at for _move, entries in lines)
    assert len(copied) == 3
    assert copied[1] < through[0], "the second one's disk was copied while the first was cut over"
