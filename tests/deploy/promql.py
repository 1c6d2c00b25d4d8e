"""Which metrics the dashboard, the alerts and the autoscaler ask for, and whether they are served.

`unknown_metrics(served_names(text))` of a server's /metrics is empty if everything they show is
there. A metric with labels has no sample before the first of its kind: a server must have
classified, failed, loaded and evicted first.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
ALERTS = DEPLOY / "alerts.yml"
ADAPTER = DEPLOY / "kubernetes" / "adapter-values.yaml"
OF_PROMETHEUS = {"up"}  # it makes this one itself

# What a PromQL expression holds that is no metric: strings, label lists, ranges.
NO_METRIC = re.compile(
    r'"(?:\\.|[^"\\])*"|\{[^}]*\}|\[[^\]]*\]|'
    r"\b(?:by|without|on|ignoring|group_left|group_right)\b\s*(?:\([^)]*\))?|"
    r"\b(?:offset\s+\d+[a-z]+|and|or|unless|bool)\b|(?<![\w:])\d[\w.]*"
)
NAME = re.compile(r"[a-zA-Z_:][\w:]*(?!\w)(?!\s*\()")
# Before their labels, not their argument: sum by (task) (...)
AGGREGATIONS = {"sum", "max", "min", "avg", "count", "topk", "quantile"}


def metrics_of(expression: str) -> set[str]:
    """The names of the metrics in a PromQL expression."""
    rest = NO_METRIC.sub(" ", expression)
    return {name for name in NAME.findall(rest) if name not in AGGREGATIONS}


def dashboard_panels(path: Path) -> Iterator[dict]:
    """The panels that show something."""
    for panel in json.loads(path.read_text())["panels"]:
        if panel["type"] != "row":
            yield panel


def expressions() -> Iterator[tuple[str, str]]:
    """Every PromQL expression of deploy/, with where it is."""
    for path in DASHBOARDS:
        for panel in dashboard_panels(path):
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", target["expr"]
        for variable in json.loads(path.read_text())["templating"]["list"]:
            queried = re.fullmatch(r"label_values\((.*), \w+\)", variable.get("definition", ""))
            if queried:
                yield f"{path.name}: variable {variable['name']}", queried[1]
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield f"{ALERTS.name}: {rule['alert']}", rule["expr"]
    for rule in yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]:
        yield f"{ADAPTER.name}: {rule['name']['as']}", rule["seriesQuery"]


def unknown_metrics(served: set[str]) -> dict[str, set[str]]:
    """Where metrics are asked for that are not among `served`, and which."""
    missing = {
        where: metrics_of(expression) - served - OF_PROMETHEUS
        for where, expression in expressions()
    }
    return {where: names for where, names in missing.items() if names}


def served_names(text: str) -> set[str]:
    """The names of all samples in the text that /metrics answers."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {re.split(r"[{ ]", line, maxsplit=1)[0] for line in lines}
