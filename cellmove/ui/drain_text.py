"""Draws documents about drains as text: plan, result, status and report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.core.shell import command_line
from cellmove.drain import figures
from cellmove.drain.control import state_name
from cellmove.drain.item import Stage, host_at
from cellmove.ui.console import Command, duration
from cellmove.ui.drain_documents import listed

if TYPE_CHECKING:
    from cellmove.ui.console import Page
    from cellmove.ui.drain_types import (
        DecommissionDocument,
        PlanCoverage,
        PlanDocument,
        PlanServer,
        ReportDocument,
        ReportHost,
        ResultDocument,
        StatusDocument,
        StatusServer,
    )

MAX_PLAN_SERVERS = 40
"""A plan lists each server up to this number; a larger one lists only the reasons against servers."""

MAX_RESULT_GROUPS = 40
MAX_NAMES = 5
MAX_PLAN_NAMES = 3
UNCONFIRMED = "unconfirmed"

TROUBLE = (Stage.FAILED, Stage.UNVERIFIED, Stage.REVERTED, Stage.REFUSED, Stage.SKIPPED, Stage.GONE)
"""Stages whose servers a report lists, the most important first."""

RESOURCES = (("VCPU", "vCPU", 1), ("MEMORY_MB", "GiB of memory", 1024), ("DISK_GB", "GiB of disk", 1))
"""Resource classes that a plan shows: name, unit, and divisor."""


@dataclass(frozen=True)
class ServerLine:
    """A server with the reason for its stage."""

    stage: str
    name: str
    host: str
    reason: str = ""
    command: str = ""


def draw_servers(page: Page, servers: Iterable[ServerLine], limit: int = 0) -> int:
    """Draw servers; those with the same stage, reason and command share their lines.

    :param limit: largest number of such groups; 0: all
    :returns: the number of servers that were not drawn
    """
    groups: dict[tuple[str, str, str], list[ServerLine]] = {}
    for server in servers:
        groups.setdefault((server.stage, server.reason, server.command), []).append(server)
    members = list(groups.values())
    for group in members[: limit or len(members)]:
        first, names = group[0], [server.name for server in group]
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        where = f" on {first.host}" if len(group) == 1 and first.host else ""
        page.gap()
        rows = [(first.stage, f"{', '.join(names[:MAX_NAMES])}{more}{where}")]
        rows += [("  why", first.reason)] if first.reason else []
        page.fields(rows + ([("  next", Command(first.command))] if first.command else []))
    return sum(len(group) for group in members[limit or len(members) :])


# the plan


def draw_plan(page: Page, document: PlanDocument) -> None:
    """Draw a plan."""
    totals = document["totals"]
    rows = [
        ("cell", document["cell"]),
        ("to", ", ".join(document["to"]) or "no other cell"),
        (
            "servers",
            f"{totals['servers']}: {totals['movable']} movable, {totals['skipped']} skipped, {totals['refused']} refused",
        ),
        ("seen", _coverage(document["seen"])),
        *(("left out", text) for text in document["left_out"]),
    ]
    if totals["movable"]:
        rows += _capacity_rows(document)
    page.fields(rows)
    servers = document["servers"]
    if 0 < len(servers) <= MAX_PLAN_SERVERS:
        _draw_plan_servers(page, servers)
    else:
        _draw_plan_reasons(page, servers)
    if document["next"]:
        page.gap()
        page.fields([("next", Command(document["next"]))])


def _capacity_rows(document: PlanDocument) -> list[tuple[str, str]]:
    totals, estimate, left_today = document["totals"], document["estimate"], document["left_today"]
    memory = f"{totals['memory_mb'] / 1024:.1f} GiB of memory"
    free = f", and {document['min_free']:g} % stay free" if document["min_free"] else ""
    fits = (
        f"yes, all at once{free}" if document["enough_room"] else f"no: the target has less capacity than needed{free}"
    )
    guess = " (a guess: there are too few past moves for an estimate)" if estimate["guess"] else ""
    rows = [
        ("size", f"{totals['vcpus']} vCPU, {memory}, {totals['disk_gib']} GiB of local disk"),
        *(("free", _capacity(capacity)) for capacity in document["room"]),
        ("fits", fits),
        ("takes", f"about {duration(estimate['seconds'])}, {document['parallel']} at a time{guess}"),
    ]
    if left_today is not None and left_today < totals["movable"]:
        rows.append(("today", f"policy.moves_a_day allows {left_today or 'none'} of them to start now"))
    return rows


def _coverage(seen: PlanCoverage) -> str:
    if seen["whole"]:
        return f"all {seen['mapped']} servers that the API maps to the cell"
    missing = ", ".join(seen["missing"][:MAX_PLAN_NAMES]) + (", …" if len(seen["missing"]) > MAX_PLAN_NAMES else "")
    return (
        f"not all {seen['mapped']} servers that the API maps to the cell: "
        f"{len(seen['missing'])} have no row there ({missing})"
    )


def _capacity(capacity: Mapping[str, object]) -> str:
    parts = []
    for name, unit, divisor in RESOURCES:
        amounts = capacity.get(name)
        if isinstance(amounts, dict):
            total, used = amounts["total"], amounts["used"]
            parts.append(f"{(total - used) / divisor:.0f} of {total / divisor:.0f} {unit}")
    hosts = capacity["hosts"]
    return f"{capacity['cell']}: {hosts} host{'s' if hosts != 1 else ''}; {', '.join(parts)}"


def _draw_plan_servers(page: Page, servers: Sequence[PlanServer]) -> None:
    """Draw each server of a small plan."""
    page.gap()
    headers = ("server", "host", "flavor", "state", "disk", "verdict")
    page.table(headers, [_plan_row(server) for server in servers])
    draw_servers(
        page,
        [
            ServerLine(server["verdict"], server["name"], server["host"], "; ".join(server["reasons"]))
            for server in servers
            if server["reasons"]
        ],
    )


def _plan_row(server: PlanServer) -> tuple[str, ...]:
    flavor = f"{server['flavor']} -> {server['new_flavor']}" if server["new_flavor"] else server["flavor"]
    disk = "volume" if server["backing"] == "volume" else f"{server['disk_gib']} GiB"
    return server["name"], server["host"], flavor, server["state"], disk, server["verdict"]


def _draw_plan_reasons(page: Page, servers: Sequence[PlanServer]) -> None:
    """Draw the reasons against the servers of a large plan, with some names each."""
    by_reason: dict[tuple[str, str], list[PlanServer]] = {}
    for server in servers:
        for code in server["codes"] if server["verdict"] != "movable" else ():
            by_reason.setdefault((server["verdict"], code), []).append(server)
    for (verdict, code), group in sorted(by_reason.items(), key=lambda pair: (pair[0][0], -len(pair[1]))):
        first = group[0]
        reason = first["reasons"][min(first["codes"].index(code), len(first["reasons"]) - 1)]
        names = ", ".join(server["name"] for server in group[:MAX_PLAN_NAMES])
        more = ", …" if len(group) > MAX_PLAN_NAMES else ""
        page.gap()
        page.fields([(verdict, f"{len(group)}: {names}{more}"), ("  check", code), ("  why", reason)])


# the result of a run


def draw_result(page: Page, document: ResultDocument) -> None:
    """Draw the result of a run."""
    page.fields(
        [
            ("cell", document["cell"]),
            *((("drain", document["drain"]),) if document["drain"] else ()),
            ("servers", listed(document["counts"]) if document["counts"] else "none"),
            *((("stopped", document["stopped"]),) if document["stopped"] else ()),
        ]
    )
    lines = [
        ServerLine(server["stage"], server["name"], server["host"], server["reason"] or "", server["next"] or "")
        for server in document["left"]
        if server["stage"] != Stage.WAITING.value
    ]
    lines += [
        ServerLine(UNCONFIRMED, server["name"], server["host"], server["reason"], server["next"])
        for server in document["unconfirmed"]
    ]
    more = draw_servers(page, lines, MAX_RESULT_GROUPS)
    if more:
        page.gap()
        page.fields([("", f"and {more} more: {command_line('drain status', document['cell_uuid'])}")])
    if document["ending"] is not None:
        page.gap()
        page.fields(_decommission_rows(document["ending"]))


def _decommission_rows(document: DecommissionDocument) -> list[tuple[str, str]]:
    if "unseen" in document:
        return [("unseen", f"the cell could not be checked for obstacles to its deletion: {document['unseen']}")]
    if not document["commands"]:
        leftovers = [("leftover", f"{text}  (cellmove audit --repair)") for text in document["leftovers"]]
        return [*leftovers, *(("not yet", text) for text in document["hindrances"])]
    return [
        ("then", "the cell can be deleted. Type, in this order:"),
        *(("", Command(text)) for text in document["commands"]),
    ]


# the status


def draw_status(page: Page, document: StatusDocument) -> None:
    """Draw the status of a drain."""
    control = f", {document['control']} requested" if document["control"] else ""
    page.fields(
        [
            ("cell", document["cell"]),
            ("drain", document["drain"]),
            ("state", state_name(document["state"]) + control),
            ("runs", ", ".join(document["runs"]) or "none at work"),
            ("servers", listed(document["counts"])),
            *((("next", Command(document["next"])),) if document["next"] else ()),
        ]
    )
    _draw_timed(page, "elapsed", [(server, server["elapsed_seconds"]) for server in document["under_way"]])
    _draw_timed(page, "due in", [(server, server["due_in_seconds"]) for server in document["soaking"]])
    lines = [_status_line(server["stage"], server) for server in document["trouble"]]
    draw_servers(page, lines + [_status_line(UNCONFIRMED, server) for server in document["unconfirmed"]])


def _draw_timed(page: Page, header: str, servers: Sequence[tuple[StatusServer, int | None]]) -> None:
    if not servers:
        return
    page.gap()
    rows = [
        (
            server["server"]["name"],
            server["stage"],
            server["source_host"],
            server["target_host"] or "",
            server["move"] or "",
            duration(max(seconds or 0, 0)),
        )
        for server, seconds in servers
    ]
    page.table(("server", "stage", "from", "to", "move", header), rows)


def _status_line(stage: str, server: StatusServer) -> ServerLine:
    host = host_at(server["stage"], server["source_host"], server["target_host"] or "")
    return ServerLine(stage, server["server"]["name"], host, server["reason"] or "", server["next"] or "")


# the report


def draw_report(page: Page, document: ReportDocument) -> None:
    """Draw the report of a drain: sums, servers with a problem, and hosts."""
    page.fields(_report_rows(document))
    draw_servers(
        page,
        [
            ServerLine(
                stage.value,
                server["server"]["name"] or server["server"]["id"],
                host_at(server["stage"], server["source"]["host"], server["target"]["host"] or ""),
                server["reason"] or "",
                server["next"] or "",
            )
            for stage in TROUBLE
            for server in document["servers"]
            if server["stage"] == stage
        ],
    )
    for title, hosts in (("from", document["source_hosts"]), ("to", document["target_hosts"])):
        if hosts:
            page.gap()
            page.table((f"{title} host", "servers", *figures.SHARES, "GiB", "median down"), [*map(_host_row, hosts)])


def _report_rows(document: ReportDocument) -> list[tuple[str, str]]:
    counts, pace, downtime = document["counts"], document["pace"], document["downtime"]
    stages = ", ".join(f"{number} {stage}" for stage, number in counts["stages"].items())
    rows = [
        ("drain", document["drain"]),
        ("state", state_name(document["state"])),
        ("cell", f"{document['cell']} -> {', '.join(document['to']) or 'any other'}"),
        ("when", f"{_minute(document['begun_at'])} to {_minute(document['told_at'])} UTC"),
        ("servers", f"{counts['servers']}{f': {stages}' if stages else ''}"),
    ]
    if pace["servers_an_hour"] is not None and pace["gib_an_hour"] is not None:
        work = f"{duration(pace['seconds'] or 0)} at work, {pace['gib_moved']} GiB moved"
        rows.append(("pace", f"{pace['servers_an_hour']:.1f} servers/h, {pace['gib_an_hour']:.1f} GiB/h ({work})"))
    if downtime:
        longest_server = downtime["longest_server"]["name"] or downtime["longest_server"]["id"]
        usual = f"median {duration(downtime['median'] or 0)}, 90 % within {duration(downtime['ninety_percent'] or 0)}"
        rows.append(("down", f"{usual}, longest {duration(downtime['longest'] or 0)} ({longest_server})"))
    return rows


def _host_row(sums: ReportHost) -> tuple[str, ...]:
    numbers = (sums["moved"], sums["left"], sums["failed"], sums["staying"], sums["gone"])
    median = sums["median_downtime"]
    return (
        sums["host"] or "-",
        str(sums["servers"]),
        *(str(number or "-") for number in numbers),
        str(sums["gib"]),
        "-" if median is None else duration(median),
    )


def _minute(text: str) -> str:
    return text[:16].replace("T", " ")
