"""Compose and Kubernetes: what they name exists in the images, the server and each other."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from fastapi import FastAPI
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.entrypoints.serve.instrumentator.health import router as health
from vllm.utils.argparse_utils import FlexibleArgumentParser

from api.plugin import ClassifyEndpoints
from api.serve import _parser

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
BASE = KUBERNETES / "base"
SHUTDOWN = re.compile(r"--shutdown-timeout=(\d+)")


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def kind(name):
    """The one object of that kind in the base."""
    files = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    found = [d for file in files for d in documents(BASE / file) if d["kind"] == name]
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def pod():
    return kind("Deployment")["spec"]["template"]


@pytest.fixture(scope="module")
def server(pod):
    (container,) = pod["spec"]["containers"]
    return container


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def flags():
    """Of `ifedicl serve`: ours and vLLM's."""
    vllm = ServeSubcommand().subparser_init(FlexibleArgumentParser().add_subparsers())
    return {flag for parser in (_parser(), vllm) for flag in parser._option_string_actions}


def routes():
    app = FastAPI()
    ClassifyEndpoints().attach_router(app)
    app.include_router(health)
    return set(app.openapi()["paths"]) | {route.path for route in health.routes}


@pytest.mark.parametrize(
    "path", sorted([*DEPLOY.rglob("*.y*ml")]), ids=lambda path: str(path.relative_to(DEPLOY))
)
def test_all_of_it_is_yaml(path):
    assert documents(path)


# -- what is named


def test_every_flag_exists(server, compose, flags):
    given = [*server["args"], *compose["services"]["server"]["command"]]
    assert {flag.split("=")[0] for flag in given} <= flags


def test_every_probe_asks_a_route_that_exists(server):
    probes = {
        name: server[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")
    }
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/health",
        "readiness": "/ready",
        "liveness": "/health",
    }
    assert {probe["path"] for probe in probes.values()} <= routes()
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert {ports[probe["port"]] for probe in probes.values()} == {8000}


def test_every_image_of_ours_is_a_target_of_the_dockerfile(compose, server):
    targets = set(re.findall(r"^FROM \S+ AS (\S+)", (ROOT / "Dockerfile").read_text(), re.M))
    assert server["image"] == "ifedicl-serve"
    for path in (BASE / "kustomization.yaml", KUBERNETES / "cuda" / "kustomization.yaml"):
        (image,) = yaml.safe_load(path.read_text())["images"]
        assert image["name"] == server["image"] and image["newTag"] in targets
    for service in compose["services"].values():
        name, _, tag = service["image"].partition(":")
        assert tag and tag != "latest"
    default = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", compose["services"]["server"]["image"])
    assert default == "ifedicl-serve:cpu"


def test_every_mount_has_its_volume_and_every_file_its_mount(pod, server):
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in server["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == volumes
    for argument in server["args"]:
        path = argument.partition("=")[2]
        if path.startswith("/"):
            (mount,) = [m for where, m in mounts.items() if path.startswith(f"{where}/")]
            assert mount["readOnly"], argument
    assert {"/tmp", "/cache", "/dev/shm"} <= mounts.keys()


def test_selectors_fit_the_pods(pod):
    labels = pod["metadata"]["labels"].items()
    spec = {name: kind(name)["spec"] for name in
            ("Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy")}  # fmt: skip
    assert spec["Deployment"]["selector"]["matchLabels"].items() <= labels
    assert spec["Service"]["selector"].items() <= labels
    assert spec["PodDisruptionBudget"]["selector"]["matchLabels"].items() <= labels
    assert spec["NetworkPolicy"]["podSelector"]["matchLabels"].items() <= labels
    claim = kind("PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadOnlyMany"]
    claimed = [v["persistentVolumeClaim"] for v in pod["spec"]["volumes"] if v["name"] == "data"]
    assert claimed == [{"claimName": claim["metadata"]["name"], "readOnly": True}]


def test_the_autoscaler_asks_for_what_the_adapter_offers():
    scaler = kind("HorizontalPodAutoscaler")["spec"]
    deployment = kind("Deployment")
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # each apply would undo the autoscaler's
    (metric,) = scaler["metrics"]
    (rule,) = yaml.safe_load((KUBERNETES / "adapter-values.yaml").read_text())["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]


def test_the_gpu_variant_changes_the_container_of_the_base(server):
    overlay = yaml.safe_load((KUBERNETES / "cuda" / "kustomization.yaml").read_text())
    (base,) = [(KUBERNETES / "cuda" / path).resolve() for path in overlay["resources"]]
    assert base == BASE
    (patch,) = [documents(KUBERNETES / "cuda" / p["path"])[0] for p in overlay["patches"]]
    assert patch["metadata"]["name"] == kind("Deployment")["metadata"]["name"]
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    assert container["name"] == server["name"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


# -- what must hold


def test_a_pod_is_given_the_time_it_needs_to_drain(pod, server, compose):
    (timeout,) = SHUTDOWN.findall(" ".join(server["args"]))
    wait = int(server["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["spec"]["terminationGracePeriodSeconds"] > wait + int(timeout)
    (timeout,) = SHUTDOWN.findall(" ".join(compose["services"]["server"]["command"]))
    assert int(compose["services"]["server"]["stop_grace_period"].rstrip("s")) > int(timeout)


def test_a_pod_that_is_busy_for_a_moment_keeps_its_requests(server):
    for name in ("readiness", "liveness"):
        probe = server[f"{name}Probe"]
        assert probe["timeoutSeconds"] >= 5 and probe["failureThreshold"] >= 2


def test_a_pod_may_do_no_more_than_it_needs(pod, server):
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    user = f"{pod['spec']['securityContext']['runAsUser']}:"
    assert f"\nUSER {user}" in (ROOT / "Dockerfile").read_text()
    assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert server["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert kind("NetworkPolicy")["spec"]["egress"] == []


def test_compose_gives_the_server_no_more_than_it_needs(compose):
    server = compose["services"]["server"]
    assert server["read_only"] and server["cap_drop"] == ["ALL"]
    assert server["security_opt"] == ["no-new-privileges:true"]
    assert all(v.endswith(":ro") for v in server["volumes"] if not v.startswith("cache:"))
    for name in ("prometheus", "grafana"):
        assert all(port.startswith("127.0.0.1:") for port in compose["services"][name]["ports"])


def test_prometheus_scrapes_the_server_and_reads_what_is_mounted(compose):
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert target.split(":") == ["server", "8000"] and "server" in compose["services"]
    mounted = [v.split(":")[0] for v in compose["services"]["prometheus"]["volumes"]]
    assert {"./prometheus.yml", *(f"./{name}" for name in config["rule_files"])} <= set(mounted)


def test_no_key_is_committed():
    files = subprocess.run(
        ["git", "ls-files", "deploy"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert files and not any(name.endswith((".pem", "keys.json", ".env")) for name in files)
    assert not any("BEGIN" in (ROOT / name).read_text() for name in files)
