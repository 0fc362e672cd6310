"""The man pages and the README say what the commands are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from cellmove import man_pages as docs
from cellmove.cli import cli
from cellmove.core.clock import Clock
from cellmove.core.documents import to_document as to_record
from cellmove.core.move import DRAIN, Move, State
from cellmove.drain.capacity import CellCapacity
from cellmove.drain.drain_report import DrainReport, ServerReport
from cellmove.drain.durations import StepBar
from cellmove.drain.events import DrainEvent, DrainEventKind
from cellmove.drain.item import Census, Item, Stage, Task
from cellmove.drain.options import DrainOptions
from cellmove.drain.plan import make_plan
from cellmove.drain.queue import Queue
from cellmove.drain.request import DrainRequest
from cellmove.drain.result import Decommission, RunResult
from cellmove.drain.status import read_status
from cellmove.engine.journal_open import open_journal
from cellmove.steps.cordon import CordonPlan
from cellmove.ui.drain_documents import event_document, plan_document, report_document, status_document
from cellmove.ui.group import EXIT_CODES, subcommands
from tests.support.cell_refs import ref
from tests.support.documents import check_document

ROOT = Path(__file__).parents[3]
COMMANDS = [" ".join(words) for words, _command in docs.commands()]
STORY = ROOT / "docs" / "drain.md"


def command_of(name: str) -> click.Command:
    found: click.Command = cli
    for word in name.split():
        assert isinstance(found, click.Group)
        found = subcommands(found)[word]
    return found


def table_rows(path: Path = ROOT / "README.md") -> list[list[str]]:
    """The cells of every table row of a page."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines if line.startswith("|")]


def named(heading: str) -> list[str]:
    """What stands in the first column of the table below a heading of the report of a drain."""
    sections = re.split(r"^#+ (.*)$", STORY.read_text(encoding="utf-8"), flags=re.MULTILINE)
    section = sections[sections.index(heading) + 1]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return [each for row in rows for each in re.findall(r"`([^`]+)`", row.split("|")[1])]


def keys_of(document: Any, above: str = "") -> list[str]:
    """Every key of a document, those of nested ones with the keys above them; of a list those of its first entry."""
    if isinstance(document, list):
        return keys_of(document[0], above) if document else []
    if not isinstance(document, dict):
        return []
    return [found for key, value in document.items() for found in (f"{above}{key}", *keys_of(value, f"{above}{key}."))]


def test_the_man_pages_are_what_the_generator_gives() -> None:
    pages = docs.man_pages()
    assert {path.name for path in (ROOT / "man").glob("*.1")} == set(pages)
    stale = [name for name, text in pages.items() if (ROOT / "man" / name).read_text(encoding="utf-8") != text]
    assert stale == [], "run: make man"


def test_the_completion_scripts_are_what_the_generator_gives() -> None:
    scripts = docs.completions()
    assert {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "man" / "completion").iterdir()} == scripts


def test_the_generator_writes_pages_and_completion_scripts(tmp_path: Path) -> None:
    written = docs.write(tmp_path / "man")
    pages = [path for path in written if path.parent == tmp_path / "man"]
    assert {path.stem for path in pages} == {"cellmove", *(f"cellmove-{name.replace(' ', '-')}" for name in COMMANDS)}
    assert all(path.read_text(encoding="utf-8").startswith(".TH CELLMOVE") for path in pages)
    scripts = {path.name: path for path in written if path.parent == tmp_path / "man" / "completion"}
    assert scripts.keys() == {"cellmove", "_cellmove", "cellmove.fish"}
    assert all("_CELLMOVE_COMPLETE" in path.read_text(encoding="utf-8") for path in scripts.values())


def test_every_page_is_named_by_one_above_it() -> None:
    pages = docs.man_pages()
    for name in COMMANDS:
        *above, _last = ("cellmove", *name.split())
        assert (
            f"\\fBcellmove\\-{name.replace(' ', '-').replace('-', chr(92) + '-')}(1)\\fR"
            in pages[f"{'-'.join(above)}.1"]
        ), name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_parses(name: str) -> None:
    command = command_of(name)
    assert command.short_help
    text = command.help or ""
    assert "Example:" in text
    examples = re.findall(r"^\s*cellmove (.*)$", text.split("Example:")[1], re.MULTILINE)
    assert examples
    for example in examples:
        assert f"{example} ".startswith(f"{name} ")
        parse(cli, shlex.split(example))


def parse(command: click.Command, words: list[str]) -> None:
    """Parse a command line down to the command that it names; nothing is run."""
    if not isinstance(command, click.Group):
        command.make_context("cellmove", list(words))
        return
    name, one, rest = command.resolve_command(click.Context(command), list(words))
    assert name is not None
    assert one is not None
    parse(one, rest)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_table_of_the_readme(name: str) -> None:
    if isinstance(command_of(name), click.Group):
        return  # its commands are
    assert any(re.match(rf"`cellmove {name}[ `]", row[0]) for row in table_rows())


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_is_without_words(name: str) -> None:
    command = command_of(name)
    for each in command.params:
        if isinstance(each, click.Option):
            assert each.help, f"{name} {each.opts[-1]}"
            assert each.help[0].isupper(), f"{name} {each.opts[-1]}"
            assert each.help.endswith("."), f"{name} {each.opts[-1]}"


# the report of a drain


def test_the_story_has_every_option() -> None:
    shared = {"--format", "--quiet", "--yes"}
    options = [each.opts[-1] for each in command_of("drain-cell").params if isinstance(each, click.Option)]
    assert sorted(each for each in named("Options") if each.startswith("--")) == sorted({*options} - shared)


def test_the_story_has_every_event() -> None:
    assert named("Events") == [kind.value for kind in DrainEventKind]


def test_the_story_has_every_key_of_a_line() -> None:
    result = RunResult(None, ref("cell1"), "", (), Decommission((), ()))
    kind, at = DrainEventKind.STEP_FINISHED, "2026-03-12T21:00:00Z"
    line: Any = event_document(DrainEvent(kind, at, ref("cell1"), server_id="id", server_name="name", result=result))
    line["ending"] = {"unseen": "", **line["ending"]}
    check_document(line, "drain-event")
    assert named("Keys of a line") == ["schema_version", *keys_of(line)[1:]]


def test_the_story_has_every_key_of_a_plan() -> None:
    item = Item("id", "web-1", "p", "c1-host1", "m1.tiny", "active", False, 1, 64, 1, "2026-01-01T10:00:00Z")
    capacity = CellCapacity(ref("cell2"), ("c2-host1",), dict.fromkeys(("DISK_GB", "MEMORY_MB", "VCPU"), 1.0))
    found = plan_document(make_plan(Census(ref("cell1"), (item,), 1), DrainOptions(), [capacity], []), "")
    check_document(found, "drain-plan")
    known = [key.replace(".DISK_GB", ".CLASS") for key in keys_of(found) if not re.search(r"\.(MEMORY_MB|VCPU)\b", key)]
    assert named("Keys of a plan") == known


def test_the_story_has_every_key_of_the_status(tmp_path: Path) -> None:
    clock = Clock()
    journal = open_journal(str(tmp_path / "journal.db"), clock.text)
    move = Move(
        "drain-1",
        "uuid",
        "cell1",
        DRAIN,
        State.DRAINING,
        "",
        "",
        to_record(CordonPlan("u", (), closes_cell=True, command="cellmove drain-cell cell1")),
    )
    session: Any = SimpleNamespace(journal=journal, clock=clock)
    queue = Queue(journal, move.id, "worker")
    queue.prepare(DrainRequest(DrainOptions()))
    queue.synchronise([Task("id", "web-1", stage=Stage.MOVING)], is_alone=True, now=0.0)
    found = status_document(read_status(session, move))
    check_document(found, "drain-status")
    known = [key.replace("under_way.", "SERVERS.") for key in keys_of(found) if not re.match(r"(wish|counts)\.", key)]
    assert named("Keys of the status") == known


def test_the_story_has_every_key_of_the_report() -> None:
    bar = StepBar("finish", 1.0, 2.0)
    server = ServerReport("id", "web-1", "p", "c1-host1", "c2-host1", 1, Stage.MOVED, bars=(bar,), downtime=1.0)
    found = report_document(DrainReport("drain-1", ref("cell1"), (), "drained", 0.0, 3.0, (server,)))
    check_document(found, "drain-report")
    known = [key for key in keys_of(found) if not re.match(r"(counts\.stages|target_hosts)\.", key)]
    assert named("Keys of the report") == known


def test_the_story_has_every_stage() -> None:
    assert named("Stages") == [stage.value for stage in Stage]


@pytest.mark.parametrize("code", sorted(EXIT_CODES))
def test_every_exit_code_is_in_the_table_of_the_readme(code: str) -> None:
    assert any(code in re.findall(r"\d+", row[0]) for row in table_rows())


def test_nothing_in_a_page_is_a_roff_request_by_accident() -> None:
    known = {".TH", ".SH", ".SS", ".B", ".BR", ".PP", ".TP", ".nf", ".fi"}
    for text in docs.man_pages().values():
        assert {line.split()[0] for line in text.splitlines() if line.startswith((".", "'"))} <= known
