"""What an operator asks of a drain: plain values, read from the command line and kept in the journal."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cellmove.core.errors import Usage
from cellmove.core.shell import command_line

ORDERS = ("smallest", "largest", "oldest", "host")
KINDS = ("project", "flavor", "host", "tag", "name", "state")
"""What --include and --exclude can be about."""

SKIP_TAG = "cellmove:skip"
"""A server with this tag is left where it is."""

LONGEST = 315360000.0  # seconds that anything may last
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Filter:
    """``KIND=PATTERN``: fnmatch, the case counts."""

    kind: str
    pattern: str

    def __str__(self) -> str:
        return f"{self.kind}={self.pattern}"

    def fits(self, values: Mapping[str, Iterable[str]]) -> bool:
        """Whether any of the server's values of this kind matches."""
        return any(fnmatch.fnmatchcase(value, self.pattern) for value in values.get(self.kind, ()))


@dataclass(frozen=True)
class Wish:
    """How a drain is to be done. Limits that are 0 are none; seconds are seconds.

    :param to: the cells that take the servers, by UUID once they were looked up; none: every other one
    :param confirm: ``never``, ``verified`` or ``after``
    :param confirm_after: how long after its move a server is confirmed, with ``after``
    :param soak: how long a server runs at the target before it is verified once more and confirmed
    :param on_unverified: ``keep`` in VERIFY_RESIZE, or ``revert``
    :param min_free: percent of each resource of the target that have to stay free
    :param ahead: how many more servers than ``parallel`` are prepared, and wait before their guests are stopped
    :param transfer: how local disks travel; None: as the settings say
    :param bwlimit: bytes a second of each stream while its guest runs; None: as the settings say
    """

    to: tuple[str, ...] = ()
    parallel: int = 1
    ahead: int = 0
    per_source_host: int = 0
    per_target_host: int = 0
    per_project: int = 0
    order: str = "smallest"
    include: tuple[Filter, ...] = ()
    exclude: tuple[Filter, ...] = ()
    limit: int = 0
    flavor_map: Mapping[str, str] = dataclasses.field(default_factory=dict)
    confirm: str = "verified"
    confirm_after: float = 0.0
    soak: float = 0.0
    on_unverified: str = "keep"
    probes: tuple[str, ...] = ()
    max_failures: int = 1
    until: str = ""
    window: str = ""
    days: str = ""
    min_free: float = 0.0
    pause_file: str = ""
    force_locked: bool = False
    accept_loss: tuple[str, ...] = ()
    max_hosts: int = 0
    transfer: str | None = None
    bwlimit: int | None = None


def why_not(wish: Wish, values: Mapping[str, Iterable[str]]) -> tuple[str, str] | None:
    """Why a server is skipped: a code and words; None when it is not.

    Of the includes of one kind any has to fit, and of every kind that is named one; no exclude may.

    :param values: by kind, see :data:`KINDS`; of projects id and name, of states vm_state and nova's status
    """
    if SKIP_TAG in values.get("tag", ()):
        return "tag", f"it has the tag {SKIP_TAG}"
    for each in wish.exclude:
        if each.fits(values):
            return "excluded", f"--exclude {each}"
    for kind in KINDS:
        wanted = [each for each in wish.include if each.kind == kind]
        if wanted and not any(each.fits(values) for each in wanted):
            return "not-included", f"--include {' or '.join(map(str, wanted))}"
    return None


def parse_filter(text: str, option: str) -> Filter:
    """``KIND=PATTERN`` as it was typed.

    :raises Usage: there is no such kind
    """
    kind, sign, pattern = text.partition("=")
    if not sign or kind not in KINDS or not pattern:
        raise Usage(f"{option}: {text!r} has to be KIND=PATTERN, with a KIND of {', '.join(KINDS)}")
    return Filter(kind, pattern)


def parse_seconds(text: str, option: str) -> float:
    """A duration as it was typed: 90, 90s, 10m, 24h, 2d.

    :raises Usage: it is none
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None:
        raise Usage(f"{option}: {text!r} is no duration; say for instance 90s, 10m or 24h")
    seconds = float(match[1]) * UNITS[match[2]]
    if seconds > LONGEST:
        raise Usage(f"{option}: {text[:20]!r} is more than ten years")
    return seconds


def look_again(wish: Wish, server_id: str, new_flavor: str = "") -> str:
    """What to type to see what speaks against a server, where it would go in this drain."""
    return command_line(
        "plan", server_id, new_flavor, cell=wish.to[0] if wish.to else None, force_locked=wish.force_locked,
        accept_loss=",".join(wish.accept_loss), max_hosts=wish.max_hosts or None, transfer=wish.transfer,
        bwlimit=wish.bwlimit, dry_run=True,
    )  # fmt: skip


def parse_confirm(text: str) -> tuple[str, float]:
    """``never``, ``verified`` or ``after:DURATION``: the word, and seconds.

    :raises Usage: it is none of them
    """
    if text in ("never", "verified"):
        return text, 0.0
    word, sign, duration = text.partition(":")
    if word == "after" and sign:
        return "after", parse_seconds(duration, "--confirm")
    raise Usage(f"--confirm: {text!r} has to be never, verified or after:DURATION, for instance after:24h")


def parse_flavor_map(texts: Iterable[str]) -> dict[str, str]:
    """``OLD=NEW`` as they were typed.

    :raises Usage: one is none, or one flavor is to become two
    """
    found: dict[str, str] = {}
    for text in texts:
        old, sign, new = text.partition("=")
        if not sign or not old or not new:
            raise Usage(f"--flavor-map: {text!r} has to be OLD=NEW")
        if found.get(old, new) != new:
            raise Usage(f"--flavor-map: {old} cannot become both {found[old]} and {new}")
        found[old] = new
    return found


def to_document(wish: Wish) -> dict[str, Any]:
    """As plain JSON values."""
    values = dataclasses.asdict(wish)
    return values | {"include": [str(each) for each in wish.include], "exclude": [str(each) for each in wish.exclude]}


def from_document(document: Mapping[str, Any]) -> Wish:
    """What :func:`to_document` gave."""
    known = {each.name for each in dataclasses.fields(Wish)}
    values: dict[str, Any] = {name: value for name, value in document.items() if name in known}
    for name in ("to", "probes", "accept_loss"):
        values[name] = tuple(values.get(name, ()))
    for name in ("include", "exclude"):
        values[name] = tuple(parse_filter(text, f"--{name}") for text in values.get(name, ()))
    return Wish(**values)
