"""The man pages and the README say what the commands are."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import click
import pytest

from cellmove import docs
from cellmove.cli import cli
from cellmove.command import EXIT_CODES
from cellmove.drain import happening

ROOT = Path(__file__).parents[2]
KNOWN = {" ".join(words): command for words, command in docs.commands()}
COMMANDS = sorted(KNOWN)
DRAIN = (ROOT / "docs" / "drain.md").read_text(encoding="utf-8")


def table_rows() -> list[list[str]]:
    """The cells of every table row of the README."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines if line.startswith("|")]


def test_the_man_pages_are_what_the_generator_gives() -> None:
    pages = docs.man_pages()
    assert {path.name for path in (ROOT / "man").glob("*.1")} == set(pages)
    stale = [name for name, text in pages.items() if (ROOT / "man" / name).read_text(encoding="utf-8") != text]
    assert stale == [], "run: python -m cellmove.docs man/"


def test_the_generator_writes_them(tmp_path: Path) -> None:
    written = docs.write(tmp_path / "man")
    assert len(written) == len(COMMANDS) + 1
    assert all(path.read_text(encoding="utf-8").startswith(".TH CELLMOVE") for path in written)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_parses(name: str) -> None:
    text = KNOWN[name].help or ""
    assert "Example:" in text
    examples = re.findall(r"^\s*cellmove (.*)$", text.split("Example:")[1], re.MULTILINE)
    assert examples
    for example in examples:
        verb, *arguments = shlex.split(example)
        command = cli.commands[verb]
        if isinstance(command, click.Group):
            command = command.commands[arguments.pop(0)]
        command.make_context(verb, arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_table_of_the_readme(name: str) -> None:
    assert any(re.search(rf"`(cellmove )?{name}\b", row[0]) for row in table_rows())


@pytest.mark.parametrize("code", sorted(EXIT_CODES))
def test_every_exit_code_is_in_the_table_of_the_readme(code: str) -> None:
    assert any(code in re.findall(r"\d+", row[0]) for row in table_rows())


def test_nothing_in_a_page_is_a_roff_request_by_accident() -> None:
    known = {".TH", ".SH", ".B", ".BR", ".PP", ".TP", ".nf", ".fi", ".SS"}
    for text in docs.man_pages().values():
        assert {line.split()[0] for line in text.splitlines() if line.startswith((".", "'"))} <= known


def documented(heading: str) -> set[str]:
    """The words in backquotes in the first column of the table under a heading of docs/drain.md."""
    section = DRAIN.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    return {
        word
        for line in section.splitlines()
        if line.startswith("| `")
        for word in re.findall(r"`([^`]+)`", line.split("|")[1])
    }


def test_the_page_about_drains_has_every_option() -> None:
    options = {
        option for parameter in KNOWN["drain-cell"].params for option in parameter.opts if option.startswith("--")
    }
    assert options - documented("## Every option") == {"--format", "--quiet", "--yes"}


def test_the_page_about_drains_has_every_event_and_every_key() -> None:
    assert documented("### Events") == {kind.value for kind in happening.Kind}
    one = happening.Happening(happening.Kind.BEGUN, "2026-01-01T00:00:00Z", "cell1")
    assert documented("### Keys") == set(happening.document(one))
    assert len(dataclasses.fields(one)) <= len(happening.document(one)) + 1  # the server is two fields
