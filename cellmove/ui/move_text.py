"""Draws documents about moves and audits as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cellmove.ui.console import Command, duration

if TYPE_CHECKING:
    from cellmove.operations.documents import Document
    from cellmove.ui.console import Page

MAX_HOSTS = 5
"""Number of likely hosts that a plan names."""


def draw_move(page: Page, document: Document) -> None:
    """Draw the state of a move in a few lines."""
    page.fields([*_move_fields(document), *_next_fields(document)])


def draw_details(page: Page, document: Document) -> None:
    """Draw a move with all its actions."""
    times = [
        ("started", f"{_moment(document['created_at'])} UTC"),
        ("changed", f"{_moment(document['updated_at'])} UTC"),
    ]
    tried = [("tried", f"{_place(each)}: {each['action']}: {each['error']}") for each in document["tried"]]
    page.fields([*_move_fields(document), *times, *tried])
    rows = []
    for step in document["steps"]:
        rows.append((step["step"], "", step["state"], "", "", ""))
        for action in step["actions"]:
            took = _took(action["started_at"], action["finished_at"])
            began = _moment(action["started_at"])[11:19]
            rows.append(("", action["action"], action["phase"], began, took, _became(action)))
    if rows:
        page.gap()
        page.table(("step", "action", "state", "began", "took", "error"), rows)
    if document["next"]:
        page.gap()
        page.fields(_next_fields(document))


def _became(action: Document) -> str:
    return str(action.get("mended") or action.get("left") or action["error"] or "")


def draw_list(page: Page, document: Document) -> None:
    """Draw moves, one line each."""
    if not document["moves"]:
        page.fields([("moves", "none")])
        return
    rows = [
        (
            move["move"],
            move["server"]["name"] or move["server"]["id"],
            move["kind"],
            _standing(move),
            _place(move["source"]),
            _place(move["target"]),
            _moment(move["updated_at"]),
            (move["next"] or [""])[0],
        )
        for move in document["moves"]
    ]
    page.table(("move", "server", "kind", "state", "from", "to", "changed (UTC)", "next"), rows)


def draw_plan(page: Page, document: Document) -> None:
    """Draw a plan: source and target, the parts of the server, and the checks."""
    page.fields([*_move_fields(document), *_summary_fields(document["summary"])])
    page.gap()
    _draw_checks(page, document["checks"])
    if document["next"] and not document["refused"]:
        page.gap()
        page.fields(_next_fields(document))


def draw_verification(page: Page, document: Document) -> None:
    """Draw the verification of a moved server, with the checks that passed."""
    page.fields(_move_fields(document))
    page.gap()
    page.fields([(check["code"], check["text"]) for check in document["checks"] if check["level"] == "ok"])
    _draw_checks(page, document["checks"])
    if document["verified"]:
        page.gap()
        page.fields(_next_fields(document))


def draw_journal_check(page: Page, document: Document) -> None:
    """Draw the numbers of a journal that passed its check."""
    checked = document["checked"]
    page.fields(
        [
            ("journal", document["journal"]),
            ("sound", f"{_count(checked['moves'], 'move')}, {_count(checked['lines'], 'line')}"),
        ]
    )


def _draw_checks(page: Page, checks: Sequence[Document]) -> None:
    levels = [check["level"] for check in checks]
    counts = [f"{levels.count('ok')} passed"]
    counts += [_count(levels.count(level), level) for level in ("warning", "refusal") if level in levels]
    page.fields([("checks", ", ".join(counts))])
    for level in ("refusal", "warning"):
        found = [check for check in checks if check["level"] == level]
        for check in found:
            rows = [(f"  {level}", f"{check['text']} [{check['code']}]")]
            page.fields(rows + ([("", Command(f"do: {check['remedy']}"))] if check["remedy"] else []))


IN_USE = {
    "stuck-migration": "migration",
    "two-visible-rows": "second visible row",
    "mapping-hidden": "hidden mapped row",
    "mapping-elsewhere": "wrong mapping",
    "hidden-row": "hidden row",
    "deleted-row": "deleted row",
    "inactive-binding": "port binding",
    "empty-attachment": "volume attachment",
    "dead-allocation": "allocation",
    "temporary-image": "temporary image",
    "stale-mark": "mark",
    "lost-keypairs": "lost keypair",
    "stale-context": "migration context",
    "old-migration": "migration record",
    "reserved-volume": "reserved volume",
    "unattached-volume": "unattached volume",
    "duplicate-cell": "cell mapping",
}
"""How each kind of leftover is called while a move uses it."""


def draw_audit(page: Page, document: Document) -> None:
    """Draw leftovers with their repairs, then a summary of those that moves use."""
    for leftover in document["findings"]:
        if leftover["owner"] is None:
            page.fields(_leftover_rows(leftover, is_repairing=document["repair"] != "no"))
            page.gap()
    owned: dict[tuple[str, str], list[str]] = {}
    for leftover in document["findings"]:
        if leftover["owner"]:
            name = leftover["server"]["name"] or leftover["server"]["id"]
            owned.setdefault((name, leftover["owner"]["text"]), []).append(leftover["kind"])
    if owned:
        rows = [
            (name, ", ".join(_count(kinds.count(kind), IN_USE[kind]) for kind in dict.fromkeys(kinds)), text)
            for (name, text), kinds in owned.items()
        ]
        page.table(("server", "in use, no leftover", "by"), rows)
        page.gap()
    counts = document["counts"]
    page.fields(
        [
            *(("not checked", reason) for reason in document["unseen"]),
            ("cells", ", ".join(document["cells"])),
            ("found", f"{counts['left']} left, {counts['mended']} repaired, {counts['owned']} owned"),
        ]
    )


def _leftover_rows(leftover: Document, *, is_repairing: bool) -> list[tuple[str, str]]:
    server = leftover["server"]
    name = f"{server['name']} ({server['id']})" if server["name"] else server["id"] or "unknown"
    rows = [
        (leftover["kind"], f"{leftover['text']}{_age(leftover['age_seconds'])}"),
        ("  server", f"{name}{_project(server)}"),
    ]
    if leftover["outcome"]:
        rows.append((f"  {leftover['outcome']}", leftover["why"] or ""))
    elif leftover["safe"]:
        rows.append(("  would" if is_repairing else "  repair", leftover["mend"]))
    else:
        rows.append(("  do", Command(leftover["mend"])))
    return rows


def _age(seconds: int | None) -> str:
    return "" if seconds is None else f", {_long(seconds)} ago"


def _long(seconds: int) -> str:
    days = seconds // 86400
    return f"{days} day{'s' if days != 1 else ''}" if days else duration(seconds)


def _project(server: Mapping[str, str]) -> str:
    return f" of project {server['project']}" if server["project"] else ""


def _move_fields(document: Document) -> list[tuple[str, str]]:
    server = document["server"]
    identity = f"{server['name']} ({server['id']})" if server["name"] else server["id"]
    move = [("move", document["move"])] if document["move"] else []
    accepted = ", ".join(document.get("accepted_losses") or ())
    return [
        *move,
        ("state", _standing(document)),
        ("server", identity),
        ("kind", document["kind"]),
        ("from", _place(document["source"])),
        ("to", _place(document["target"]) or "the scheduler chooses"),
        *([("accepts", f"the loss of {accepted}")] if accepted else []),
    ]


def _standing(document: Document) -> str:
    """Return the state, and the step that started and is not complete."""
    busy = document.get("busy_step")
    state = str(document["state"])
    return f"{state}, in {busy}" if busy and state != "rolling-back" else state


def _summary_fields(summary: Document) -> list[tuple[str, str]]:
    """Return the lines of a plan. A value that could not be read has none."""
    rows = []
    hosts = [_host_text(host) for host in summary.get("target_hosts") or ()]
    if hosts:
        more = f" and {len(hosts) - MAX_HOSTS} more" if len(hosts) > MAX_HOSTS else ""
        rows.append(("likely", ", ".join(hosts[:MAX_HOSTS]) + more))
    old, new = summary.get("flavor_from"), summary.get("flavor_to")
    if old:
        rows.append(("flavor", f"{old} -> {new}" if new and new != old else f"{old} (unchanged)"))
    if summary.get("backing"):
        runs = "running" if summary.get("active") else "stopped"
        way = f", disks travel by {summary['transfer']}" if summary.get("transfer") else ""
        way += f" (about {summary['downtime_seconds']} s down)" if summary.get("downtime_seconds") else ""
        rows.append(("guest", f"{runs}, {summary['backing']}-backed{way}"))
        rows.append(("has", f"{_count(summary.get('ports'), 'port')}, {_count(summary.get('volumes'), 'volume')}"))
    disks = ", ".join(f"{disk['name']} {disk['mib']} MiB" for disk in summary.get("disks") or ())
    rows += [("disks", disks)] if disks else []
    if summary.get("transfer_why") and summary.get("transfer") == "image":
        rows.append(("no stream", str(summary["transfer_why"])))
    copied: Mapping[str, int] = summary.get("copied") or {}
    if copied:
        rows.append(("copied", f"{_count(sum(copied.values()), 'row')} of {_count(len(copied), 'table')}"))
    lost = "; ".join(summary.get("lost") or ())
    if lost or summary.get("backing"):
        rows.append(("lost", lost or "nothing"))
    return rows


def _host_text(host: Document) -> str:
    note = f" ({host['note']})" if host.get("note") else ""
    return f"{host.get('host', '')}{note}"


def _next_fields(document: Document) -> list[tuple[str, str]]:
    return [("next" if not position else "or", Command(command)) for position, command in enumerate(document["next"])]


def _place(place: Mapping[str, str]) -> str:
    return " / ".join(part for part in (place["cell"], place["host"]) if part)


def _moment(text: str | None) -> str:
    return (text or "")[:19].replace("T", " ")


def _took(began: str, ended: str | None) -> str:
    import datetime

    if not began or not ended:
        return ""
    try:
        span = datetime.datetime.fromisoformat(ended) - datetime.datetime.fromisoformat(began)
    except ValueError:
        return ""
    return duration(span.total_seconds())


def _count(number: int | None, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
