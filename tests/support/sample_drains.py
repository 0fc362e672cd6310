"""Stories to draw: made up, the same ones every time."""

from __future__ import annotations

import random

from cellmove.drain.drain_report import DrainReport, ServerReport
from cellmove.drain.durations import StepBar
from cellmove.drain.item import Stage
from tests.support.cell_refs import ref

BEGUN = 1773349200.0
"""Thursday, 12 March 2026, 21:00 UTC."""

HOSTILE = (
    "<script>document.title='owned'</script>", "\"><img src=x onerror=alert(1)>", "' onmouseover=alert(1) '",
    "日本語サーバー", "مرحبا\u202eevil", "a" * 255, "&amp;lt;", "</title></svg><b>", "naïve\x00\x1b[31m\ud800", "", "]]>-->",
)  # fmt: skip

TROUBLES = (
    (
        Stage.FAILED,
        "prep-source failed at stop_source: c2-host1 has no room left on its disk",
        "cellmove rollback {move}",
    ),
    (Stage.UNVERIFIED, "port 10.0.0.7 is DOWN at the target [port-down]", "cellmove revert {move}"),
    (Stage.REVERTED, "the guest did not answer tcp:22 within 60 s", ""),
)
REFUSALS = (
    (
        Stage.REFUSED,
        "it has an ephemeral disk, which does not travel [ephemeral]; accept that by --accept-loss=ephemeral",
    ),
    (Stage.SKIPPED, "it has the tag cellmove:skip"),
    (Stage.GONE, "its owner deleted it"),
)


def a_report(
    count: int, *, nights: int = 1, hours: float = 8, hosts: int = 6, parallel: int = 4, seed: int = 1
) -> DrainReport:
    """A drain of so many servers as it usually goes: a few fail, some are refused, the last ones wait.

    :param hours: of work in each night
    """
    chance = random.Random(seed)  # noqa: S311 - nothing secret comes of it
    lanes = [BEGUN + 20 * lane for lane in range(parallel)]
    seconds_a_server = nights * hours * 3600 * parallel / max(count, 1)
    servers = []
    for number in range(count):
        kind = chance.random()
        host = f"c1-compute-{number % hosts + 1}"
        if kind < 0.05:
            stage, reason = chance.choice(REFUSALS)
            servers.append(a_server(number, host, stage, reason=reason))
            continue
        lane = lanes.index(min(lanes))
        began = lanes[lane]
        night = int((began - BEGUN) // 86400)
        if began - BEGUN - night * 86400 > hours * 3600:
            night += 1
            began = BEGUN + night * 86400 + 20 * lane
        if night >= nights:
            servers.append(a_server(number, host, Stage.WAITING))
            continue
        took = min(chance.lognormvariate(0, 0.6) * seconds_a_server * 0.8, hours * 1800)
        lanes[lane] = began + took
        servers.append(_moved(number, host, began, took, chance, kind))
    end = max(lanes) if count else BEGUN
    return DrainReport(
        "drain-7c01f2", ref("cell1"), (ref("cell2"), ref("cell3")), "drained", BEGUN - 60, end + 30, tuple(servers)
    )


def a_server(number: int, host: str, stage: Stage, **more: object) -> ServerReport:
    """A server of which nothing but its stage is known."""
    values = {"name": f"web-{number:04}", "project_id": "7a" * 16, "target_host": "", "disk_gb": 0} | more
    return ServerReport(server_id=an_id(number), source_host=host, stage=stage, **values)  # type: ignore[arg-type]


def an_id(number: int) -> str:
    """A UUID that says whose it is."""
    return f"{number:08x}-{number % 65536:04x}-4c3d-9a1b-{number * 7919 % 16**12:012x}"


def hostile_report() -> DrainReport:
    """Servers with names that want to be something else than names, in every part of the page."""
    servers = []
    for number, name in enumerate(HOSTILE):
        for stage in Stage:
            place = number * len(Stage) + list(Stage).index(stage)
            bars = (
                StepBar("prep-dest", BEGUN, BEGUN + 5),
                StepBar("prep-source", BEGUN + 5, BEGUN + 60 + place, failed=number % 2 == 0),
            )
            more = {"bars": bars, "downtime": float(place)} if number % 3 else {}
            words = dict.fromkeys(("name", "project_id", "target_host", "reason", "next_command", "move_id"), name)
            servers.append(a_server(place, name, stage, **words, **more))
    return DrainReport(
        HOSTILE[0], ref(HOSTILE[1]), tuple(map(ref, HOSTILE[2:4])), HOSTILE[0], BEGUN, BEGUN + 900, tuple(servers)
    )


def _moved(number: int, host: str, began: float, took: float, chance: random.Random, kind: float) -> ServerReport:
    marks = [began, began + took * 0.04, began + took * 0.7, began + took * 0.85, began + took]
    names = ("prep-dest", "prep-source", "finish", "confirm")
    bars = tuple(StepBar(name, start, end) for name, start, end in zip(names, marks, marks[1:], strict=False))
    values = {
        "target_host": f"c{2 + number % 2}-compute-{number % 9 + 1}", "disk_gb": chance.choice((0, 10, 20, 40, 80)),
        "move_id": f"move-{number:06x}", "bars": bars, "downtime": round(took * 0.81, 3),
    }  # fmt: skip
    if kind > 0.97:
        stage, reason, command = chance.choice(TROUBLES)
        keep = {Stage.FAILED: 2, Stage.UNVERIFIED: 3, Stage.REVERTED: 3}[stage]
        last = bars[keep - 1]
        tail = (StepBar("revert", marks[3], marks[4]),) if stage is Stage.REVERTED else ()
        failed = stage is Stage.FAILED
        values |= {
            "bars": (*bars[: keep - 1], StepBar(last.step, last.began, last.ended, failed), *tail),
            "reason": reason, "next_command": command.format(move=values["move_id"]),
            "downtime": None if failed else values["downtime"],
        }  # fmt: skip
        return a_server(number, host, stage, **values)
    return a_server(number, host, Stage.MOVED, **values)
