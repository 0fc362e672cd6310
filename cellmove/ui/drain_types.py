"""The types of the JSON documents about drains. docs/drain.md describes each key."""

from __future__ import annotations

from typing import TypedDict


class ServerName(TypedDict):
    """A server in a document."""

    id: str
    name: str


class PlanTotals(TypedDict):
    """Sums of a plan; resources are those of the movable servers."""

    servers: int
    movable: int
    skipped: int
    refused: int
    disk_gib: int
    memory_mb: int
    vcpus: int


class PlanCoverage(TypedDict):
    """How the rows of the cell compare with the mappings."""

    mapped: int
    whole: bool
    missing: list[str]
    deleting: list[str]
    strays: list[str]


class Estimate(TypedDict):
    """The estimated duration of a drain."""

    seconds: int
    guess: bool


class PlanServer(TypedDict):
    """One server of a plan."""

    id: str
    name: str
    project: str
    host: str
    state: str
    flavor: str
    new_flavor: str | None
    backing: str
    disk_gib: int
    memory_mb: int
    vcpus: int
    created_at: str
    verdict: str
    codes: list[str]
    reasons: list[str]


class PlanDocument(TypedDict):
    """A plan. ``room`` has a key for each resource class of placement, beside those of the cell."""

    schema_version: int
    cell: str
    cell_uuid: str
    to: list[str]
    to_uuids: list[str]
    order: str
    parallel: int
    totals: PlanTotals
    seen: PlanCoverage
    room: list[dict[str, object]]
    left_out: list[str]
    min_free: float
    enough_room: bool
    left_today: int | None
    estimate: Estimate
    next: str | None
    servers: list[PlanServer]


class DecommissionDocument(TypedDict, total=False):
    """The decommission of the cell: ``unseen`` when it could not be checked, otherwise the other keys."""

    unseen: str
    leftovers: list[str]
    hindrances: list[str]
    commands: list[str]


class EventDocument(TypedDict):
    """One line of a run. Every line has every key."""

    schema_version: int
    event: str
    at: str
    cell: str
    cell_uuid: str | None
    server: ServerName | None
    move: str | None
    step: str | None
    source_host: str | None
    target_host: str | None
    disk_gib: int
    seconds: float
    reason: str | None
    next: str | None
    counts: dict[str, int] | None
    ending: DecommissionDocument | None


class ResultServer(TypedDict):
    """A server of a result that was not moved, or not moved yet."""

    id: str
    name: str
    host: str
    stage: str
    reason: str | None
    next: str | None


class UnconfirmedServer(TypedDict):
    """A server of a result that stays in VERIFY_RESIZE."""

    id: str
    name: str
    host: str
    move: str
    reason: str
    next: str


class ResultDocument(TypedDict):
    """The result of a run."""

    schema_version: int
    drain: str | None
    cell: str
    cell_uuid: str
    stopped: str | None
    counts: dict[str, int]
    left: list[ResultServer]
    unconfirmed: list[UnconfirmedServer]
    ending: DecommissionDocument | None


class StatusServer(TypedDict):
    """A server of a status."""

    server: ServerName
    stage: str
    move: str | None
    source_host: str
    target_host: str | None
    tries: int
    elapsed_seconds: int | None
    due_in_seconds: int | None
    code: str | None
    reason: str | None
    next: str | None


class StatusDocument(TypedDict):
    """The status of a drain. ``wish`` holds the options of the newest run."""

    schema_version: int
    drain: str
    cell: str
    cell_uuid: str
    state: str
    control: str | None
    runs: list[str]
    next: str | None
    wish: dict[str, object]
    counts: dict[str, int]
    under_way: list[StatusServer]
    soaking: list[StatusServer]
    trouble: list[StatusServer]
    unconfirmed: list[StatusServer]


class ReportCounts(TypedDict):
    """Numbers of servers, by stage and by share."""

    servers: int
    stages: dict[str, int]
    shares: dict[str, int]


class ReportPace(TypedDict):
    """How fast the drain was; rates are null when nothing was done."""

    seconds: float | None
    gib_moved: int
    servers_an_hour: float | None
    gib_an_hour: float | None


class ReportDowntime(TypedDict):
    """Downtimes in seconds."""

    median: float | None
    ninety_percent: float | None
    longest: float | None
    longest_server: ServerName


class ReportHost(TypedDict):
    """The servers of one host. The numbers by share have their names."""

    host: str
    servers: int
    moved: int
    left: int
    failed: int
    staying: int
    gone: int
    gib: int
    median_downtime: float | None


class ReportServerName(ServerName):
    """A server with its project."""

    project: str


class ReportPlace(TypedDict):
    """A cell and a host."""

    cell: str
    cell_uuid: str
    host: str


class ReportStep(TypedDict):
    """A step of a move; its state is done, failed or running."""

    step: str
    state: str
    started_at: str
    finished_at: str | None


class ReportServer(TypedDict):
    """One server of a report."""

    server: ReportServerName
    source: ReportPlace
    target: ReportPlace
    disk_gib: int
    stage: str
    reason: str | None
    next: str | None
    move: str | None
    downtime: float | None
    steps: list[ReportStep]


class ReportDocument(TypedDict):
    """The report of a drain. An empty ``to`` means every other cell."""

    schema_version: int
    drain: str
    state: str
    cell: str
    cell_uuid: str
    to: list[str]
    to_uuids: list[str]
    begun_at: str
    told_at: str
    counts: ReportCounts
    pace: ReportPace
    downtime: ReportDowntime | None
    source_hosts: list[ReportHost]
    target_hosts: list[ReportHost]
    servers: list[ReportServer]
