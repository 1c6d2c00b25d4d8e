"""Load on `POST /v1/classify` by programs somebody else wrote, and what they saw.

Closed loop by autocannon (npm): every connection sends its next request when the last is answered.
Open loop by locust (PyPI): requests arrive at random at a given rate.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AUTOCANNON, LOCUST = "autocannon", "locust"
TIMEOUT_S = 60
CALLERS = 256


@dataclass(frozen=True)
class Seen:
    """Of one run: answers per second, latency percentiles in milliseconds, and failures."""

    requests_per_second: float
    latency_ms: dict[str, float]
    failures: int

    def record(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "requests_per_second": round(self.requests_per_second, 1),
            "latency_ms": self.latency_ms,
            "failures": self.failures,
        }


def require(*programs: str) -> None:
    """End the program, saying how to install what is missing."""
    how = {AUTOCANNON: "npm install --global autocannon", LOCUST: "pipx install locust"}
    for program in programs:
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is not on the PATH; {how[program]}")


def write_har(path: Path, url: str, bodies: list[dict[str, Any]]) -> None:
    """A HAR file of classification requests."""
    entries = [
        {
            "request": {
                "method": "POST",
                "url": f"{url}/v1/classify",
                "headers": [{"name": "content-type", "value": "application/json"}],
                "postData": {"mimeType": "application/json", "text": json.dumps(body)},
            }
        }
        for body in bodies
    ]
    path.write_text(json.dumps({"log": {"entries": entries}}))


def fire(url: str, har: Path, connections: int, seconds: int) -> Seen:
    """A closed loop of so many connections, each sending the file's requests in turn."""
    command = [
        AUTOCANNON, "--json", "--har", str(har), "--connections", str(connections),
        "--duration", str(seconds), "--timeout", str(TIMEOUT_S),
    ]  # fmt: skip
    run = subprocess.run([*command, url], capture_output=True, text=True, check=True)
    result = json.loads(run.stdout)
    latency = {name: result["latency"][name] for name in ("p50", "p90", "p99")}
    answered = result["2xx"] / result["duration"]
    return Seen(answered, latency, result["non2xx"] + result["errors"] + result["timeouts"])


def arrive(url: str, har: Path, rate: float, seconds: int, scratch: Path) -> Seen:
    """An open loop: the file's requests, drawn at random, `rate` of them a second."""
    command = [
        LOCUST, "--headless", "--only-summary", "--locustfile",
        str(Path(__file__).with_name("arrivals.py")), "--host", url, "--users", str(CALLERS),
        "--spawn-rate", str(CALLERS), "--run-time", f"{seconds}s", "--reset-stats",
        "--csv", str(scratch / "arrivals"), "--exit-code-on-error", "0",
    ]  # fmt: skip
    environment = os.environ | {"HAR": str(har), "RATE": str(rate), "CALLERS": str(CALLERS)}
    subprocess.run(command, capture_output=True, check=True, env=environment)
    with (scratch / "arrivals_stats.csv").open(newline="") as file:
        *_, total = csv.DictReader(file)
    latency = {"p50": float(total["50%"]), "p90": float(total["90%"]), "p99": float(total["99%"])}
    return Seen(float(total["Requests/s"]), latency, int(total["Failure Count"]))
