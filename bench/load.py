"""Load on `POST /v1/classify` by autocannon (npm), and what it saw.

Requests are read from a HAR file and sent in turn by every connection. With a rate, latencies
count from when a request was due (corrected for coordinated omission).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AUTOCANNON = "autocannon"
TIMEOUT_S = 60


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


def require_autocannon() -> None:
    """End the program, saying how to install it, if it is not there."""
    if shutil.which(AUTOCANNON) is None:
        raise SystemExit("autocannon is not on the PATH; npm install --global autocannon")


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


def fire(url: str, har: Path, connections: int, seconds: int, rate: float | None = None) -> Seen:
    """Closed loop: every connection sends its next request when the last is answered. With
    `rate`: that many a second in all, whether or not the server keeps up."""
    command = [
        AUTOCANNON, "--json", "--har", str(har), "--connections", str(connections),
        "--duration", str(seconds), "--timeout", str(TIMEOUT_S),
    ]  # fmt: skip
    if rate is not None:
        command += ["--overallRate", str(max(1, round(rate)))]
    run = subprocess.run([*command, url], capture_output=True, text=True, check=True)
    result = json.loads(run.stdout)
    latency = {name: result["latency"][name] for name in ("p50", "p90", "p99")}
    answered = result["2xx"] / result["duration"]
    return Seen(answered, latency, result["non2xx"] + result["errors"] + result["timeouts"])
