"""The alerts and the dashboard name metrics, labels and states that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cellmove.core.move import State
from cellmove.drain.item import Stage
from cellmove.ui.metrics import DrainMetrics, JournalMetrics, families

ROOT = Path(__file__).parents[3]
RULES = yaml.safe_load((ROOT / "contrib/prometheus/cellmove.rules.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "contrib/grafana/cellmove.json").read_text())
DOCS = (ROOT / "docs/metrics.md").read_text()
FOREIGN = {"node_textfile_mtime_seconds"}


def known() -> dict[str, set[str]]:
    """Every series that metrics can give, with its labels."""
    found = JournalMetrics(
        drains=(DrainMetrics("c", "u", True, 1, {Stage.MOVED: 1}, {("failed", "x"): 1}, 1, 1.0, 1.0),)
    )
    found.moves["migration", "planned"] = found.repairs["repaired",] = found.failures["finish", "close"] = 1
    found.oldest["planned",] = found.longest["planned",] = 1.0
    series: dict[str, set[str]] = {}
    for family in families(found, "1"):
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    return series


def queries() -> Iterator[str]:
    """Every query of the alerts and of the dashboard."""
    yield from (rule["expr"] for rule in RULES)
    yield from (target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ()))
    yield from (each["definition"] for each in DASHBOARD["templating"]["list"] if "definition" in each)


@pytest.mark.parametrize("query", [*queries()])
def test_a_query_names_metrics_and_labels_that_exist(query: str) -> None:
    series, names = known(), set(re.findall(r"\b(?:cellmove|node)_\w+", re.sub(r'"[^"]*"', '""', query)))
    assert names
    assert names - FOREIGN <= set(series)
    labels = {"instance", "file", "le"}.union(*(series[name] for name in names - FOREIGN))
    used = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", query))
    used |= {word for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for word in group.split(", ")}
    assert used <= labels


@pytest.mark.parametrize("query", [*queries()])
def test_states_and_stages_of_a_query_exist(query: str) -> None:
    for label, values in (("state", State), ("stage", Stage)):
        for pattern in re.findall(rf'\b{label}(?:=~|!~|!=|=)"([^"]*)"', query):
            assert set(pattern.split("|")) <= {value.value for value in values}


def test_the_documentation_names_every_metric_and_its_labels() -> None:
    rows = re.findall(r"^\| `(cellmove_\w+)` \| (.*?) \|", DOCS, re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    plain = {name: labels for name, labels in known().items() if not name.endswith(("_bucket", "_sum", "_count"))}
    plain |= {
        name.removesuffix("_count"): labels for name, labels in known().items() if name.endswith("_seconds_count")
    }
    assert documented == plain


def test_the_documentation_names_every_alert_with_its_severity() -> None:
    rows = re.findall(r"^\| `(Cellmove\w+)` \| (\w+) \|", DOCS, re.MULTILINE)
    assert rows == [(rule["alert"], rule["labels"]["severity"]) for rule in RULES]


def test_every_alert_says_what_to_type() -> None:
    for rule in RULES:
        assert re.search(r'"cellmove\s', rule["annotations"]["description"]), rule["alert"]


def test_every_alert_is_tested() -> None:
    cases = (ROOT / "contrib/prometheus/cellmove.rules.test.yml").read_text()
    assert [rule["alert"] for rule in RULES if rule["alert"] not in cases] == []


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
