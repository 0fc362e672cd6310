"""A drain as one HTML file for whoever looks at it in the morning, and for whom they show it to.

Everything is in the file: nothing is loaded, which its own content security policy sees to, and without JavaScript all
there is to read is there. The same report gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Iterable, Sequence

from cellmove.drain import figures
from cellmove.drain.drain_report import DrainReport, ServerReport
from cellmove.drain.figures import HostSums
from cellmove.drain.item import Stage
from cellmove.ui import drain_markup as markup
from cellmove.ui import drain_timeline as timeline
from cellmove.ui.console import duration
from cellmove.ui.drain_documents import iso
from cellmove.ui.drain_markup import MARKS, attribute, clock, count, day, linked, number, percent, rate, text
from cellmove.ui.drain_text import TROUBLE

MEANINGS = {
    Stage.FAILED: "the move went wrong",
    Stage.UNVERIFIED: "not what it was; left in VERIFY_RESIZE",
    Stage.REVERTED: "was not what it had been, and is back at its source",
    Stage.REFUSED: "a check speaks against the move",
    Stage.SKIPPED: "not wanted: a filter or a tag",
    Stage.GONE: "deleted by its owner, or moved by somebody else",
}
URGENT = (Stage.FAILED, Stage.UNVERIFIED, Stage.REVERTED)
FEW = 20
"""More servers than that with one and the same reason, and more reasons than that, are folded away at first."""

EDGE_LABELS = 7
FEWEST = 3
"""Of fewer downtimes there is nothing to be seen in a histogram."""


def html(report: DrainReport) -> str:
    """The whole page."""
    style = f"{_asset('report.css')}.time ol svg,.axis svg{{background-image:{timeline.background(report)}}}\n"
    script = _asset("report.js")
    policy = f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none'"
    title = f"{text(report.cell.label)}: drain {text(report.drain_id)}"
    pieces = [
        "<!doctype html>\n<html lang=en><meta charset=utf-8>",
        f'<meta http-equiv=Content-Security-Policy content="{policy}">',
        '<meta name=viewport content="width=device-width,initial-scale=1"><meta name=color-scheme content="light dark">',
        f"<title>{title}</title>",
        f"<style>{style}</style>",
        "<body>",
        *_head(report),
        "<main>",
        *_trouble(report),
        *_downtime(report),
        *_nights(report),
        *timeline.section(report),
        *_hosts(report),
        "</main>",
        f"<footer>cellmove, drain <code>{text(report.drain_id)}</code>, generated_at {iso(report.generated_at)[:19].replace('T', ' ')} UTC."
        " Times are UTC, disk is GiB.</footer>",
        HATCH,
        f"<script>{script}</script>\n",
    ]
    return "\n".join(piece for piece in pieces if piece)


HATCH = (
    '<svg class=defs aria-hidden=true><pattern id=hatch width=5 height=5 patternUnits=userSpaceOnUse patternTransform="rotate(45)">'
    "<path d=M0,0v5 /></pattern></svg>"
)
"""Stripes for what failed: seen without any colour."""


# the head: whose drain, and how it went in one look


def _head(report: DrainReport) -> Iterable[str]:
    shares, total = figures.by_share(report.servers), len(report.servers)
    to = ", ".join(f"<bdi>{text(cell.label)}</bdi>" for cell in report.to) or "any other cell"
    yield "<header><div class=title>"
    yield f"<h1><bdi>{text(report.cell.label)}</bdi> <span>→</span> {to}</h1><p class=state>{text(report.state)}</p></div>"
    yield f"<p class=when>{_span(report)} · drain <code>{text(report.drain_id)}</code></p>"
    yield f"<dl class=figures>{''.join(_figures(report, shares, total))}</dl>"
    yield from _stages(report, total)
    yield "<nav>" + "".join(f"<a href=#{name}>{words}</a>" for name, words in _parts(report)) + "</nav></header>"


def _span(report: DrainReport) -> str:
    same_day = day(report.begun) == day(report.generated_at)
    end = clock(report.generated_at) if same_day else f"{day(report.generated_at)} {clock(report.generated_at)}"
    took = duration(max(report.generated_at - report.begun, 0))
    return f"{day(report.begun)} {markup.moment(report.begun).year} {clock(report.begun)} to {end} UTC ({took})"


def _figures(report: DrainReport, shares: dict[str, int], total: int) -> Iterable[str]:
    pace, spread = figures.pace(report), figures.spread(report.servers, shown=1)
    yield _figure("moved", number(shares["moved"]), f"of {count(total, 'server')}")
    yield _figure("left", number(shares["left"]), "to be moved")
    yield _figure("failed", number(shares["failed"]), _of_failed(report), shares["failed"])
    yield _figure(
        "servers/hour",
        rate(pace.servers_an_hour),
        f"in {duration(pace.seconds)} at work" if pace.seconds else "nothing is done",
    )
    yield _figure("GiB/hour", rate(pace.gib_an_hour), f"{number(figures.gib_moved(report.servers))} GiB moved")
    longest = f"longest {duration(spread.longest[0].downtime or 0)}" if spread else "none is known"
    yield _figure("median downtime", duration(spread.median) if spread else "–", longest)


def _of_failed(report: DrainReport) -> str:
    """What besides failures is among the failed ones."""
    others = {stage: amount for stage, amount in figures.by_stage(report.servers).items() if stage in URGENT[1:]}
    words = ", ".join(f"{amount:,} {stage}" for stage, amount in others.items())
    return f"of them {words}" if words else "none is unverified"


def _figure(name: str, value: str, note: str, bad: int = 0) -> str:
    return f"<div{' class=bad' if bad else ''}><dt>{name}<dd>{value}<dd><small>{note}</small></div>"


def _stages(report: DrainReport, total: int) -> Iterable[str]:
    """One bar of all servers by stage, and the same in words."""
    stages = figures.by_stage(report.servers)
    left, rects, keys = 0.0, [], []
    for stage, amount in stages.items():
        width = 100 * amount / total
        place = f"x={percent(left)} width={percent(width)}"
        hatch = f"<rect class=x {place} />" if stage in figures.FAILED else ""
        rects.append(f"<rect class={stage} {place}><title>{stage} {amount:,}</title></rect>{hatch}")
        key = f"<rect class={stage} width=100% />" + ("<rect class=x width=100% />" if hatch else "")
        keys.append(f"<li><svg class=key>{key}</svg>{stage} <b>{amount:,}</b>")
        left += width
    if total:
        yield f"<svg class=stages role=img aria-label=stages>{''.join(rects)}</svg><ul class=legend>{''.join(keys)}</ul>"


def _parts(report: DrainReport) -> Iterable[tuple[str, str]]:
    if any(server.stage in TROUBLE for server in report.servers):
        yield "look", _to_look_at(report)
    yield "down", "Downtime"
    if len(figures.stretches(report)) > 1:
        yield "nights", "Stretches of work"
    yield "time", "Time line"
    yield "hosts", "Hosts"


# what somebody has to look at


def _trouble(report: DrainReport) -> Iterable[str]:
    found = {stage: [server for server in report.servers if server.stage is stage] for stage in TROUBLE}
    if not any(found.values()):
        return
    yield f"<section class=look id=look><h2>{_to_look_at(report)}</h2>"
    for stage, servers in found.items():
        if servers:
            kind = "bad" if stage in URGENT else "fair"
            yield f"<h3 class={kind}>{MARKS[stage]} {len(servers):,} {stage} <small>{MEANINGS[stage]}</small></h3>"
            reasons: dict[str, list[ServerReport]] = {}
            for server in servers:
                reasons.setdefault(server.reason, []).append(server)
            ordered = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
            for reason, own in ordered[:FEW]:
                yield from _reason(reason, sorted(own, key=_by_name))
            if ordered[FEW:]:
                more = sum(len(own) for _, own in ordered[FEW:])
                yield f"<details class=more><summary>{count(more, 'more server')}, each with its reason</summary>"
                for reason, own in ordered[FEW:]:
                    yield from _reason(reason, sorted(own, key=_by_name))
                yield "</details>"
    yield "</section>"


def _to_look_at(report: DrainReport) -> str:
    return "To look at" if figures.by_share(report.servers)["failed"] else "Not moved"


def _by_name(server: ServerReport) -> tuple[object, ...]:
    return figures.natural(server.source_host), figures.natural(server.name), server.server_id


def _reason(reason: str, servers: Sequence[ServerReport]) -> Iterable[str]:
    """Servers with one reason. A command that is the same for all of them is said once."""
    commands = {server.next_command for server in servers}
    common = commands.pop() if len(commands) == 1 else ""
    words = text(reason) or "no reason is recorded"
    kind = '"why urgent"' if servers[0].stage in URGENT else "why"
    yield f"<div class={kind}><p>{words}{f' <b>×{len(servers):,}</b>' if len(servers) > 1 else ''}</p>"
    if common and len(servers) > 1:
        yield f"<pre>{text(common)}</pre>"
    if len(servers) > FEW:
        yield f"<details><summary>{count(len(servers), 'server')}</summary>"
    own = not common or len(servers) == 1
    if servers[0].stage in URGENT or (own and common):
        yield f"<ul class=each>{''.join(_troubled(server, server.next_command if own else '') for server in servers)}</ul>"
    else:
        yield f"<ul class=names>{''.join(_named(server, server.next_command if own else '') for server in servers)}</ul>"
    yield f"{'</details>' if len(servers) > FEW else ''}</div>"


def _troubled(server: ServerReport, command: str) -> str:
    """All that is needed to look for a server, and what to type."""
    where = " → ".join(f"<bdi>{text(host)}</bdi>" for host in (server.source_host, server.target_host) if host)
    typed = f"<pre>{text(command)}</pre>" if command else ""
    return f"<li>{linked(server)}<small>{where}</small><code>{text(server.server_id)}</code>{typed}"


def _named(server: ServerReport, command: str) -> str:
    """A server that nothing happened to: where it is."""
    typed = f" <pre>{text(command)}</pre>" if command else ""
    return f"<li>{linked(server)} <small><bdi>{text(server.source_host)}</bdi></small>{typed}"


# how long guests were down


def _downtime(report: DrainReport) -> Iterable[str]:
    yield "<section class=down id=down><h2>Downtime <small>from the stop of a guest to its start</small></h2>"
    spread = figures.spread(report.servers)
    values = [server.downtime for server in report.servers if server.downtime is not None]
    bins = figures.histogram(values)
    if spread is None or not bins:
        yield "<p>None is known.</p></section>"
        return
    yield "<div class=cols>"
    if len(values) >= FEWEST:
        yield f"<figure>{''.join(_bins(bins, spread))}"
        yield f"<figcaption>{count(len(values), 'guest')}; how many were down for how long. Widths are not to scale.</figcaption></figure>"
    yield f"<div><p class=three><span>median <b>{duration(spread.median)}</b></span> "
    yield f"<span>90 % within <b>{duration(spread.ninety)}</b></span> "
    yield f"<span>longest <b>{duration(spread.longest[0].downtime or 0)}</b></span></p>"
    rows = [
        (
            linked(server),
            duration(server.downtime or 0),
            f"<bdi>{text(server.source_host)}</bdi> → <bdi>{text(server.target_host)}</bdi>",
            number(server.disk_gb),
        )
        for server in spread.longest
    ]
    yield markup.table("longest", ("server", "down", "hosts", "GiB"), rows, "Who was longest")
    yield "</div></div></section>"


def _bins(bins: Sequence[figures.Bin], spread: figures.Spread) -> Iterable[str]:
    """Bars of equal width, the marks of the median and of nine in ten among them."""
    top, width = max(one.count for one in bins), 100 / len(bins)
    yield "<svg class=bins role=img aria-label='downtimes'>"
    for place, one in enumerate(bins):
        height = 72 * one.count / top if one.count else 0
        height = max(height, 1) if one.count else 0
        words = f"{duration(one.low)} to {duration(one.high)}: {one.count:,}"
        yield (
            f"<rect x={percent(place * width + width * 0.06)} width={percent(width * 0.88)} y={percent(90 - height)}"
            f" height={percent(height)}><title>{words}</title></rect>"
        )
        if one.count:
            yield f"<text x={percent((place + 0.5) * width)} y={percent(88.5 - height)} class=n>{one.count:,}</text>"
    every = -(-(len(bins) + 1) // EDGE_LABELS)
    for place, edge in enumerate([*(one.low for one in bins), bins[-1].high]):
        if place % every == 0:
            side = "start" if place == 0 else "end" if place == len(bins) else "middle"
            yield f"<text x={percent(place * width)} y=99% class=edge text-anchor={side}>{_short(edge)}</text>"
    for kind, words, value, before in (
        ("median", "median", spread.median, True),
        ("ninety", "90 %", spread.ninety, False),
    ):
        at = _among(bins, value)
        before = at > 85 or (before and at > 15)  # its words stay on the page
        side = "dx=-4 text-anchor=end" if before else "dx=4"
        yield f"<line class={kind} x1={percent(at)} x2={percent(at)} y1=0 y2=90% />"
        yield f"<text x={percent(at)} y=11 {side}>{words}</text>"
    yield "</svg>"


def _among(bins: Sequence[figures.Bin], value: float) -> float:
    """Where a downtime lies on the histogram."""
    for place, one in enumerate(bins):
        if value < one.high or one is bins[-1]:
            share = (value - one.low) / (one.high - one.low)
            return (place + min(max(share, 0.0), 1.0)) * 100 / len(bins)
    return 100.0


def _short(seconds: float) -> str:
    """A bin's edge in as few characters as it takes: 0.2 s, 45 s, 1.5 min, 2 h, 4 d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


# night by night, host by host


def _nights(report: DrainReport) -> Iterable[str]:
    found = figures.stretches(report)
    if len(found) < 2:
        return
    yield f"<section id=nights><h2>{len(found):,} stretches of work</h2>"
    rows = []
    for stretch, moved, gib, failed in figures.arrivals(report, found):
        hours = stretch.seconds / 3600 or None
        end = clock(stretch.ended)
        rows.append(
            (
                f"{day(stretch.began)} {clock(stretch.began)} to {end}",
                _value(duration(stretch.seconds), stretch.seconds),
                number(moved),
                _failed(failed),
                number(gib),
                rate(moved / hours) if hours else "–",
            )
        )
    headers = ("UTC", "took", "moved", "failed", "GiB", "servers/hour")
    yield markup.table("sums", headers, rows)
    yield "</section>"


def _hosts(report: DrainReport) -> Iterable[str]:
    yield "<section id=hosts><h2>Hosts</h2><div class=tables>"
    for title, hosts in (("From", figures.source_hosts(report)), ("To", figures.target_hosts(report))):
        if hosts:
            headers = ("host", "servers", *figures.SHARES, "GiB", "median down")
            yield markup.table("sums", headers, [_host(sums) for sums in hosts], f"{title} {count(len(hosts), 'host')}")
    if not report.servers:
        yield "<p>There are no servers.</p>"
    yield "</div></section>"


def _host(sums: HostSums) -> Iterable[str]:
    yield f"<bdi>{text(sums.host) or 'no host'}</bdi>"
    yield number(sums.servers)
    for share, amount in sums.counts.items():
        yield _failed(amount) if share == "failed" else number(amount) if amount else "·"
    yield number(sums.gib)
    yield "–" if sums.median is None else _value(duration(sums.median), sums.median)


def _failed(amount: int) -> str:
    return f"<em>{MARKS[Stage.FAILED]} {amount:,}</em>" if amount else "·"


def _value(words: str, value: float) -> str:
    """Words with the number to sort them by."""
    return f"<data value={attribute(f'{value:.1f}')}>{words}</data>"


def _asset(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    """What lets the page's own style and script, and no other, through its policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
