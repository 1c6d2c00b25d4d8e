"""`GET /metrics`: who asks is told of now, and many who ask cost what one does."""

import asyncio
import threading

from prometheus_client import CONTENT_TYPE_LATEST

import api.observe.scrape
from api.observe.scrape import REST, Scrape
from tests.api.conftest import application, running
from tests.api.fake_engine import FakeEngine


class Numbered:
    """Texts that are numbers; each takes until it is let go."""

    def __init__(self):
        self.made = 0
        self.go = threading.Event()

    def __call__(self):
        self.made += 1
        number = self.made
        self.go.wait()
        return b"%d" % number


def test_all_who_wait_get_one_text_and_who_comes_while_it_is_made_the_next():
    async def texts():
        numbered = Numbered()
        scrape = Scrape(numbered)
        early = [asyncio.create_task(scrape.text()) for _ in range(20)]
        while not numbered.made:
            await asyncio.sleep(0.001)
        late = [asyncio.create_task(scrape.text()) for _ in range(20)]
        await asyncio.sleep(0)
        numbered.go.set()
        return await asyncio.gather(*early), await asyncio.gather(*late)

    assert asyncio.run(texts()) == ([b"1"] * 20, [b"2"] * 20)


def test_the_next_text_waits_longer_the_longer_the_last_one_took(monkeypatch):
    now, slept = [1.0], []

    def render():
        now[0] += 5
        return b""

    async def sleep(seconds):
        slept.append(seconds)

    async def twice():
        scrape = Scrape(render)
        monkeypatch.setattr(api.observe.scrape, "monotonic", lambda: now[0])
        monkeypatch.setattr(asyncio, "sleep", sleep)
        await scrape.text()
        now[0] += 1
        await scrape.text()

    asyncio.run(twice())
    assert slept == [-1, 5 * REST - 1]


def test_one_that_fails_is_nobodys_text_but_its_askers_error():
    answers = iter([OSError("no file"), b"fine"])

    def render():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def twice():
        scrape = Scrape(render)
        return await asyncio.gather(scrape.text(), scrape.text(), return_exceptions=True)

    error, text = asyncio.run(twice())
    assert (str(error), text) == ("no file", b"fine")


def test_it_is_served_as_prometheus_expects_it(registry, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with running(application(registry, tokenizer, FakeEngine())) as client:
        response = client.get("/metrics")
    assert (response.status_code, response.headers["content-type"]) == (200, CONTENT_TYPE_LATEST)
