"""Checks that what a command prints with ``--format json`` fits its schema, and that the schema names every key."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence

from jsonschema import Draft202012Validator

from cellmove.ui import schemas

GLOBAL_OPTIONS = ("--nova-conf", "--os-cloud", "--os-region-name", "--journal", "--config")
"""Options in front of the verb that take a value, besides ``--format``."""


def check_output(words: Sequence[str], stdout: str) -> None:
    """Check the standard output of a command that was asked for JSON: one document, or a document a line.

    :param words: its command line without ``cellmove``
    """
    if not _asks_for_json(words) or "-h" in words or "--help" in words:
        return
    names = documents_of(words)
    for document in _parsed(stdout):
        check_document(document, *names)


def check_document(document: object, *names: str) -> None:
    """Check that a document fits one of these schemas, or the one of errors, and that the schema names every key."""
    faults = {}
    for name in (*names, "error"):
        found = list(strict_validator(name).iter_errors(document))
        if not found:
            return
        faults[name] = [f"{error.json_path}: {error.message[:300]}" for error in found]
    closest = min(faults, key=lambda name: (name == "error", len(faults[name])))
    raise AssertionError(f"no document of {' or '.join(names)}: {'; '.join(faults[closest][:5])}")


def documents_of(words: Sequence[str]) -> tuple[str, ...]:
    """Name the schemas of the documents that a command can print."""
    path = _verb(words)
    found = [
        name
        for name, commands in schemas.COMMANDS.items()
        for command in commands
        if " ".join(path[: len(_words(command))]) == " ".join(_words(command)) and _has_options(command, words)
    ]
    return tuple(dict.fromkeys(found))


@functools.cache
def strict_validator(name: str) -> Draft202012Validator:
    """Return a validator that also refuses keys that the schema does not name."""
    found = schemas.schema(name)
    Draft202012Validator.check_schema(found)
    strict = _strict(found)
    definitions = found.get("$defs")
    assert definitions is None or isinstance(definitions, dict)
    inner = {key: _inside(value) for key, value in (definitions or {}).items()}
    return Draft202012Validator({**strict, "$defs": inner})


def _strict(schema: dict[str, object]) -> dict[str, object]:
    """A schema of a value, in which the value has no key that the schema does not name."""
    return {**_inside(schema), "unevaluatedProperties": False}


def _inside(schema: dict[str, object]) -> dict[str, object]:
    """A schema, strict in all values that it contains. A part of an allOf alone does not know all keys."""
    found = dict(schema)
    for key, value in schema.items():
        if key == "properties" and isinstance(value, dict):
            found[key] = {name: _strict(each) for name, each in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            found[key] = _strict(value)
        elif key in ("anyOf", "allOf") and isinstance(value, list):
            found[key] = [_inside(each) for each in value]
    return found


def _asks_for_json(words: Sequence[str]) -> bool:
    given = "table"
    for word, value in itertools.pairwise((*words, "")):
        if word in ("-f", "--format"):
            given = value
        elif word.startswith(("-f", "--format=")) and not word.startswith("--force"):
            given = word.removeprefix("--format=").removeprefix("-f")
    return given == "json"


def _verb(words: Sequence[str]) -> list[str]:
    """The command line from the verb on."""
    left = list(words)
    while left and left[0].startswith("-"):
        option = left.pop(0)
        if option in (*GLOBAL_OPTIONS, "-f", "--format"):
            left = left[1:]
    return left


def _words(command: str) -> list[str]:
    return [word for word in command.split() if not word.startswith("--")]


def _has_options(command: str, words: Sequence[str]) -> bool:
    """Whether the options are given that a command needs to print such a document."""
    wanted = [word for word in command.split() if word.startswith("--")]
    return all(any(word == each or word.startswith(f"{each}=") for word in words) for each in wanted)


def _parsed(stdout: str) -> list[object]:
    if not stdout:
        return []
    try:
        return [json.loads(stdout)]
    except ValueError:
        return [json.loads(line) for line in stdout.splitlines()]
