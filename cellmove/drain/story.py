"""What became of a drain's servers: from the journal's lines to bars and downtimes, to JSON, to a terminal."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cellmove.core.clock import seconds_of, text_of
from cellmove.core.move import SCHEMA_VERSION, Entry, Phase, State, Step
from cellmove.drain import figures
from cellmove.drain.item import Bar, Stage, Story, Tale, place_of
from cellmove.ui.console import Command, duration

if TYPE_CHECKING:
    from cellmove.ui.console import Page

Document = dict[str, Any]

DRAWN = (Step.PREP_DEST, Step.PREP_SOURCE, Step.FINISH, Step.CONFIRM, Step.REVERT)
"""The steps that are bars on the time line."""

STOPS_AND_STARTS = (("stop_source", "start_target"), ("clean_target", "start_source"))
"""The actions between which the guest does not run: on its way there, and on its way back."""

TROUBLE = (Stage.FAILED, Stage.UNVERIFIED, Stage.REVERTED, Stage.REFUSED, Stage.SKIPPED, Stage.GONE)
"""Stages that somebody has to look at or to know of, the worst first."""

SHOWN_NAMES = 5


def tale_bars(entries: Iterable[Entry]) -> tuple[Bar, ...]:
    """A bar for each step of a move, in the order in which they began.

    It reaches from the step's first line to the end of its last one; while a line of it is under way it has no end.
    The journal keeps one end of a line: one that was rolled back ends when that was done, so the bar of a step that
    was rolled back holds the rolling back, and with it the steps in between. Whoever draws puts later bars on top.
    Failed is a step in which something failed or was rolled back and was not done after all, on another host for instance.

    :param entries: of one move
    """
    bars = []
    for step in DRAWN:
        own = [entry for entry in entries if entry.step == step]
        if not own:
            continue
        last = {entry.action: entry.phase for entry in sorted(own, key=lambda entry: entry.sequence)}.values()
        running = any(phase in (Phase.INTENT, Phase.UNDOING) for phase in last)
        bars.append(
            Bar(
                step.value,
                min(seconds_of(entry.started_at) for entry in own),
                None if running else max(seconds_of(entry.finished_at) for entry in own if entry.finished_at),
                failed=any(phase in (Phase.FAILED, Phase.UNDOING, Phase.UNDONE) for phase in last),
            )
        )
    return tuple(sorted(bars, key=lambda bar: bar.began))


def downtime(entries: Iterable[Entry], *, active: bool = True) -> float | None:
    """Seconds for which the guest did not run because of this move.

    What counts: from the begin of ``stop_source`` to the end of ``start_target``; or, rolled back, to the end of the
    rolling back of ``stop_source`` (also when the guest had run at the target in between: nobody was sent there). A revert
    adds the time from ``clean_target`` to the end of ``start_source``. It is what the journal knows, so rather too much
    than too little: a call that failed before it touched the guest counts, and after a crash the guest is down until a run
    saw that it is up.

    :param entries: of one move
    :param active: whether the guest ran before (``active`` of the move's plan)
    :returns: None when the guest was off anyway, was never stopped, is still down, or was moved by somebody else
        (``adopt`` knows what was done, not when)
    """
    if not active:
        return None
    known = [seconds for direction in outages(entries) for seconds in direction]
    return None if not known or None in known else sum(seconds for seconds in known if seconds is not None)


def outages(entries: Iterable[Entry]) -> tuple[list[float | None], list[float | None]]:
    """Return the times in seconds for which the guest did not run: those on its way there, and those on its way back.

    A time is None while the guest is down, and when ``adopt`` wrote the lines. See :func:`downtime`.

    :param entries: of one move of a guest that ran before
    """
    lines = sorted(entries, key=lambda entry: entry.sequence)
    there, back = (
        [_outage(lines, stop, starts) for stop in lines if stop.action == stops] for stops, starts in STOPS_AND_STARTS
    )
    return there, back


def down_since(entries: Iterable[Entry]) -> float | None:
    """Return when the guest was stopped, in seconds since 1970; None while it runs.

    A stop counts from its intent, and until its undo is complete: what became of a call that failed is not known. See
    :func:`downtime`.

    :param entries: of one open move of a guest that ran before
    """
    lines = sorted(entries, key=lambda entry: entry.sequence)
    return min(
        (
            seconds_of(stop.started_at)
            for stops, starts in STOPS_AND_STARTS
            for stop in lines
            if stop.action == stops and stop.phase is not Phase.UNDONE and _start(lines, stop, starts) is None
        ),
        default=None,
    )


def _outage(lines: Sequence[Entry], stop: Entry, starts: str) -> float | None:
    start = stop if stop.phase is Phase.UNDONE else _start(lines, stop, starts)
    if start is None or _is_told_later(stop) or _is_told_later(start):
        return None
    return max(seconds_of(start.finished_at) - seconds_of(stop.started_at), 0.0)


def _start(lines: Sequence[Entry], stop: Entry, action: str) -> Entry | None:
    if stop.phase is not Phase.DONE:
        return None
    later = (entry for entry in lines if entry.sequence > stop.sequence and entry.action == action)
    return next((entry for entry in later if entry.phase is Phase.DONE), None)


def _is_told_later(entry: Entry) -> bool:
    """Whether adopt wrote this line: begin and end are the moment of writing. A call to a host takes longer."""
    return entry.started_at == entry.finished_at


def document(story: Story) -> Document:
    """A drain as plain JSON values; what ``cellmove drain report --format json`` prints.

    ============== ====================================================================================================
    schema_version of all documents
    drain, state   its id, and where it stands
    cell, to       what is emptied, and the cells that take it, as people read them; an empty list: every other one.
                   ``cell_uuid`` and ``to_uuids`` say which cells these are
    begun_at       ISO 8601, UTC, as all times; ``told_at`` is when this was told
    counts         ``servers``, ``stages`` (by stage) and ``shares`` (moved, left, failed, staying, gone; their sum is all)
    pace           ``seconds`` at work (nights left out), ``gib_moved``, ``servers_an_hour``, ``gib_an_hour`` (or null)
    downtime       null, or seconds: ``median``, ``ninety_percent``, ``longest``, and ``longest_server``
    source_hosts   of each: host, servers, the shares, gib, median_downtime; so ``target_hosts``, of those chosen
    servers        of each: server (id, name, project), source and target (cell, cell_uuid, host), disk_gib, stage, reason, next, move,
                   downtime, and steps (step, state, started_at, finished_at), in the order of the story
    ============== ====================================================================================================
    """
    pace, spread = figures.pace(story), figures.spread(story.tales, shown=1)
    return {
        "schema_version": SCHEMA_VERSION,
        "drain": story.drain_id,
        "state": story.state,
        "cell": story.cell.label,
        "cell_uuid": story.cell.uuid,
        "to": [cell.label for cell in story.to],
        "to_uuids": [cell.uuid for cell in story.to],
        "begun_at": iso(story.begun),
        "told_at": iso(story.told),
        "counts": {
            "servers": len(story.tales),
            "stages": {stage.value: count for stage, count in figures.by_stage(story.tales).items()},
            "shares": figures.by_share(story.tales),
        },
        "pace": {
            "seconds": _round(pace.seconds),
            "gib_moved": figures.gib_moved(story.tales),
            "servers_an_hour": _round(pace.servers_an_hour),
            "gib_an_hour": _round(pace.gib_an_hour),
        },
        "downtime": spread
        and {
            "median": _round(spread.median),
            "ninety_percent": _round(spread.ninety),
            "longest": _round(spread.longest[0].downtime),
            "longest_server": {"id": spread.longest[0].server_id, "name": spread.longest[0].name},
        },
        "source_hosts": [_host_document(sums) for sums in figures.source_hosts(story)],
        "target_hosts": [_host_document(sums) for sums in figures.target_hosts(story)],
        "servers": [_tale_document(story, tale) for tale in story.tales],
    }


def _host_document(sums: figures.HostSums) -> Document:
    return {
        "host": sums.host,
        "servers": sums.servers,
        **sums.counts,
        "gib": sums.gib,
        "median_downtime": _round(sums.median),
    }


def _tale_document(story: Story, tale: Tale) -> Document:
    target = story.to[0] if len(story.to) == 1 and tale.target_host else None
    return {
        "server": {"id": tale.server_id, "name": tale.name, "project": tale.project_id},
        "source": {"cell": story.cell.label, "cell_uuid": story.cell.uuid, "host": tale.source_host},
        "target": {
            "cell": target.label if target else "",
            "cell_uuid": target.uuid if target else "",
            "host": tale.target_host,
        },
        "disk_gib": tale.disk_gb,
        "stage": tale.stage.value,
        "reason": tale.reason or None,
        "next": tale.next_command or None,
        "move": tale.move_id or None,
        "downtime": _round(tale.downtime),
        "steps": [
            {
                "step": bar.step,
                "state": "failed" if bar.failed else "running" if bar.ended is None else "done",
                "started_at": iso(bar.began),
                "finished_at": None if bar.ended is None else iso(bar.ended),
            }
            for bar in tale.bars
        ],
    }


def draw(page: Page, document: Document) -> None:
    """A drain for a person at a terminal: the sums, what somebody has to look at, the hosts."""
    page.fields(_head(document))
    draw_servers(
        page,
        [
            (
                stage.value,
                one["server"]["name"] or one["server"]["id"],
                place_of(one["stage"], one["source"]["host"], one["target"]["host"] or ""),
                one["reason"] or "",
                one["next"] or "",
            )
            for stage in TROUBLE
            for one in document["servers"]
            if one["stage"] == stage
        ],
    )
    for title, hosts in (("from", document["source_hosts"]), ("to", document["target_hosts"])):
        if hosts:
            page.gap()
            page.table((f"{title} host", "servers", *figures.SHARES, "GiB", "median down"), [*map(_host_row, hosts)])


def _head(document: Document) -> list[tuple[str, str]]:
    counts, pace, down = document["counts"], document["pace"], document["downtime"]
    rows = [
        ("drain", document["drain"]),
        ("state", said(document["state"])),
        ("cell", f"{document['cell']} -> {', '.join(document['to']) or 'any other'}"),
        ("when", f"{_minute(document['begun_at'])} to {_minute(document['told_at'])} UTC"),
        ("servers", f"{counts['servers']}{_listed(counts['stages'])}"),
    ]
    if pace["servers_an_hour"] is not None:
        work = f"{duration(pace['seconds'])} at work, {pace['gib_moved']} GiB moved"
        rows.append(("pace", f"{pace['servers_an_hour']:.1f} servers/h, {pace['gib_an_hour']:.1f} GiB/h ({work})"))
    if down:
        who = down["longest_server"]["name"] or down["longest_server"]["id"]
        usual = f"median {duration(down['median'])}, 90 % within {duration(down['ninety_percent'])}"
        rows.append(("down", f"{usual}, longest {duration(down['longest'])} ({who})"))
    return rows


def draw_servers(page: Page, found: Iterable[tuple[str, str, str, str, str]], limit: int = 0) -> int:
    """Servers that somebody has to know of, as lines that fit any terminal; those with one reason and one command share theirs.

    :param found: of each its stage, name, host, reason and the command to type
    :param limit: how many such groups are drawn at most; 0: all
    :returns: how many servers were left out
    """
    shared: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for stage, name, host, reason, command in found:
        shared.setdefault((stage, reason, command), []).append((name, host))
    groups = list(shared.items())
    for (stage, reason, command), servers in groups[: limit or len(groups)]:
        names = [name for name, _host in servers]
        more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
        where = f" on {servers[0][1]}" if len(servers) == 1 and servers[0][1] else ""
        page.gap()
        rows = [(stage, f"{', '.join(names[:SHOWN_NAMES])}{more}{where}")]
        rows += [("  why", reason)] if reason else []
        page.fields(rows + ([("  next", Command(command))] if command else []))
    return sum(len(servers) for _key, servers in groups[limit or len(groups) :])


def _host_row(sums: Mapping[str, Any]) -> tuple[str, ...]:
    median = sums["median_downtime"]
    counts = (str(sums[name] or "-") for name in figures.SHARES)
    return (
        sums["host"] or "-",
        str(sums["servers"]),
        *counts,
        str(sums["gib"]),
        "-" if median is None else duration(median),
    )


def iso(seconds: float) -> str:
    """A moment as the journal writes it."""
    moment = datetime.datetime.fromtimestamp(round(seconds, 3), datetime.UTC)
    return text_of(moment)


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def said(state: str) -> str:
    """A drain's state for a person: the states are those of moves, and its servers are not rolled back with it."""
    return {State.ROLLED_BACK.value: "aborted", State.ROLLING_BACK.value: "being aborted"}.get(state, state)


def _minute(text: str) -> str:
    return text[:16].replace("T", " ")


def _listed(stages: Mapping[str, int]) -> str:
    return f": {', '.join(f'{count} {stage}' for stage, count in stages.items())}" if stages else ""
