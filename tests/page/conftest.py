"""The page in real Chromium, on a real socket, with the fake engine.

Every test ends with what no page may do: ask another origin, log an error, or break its own CSP.
"""

import shutil
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect, sync_playwright
from transformers import AutoTokenizer

from ifedicl_serve.contract.artifact import save_artifact
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.spec import CalibrationRecord, Label, RungRecord
from ifedicl_serve.tasks.registry import TaskRegistry
from tests.api.conftest import TINY_QWEN2, application, running
from tests.api.fake_engine import FakeEngine
from tests.ifedicl_serve.factory import (
    MODEL,
    NOTHING_ADAPTED,
    make_artifact,
    make_rung,
    make_spec,
)

MAX_PROMPT = 400  # tokens
LIMIT_MS = 60_000  # of anything that is waited for; machines are shared
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BANKING = ("age", "cash", "delivery", "exchange", "identity", "password", "refund", "transfer")
MARKUP = '<img src=x onerror="document.title=1"><script>document.title=1</script>'
LABELS_OF_MARKUP = tuple(Label(name=MARKUP + name, verbalization=name) for name in ("a", "b"))
LOSSES = (1.0533, 0.6904, 0.4812, 0.4127, 0.3899)
TRIED = (
    RungRecord(
        name="zero-shot",
        numbers=0,
        log_loss=1.7312,
        excess=0.8204,
        standard_error=0.0931,
        accuracy=0.475,
    ),
    RungRecord(
        name="channels+head",
        numbers=196_612,
        log_loss=0.9108,
        excess=0.0,
        standard_error=0.0,
        accuracy=0.6625,
    ),
)

expect.set_options(timeout=LIMIT_MS)


@contextmanager
def chromium():
    """Debian's Chromium, else Playwright's own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=CHROMIUM_FLAGS
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    """A task like the demo's, one of every channel and one of no layer, one whose every string is
    markup, and many small ones."""
    folder = tmp_path_factory.mktemp("tasks")
    make_artifact(
        folder / "banking",
        name="banking",
        labels=BANKING,
        prompt=PromptTemplate.of("Text: {text}\nTopic:"),
        calibration=CalibrationRecord(
            loss="restricted",
            rounds=5,
            round_losses=LOSSES,
            seed=7,
            client_sizes=(300, 110),
            settings={"learning_rate": 0.05, "aggregation": "fedavg"},
            metrics={
                "zero_shot_accuracy": 0.735294,
                "adapted_accuracy": 0.901961,
                "held_out": 102.0,
            },
            wire_bytes={"total": 25536},
            versions={"torch": "2.13.0"},
        ),
    )
    make_artifact(
        folder / "emotion",
        name="emotion",
        labels=("anger", "joy", "love"),
        prompt=PromptTemplate(head="What does {text} mean? ", tail="\nThat is:"),
        rung="channels+head",
        extent="tail",
        calibration=make_record(rungs=TRIED),
    )
    make_artifact(
        folder / "spam",
        name="spam",
        rung="head",
        calibration=make_record(rounds=0),
        **NOTHING_ADAPTED,
    )
    hostile = make_spec(
        name="hostile",
        prompt=PromptTemplate.of(MARKUP + " {text}\nTopic:"),
        calibration=make_record(rungs=(TRIED[0].model_copy(update={"name": MARKUP}),)),
    ).model_copy(update={"labels": LABELS_OF_MARKUP})
    save_artifact(hostile, make_rung("coefficients+bias", hostile), folder / "hostile")
    for number in range(70):
        make_artifact(folder / f"customer-{number}", name=f"customer-{number}", seed=number)
    (folder / "damaged").mkdir()
    (folder / "damaged" / "task.json").write_text("{")
    return TaskRegistry(folder, MODEL, AutoTokenizer.from_pretrained(TINY_QWEN2))


def make_record(**changes):
    """How a small task was made."""
    fields = {"loss": "restricted", "rounds": 1, "seed": 0, "client_sizes": (8,)}
    return CalibrationRecord(**(fields | changes))


@pytest.fixture(scope="session")
def app(registry):
    return page_application(registry)


def page_application(registry):
    """The routes on the fake engine, with room for templates of markup."""
    app = application(registry, registry.tokenizer, FakeEngine())
    app.state.ifedicl_classifier.encoder.prompts.max_model_len = MAX_PROMPT
    return app


@pytest.fixture(scope="module")
def url(app):
    with serving(app) as url:
        yield url


@contextmanager
def serving(app):
    """The base URL of an application on a socket."""
    with running(app) as client:
        yield str(client.base_url)


@pytest.fixture
def visit(browser):
    """Opens `visit(url)` in a context of its own; `options` are the context's."""
    contexts, complaints = [], []

    def opened(url, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(LIMIT_MS)
        page = context.new_page()
        watch(page, url, complaints)
        page.goto(url)
        expect(page.locator("#card")).to_be_visible()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints


def watch(page, url, complaints):
    """Note what the page must not do. That a request was refused is not the page's fault."""
    origin = "/".join(url.split("/")[:3]) + "/"

    def requested(request):
        if not request.url.startswith((origin, f"blob:{origin}")):
            complaints.append(f"request to {request.url}")

    def logged(message):
        refused = message.text.startswith("Failed to load resource")
        if message.type in ("error", "warning") and not refused:
            complaints.append(message.text)

    page.on("request", requested)
    page.on("console", logged)
    page.on("pageerror", lambda error: complaints.append(str(error)))


def sideways(page):
    """By how many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")
