"""The JSON Schemas: complete, self-contained, true to the code, and strict in the tests."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from cellmove import man_pages as docs
from cellmove.checks import leftover as leftovers
from cellmove.checks.result import Level
from cellmove.core.errors import Stopped
from cellmove.core.move import LOSSES, Phase, State, Step
from cellmove.drain.events import DrainEvent, DrainEventKind
from cellmove.drain.item import Stage, Verdict
from cellmove.drain.result import Decommission, RunResult
from cellmove.operations.documents import error_document
from cellmove.ui import schemas
from cellmove.ui.drain_documents import event_document, report_document
from tests.support import sample_drains
from tests.support.cell_refs import ref
from tests.support.commands import typed
from tests.support.documents import check_document, check_output, documents_of, strict_validator

ROOT = Path(__file__).parents[3]
FOLDER = Path(schemas.__file__).parent
COMMANDS = {" ".join(words) for words, _command in docs.commands()}


def test_every_file_is_a_schema_of_a_document() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {*schemas.COMMANDS, "definitions"}


@pytest.mark.parametrize("name", schemas.COMMANDS)
def test_a_schema_is_valid_and_holds_all_that_it_refers_to(name: str) -> None:
    found = json.loads(typed("schema", name).stdout)
    Draft202012Validator.check_schema(found)
    assert found["$id"] == f"urn:cellmove:schema:{name}"
    assert found["title"]
    definitions = found.get("$defs", {})
    assert {each.removeprefix("#/$defs/") for each in references(found)} == set(definitions)


def references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        yield from [part["$ref"]] if "$ref" in part else []
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_every_definition_is_needed() -> None:
    definitions = json.loads((FOLDER / "definitions.json").read_text())["$defs"]
    needed = {each.removeprefix("#/$defs/") for name in schemas.COMMANDS for each in references(schemas.schema(name))}
    assert needed == set(definitions)


def test_every_command_that_prints_json_has_a_schema() -> None:
    known = {command.partition(" --")[0] for commands in schemas.COMMANDS.values() for command in commands}
    with_format = {
        " ".join(words)
        for words, command in docs.commands()
        if any("--format" in parameter.opts for parameter in command.params)
    }
    assert known - {schemas.ALL, schemas.HOOKS} == with_format


@pytest.mark.parametrize(
    ("definition", "values"),
    [("move_state", State), ("stage", Stage), ("losses", LOSSES)],
)
def test_a_definition_names_all_values(definition: str, values: type[enum.StrEnum] | tuple[str, ...]) -> None:
    found = json.loads((FOLDER / "definitions.json").read_text())["$defs"][definition]
    assert found.get("enum") or found["items"]["enum"] == [str(value) for value in values]


@pytest.mark.parametrize(
    ("definition", "key", "values"),
    [
        ("step", "step", Step), ("action", "phase", Phase), ("check", "level", Level), ("leftover", "kind", leftovers.LeftoverKind),
    ],
)  # fmt: skip
def test_a_key_names_all_values(definition: str, key: str, values: type[enum.StrEnum]) -> None:
    found = json.loads((FOLDER / "definitions.json").read_text())["$defs"][definition]["properties"][key]
    assert found["enum"] == [value.value for value in values]


def test_events_and_verdicts_are_those_of_a_drain() -> None:
    event = json.loads((FOLDER / "drain-event.json").read_text())["properties"]["event"]
    assert event["enum"] == [kind.value for kind in DrainEventKind]
    servers = json.loads((FOLDER / "drain-plan.json").read_text())["properties"]["servers"]
    assert servers["items"]["properties"]["verdict"]["enum"] == [verdict.value for verdict in Verdict]


def test_the_list_names_commands_that_exist() -> None:
    result = typed("schema", "-f", "json")
    listed = json.loads(result.stdout)["schemas"]
    assert [each["name"] for each in listed] == list(schemas.COMMANDS)
    named = {command.partition(" --")[0] for each in listed for command in each["commands"]}
    assert named - COMMANDS == {schemas.ALL, schemas.HOOKS}
    assert typed("schema", "-f", "value").stdout.splitlines()[1] == "moves\tlist, resume --all"


def test_an_unknown_name_is_refused() -> None:
    result = typed("schema", "movse")
    assert result.exit_code == 2
    assert "'drain-status'" in result.stderr


# documents that few tests print


def test_the_report_of_a_sample_drain() -> None:
    check_document(report_document(sample_drains.a_report(60)), "drain-report")


@pytest.mark.parametrize("kind", DrainEventKind)
def test_a_line_of_each_kind(kind: DrainEventKind) -> None:
    result = RunResult(None, ref("cell1"), "", (), Decommission(("a",), ("b",)))
    unchecked = dataclasses.replace(result, decommission=None, unchecked_reason="no answer")
    at, cell = "2026-03-12T21:00:00Z", ref("cell1")
    for each in (result, unchecked, dataclasses.replace(result, decommission=None), None):
        line = DrainEvent(kind, at, cell, "id", "web-1", counts={"moved": 1}, result=each)
        check_document(event_document(line), "drain-event")


def test_an_error() -> None:
    check_document(error_document(Stopped("a", state="b", next_command="c")))


# the check itself


def test_a_key_that_no_schema_names_is_found_wherever_it_is() -> None:
    sound = report_document(sample_drains.a_report(20))
    check_document(sound, "drain-report")
    for path in (
        (),
        ("pace",),
        ("servers", 0),
        ("servers", 0, "server"),
        ("servers", 0, "source"),
        ("source_hosts", 0),
    ):
        document = json.loads(json.dumps(sound))
        part = document
        for key in path:
            part = part[key]
        part["new_key"] = 1
        with pytest.raises(AssertionError, match="new_key"):
            check_document(document, "drain-report")
        assert Draft202012Validator(schemas.schema("drain-report")).is_valid(document)


def test_a_key_that_is_missing_is_found() -> None:
    document = report_document(sample_drains.a_report(20))
    del document["servers"][3]["stage"]
    with pytest.raises(AssertionError, match="'stage' is a required property"):
        check_document(document, "drain-report")


def test_a_part_of_an_all_of_is_strict_inside() -> None:
    step = {"step": "finish", "state": "done", "actions": [], "new_key": 1}
    faults = [error.message for error in strict_validator("move").iter_errors({"steps": [step]})]
    assert any("new_key" in fault for fault in faults)


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("show web-1 -f json", ("move",)),
        ("--journal x -f json list", ("moves",)),
        ("resume --all", ("move", "moves")),
        ("resume web-1", ("move",)),
        ("migrate web-1", ("move", "plan")),
        ("plan --cell=cell1", ("plan", "drain-plan")),
        ("drain-cell cell1", ("drain-event",)),
        ("drain-cell cell1 --dry-run", ("drain-plan", "drain-event")),
        ("drain status cell1", ("drain-status",)),
        ("demo", ()),
    ],
)
def test_the_schemas_of_a_command_line(line: str, names: tuple[str, ...]) -> None:
    assert documents_of(line.split()) == names


@pytest.mark.parametrize("line", ["list -f json", "-fjson list", "list --format=json", "--format json list"])
def test_what_is_no_document_is_found_in_the_output(line: str) -> None:
    check_output(line.split(), "")
    check_output(line.split(), '{"schema_version": 1, "moves": []}')
    for wrong in ('{"schema_version": 1}', "words", '{"schema_version": 1, "moves": []}\nwords'):
        with pytest.raises((AssertionError, ValueError)):
            check_output(line.split(), wrong)
    check_output(["list", "-f", "table"], "words")


def test_no_test_runs_commands_past_the_check() -> None:
    """Every command of a test runs through tests/support/commands.py."""
    tests = Path(__file__).parents[2]
    direct = {
        str(path.relative_to(tests))
        for path in tests.rglob("*.py")
        if re.search(r"CliRunner\(|from click.testing import .*CliRunner", path.read_text(encoding="utf-8"))
    }
    assert direct == {"support/commands.py", "unit/ui/test_schemas.py"}


def examples() -> list[str]:
    """Every line of JSON in the documentation that claims to be a document."""
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    lines = [line.strip() for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line.startswith('{"schema_version"') and line.endswith("}")]


@pytest.mark.parametrize("line", examples(), ids=lambda line: str(line)[:60])
def test_an_example_of_the_documentation_is_a_document(line: str) -> None:
    document = json.loads(line)
    check_document(document, "drain-event" if "event" in document else "move")
