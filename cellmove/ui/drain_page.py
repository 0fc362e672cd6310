"""The values of the HTML page about a drain, except its time line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cellmove.drain import figures
from cellmove.drain.drain_report import DrainReport, ServerReport
from cellmove.drain.figures import HostSums
from cellmove.drain.item import Stage
from cellmove.ui.console import duration
from cellmove.ui.drain_documents import iso
from cellmove.ui.drain_histogram import Histogram, histogram_of
from cellmove.ui.drain_text import TROUBLE
from cellmove.ui.html_filters import MARKS, clock, count, day, number, rate, utc

MEANINGS = {
    Stage.FAILED: "the move failed",
    Stage.UNVERIFIED: "verification failed; left in VERIFY_RESIZE",
    Stage.REVERTED: "verification failed; back at the source",
    Stage.REFUSED: "a check refuses the move",
    Stage.SKIPPED: "excluded by a filter or a tag",
    Stage.GONE: "deleted by its owner, or moved outside of this drain",
}
URGENT = (Stage.FAILED, Stage.UNVERIFIED, Stage.REVERTED)

MAX_UNFOLDED = 20
"""More servers with one reason, and more reasons, are folded away at first."""

MIN_HISTOGRAM_VALUES = 3
"""Fewer downtimes have no histogram."""


@dataclass(frozen=True)
class Figure:
    """A number of the head."""

    name: str
    value: str
    note: str
    is_bad: bool = False


@dataclass(frozen=True)
class StageShare:
    """A stage on the bar of all servers; ``left`` and ``width`` are percent."""

    stage: Stage
    amount: int
    left: float
    width: float
    is_failed: bool


@dataclass(frozen=True)
class ReasonGroup:
    """Servers with the same stage and reason.

    :param command: of all servers, if it is the same
    :param is_urgent: whether the servers failed
    """

    reason: str
    servers: tuple[ServerReport, ...]
    command: str
    is_urgent: bool

    @property
    def has_own_commands(self) -> bool:
        """Return whether each server is shown with its own command."""
        return not self.command or len(self.servers) == 1

    @property
    def is_detailed(self) -> bool:
        """Return whether each server has a line of its own."""
        return self.is_urgent or (self.has_own_commands and bool(self.command))

    @property
    def is_folded(self) -> bool:
        """Return whether the servers are folded away."""
        return len(self.servers) > MAX_UNFOLDED


@dataclass(frozen=True)
class StageTrouble:
    """The servers of a stage that have a problem."""

    stage: Stage
    mark: str
    amount: int
    meaning: str
    is_urgent: bool
    groups: tuple[ReasonGroup, ...]
    folded: tuple[ReasonGroup, ...]

    @property
    def folded_amount(self) -> int:
        """Return the number of servers in folded groups."""
        return sum(len(group.servers) for group in self.folded)


@dataclass(frozen=True)
class Downtime:
    """The downtimes of guests."""

    median: float
    ninety: float
    longest: tuple[ServerReport, ...]
    histogram: Histogram | None


@dataclass(frozen=True)
class Cell:
    """A cell of a table: text, and the value for sorting if it differs."""

    text: str
    value: float | None = None
    is_bad: bool = False

    @property
    def sort_value(self) -> str:
        """Return the value for sorting as text."""
        return f"{self.value or 0:.1f}"


@dataclass(frozen=True)
class Row:
    """A row of a table; the title is a name if ``is_name``."""

    title: str
    cells: tuple[Cell, ...]
    is_name: bool = False


@dataclass(frozen=True)
class SumsTable:
    """A table that can be sorted."""

    headers: tuple[str, ...]
    rows: tuple[Row, ...]
    caption: str = ""


@dataclass(frozen=True)
class Page:
    """The values of a page."""

    report: DrainReport
    span: str
    generated_at: str
    figures: tuple[Figure, ...]
    stages: tuple[StageShare, ...]
    sections: tuple[tuple[str, str], ...]
    trouble_title: str
    trouble: tuple[StageTrouble, ...]
    downtime: Downtime | None
    stretches: SumsTable | None
    hosts: tuple[SumsTable, ...]


def page_of(report: DrainReport) -> Page:
    """Return the values of the page."""
    trouble = tuple(_trouble(report))
    stretches = _stretches(report)
    trouble_title = "To look at" if figures.by_share(report.servers)["failed"] else "Not moved"
    sections = [("look", trouble_title)] if trouble else []
    sections.append(("down", "Downtime"))
    sections += [("nights", "Stretches of work")] if stretches else []
    sections += [("time", "Time line"), ("hosts", "Hosts")]
    return Page(
        report=report,
        span=_span(report),
        generated_at=iso(report.generated_at)[:19].replace("T", " "),
        figures=tuple(_figures(report)),
        stages=tuple(_stages(report)),
        sections=tuple(sections),
        trouble_title=trouble_title,
        trouble=trouble,
        downtime=_downtime(report),
        stretches=stretches,
        hosts=tuple(_hosts(report)),
    )


# the head


def _span(report: DrainReport) -> str:
    begun, end = report.begun, report.generated_at
    end_text = clock(end) if day(begun) == day(end) else f"{day(end)} {clock(end)}"
    took = duration(max(end - begun, 0))
    return f"{day(begun)} {utc(begun).year} {clock(begun)} to {end_text} UTC ({took})"


def _figures(report: DrainReport) -> Iterator[Figure]:
    shares, total = figures.by_share(report.servers), len(report.servers)
    pace, spread = figures.pace(report), figures.spread(report.servers, shown=1)
    yield Figure("moved", number(shares["moved"]), f"of {count(total, 'server')}")
    yield Figure("left", number(shares["left"]), "to be moved")
    yield Figure("failed", number(shares["failed"]), _failed_note(report), is_bad=bool(shares["failed"]))
    work = f"in {duration(pace.seconds)} at work" if pace.seconds else "nothing is done"
    yield Figure("servers/hour", rate(pace.servers_an_hour), work)
    yield Figure("GiB/hour", rate(pace.gib_an_hour), f"{number(figures.gib_moved(report.servers))} GiB moved")
    longest = f"longest {duration(spread.longest[0].downtime or 0)}" if spread else "none is known"
    yield Figure("median downtime", duration(spread.median) if spread else "–", longest)


def _failed_note(report: DrainReport) -> str:
    """Return how many of the failed servers are unverified or reverted."""
    others = {stage: amount for stage, amount in figures.by_stage(report.servers).items() if stage in URGENT[1:]}
    text = ", ".join(f"{amount:,} {stage}" for stage, amount in others.items())
    return f"of them {text}" if text else "none is unverified"


def _stages(report: DrainReport) -> Iterator[StageShare]:
    left, total = 0.0, len(report.servers)
    for stage, amount in figures.by_stage(report.servers).items():
        width = 100 * amount / total
        yield StageShare(stage, amount, left, width, stage in figures.FAILED)
        left += width


# servers with a problem


def _trouble(report: DrainReport) -> Iterator[StageTrouble]:
    for stage in TROUBLE:
        servers = [server for server in report.servers if server.stage is stage]
        if servers:
            groups = _reason_groups(stage, servers)
            yield StageTrouble(
                stage=stage,
                mark=MARKS[stage],
                amount=len(servers),
                meaning=MEANINGS[stage],
                is_urgent=stage in URGENT,
                groups=groups[:MAX_UNFOLDED],
                folded=groups[MAX_UNFOLDED:],
            )


def _reason_groups(stage: Stage, servers: Sequence[ServerReport]) -> tuple[ReasonGroup, ...]:
    by_reason: dict[str, list[ServerReport]] = {}
    for server in servers:
        by_reason.setdefault(server.reason, []).append(server)
    ordered = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    groups = []
    for reason, own in ordered:
        commands = {server.next_command for server in own}
        command = commands.pop() if len(commands) == 1 else ""
        groups.append(ReasonGroup(reason, tuple(sorted(own, key=_by_name)), command, stage in URGENT))
    return tuple(groups)


def _by_name(server: ServerReport) -> tuple[object, ...]:
    return figures.natural(server.source_host), figures.natural(server.name), server.server_id


# downtimes


def _downtime(report: DrainReport) -> Downtime | None:
    spread = figures.spread(report.servers)
    values = [server.downtime for server in report.servers if server.downtime is not None]
    bins = figures.histogram(values)
    if spread is None or not bins:
        return None
    histogram = histogram_of(bins, spread, len(values)) if len(values) >= MIN_HISTOGRAM_VALUES else None
    return Downtime(spread.median, spread.ninety, spread.longest, histogram)


# tables


def _stretches(report: DrainReport) -> SumsTable | None:
    stretches = figures.stretches(report)
    if len(stretches) < 2:
        return None
    rows = []
    for stretch, moved, gib, failed in figures.arrivals(report, stretches):
        hours = stretch.seconds / 3600 or None
        rows.append(
            Row(
                f"{day(stretch.began)} {clock(stretch.began)} to {clock(stretch.ended)}",
                (
                    Cell(duration(stretch.seconds), stretch.seconds),
                    Cell(number(moved)),
                    _failures(failed),
                    Cell(number(gib)),
                    Cell(rate(moved / hours) if hours else "–"),
                ),
            )
        )
    return SumsTable(("UTC", "took", "moved", "failed", "GiB", "servers/hour"), tuple(rows))


def _hosts(report: DrainReport) -> Iterator[SumsTable]:
    headers = ("host", "servers", *figures.SHARES, "GiB", "median down")
    for title, hosts in (("From", figures.source_hosts(report)), ("To", figures.target_hosts(report))):
        if hosts:
            rows = tuple(_host_row(sums) for sums in hosts)
            yield SumsTable(headers, rows, f"{title} {count(len(hosts), 'host')}")


def _host_row(sums: HostSums) -> Row:
    shares = (
        _failures(amount) if share == "failed" else Cell(number(amount) if amount else "·")
        for share, amount in sums.counts.items()
    )
    median = Cell("–") if sums.median is None else Cell(duration(sums.median), sums.median)
    return Row(
        sums.host or "no host", (Cell(number(sums.servers)), *shares, Cell(number(sums.gib)), median), is_name=True
    )


def _failures(amount: int) -> Cell:
    return Cell(f"{MARKS[Stage.FAILED]} {amount:,}", is_bad=True) if amount else Cell("·")
