"""Dashboard, alerts and the table of metrics against what the service counts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

import metrics
from queue_depth import families_of

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text("utf-8"))
ALERTS = yaml.safe_load((ROOT / "deploy/prometheus-alerts.yml").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
EXPRESSIONS = [
    *(target["expr"] for panel in PANELS for target in panel["targets"]),
    *(rule["expr"] for rule in RULES),
]
FOREIGN = {"up"}  # Prometheus' own
NOT_SHOWN = {"process_virtual_memory_bytes"}  # what is reserved says little
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
_GRAFANA = {"$__rate_interval": "5m", "$job": ".*", "$instance": ".*"}


class Exposed(NamedTuple):
    """A metric, by the name that Prometheus' library has for it."""

    name: str
    kind: str
    labels: tuple[str, ...]

    @property
    def series(self) -> tuple[str, ...]:
        """What Prometheus calls its values."""
        return tuple(self.name + suffix for suffix in SUFFIXES[self.kind])


def _exposed() -> list[Exposed]:
    """Return every metric of the service, those of process and queue included."""
    ours = [
        Exposed(metric._name, str(metric._type), metric._labelnames)
        for metric in vars(metrics).values()
        if isinstance(metric, MetricWrapperBase) and not metric._labelvalues
    ]
    queue = [Exposed(each.name, str(each.type), each._labelnames) for each in families_of(None)]
    named = {each.name for each in ours}
    process = [
        Exposed(family.name, str(family.type), ())
        for family in metrics._registry.collect()
        if family.name not in named
    ]
    assert all(each.name.startswith("process_") for each in process)
    return ours + queue + process


def _by_series() -> dict[str, Exposed]:
    return {name: metric for metric in _exposed() for name in metric.series}


def _parse(expression: str) -> promql_parser.Expr:
    for variable, value in _GRAFANA.items():
        expression = expression.replace(variable, value)
    return promql_parser.parse(expression)


def _selectors(expression: str) -> list[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(_parse(expression), visit)
    return found


def _names(expression: str) -> set[str]:
    return {str(selector.name) for selector in _selectors(expression)}


def test_the_parser_finds_names() -> None:
    """What the other tests lean on: names within functions, and what is no PromQL is refused."""
    assert _names("sum by (a) (rate(b_total{c=~'$job'}[5m])) / on (a) d > 0") == {"b_total", "d"}
    with pytest.raises(ValueError, match="invalid promql"):
        _parse("sum by (a) rate(b_total)")


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_asked_for_is_counted(expression: str) -> None:
    """An expression is PromQL, and each of its names and labels is one of ours."""
    series = _by_series()
    assert _names(expression) <= set(series) | FOREIGN
    for selector in _selectors(expression):
        labels = series[str(selector.name)].labels if selector.name in series else ()
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked <= {*labels, "job", "instance"}, selector.name


def test_what_is_counted_is_shown() -> None:
    """Each metric of ours is on the dashboard, or in the list of those that needn't be."""
    series = _by_series()
    shown = {
        series[name].name
        for panel in PANELS
        for target in panel["targets"]
        for name in _names(target["expr"])
    }
    assert {metric.name for metric in _exposed()} - shown == NOT_SHOWN


def test_the_dashboard_can_be_imported() -> None:
    """It names no data source of a machine of ours, and no two panels share a number or a place."""
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    for panel in PANELS:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
        for target in panel["targets"]:
            assert target["expr"].count('job=~"$job",instance=~"$instance"') == len(
                _selectors(target["expr"])
            )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """It has a severity, a sentence, and an action that leads on to the documents."""
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]
    assert "docs/operations.md" in rule["annotations"]["action"]


def test_every_metric_is_in_the_document() -> None:
    """docs/metrics.md has each with its type and labels, and no other."""
    rows = re.findall(
        r"^\| `([a-z_]+)` \| (\w+) \| ([^|]*) \| [^|]+ \|$",
        (ROOT / "docs/metrics.md").read_text("utf-8"),
        re.MULTILINE,
    )
    documented = {name: (kind, re.findall(r"`(\w+)`", labels)) for name, kind, labels in rows}
    assert documented == {
        metric.name + ("_total" if metric.kind == "counter" else ""): (
            metric.kind,
            list(metric.labels),
        )
        for metric in _exposed()
        if metric.name.startswith(metrics.PREFIX)
    }
