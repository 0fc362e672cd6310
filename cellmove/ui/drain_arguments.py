"""The options of ``drain-cell``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict, TypeVar

import click

from cellmove.core.move import LOSSES
from cellmove.drain.options import ORDERS, DrainOptions, parse_confirm, parse_filter, parse_flavor_map, parse_seconds
from cellmove.ui.options import FiniteRange, probe_option, transfer_options

F = TypeVar("F", bound=Callable[..., object])

HEADINGS = {
    "--dry-run": "Mode",
    "--include": "Servers",
    "--to": "Targets",
    "--parallel": "Limits and disks",
    "--window": "When servers start, by the clock of this machine; moves in progress are always completed",
    "--probe": "Verification and confirm",
    "--yes": "Options",
}
"""The heading above an option and those after it in the help."""


class DrainArguments(TypedDict):
    """The values of the options of a drain, as click gives them."""

    no_cordon: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    order: str
    limit: int | None
    force_locked: bool
    accept_loss: tuple[str, ...]
    to: tuple[str, ...]
    flavor_map: tuple[str, ...]
    min_free: float
    max_hosts: int | None
    parallel: int
    ahead: int
    transfer: str | None
    bwlimit: int | None
    per_source_host: int | None
    per_target_host: int | None
    per_project: int | None
    window: str
    days: str
    until: str
    max_failures: int | None
    pause_file: str
    probes: tuple[str, ...]
    confirm: str
    soak: str
    on_unverified: str


def _number(name: str, text: str, default: int | None = None, lowest: int = 1) -> Callable[[F], F]:
    return click.option(name, type=click.IntRange(lowest), default=default, metavar="N", help=text)


SERVER_OPTIONS = (
    click.option(
        "--no-cordon",
        is_flag=True,
        help="Leave the cell open to new servers, until a run without this option.",
    ),
    click.option(
        "--include",
        multiple=True,
        metavar="KIND=PATTERN",
        help="Move only servers that match. KIND is project, flavor, host, tag, name or state; PATTERN may contain * and ?. "
        "Can be repeated: for each KIND, at least one pattern must match.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="KIND=PATTERN",
        help="Move no servers that match. Same form as --include.",
    ),
    click.option(
        "--order",
        type=click.Choice(ORDERS),
        default="smallest",
        show_default=True,
        help="Which servers move first: those with the smallest or largest local disk, the oldest ones, or host by host.",
    ),
    _number("--limit", "Start at most N servers in this run. Default: no limit."),
    click.option("--force-locked", is_flag=True, help="Move locked servers as well."),
    click.option(
        "--accept-loss",
        multiple=True,
        metavar="NAME[,NAME…]",
        help="Move servers although these properties are lost: " + ", ".join(LOSSES) + ".",
    ),
)

TARGET_OPTIONS = (
    click.option(
        "--to",
        multiple=True,
        metavar="CELL",
        help="Move servers to this cell. Can be repeated. Default: every other cell.",
    ),
    click.option(
        "--flavor-map",
        multiple=True,
        metavar="OLD=NEW",
        help="Resize servers of flavor OLD to flavor NEW. Can be repeated.",
    ),
    click.option(
        "--min-free",
        type=FiniteRange(0, 99),
        default=0,
        metavar="PERCENT",
        help="Keep this share of the vCPUs, memory and disk of each target cell free. Default: 0.",
    ),
    _number("--max-hosts", "Try at most N of the hosts that nova's scheduler offers for a server. Default: all."),
)

LIMIT_OPTIONS = (
    _number("--parallel", "Move N servers at a time in this run. Default: 1.", 1),
    _number(
        "--ahead",
        "Prepare N more servers: their disks are streamed while their guests run, and they wait for one of --parallel. "
        "Default: 0.",
        default=0,
        lowest=0,
    ),
    *transfer_options,
    _number(
        "--per-source-host", "Move at most N servers from one host, over all runs of this drain. Default: no limit."
    ),
    _number("--per-target-host", "Move at most N servers to one host, over all runs of this drain. Default: no limit."),
    _number("--per-project", "Move at most N servers of one project, over all runs of this drain. Default: no limit."),
)

WINDOW_OPTIONS = (
    click.option(
        "--window",
        default="",
        metavar="HH:MM-HH:MM",
        help="Start servers only between these times. The window may cross midnight.",
    ),
    click.option(
        "--days",
        default="",
        metavar="DAYS",
        help="Start servers only on these days: mon-fri, or sat,sun. A night belongs to the day on which it begins.",
    ),
    click.option("--until", default="", metavar="HH:MM", help="Start no servers after the next HH:MM."),
    _number(
        "--max-failures",
        "Start no servers after N have failed in this run; 0: no limit. Default: 1.",
        lowest=0,
    ),
    click.option("--pause-file", default="", metavar="FILE", help="Start no servers while FILE exists."),
)

CONFIRM_OPTIONS = (
    probe_option,
    click.option(
        "--confirm",
        default="verified",
        show_default=True,
        metavar="never|verified|after:DURATION",
        help="When to confirm a server that passes verification: never, so that it stays in VERIFY_RESIZE; immediately; "
        "or in the first run that long after its move (24h, 2d).",
    ),
    click.option(
        "--soak",
        default="",
        metavar="DURATION",
        help="Wait this long (90s, 10m), then verify the server again before it is confirmed. Default: no wait.",
    ),
    click.option(
        "--on-unverified",
        type=click.Choice(("keep", "revert")),
        default="keep",
        show_default=True,
        help="Keep a server that fails verification in VERIFY_RESIZE, or revert it.",
    ),
)


def drain_option_decorators(function: F) -> F:
    """Add the options of a drain, in the order of its help."""
    for decorate in reversed((*SERVER_OPTIONS, *TARGET_OPTIONS, *LIMIT_OPTIONS, *WINDOW_OPTIONS, *CONFIRM_OPTIONS)):
        function = decorate(function)
    return function


def drain_options_of(arguments: DrainArguments) -> DrainOptions:
    """Return the options of a drain.

    :raises Usage: an option has another form
    """
    losses = tuple(
        dict.fromkeys(name.strip() for text in arguments["accept_loss"] for name in text.split(",") if name.strip())
    )
    for name in losses:
        if name not in LOSSES:
            raise click.UsageError(f"--accept-loss: unknown loss {name!r}; known are: {', '.join(LOSSES)}")
    confirm, confirm_after = parse_confirm(arguments["confirm"])
    if confirm == "never" and arguments["soak"]:
        raise click.UsageError("--soak and --confirm never exclude each other: a soak ends with a confirm")
    max_failures = arguments["max_failures"]
    return DrainOptions(
        to=arguments["to"],
        parallel=arguments["parallel"],
        ahead=arguments["ahead"],
        per_source_host=arguments["per_source_host"] or 0,
        per_target_host=arguments["per_target_host"] or 0,
        per_project=arguments["per_project"] or 0,
        order=arguments["order"],
        include=tuple(parse_filter(text, "--include") for text in arguments["include"]),
        exclude=tuple(parse_filter(text, "--exclude") for text in arguments["exclude"]),
        limit=arguments["limit"] or 0,
        flavor_map=parse_flavor_map(arguments["flavor_map"]),
        confirm=confirm,
        confirm_after=confirm_after,
        soak=parse_seconds(arguments["soak"], "--soak") if arguments["soak"] else 0.0,
        on_unverified=arguments["on_unverified"],
        probes=arguments["probes"],
        max_failures=1 if max_failures is None else max_failures,
        until=arguments["until"],
        window=arguments["window"],
        days=arguments["days"],
        min_free=arguments["min_free"],
        pause_file=arguments["pause_file"],
        force_locked=arguments["force_locked"],
        accept_loss=losses,
        max_hosts=arguments["max_hosts"] or 0,
        transfer=arguments["transfer"],
        bwlimit=arguments["bwlimit"],
    )
