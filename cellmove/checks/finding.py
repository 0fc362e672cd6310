"""What a check comes to."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass


class Level(enum.StrEnum):
    """How much a finding weighs."""

    OK = "ok"
    WARNING = "warning"
    REFUSAL = "refusal"


@dataclass(frozen=True)
class Check:
    """One finding.

    :param code: for scripts
    :param text: what was found
    :param remedy: what to do about it; empty when there is nothing to do
    """

    code: str
    level: Level
    text: str
    remedy: str = ""


Findings = Iterator[Check]


def refusal(code: str, text: str, remedy: str) -> Check:
    """A finding that forbids the move."""
    return Check(code, Level.REFUSAL, text, remedy)


def warning(code: str, text: str, remedy: str = "") -> Check:
    """A finding to know about."""
    return Check(code, Level.WARNING, text, remedy)
