"""Callers of a server, good and bad: what each sends, and what it must be answered.

A caller takes a client and a random generator, sends one request, and returns what was wrong with
the answer (None: nothing). Answers to the same text under the same artifact must agree.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

TOLERANCE = 1e-3  # of a probability, float32 in batches of any mix
PATIENCE_S = 120
LARGE = 1 << 30

Caller = Callable[["Callers", Random], Awaitable[str | None]]


@dataclass
class Callers:
    """What callers share: the server, its tasks and texts, and every answer seen so far."""

    http: httpx.AsyncClient
    tasks: list[str]
    texts: list[str]
    seen: dict[tuple[str, str, bool], list[float]] = field(default_factory=dict)

    async def post(self, **request: Any) -> httpx.Response:
        return await self.http.post("/v1/classify", timeout=PATIENCE_S, **request)


async def classifies(callers: Callers, random: Random) -> str | None:
    """One text or a batch, adapted or now and then not."""
    texts = random.choices(callers.texts, k=random.choice((1, 1, 1, 8, 32)))
    adapted = random.random() > 0.1
    body = {"task": random.choice(callers.tasks), "input": texts, "adapted": adapted}
    response = await callers.post(json=body)
    if response.status_code != 200:
        return f"{response.status_code} to a good request: {response.text[:200]}"
    answer = response.json()
    for text, result in zip(texts, answer["data"], strict=True):
        scores = [one["score"] for one in sorted(result["scores"], key=lambda one: one["label"])]
        key = (answer["task_digest"], text, adapted)
        known = callers.seen.setdefault(key, scores)
        if max(abs(one - other) for one, other in zip(known, scores, strict=True)) > TOLERANCE:
            return f"{scores} where {known} was answered before"
    return None


async def asks_a_strange_task(callers: Callers, random: Random) -> str | None:
    """404."""
    return _status(await callers.post(json={"task": f"x{random.random()}", "input": "a"}), 404)


async def sends_nothing_to_classify(callers: Callers, random: Random) -> str | None:
    """422, also beside good texts."""
    texts = [*random.choices(callers.texts, k=3), ""]
    return _status(await callers.post(json={"task": callers.tasks[0], "input": texts}), 422)


async def sends_a_text_too_long(callers: Callers, random: Random) -> str | None:
    """422, and nothing of the request reaches the engine."""
    texts = [random.choice(callers.texts), "word " * 5000]
    return _status(await callers.post(json={"task": callers.tasks[0], "input": texts}), 422)


async def sends_broken_json(callers: Callers, random: Random) -> str | None:
    """400."""
    whole = json.dumps({"task": callers.tasks[0], "input": callers.texts[0]})
    cut = whole[: random.randrange(1, len(whole) - 1)].encode()
    headers = {"Content-Type": "application/json"}
    return _status(await callers.post(content=cut, headers=headers), 400)


async def is_impatient(callers: Callers, random: Random) -> str | None:
    """504, or 200 from a server that was quicker."""
    body = {"task": random.choice(callers.tasks), "input": callers.texts[:32], "timeout": 0.005}
    return _status(await callers.post(json=body), 504, 200)


async def hangs_up(callers: Callers, random: Random) -> str | None:
    """Nobody waits for this answer."""
    body = json.dumps({"task": random.choice(callers.tasks), "input": callers.texts}).encode()
    _, writer = await _connect(callers)
    writer.write(_head(len(body)) + body)
    await writer.drain()
    await asyncio.sleep(random.random() * 0.05)
    await _close(writer)
    return None


async def claims_a_gigabyte(callers: Callers, random: Random) -> str | None:
    """413 before a byte of it is read."""
    reader, writer = await _connect(callers)
    writer.write(_head(LARGE))
    await writer.drain()
    line = await asyncio.wait_for(reader.readline(), PATIENCE_S)
    await _close(writer)
    return None if b" 413 " in line else f"{line!r} to a body of a gigabyte"


async def is_slow(callers: Callers, random: Random) -> str | None:
    """200, although the body comes in drops."""
    body = json.dumps({"task": random.choice(callers.tasks), "input": callers.texts[0]}).encode()
    reader, writer = await _connect(callers)
    writer.write(_head(len(body)))
    for start in range(0, len(body), 16):
        writer.write(body[start : start + 16])
        await writer.drain()
        await asyncio.sleep(0.05)
    line = await asyncio.wait_for(reader.readline(), PATIENCE_S)
    await _close(writer)
    return None if b" 200 " in line else f"{line!r} to a slow client"


async def looks_around(callers: Callers, random: Random) -> str | None:
    """200: the list, a card, the probes, the metrics, the page."""
    paths = ("/v1/tasks", f"/v1/tasks/{callers.tasks[0]}", "/ready", "/health", "/metrics", "/")
    return _status(await callers.http.get(random.choice(paths), timeout=PATIENCE_S), 200)


# Caller -> how often, relative to the others. All but the last send to /v1/classify.
MIX: dict[Caller, int] = {
    classifies: 60,
    asks_a_strange_task: 4,
    sends_nothing_to_classify: 4,
    sends_a_text_too_long: 4,
    sends_broken_json: 4,
    is_impatient: 4,
    hangs_up: 4,
    claims_a_gigabyte: 2,
    is_slow: 2,
    looks_around: 4,
}


def _status(response: httpx.Response, *expected: int) -> str | None:
    if response.status_code in expected:
        return None
    return f"{response.status_code} where {expected} was expected: {response.text[:200]}"


async def _connect(callers: Callers) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = callers.http.base_url
    return await asyncio.open_connection(url.host, url.port)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        pass  # the server closed first


def _head(length: int) -> bytes:
    return (
        "POST /v1/classify HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()
