"""Types of rows and statements. Tables are reflected, so only the database knows the types of their columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from sqlalchemy import Column, CompoundSelect, CursorResult, Row, Select

Record: TypeAlias = dict[str, Any]
"""The values of a row by column, or a versioned object that a column holds as JSON."""

Values: TypeAlias = Mapping[str, Any]
"""The same, not to be changed."""

Json: TypeAlias = Any
"""Decoded JSON."""

NamedRow: TypeAlias = Any
"""A row with attributes named after its columns: of a statement, or of a census that joins several."""

AnyRow: TypeAlias = "Row[*tuple[Any, ...]]"
AnyColumn: TypeAlias = "Column[Any]"
AnyResult: TypeAlias = "CursorResult[*tuple[Any, ...]]"
Query: TypeAlias = "Select[*tuple[Any, ...]]"
CompoundQuery: TypeAlias = "CompoundSelect[*tuple[Any, ...]]"
