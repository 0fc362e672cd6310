"""Plain data to JSON and back: how dataclasses are stored in the journal. The only module that knows cattrs.

A field's name is its stored key. What is stored otherwise says so in the field's metadata: :data:`IF_SET` for a key
that is left out while the field has its default. Keys that a dataclass does not declare are ignored: a newer cellmove
may have written them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from cellmove.core.errors import JournalUnreachable

if TYPE_CHECKING:
    from cattrs import Converter

Document = Mapping[str, object]
"""A JSON object as it is stored."""

NovaObject = dict[str, Any]
"""A versioned object of nova as JSON: what its conductors send and its computes take. nova alone knows the fields."""

Answer = Mapping[str, Any]
"""A JSON object that another service has answered, and gets back as it is."""


IF_SET: Mapping[str, bool] = {"omit_default": True}
"""Metadata of a field whose key is stored only while it differs from its default."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Nothing:
    """An intent or a result that holds nothing."""


NOTHING = Nothing()


def structure(kind: type[T], document: Document, name: str) -> T:
    """Read a stored document as a dataclass; a mapping type keeps the document as it is.

    :param name: of the document, for the error
    :raises JournalUnreachable: a required key is missing, or a value cannot be used
    """
    if not dataclasses.is_dataclass(kind):
        return cast("T", document)
    missing = [field for field in required_keys(kind) if field not in document]
    if missing:
        raise JournalUnreachable(
            f"the journal cannot be read: {name} lacks {', '.join(missing)}",
            state="nothing more was done by this run",
        )
    try:
        return _converter().structure(document, kind)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JournalUnreachable(
            f"the journal cannot be read: {name} cannot be used ({type(error).__name__}: {error})",
            state="nothing more was done by this run",
        ) from None


def to_document(value: object) -> dict[str, object]:
    """A dataclass as a JSON object, ready to be stored; a mapping stays as it is, and None is empty."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    return cast("dict[str, object]", _converter().unstructure(value))


def required_keys(kind: type) -> tuple[str, ...]:
    """The stored keys that a dataclass cannot do without; none for a mapping type."""
    if not dataclasses.is_dataclass(kind):
        return ()
    missing = dataclasses.MISSING
    return tuple(
        field.name
        for field in dataclasses.fields(kind)
        if field.default is missing and field.default_factory is missing
    )


@functools.cache
def _converter() -> Converter:
    """Tuples are stored as lists; JSON's own values go through as they are."""
    from cattrs import Converter
    from cattrs.gen import make_dict_unstructure_fn, override

    converter = Converter(detailed_validation=False, unstruct_collection_overrides={tuple: list})
    values = (str, int, float, bool, object)
    converter.register_structure_hook_func(lambda kind: kind in values, lambda value, _kind: value)

    def unstructure_hook(kind: Any) -> Any:
        conditional = {
            field.name: override(omit_if_default=True)
            for field in dataclasses.fields(kind)
            if field.metadata.get("omit_default")
        }
        return make_dict_unstructure_fn(kind, converter, **conditional)  # type: ignore[arg-type]

    converter.register_unstructure_hook_factory(dataclasses.is_dataclass, unstructure_hook)
    return converter
