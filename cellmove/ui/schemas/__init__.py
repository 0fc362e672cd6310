"""The JSON Schemas of the documents that ``--format json`` prints.

Each schema is a file beside this module. Definitions that several schemas share are in ``definitions.json``.
A schema permits keys that it does not name: a newer cellmove may add keys under the same ``schema_version``. The
tests do not permit them, so that every key has a description.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypedDict, cast

Schema = dict[str, object]

ALL = "every command"
HOOKS = "hooks of config.toml"

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "move": (
        "prep-dest",
        "prep-source",
        "finish",
        "confirm",
        "revert",
        "resize",
        "migrate",
        "resume",
        "rollback",
        "adopt",
        "show",
    ),
    "moves": ("list", "resume --all"),
    "plan": ("plan", "resize", "migrate"),
    "verification": ("verify",),
    "audit": ("audit",),
    "drain-plan": ("drain-cell --dry-run", "plan --cell"),
    "drain-event": ("drain-cell",),
    "drain-status": ("drain status", "drain pause", "drain resume", "drain abort", "drain-cell --abort"),
    "drain-report": ("drain report",),
    "journal-check": ("journal check",),
    "schemas": ("schema",),
    "hook": (HOOKS,),
    "error": (ALL,),
}
"""The commands that print a document of each schema. A command that has no other document prints ``error``. A hook reads
its document from standard input."""


class ListedSchema(TypedDict):
    """One schema in the list of all."""

    name: str
    title: str
    commands: list[str]


class SchemaList(TypedDict):
    """The list of all schemas: the document ``schemas``."""

    schema_version: int
    schemas: list[ListedSchema]


def schema(name: str) -> Schema:
    """Return one schema with all definitions that it needs.

    :param name: a key of :data:`COMMANDS`
    """
    document = _read(name)
    definitions = cast(Mapping[str, Schema], _read("definitions")["$defs"])
    needed: dict[str, Schema] = {}
    waiting = list(_references(document))
    while waiting:
        reference = waiting.pop()
        if reference not in needed:
            needed[reference] = definitions[reference]
            waiting += _references(definitions[reference])
    return {**document, "$defs": {key: needed[key] for key in sorted(needed)}} if needed else document


def list_document() -> SchemaList:
    """Return the list of all schemas, as ``cellmove schema --format json`` prints it."""
    from cellmove.core.move import SCHEMA_VERSION

    listed: list[ListedSchema] = [
        {"name": name, "title": str(_read(name)["title"]), "commands": list(commands)}
        for name, commands in COMMANDS.items()
    ]
    return {"schema_version": SCHEMA_VERSION, "schemas": listed}


def _read(name: str) -> Schema:
    import json
    from importlib.resources import files

    document: Schema = json.loads(files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return document


def _references(part: object) -> Iterator[str]:
    """Yield the names of the definitions that a part of a schema refers to."""
    if isinstance(part, dict):
        reference = part.get("$ref")
        if isinstance(reference, str):
            yield reference.removeprefix("#/$defs/")
        for value in part.values():
            yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)
