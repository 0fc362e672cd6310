"""The JSON documents about drains: what ``--format json`` prints, and what is drawn for a person. See docs/drain.md."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cellmove.core.clock import text_of
from cellmove.core.move import SCHEMA_VERSION
from cellmove.drain import figures
from cellmove.drain.item import IN_PROGRESS, Stage, Verdict, host_at
from cellmove.drain.options import to_document

if TYPE_CHECKING:
    from cellmove.drain.capacity import CellCapacity
    from cellmove.drain.drain_report import DrainReport, ServerReport
    from cellmove.drain.durations import StepBar
    from cellmove.drain.events import DrainEvent
    from cellmove.drain.item import Item, Task
    from cellmove.drain.plan import DrainPlan
    from cellmove.drain.result import RunResult
    from cellmove.drain.status import DrainStatus
    from cellmove.ui.drain_types import (
        DecommissionDocument,
        EventDocument,
        PlanDocument,
        PlanServer,
        ReportDocument,
        ReportDowntime,
        ReportHost,
        ReportServer,
        ReportStep,
        ResultDocument,
        ResultServer,
        StatusDocument,
        StatusServer,
    )

DRAIN_SCHEMA_VERSION = 1


# the plan


def plan_document(plan: DrainPlan, command: str) -> PlanDocument:
    """Return a plan as a document.

    :param command: the command that moves the servers
    """
    movable, census = plan.movable, plan.census
    verdicts = {verdict: sum(item.verdict is verdict for item in plan.items) for verdict in Verdict}
    return {
        "schema_version": DRAIN_SCHEMA_VERSION,
        "cell": census.cell.label,
        "cell_uuid": census.cell.uuid,
        "to": [capacity.cell.label for capacity in plan.capacities],
        "to_uuids": [capacity.cell.uuid for capacity in plan.capacities],
        "order": plan.options.order,
        "parallel": plan.options.parallel,
        "totals": {
            "servers": len(plan.items),
            "movable": verdicts[Verdict.MOVABLE],
            "skipped": verdicts[Verdict.SKIPPED],
            "refused": verdicts[Verdict.REFUSED],
            "disk_gib": sum(item.disk_gb for item in movable),
            "memory_mb": sum(item.memory_mb for item in movable),
            "vcpus": sum(item.vcpus for item in movable),
        },
        "seen": {
            "mapped": census.mapped,
            "whole": census.is_whole,
            "missing": list(census.missing),
            "deleting": list(census.deleting),
            "strays": list(census.strays),
        },
        "room": [_capacity_document(capacity) for capacity in plan.capacities],
        "left_out": list(plan.excluded_cells),
        "min_free": plan.options.min_free,
        "enough_room": plan.has_capacity,
        "left_today": plan.left_today,
        "estimate": {"seconds": round(plan.seconds), "guess": plan.pace.is_guess},
        "next": command if movable else None,
        "servers": [_plan_server(item) for item in plan.items],
    }


def _capacity_document(capacity: CellCapacity) -> dict[str, object]:
    document: dict[str, object] = {
        "cell": capacity.cell.label,
        "cell_uuid": capacity.cell.uuid,
        "hosts": len(capacity.hosts),
    }
    for name in sorted(capacity.total):
        document[name] = {"total": capacity.total[name], "used": capacity.used.get(name, 0)}
    return document


def _plan_server(item: Item) -> PlanServer:
    return {
        "id": item.server_id,
        "name": item.name,
        "project": item.project_id,
        "host": item.host,
        "state": item.vm_state,
        "flavor": item.flavor,
        "new_flavor": item.new_flavor or None,
        "backing": "volume" if item.volume_backed else "image",
        "disk_gib": item.disk_gb,
        "memory_mb": item.memory_mb,
        "vcpus": item.vcpus,
        "created_at": item.created_at,
        "verdict": item.verdict.value,
        "codes": list(item.codes),
        "reasons": list(item.reasons),
    }


# an event, and the result of a run


def event_document(event: DrainEvent) -> EventDocument:
    """Return an event as a document."""
    decommission = decommission_document(event.result) if event.result is not None else None
    return {
        "schema_version": DRAIN_SCHEMA_VERSION,
        "event": event.kind.value,
        "at": event.at,
        "cell": event.cell.label,
        "cell_uuid": event.cell.uuid or None,
        "server": {"id": event.server_id, "name": event.server_name} if event.server_id else None,
        "move": event.move_id or None,
        "step": event.step or None,
        "source_host": event.host or None,
        "target_host": event.target_host or None,
        "disk_gib": event.disk_gb,
        "seconds": round(event.seconds, 3),
        "reason": event.reason or None,
        "next": event.next_command or None,
        "counts": dict(event.counts) or None,
        "ending": decommission,
    }


def decommission_document(result: RunResult) -> DecommissionDocument | None:
    """Return the decommission of the cell as a document; None while servers wait."""
    decommission = result.decommission
    if decommission is None:
        return {"unseen": result.unchecked_reason} if result.unchecked_reason else None
    can_be_deleted = not decommission.obstacles and not result.leftovers
    return {
        "leftovers": list(result.leftovers),
        "hindrances": list(decommission.obstacles),
        "commands": list(decommission.commands) if can_be_deleted else [],
    }


LISTED_STAGES = (
    Stage.FAILED,
    Stage.UNVERIFIED,
    Stage.REVERTED,
    Stage.REFUSED,
    Stage.SKIPPED,
    Stage.SOAKING,
    Stage.WAITING,
)
"""Stages whose servers a result lists."""


def result_document(result: RunResult) -> ResultDocument:
    """Return the result of a run as a document."""
    return {
        "schema_version": DRAIN_SCHEMA_VERSION,
        "drain": result.record.id if result.record is not None else None,
        "cell": result.cell.label,
        "cell_uuid": result.cell.uuid,
        "stopped": result.stop_reason or None,
        "counts": result.counts,
        "left": [_result_server(task) for task in result.in_stages(*LISTED_STAGES)],
        "unconfirmed": [
            {
                "id": task.server_id,
                "name": task.name,
                "host": task.target_host,
                "move": task.move_id,
                "reason": task.reason,
                "next": task.next_command,
            }
            for task in result.unconfirmed
        ],
        "ending": decommission_document(result),
    }


def _result_server(task: Task) -> ResultServer:
    return {
        "id": task.server_id,
        "name": task.name,
        "host": host_at(task.stage, task.host, task.target_host),
        "stage": task.stage.value,
        "reason": task.reason or None,
        "next": task.next_command or None,
    }


# the status


TROUBLE_STAGES = (Stage.FAILED, Stage.UNVERIFIED, Stage.REVERTED, Stage.REFUSED, Stage.SKIPPED)


def status_document(status: DrainStatus) -> StatusDocument:
    """Return the status of a drain as a document."""
    options = to_document(status.options) if status.options is not None else {}
    targets: dict[str, object] = {
        "to": [cell.label for cell in status.targets],
        "to_uuids": [cell.uuid for cell in status.targets],
    }

    def servers(*stages: Stage) -> list[StatusServer]:
        return [_status_server(task, status.generated_at) for task in status.tasks if task.stage in stages]

    return {
        "schema_version": DRAIN_SCHEMA_VERSION,
        "drain": status.drain_id,
        "cell": status.cell.label,
        "cell_uuid": status.cell.uuid,
        "state": status.state,
        "control": status.control or None,
        "runs": list(status.runs),
        "next": status.next_command or None,
        "wish": options | targets,
        "counts": {stage.value: sum(task.stage is stage for task in status.tasks) for stage in Stage},
        "under_way": servers(*IN_PROGRESS),
        "soaking": servers(Stage.SOAKING),
        "trouble": servers(*TROUBLE_STAGES),
        "unconfirmed": [_status_server(task, status.generated_at) for task in status.unconfirmed],
    }


def _status_server(task: Task, now: float) -> StatusServer:
    return {
        "server": {"id": task.server_id, "name": task.name},
        "stage": task.stage.value,
        "move": task.move_id or None,
        "source_host": task.host,
        "target_host": task.target_host or None,
        "tries": task.tries,
        "elapsed_seconds": round(now - task.began) if task.stage in IN_PROGRESS and task.began else None,
        "due_in_seconds": round(task.due - now) if task.stage is Stage.SOAKING else None,
        "code": task.code or None,
        "reason": task.reason or None,
        "next": task.next_command or None,
    }


# the report


def report_document(report: DrainReport) -> ReportDocument:
    """Return the report of a drain as a document."""
    pace = figures.pace(report)
    return {
        "schema_version": SCHEMA_VERSION,
        "drain": report.drain_id,
        "state": report.state,
        "cell": report.cell.label,
        "cell_uuid": report.cell.uuid,
        "to": [cell.label for cell in report.to],
        "to_uuids": [cell.uuid for cell in report.to],
        "begun_at": iso(report.begun),
        "told_at": iso(report.generated_at),
        "counts": {
            "servers": len(report.servers),
            "stages": {stage.value: count for stage, count in figures.by_stage(report.servers).items()},
            "shares": figures.by_share(report.servers),
        },
        "pace": {
            "seconds": _rounded(pace.seconds),
            "gib_moved": figures.gib_moved(report.servers),
            "servers_an_hour": _rounded(pace.servers_an_hour),
            "gib_an_hour": _rounded(pace.gib_an_hour),
        },
        "downtime": _downtime_document(figures.spread(report.servers, shown=1)),
        "source_hosts": [_host_document(sums) for sums in figures.source_hosts(report)],
        "target_hosts": [_host_document(sums) for sums in figures.target_hosts(report)],
        "servers": [_report_server(report, server) for server in report.servers],
    }


def _downtime_document(spread: figures.Spread | None) -> ReportDowntime | None:
    if spread is None:
        return None
    longest = spread.longest[0]
    return {
        "median": _rounded(spread.median),
        "ninety_percent": _rounded(spread.ninety),
        "longest": _rounded(longest.downtime),
        "longest_server": {"id": longest.server_id, "name": longest.name},
    }


def _host_document(sums: figures.HostSums) -> ReportHost:
    return {
        "host": sums.host,
        "servers": sums.servers,
        "moved": sums.counts["moved"],
        "left": sums.counts["left"],
        "failed": sums.counts["failed"],
        "staying": sums.counts["staying"],
        "gone": sums.counts["gone"],
        "gib": sums.gib,
        "median_downtime": _rounded(sums.median),
    }


def _report_server(report: DrainReport, server: ServerReport) -> ReportServer:
    target = report.to[0] if len(report.to) == 1 and server.target_host else None
    return {
        "server": {"id": server.server_id, "name": server.name, "project": server.project_id},
        "source": {"cell": report.cell.label, "cell_uuid": report.cell.uuid, "host": server.source_host},
        "target": {
            "cell": target.label if target else "",
            "cell_uuid": target.uuid if target else "",
            "host": server.target_host,
        },
        "disk_gib": server.disk_gb,
        "stage": server.stage.value,
        "reason": server.reason or None,
        "next": server.next_command or None,
        "move": server.move_id or None,
        "downtime": _rounded(server.downtime),
        "steps": [_step_document(bar) for bar in server.bars],
    }


def _step_document(bar: StepBar) -> ReportStep:
    return {
        "step": bar.step,
        "state": "failed" if bar.failed else "running" if bar.ended is None else "done",
        "started_at": iso(bar.began),
        "finished_at": None if bar.ended is None else iso(bar.ended),
    }


def iso(seconds: float) -> str:
    """Return a time as the journal writes it: UTC, ISO 8601.

    :param seconds: since the epoch
    """
    return text_of(datetime.datetime.fromtimestamp(round(seconds, 3), datetime.UTC))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def listed(counts: Mapping[str, int]) -> str:
    """Return numbers by stage as text: "4 waiting, 2 moved"."""
    return ", ".join(f"{counts[stage]} {stage}" for stage in Stage if counts.get(stage)) or "no servers"
