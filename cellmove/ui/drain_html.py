"""Renders the report of a drain as one HTML file.

The page loads nothing, which its content security policy enforces, and is complete without JavaScript. The same report
gives the same bytes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
from typing import TYPE_CHECKING

from markupsafe import Markup

from cellmove.ui import html_filters
from cellmove.ui.console import duration
from cellmove.ui.drain_page import page_of
from cellmove.ui.drain_timeline import background, timeline_of

if TYPE_CHECKING:
    from jinja2 import Environment

    from cellmove.drain.drain_report import DrainReport


def html(report: DrainReport) -> str:
    """Return the page."""
    css = _asset("report.css")
    style = f"{css}.time ol svg,.axis svg{{background-image:{background(report)}}}\n"
    script = _asset("report.js")
    return (
        _environment()
        .get_template("drain_report.html.j2")
        .render(
            page=page_of(report),
            timeline=timeline_of(report),
            style=Markup(style),  # noqa: S704 - from files of the package, and numbers
            script=Markup(script),  # noqa: S704
            style_digest=_digest(style),
            script_digest=_digest(script),
        )
    )


@functools.cache
def _environment() -> Environment:
    """Return the environment of the templates. It escapes every value."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        loader=PackageLoader("cellmove.ui", "templates"),
        undefined=StrictUndefined,
        finalize=html_filters.cleaned,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "anchor": html_filters.anchor,
        "count": html_filters.count,
        "display_name": html_filters.display_name,
        "duration": duration,
        "number": html_filters.number,
        "percent": html_filters.percent,
    }
    return environment


def _asset(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    """Return the hash that lets the page's own style or script, and no other, through its policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
