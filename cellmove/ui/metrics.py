"""Metrics of moves and drains for Prometheus, computed from the journal.

The values are computed from the whole journal each time, so no process has to run. Histograms grow only: a step
counts when it can no longer be rolled back, and its time does not change after that. docs/metrics.md describes each
metric.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cellmove.core.cell_names import recorded_ref
from cellmove.core.clock import seconds_of
from cellmove.core.move import CLOSED, Entry, Move, Phase, State, Step
from cellmove.core.move_plan import outline_of
from cellmove.drain import figures
from cellmove.drain.drain_report import DrainReport, build_report
from cellmove.drain.durations import REPORTED_STEPS, down_since, outages, step_bars
from cellmove.drain.item import TROUBLED, Stage
from cellmove.drain.queue import open_queue
from cellmove.drain.status import active_runs
from cellmove.ui.console import clean

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from cellmove.operations.context import Session

Labels = tuple[str, ...]

STEP_BUCKETS_SECONDS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)
DOWNTIME_BUCKETS_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)

LAST_ACTIONS: Mapping[Step, str] = {
    Step.PREP_DEST: "close",
    Step.PREP_SOURCE: "close",
    Step.FINISH: "close",
    Step.CONFIRM: "settle_target",
    Step.REVERT: "close_revert",
}
"""The action after which a step is never rolled back. The first three steps can be, until ``finish`` is complete."""

DIRECTIONS = ("there", "back")
TRANSFERS = ("image", "stream", "volumes")

ENDED_DRAIN_SECONDS = 7 * 86400.0
"""How long after its end a drain is still shown."""

PAGE_MOVES = 200
"""Moves whose lines are read at a time."""


@dataclass(frozen=True)
class DrainMetrics:
    """The metrics of one drain.

    :param runs: number of runs at work
    :param servers: number of servers by stage, every stage
    :param trouble: number of servers that failed or stay, by stage and code
    :param servers_per_hour: while runs were at work; None when nothing was done
    :param remaining_seconds: None for a drain that is over, and when nothing was moved yet
    """

    cell: str
    cell_uuid: str
    is_open: bool
    runs: int
    servers: Mapping[Stage, int]
    trouble: Mapping[Labels, int]
    moved_bytes: int
    servers_per_hour: float | None
    remaining_seconds: float | None


@dataclass(frozen=True)
class JournalMetrics:
    """All metrics of a journal. Times are seconds.

    :param moves: number of moves by kind and state
    :param repairs: number of repairs by state
    :param oldest: age of the oldest open move, by state; likewise ``longest``: the longest time without a new state
    :param steps: the duration of each complete step, by step
    :param downtimes: each time for which a guest was down, by direction and transfer
    :param guest_down: the longest time for which a guest has been down because of its open move; 0 without any
    :param failures: number of moves in which an action failed, by step and action
    """

    moves: Counter[Labels] = field(default_factory=Counter)
    repairs: Counter[Labels] = field(default_factory=Counter)
    oldest: dict[Labels, float] = field(default_factory=dict)
    longest: dict[Labels, float] = field(default_factory=dict)
    steps: dict[Labels, list[float]] = field(default_factory=lambda: {(step.value,): [] for step in REPORTED_STEPS})
    downtimes: dict[Labels, list[float]] = field(
        default_factory=lambda: {(direction, transfer): [] for direction in DIRECTIONS for transfer in TRANSFERS}
    )
    failures: Counter[Labels] = field(default_factory=Counter)
    guest_down: dict[Labels, float] = field(default_factory=lambda: {(): 0.0})
    drains: tuple[DrainMetrics, ...] = ()


def gather(session: Session) -> JournalMetrics:
    """Read the journal. Nothing is written, and no API is called.

    :raises Unreachable: the journal cannot be read, or is damaged
    """
    journal, now = session.journal, session.clock.utc_now().timestamp()
    metrics = JournalMetrics(drains=tuple(_drains(session, now)))
    moves = journal.all_moves()
    _count_states(metrics, moves, now)
    own = [move for move in moves if not move.is_repair]
    for at in range(0, len(own), PAGE_MOVES):
        page = own[at : at + PAGE_MOVES]
        lines = journal.entries_of_moves([move.id for move in page])
        for move in page:
            _count_lines(metrics, move, lines.get(move.id, []))
            _count_guest_down(metrics, move, lines.get(move.id, []), now)
    return metrics


def _count_states(metrics: JournalMetrics, moves: Sequence[Move], now: float) -> None:
    for state in State:
        if state not in {*CLOSED, State.CORDONING, State.DRAINING}:
            metrics.oldest[state.value,] = metrics.longest[state.value,] = 0.0
    for move in moves:
        if move.is_repair:
            metrics.repairs[move.state.value,] += 1
        else:
            metrics.moves[move.kind, move.state.value] += 1
        if move.is_open:
            key = (move.state.value,)
            metrics.oldest[key] = max(metrics.oldest[key], now - seconds_of(move.created_at))
            metrics.longest[key] = max(metrics.longest[key], now - seconds_of(move.updated_at))


def _count_lines(metrics: JournalMetrics, move: Move, entries: Sequence[Entry]) -> None:
    done = {entry.action for entry in entries if entry.phase is Phase.DONE}
    # adopt writes lines whose start and end are the moment of writing: they tell no duration.
    is_told = any(entry.started_at != entry.finished_at for entry in entries)
    for bar in step_bars(entries) if is_told else ():
        if LAST_ACTIONS[Step(bar.step)] in done and bar.ended is not None and not bar.failed:
            metrics.steps[bar.step,].append(bar.ended - bar.began)
    if outline_of(move).active:
        _count_downtimes(metrics, move, entries, done)
    failed = {(entry.step, entry.action) for entry in entries if entry.error}
    metrics.failures.update(failed)


def _count_guest_down(metrics: JournalMetrics, move: Move, entries: Sequence[Entry], now: float) -> None:
    since = down_since(entries) if move.is_open and outline_of(move).active else None
    if since is not None:
        metrics.guest_down[()] = max(metrics.guest_down[()], now - since)


def _count_downtimes(metrics: JournalMetrics, move: Move, entries: Sequence[Entry], done: Collection[str]) -> None:
    """Count the downtimes that do not change any more, because a histogram must not shrink."""
    outline = outline_of(move)
    transfer = outline.transfer or ("volumes" if outline.volume_backed else "image")
    last_steps = (Step.FINISH, Step.REVERT)
    for direction, last_step, known in zip(DIRECTIONS, last_steps, outages(entries), strict=True):
        if LAST_ACTIONS[last_step] in done or not move.is_open:
            metrics.downtimes.setdefault((direction, transfer), []).extend(
                seconds for seconds in known if seconds is not None
            )


def _drains(session: Session, now: float) -> Iterator[DrainMetrics]:
    """The newest drain of each cell, if it is open or ended a short time ago."""
    newest = {record.server_id: record for record in session.journal.drains()}
    for record in newest.values():
        if record.is_open or now - seconds_of(record.updated_at) < ENDED_DRAIN_SECONDS:
            report = build_report(session, record)
            pace = figures.pace(report)
            stages = figures.by_stage(report.servers)
            yield DrainMetrics(
                recorded_ref(record.server_id, record.server_name).label,
                record.server_id,
                record.is_open,
                len(active_runs(session, record)),
                {stage: stages.get(stage, 0) for stage in Stage},
                _trouble(session, record),
                figures.gib_moved(report.servers) << 30,
                pace.servers_an_hour,
                _remaining_seconds(report, pace) if record.is_open else None,
            )


def _trouble(session: Session, record: Move) -> Counter[Labels]:
    tasks = open_queue(session, record).tasks(*TROUBLED, Stage.REFUSED, Stage.SKIPPED)
    return Counter((task.stage.value, task.code.partition(",")[0] or "unknown") for task in tasks)


def _remaining_seconds(report: DrainReport, pace: figures.Pace) -> float | None:
    if not pace.servers_an_hour:
        return None
    return figures.by_share(report.servers)["left"] / pace.servers_an_hour * 3600


# the text for Prometheus


def exposition(metrics: JournalMetrics, version: str, *, is_for_file: bool) -> bytes:
    """Return the metrics as text.

    :param version: of cellmove
    :param is_for_file: in the text format of Prometheus, which is all that node_exporter reads from files; otherwise
        in OpenMetrics
    """
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.openmetrics import exposition as openmetrics
    from prometheus_client.registry import Collector

    class Collected(Collector):
        """Gives the metrics to the registry of prometheus_client."""

        def collect(self) -> Iterable[Metric]:
            """Return the metrics."""
            return families(metrics, version)

    registry = CollectorRegistry()
    registry.register(Collected())
    if is_for_file:
        return generate_latest(registry)
    text: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]  # has no types
    return text


def families(metrics: JournalMetrics, version: str) -> list[Metric]:
    """Return the metrics."""
    return [
        _gauge("cellmove_build_info", "Version of cellmove; always 1.", ("version",), {(version,): 1}),
        _gauge("cellmove_moves", "Moves in the journal.", ("kind", "state"), metrics.moves),
        _gauge("cellmove_repairs", "Repairs of audit in the journal.", ("state",), metrics.repairs),
        _gauge(
            "cellmove_open_move_oldest_age_seconds",
            "Age of the oldest open move; 0 without any.",
            ("state",),
            metrics.oldest,
        ),
        _gauge(
            "cellmove_open_move_longest_in_state_seconds",
            "Longest time since the last change of state of an open move; 0 without any.",
            ("state",),
            metrics.longest,
        ),
        _gauge(
            "cellmove_guest_down_seconds",
            "Longest time for which a guest has been down because of its open move; 0 without any.",
            (),
            metrics.guest_down,
        ),
        _histogram(
            "cellmove_step_duration_seconds",
            "Duration of complete steps, from their first action to their last.",
            ("step",),
            metrics.steps,
            STEP_BUCKETS_SECONDS,
        ),
        _histogram(
            "cellmove_guest_downtime_seconds",
            "Time for which a guest did not run because of its move.",
            ("direction", "transfer"),
            metrics.downtimes,
            DOWNTIME_BUCKETS_SECONDS,
        ),
        _gauge("cellmove_failures", "Moves in which this action failed.", ("step", "action"), metrics.failures),
        *_drain_families(metrics.drains),
    ]


def _drain_families(drains: Sequence[DrainMetrics]) -> list[Metric]:
    cell = ("cell", "cell_uuid")
    keys = [(drain, (clean(drain.cell), drain.cell_uuid)) for drain in drains]
    return [
        _gauge("cellmove_drain_open", "1 while the drain is open.", cell, {key: drain.is_open for drain, key in keys}),
        _gauge("cellmove_drain_runs", "Runs that are at work.", cell, {key: drain.runs for drain, key in keys}),
        _gauge(
            "cellmove_drain_servers",
            "Servers of the drain by stage.",
            (*cell, "stage"),
            {(*key, stage.value): number for drain, key in keys for stage, number in drain.servers.items()},
        ),
        _gauge(
            "cellmove_drain_trouble",
            "Servers that failed, were refused or were skipped.",
            (*cell, "stage", "code"),
            {(*key, *labels): number for drain, key in keys for labels, number in drain.trouble.items()},
        ),
        _gauge(
            "cellmove_drain_moved_bytes",
            "Local disks of the servers that moved.",
            cell,
            {key: drain.moved_bytes for drain, key in keys},
        ),
        _gauge(
            "cellmove_drain_servers_per_hour",
            "Servers moved an hour, while runs were at work.",
            cell,
            {key: drain.servers_per_hour for drain, key in keys if drain.servers_per_hour is not None},
        ),
        _gauge(
            "cellmove_drain_remaining_seconds",
            "Estimated time at work until no server waits.",
            cell,
            {key: drain.remaining_seconds for drain, key in keys if drain.remaining_seconds is not None},
        ),
    ]


def _gauge(name: str, words: str, labels: Sequence[str], values: Mapping[Labels, float]) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, words, labels=labels)
    for key in sorted(values):
        family.add_metric(key, float(values[key]))
    return family


def _histogram(
    name: str, words: str, labels: Sequence[str], values: Mapping[Labels, Sequence[float]], bounds: Sequence[float]
) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(name, words, labels=labels)
    for key in sorted(values):
        buckets = [(str(float(bound)), float(sum(value <= bound for value in values[key]))) for bound in bounds]
        family.add_metric(key, [*buckets, ("+Inf", float(len(values[key])))], sum_value=float(sum(values[key])))
    return family
