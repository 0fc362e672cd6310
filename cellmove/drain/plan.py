"""What a drain would do: every server of the cell in the order in which it would be moved, room for them, and a guess how long."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cellmove.drain.item import Census, Item, Stage, Task, Verdict
from cellmove.drain.story import draw_servers
from cellmove.drain.wish import Wish, look_again

if TYPE_CHECKING:
    from cellmove.drain.room import Room

SCHEMA_VERSION = 1

ENOUGH = 3
"""Moves of the past that it takes to say how long one lasts."""

GUESS = (60.0, 8.0)
"""Without them: seconds for a server, and for each GiB that is uploaded and downloaded again."""


@dataclass(frozen=True)
class DrainPlan:
    """What was found.

    :param pace: seconds for a server, and for each GiB of it that travels
    :param is_guess: whether no moves of the past say so
    :param left_today: how many moves the operator's rules let begin now; None: as many as there are
    :param left_out: cells that take no servers, and why: their database cannot be read, or is that of another cell
    """

    census: Census
    wish: Wish
    items: tuple[Item, ...]
    rooms: tuple[Room, ...]
    pace: tuple[float, float]
    is_guess: bool
    left_today: int | None = None
    left_out: tuple[str, ...] = ()

    @property
    def movable(self) -> tuple[Item, ...]:
        """The servers that would be moved, in their order."""
        return tuple(each for each in self.items if each.verdict is Verdict.MOVABLE)

    @property
    def seconds(self) -> float:
        """How long it would take."""
        each, gib = self.pace
        return sum(each + gib * item.disk_gb for item in self.movable) / max(self.wish.parallel, 1)


def make(
    census: Census, wish: Wish, rooms: Sequence[Room], past: Iterable[tuple[int, float]], left_today: int | None = None
) -> DrainPlan:
    """Put everything together.

    :param past: of earlier moves: GiB that travelled, and seconds from plan to finish
    """
    pace, is_guess = _pace(list(past))
    items = tuple(sorted(census.items, key=_order(wish.order)))
    return DrainPlan(census, wish, items, tuple(rooms), pace, is_guess, left_today)


def _order(order: str) -> Any:
    """The key by which servers are sorted; what is equal goes by name."""
    return {
        "smallest": lambda item: (item.disk_gb, item.memory_mb, item.name, item.server_id),
        "largest": lambda item: (-item.disk_gb, -item.memory_mb, item.name, item.server_id),
        "oldest": lambda item: (item.created_at, item.name, item.server_id),
        "host": lambda item: (item.host, item.disk_gb, item.memory_mb, item.name, item.server_id),
    }[order]


def _pace(past: list[tuple[int, float]]) -> tuple[tuple[float, float], bool]:
    """Seconds a server and seconds a GiB, from what earlier moves took; medians, so that one odd move says nothing."""
    small = [seconds for gib, seconds in past if not gib]
    large = [(gib, seconds) for gib, seconds in past if gib]
    if len(past) < ENOUGH:
        return GUESS, True
    base = statistics.median(small or [seconds for _gib, seconds in past])
    if not large:
        return (base, GUESS[1]), False
    if not small:
        base = min(seconds for _gib, seconds in large) / 2
    return (base, max(statistics.median((seconds - base) / gib for gib, seconds in large), 0.0)), False


def tasks(plan: DrainPlan) -> list[Task]:
    """The queue's rows for every server of the cell."""
    stages = {Verdict.MOVABLE: Stage.WAITING, Verdict.SKIPPED: Stage.SKIPPED, Verdict.REFUSED: Stage.REFUSED}
    return [
        Task(
            server_id=item.server_id,
            name=item.name,
            project_id=item.project_id,
            host=item.host,
            flavor=item.flavor,
            new_flavor=item.new_flavor,
            disk_gb=item.disk_gb,
            vcpus=item.vcpus,
            memory_mb=item.memory_mb,
            position=position,
            stage=stages[item.verdict],
            code="" if item.verdict is Verdict.MOVABLE else ",".join(item.codes)[:64],
            reason="" if item.verdict is Verdict.MOVABLE else "; ".join(item.reasons),
            next_command=look_again(plan.wish, item.server_id, item.new_flavor)
            if item.verdict is Verdict.REFUSED
            else "",
        )
        for position, item in enumerate(plan.items)
    ]


def document(plan: DrainPlan, again: str) -> dict[str, Any]:
    """As plain JSON: totals, rooms, and every server with what speaks against it. docs/drain.md describes it.

    :param again: the command that moves them
    """
    movable = plan.movable
    census = plan.census
    return {
        "schema_version": SCHEMA_VERSION,
        "cell": census.cell.label,
        "cell_uuid": census.cell.uuid,
        "to": [room.cell.label for room in plan.rooms],
        "to_uuids": [room.cell.uuid for room in plan.rooms],
        "order": plan.wish.order,
        "parallel": plan.wish.parallel,
        "totals": {
            "servers": len(plan.items),
            **{verdict.value: sum(item.verdict is verdict for item in plan.items) for verdict in Verdict},
            "disk_gib": sum(item.disk_gb for item in movable),
            "memory_mb": sum(item.memory_mb for item in movable),
            "vcpus": sum(item.vcpus for item in movable),
        },
        "seen": {
            "mapped": census.mapped, "whole": census.is_whole, "missing": list(census.missing),
            "deleting": list(census.deleting), "strays": list(census.strays),
        },
        "room": [
            {
                "cell": room.cell.label, "cell_uuid": room.cell.uuid, "hosts": len(room.hosts),
                **{name: {"total": room.capacity[name], "used": room.used.get(name, 0)} for name in sorted(room.capacity)},
            }
            for room in plan.rooms
        ],
        "left_out": list(plan.left_out),
        "min_free": plan.wish.min_free,
        "enough_room": _enough(plan),
        "left_today": plan.left_today,
        "estimate": {"seconds": round(plan.seconds), "guess": plan.is_guess},
        "next": again if movable else None,
        "servers": [_item_document(item) for item in plan.items],
    }  # fmt: skip


def _enough(plan: DrainPlan) -> bool:
    """Whether all would fit at once: not a promise, as one host may be too small for one server."""
    wanted = {
        "VCPU": sum(item.vcpus for item in plan.movable),
        "MEMORY_MB": sum(item.memory_mb for item in plan.movable),
        "DISK_GB": sum(item.disk_gb for item in plan.movable),
    }
    usable = 1 - plan.wish.min_free / 100
    return all(
        sum(max(usable * room.capacity.get(name, 0) - room.used.get(name, 0), 0) for room in plan.rooms) >= amount
        for name, amount in wanted.items()
        if any(name in room.capacity for room in plan.rooms) or amount
    )


def _item_document(item: Item) -> dict[str, Any]:
    return {
        "id": item.server_id, "name": item.name, "project": item.project_id, "host": item.host, "state": item.vm_state,
        "flavor": item.flavor, "new_flavor": item.new_flavor or None, "backing": "volume" if item.volume_backed else "image",
        "disk_gib": item.disk_gb, "memory_mb": item.memory_mb, "vcpus": item.vcpus, "created_at": item.created_at,
        "verdict": item.verdict.value, "codes": list(item.codes), "reasons": list(item.reasons),
    }  # fmt: skip


SHOWN = 40
"""Servers that are listed one by one; of more, a reason each with some names."""


def draw(page: Any, found: Mapping[str, Any]) -> None:
    """A plan as a person sees it."""
    from cellmove.ui.console import Command, duration

    totals, estimate = found["totals"], found["estimate"]
    rows = [
        ("cell", found["cell"]),
        ("to", ", ".join(found["to"]) or "no other cell"),
        ("servers", f"{totals['servers']}: {totals['movable']} movable, {totals['skipped']} skipped, {totals['refused']} refused"),
        ("seen", _seen(found["seen"])),
        *(("left out", text) for text in found["left_out"]),
    ]  # fmt: skip
    if totals["movable"]:
        kept = f", and {found['min_free']:g} % stay free" if found["min_free"] else ""
        guess = " (a guess: too few moves yet to go by)" if estimate["guess"] else ""
        rows += [
            ("size", f"{totals['vcpus']} vCPU, {totals['memory_mb'] / 1024:.1f} GiB of memory, {totals['disk_gib']} GiB of local disk"),
            *(("room", _room(room)) for room in found["room"]),
            ("fits", f"yes, all at once{kept}" if found["enough_room"] else f"no: the target has less room than they need{kept}"),
            ("takes", f"about {duration(estimate['seconds'])}, {found['parallel']} at a time{guess}"),
        ]  # fmt: skip
        left = found["left_today"]
        if left is not None and left < totals["movable"]:
            rows.append(("today", f"policy.moves_a_day lets {left or 'none'} of them begin now"))
    page.fields(rows)
    _draw_servers(page, found["servers"])
    if found["next"]:
        page.gap()
        page.fields([("next", Command(found["next"]))])


def _draw_servers(page: Any, servers: Sequence[Mapping[str, Any]]) -> None:
    """Each of few servers; of many only those that stay, by what speaks against them."""
    if 0 < len(servers) <= SHOWN:
        page.gap()
        page.table(
            ("server", "host", "flavor", "state", "disk", "verdict"),
            [
                (
                    each["name"], each["host"],
                    f"{each['flavor']} -> {each['new_flavor']}" if each["new_flavor"] else each["flavor"], each["state"],
                    "volume" if each["backing"] == "volume" else f"{each['disk_gib']} GiB", each["verdict"],
                )
                for each in servers
            ],
        )  # fmt: skip
        kept = [each for each in servers if each["reasons"]]
        draw_servers(
            page, [(each["verdict"], each["name"], each["host"], "; ".join(each["reasons"]), "") for each in kept]
        )
        return
    reasons: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in servers:
        for code in each["codes"] if each["verdict"] != "movable" else ():
            reasons.setdefault((each["verdict"], code), []).append(each)
    for (verdict, code), many in sorted(reasons.items(), key=lambda pair: (pair[0][0], -len(pair[1]))):
        words = many[0]["reasons"][min(many[0]["codes"].index(code), len(many[0]["reasons"]) - 1)]
        names = ", ".join(each["name"] for each in many[:3]) + (", …" if len(many) > 3 else "")
        page.gap()
        page.fields([(verdict, f"{len(many)}: {names}"), ("  check", code), ("  why", words)])


def _seen(seen: Mapping[str, Any]) -> str:
    if seen["whole"]:
        return f"every one of the {seen['mapped']} that the API maps to it"
    missing = ", ".join(seen["missing"][:3]) + (", …" if len(seen["missing"]) > 3 else "")
    return (
        f"not all of the {seen['mapped']} that the API maps to it: {len(seen['missing'])} have no row there ({missing})"
    )


def _room(room: Mapping[str, Any]) -> str:
    parts = [
        f"{(room[name]['total'] - room[name]['used']) / scale:.0f} of {room[name]['total'] / scale:.0f} {word} free"
        for name, word, scale in (
            ("VCPU", "vCPU", 1),
            ("MEMORY_MB", "GiB of memory", 1024),
            ("DISK_GB", "GiB of disk", 1),
        )
        if name in room
    ]
    return f"{room['cell']}: {room['hosts']} host{'s' if room['hosts'] != 1 else ''}; {', '.join(parts)}"
