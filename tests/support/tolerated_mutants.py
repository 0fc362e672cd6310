"""Mutants that no test can or has to kill, with the reason. A survivor that is not listed here fails the run."""

from __future__ import annotations

from collections.abc import Mapping

REASONS: Mapping[str, tuple[str, ...]] = {}
"""Keys of mutants (``PATH FUNCTION: BEFORE → AFTER``) by the reason for which they may live."""

TOLERATED: Mapping[str, str] = {key: reason for reason, keys in REASONS.items() for key in keys}
