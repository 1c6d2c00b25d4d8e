"""Open-loop load for locust (`load` runs it): callers at random moments, busy server or not.

Every caller waits an exponential time after its answer, with so many callers that their answers'
times hardly matter: arrivals are close to a Poisson process. Read from the environment: the HAR
file, requests per second in all, and the number of callers.
"""

import json
import os
import random
from pathlib import Path

from locust import FastHttpUser, task

RATE, CALLERS = float(os.environ["RATE"]), int(os.environ["CALLERS"])
ENTRIES = json.loads(Path(os.environ["HAR"]).read_text())["log"]["entries"]
BODIES = [entry["request"]["postData"]["text"] for entry in ENTRIES]
JSON = {"Content-Type": "application/json"}


class Caller(FastHttpUser):
    """Sends one text now and then."""

    def wait_time(self) -> float:
        """Seconds until the next request."""
        return random.expovariate(RATE / CALLERS)

    def on_start(self) -> None:
        """Not all callers at once."""
        self.wait()

    @task
    def classify(self) -> None:
        """One request."""
        self.client.post("/v1/classify", data=random.choice(BODIES), headers=JSON)
