"""The options of a drain: plain values, read from the command line and stored beside the journal."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cellmove.core.errors import Usage
from cellmove.core.shell import command_line

ORDERS = ("smallest", "largest", "oldest", "host")
FILTER_KINDS = ("project", "flavor", "host", "tag", "name", "state")
"""The properties of a server that --include and --exclude can match."""

SKIP_TAG = "cellmove:skip"
"""A server with this tag is skipped."""

MAX_DURATION_SECONDS = 315360000.0
SECONDS_BY_UNIT = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Filter:
    """A filter ``KIND=PATTERN``; the pattern is matched by fnmatch and is case-sensitive."""

    kind: str
    pattern: str

    def __str__(self) -> str:
        return f"{self.kind}={self.pattern}"

    def matches(self, values: Mapping[str, Iterable[str]]) -> bool:
        """Return whether any of the server's values of this kind matches."""
        return any(fnmatch.fnmatchcase(value, self.pattern) for value in values.get(self.kind, ()))


@dataclass(frozen=True)
class DrainOptions:
    """How a drain is done. A limit of 0 means no limit; durations are in seconds.

    :param to: the target cells, by UUID after :func:`cellmove.drain.runs.resolve_cells`; empty: every other cell
    :param ahead: number of servers that are prepared in addition to ``parallel`` and wait before their guests are stopped
    :param confirm: ``never``, ``verified`` or ``after``
    :param confirm_after: time between a server's move and its confirm, with ``after``
    :param soak: time for which a server runs at the target before it is verified again and confirmed
    :param on_unverified: ``keep`` the server in VERIFY_RESIZE, or ``revert`` it
    :param min_free: percentage of each resource of a target cell that stays free
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


def skip_reason(options: DrainOptions, values: Mapping[str, Iterable[str]]) -> tuple[str, str] | None:
    """Return why a server is skipped: a code and a sentence; None when it is not skipped.

    For each kind that is included, at least one filter has to match; no exclude may match.

    :param values: the server's values by kind (:data:`FILTER_KINDS`): id and name of its project, ``vm_state`` and
        nova's status as states
    """
    if SKIP_TAG in values.get("tag", ()):
        return "tag", f"it has the tag {SKIP_TAG}"
    for exclude in options.exclude:
        if exclude.matches(values):
            return "excluded", f"--exclude {exclude}"
    for kind in FILTER_KINDS:
        includes = [include for include in options.include if include.kind == kind]
        if includes and not any(include.matches(values) for include in includes):
            return "not-included", f"--include {' or '.join(map(str, includes))}"
    return None


def parse_filter(text: str, option: str) -> Filter:
    """Parse ``KIND=PATTERN``.

    :raises Usage: the kind does not exist
    """
    kind, sign, pattern = text.partition("=")
    if not sign or kind not in FILTER_KINDS or not pattern:
        raise Usage(f"{option}: {text!r} must be KIND=PATTERN; KIND is one of {', '.join(FILTER_KINDS)}")
    return Filter(kind, pattern)


def parse_seconds(text: str, option: str) -> float:
    """Parse a duration (90, 90s, 10m, 24h, 2d) and return seconds.

    :raises Usage: the text is no duration
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None:
        raise Usage(f"{option}: {text!r} is not a duration; use for example 90s, 10m or 24h")
    seconds = float(match[1]) * SECONDS_BY_UNIT[match[2]]
    if seconds > MAX_DURATION_SECONDS:
        raise Usage(f"{option}: {text[:20]!r} is more than ten years")
    return seconds


def plan_command(options: DrainOptions, server_id: str, new_flavor: str = "") -> str:
    """Return the ``plan`` command that shows the checks of a server with the options of this drain."""
    return command_line(
        "plan",
        server_id,
        new_flavor,
        cell=options.to[0] if options.to else None,
        force_locked=options.force_locked,
        accept_loss=",".join(options.accept_loss),
        max_hosts=options.max_hosts or None,
        transfer=options.transfer,
        bwlimit=options.bwlimit,
        dry_run=True,
    )


def parse_confirm(text: str) -> tuple[str, float]:
    """Parse ``never``, ``verified`` or ``after:DURATION`` and return the word and seconds.

    :raises Usage: the text is none of them
    """
    if text in ("never", "verified"):
        return text, 0.0
    word, sign, duration = text.partition(":")
    if word == "after" and sign:
        return "after", parse_seconds(duration, "--confirm")
    raise Usage(f"--confirm: {text!r} must be never, verified or after:DURATION, for example after:24h")


def parse_flavor_map(texts: Iterable[str]) -> dict[str, str]:
    """Parse each ``OLD=NEW``.

    :raises Usage: a text has another form, or one flavor is mapped to two
    """
    flavor_map: dict[str, str] = {}
    for text in texts:
        old, sign, new = text.partition("=")
        if not sign or not old or not new:
            raise Usage(f"--flavor-map: {text!r} must be OLD=NEW")
        if flavor_map.get(old, new) != new:
            raise Usage(f"--flavor-map: {old} cannot become both {flavor_map[old]} and {new}")
        flavor_map[old] = new
    return flavor_map


def to_document(options: DrainOptions) -> dict[str, object]:
    """Return the options as plain JSON values, filters as they are typed."""
    values = dataclasses.asdict(options)
    values["include"] = [str(include) for include in options.include]
    values["exclude"] = [str(exclude) for exclude in options.exclude]
    return values


def from_document(document: Mapping[str, object]) -> DrainOptions:
    """Read the options that :func:`to_document` wrote, also those of another version: unknown keys are ignored."""
    from cattrs import Converter

    converter = Converter()
    converter.register_structure_hook(Filter, lambda text, _type: parse_filter(str(text), "--include"))
    return converter.structure(document, DrainOptions)
