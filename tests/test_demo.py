"""`make demo` and `make serve`, as the README has them, and on that server what the documents ask
of one, and the page. Apart from their other commands, which take as long, so that two processes
share the work."""

import json
import os
import shutil
import subprocess
from contextlib import redirect_stdout
from io import StringIO

import httpx
import pytest
from playwright.sync_api import expect

from calibration.command.calibrate import calibrate
from ifedicl_serve.contract.artifact import TASK_FILE, VECTORS_FILE, load_artifact
from tests.documents import ROOT, Block, placed, run
from tests.page.conftest import chromium, watch
from tests.page.pages import answers, classify, values
from tests.processes import free_port, wait_until_healthy

ADMIN_KEY = "of-the-operator"
QUESTIONS = [
    "My new card has still not arrived",
    "I forgot my PIN",
    "How old must my son be to open an account?",
    "Where is the money I sent to my sister?",
]


@pytest.fixture(scope="module")
def demo() -> dict:
    """What `make demo` reports."""
    (ROOT / "demo" / "report.json").unlink(missing_ok=True)
    make_demo, _ = placed("demo")
    output = run(make_demo)
    assert "curl http" in output and "make serve" in output
    return json.loads((ROOT / "demo" / "report.json").read_text())


def test_demo_reports_three_ways_on_the_same_texts_and_adaptation_helps(demo):
    assert set(demo) == {"accuracy", "log_loss", "n_test"}
    assert set(demo["accuracy"]) == set(demo["log_loss"]) == {"zero_shot", "few_shot", "adapted"}
    assert demo["accuracy"]["adapted"] > demo["accuracy"]["zero_shot"]
    assert demo["log_loss"]["adapted"] < demo["log_loss"]["zero_shot"]


@pytest.fixture(scope="module")
def url(demo):
    """`make serve`, until the last of these tests."""
    _, make_serve = placed("demo")
    port = free_port()
    server = subprocess.Popen(
        [*make_serve.commands.split(), f"PORT={port}"],
        cwd=ROOT,
        env=os.environ | {"IFEDICL_ADMIN_KEY": ADMIN_KEY},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=60)


def printed(block: Block, url: str) -> str:
    """What a block of Python prints."""
    with redirect_stdout(StringIO()) as output:
        exec(block.text.replace("http://127.0.0.1:8000", url), {})
    return output.getvalue()


def test_it_answers_what_the_documents_ask_of_a_server(url, tmp_path):
    curl, client, classifier, upload, _ = placed("server")
    answer = json.loads(run(curl, url=url))
    assert [result["label"] for result in answer["data"]] == ["delivery", "password"]
    label, score = printed(client, url).split()
    assert label == "password" and float(score) > 0.5
    assert printed(classifier, url) == "['password']\n"
    shutil.copytree(ROOT / "demo" / "tasks" / "banking", tmp_path / "banking")
    replaced = json.loads(run(upload, tmp_path, url, KEY=ADMIN_KEY))
    assert replaced["digest"] == answer["task_digest"]


def test_a_task_made_over_http_answers_as_one_fitted_offline_to_the_same_rows(
    url, tmp_path, monkeypatch
):
    """The block's rows, through the hooked model in float32; the server's in bfloat16."""
    *_, made = placed("server")
    monkeypatch.setenv("IFEDICL_API_KEY", ADMIN_KEY)
    assert printed(made, url) == "head True\n"
    rows = (ROOT / "examples" / "banking" / "train.jsonl").read_text().splitlines()[:200]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    offline = tmp_path / "offline"
    arguments = ["--model", ROOT / "examples" / "base_model", "--data", tmp_path / "rows.jsonl",
                 "--fit", "head", "--out", offline]  # fmt: skip
    assert calibrate(list(map(str, arguments))) == 0
    files = {name: (offline / name).read_bytes() for name in (TASK_FILE, VECTORS_FILE)}
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {ADMIN_KEY}"}) as client:
        assert client.put("/v1/tasks/offline", files=files, timeout=60).status_code == 201
        ours, theirs = (
            [{one["label"]: one["score"] for one in answer["scores"]} for answer in answered]
            for answered in (answers(url, name, QUESTIONS) for name in ("made", "offline"))
        )
        for one, other in zip(ours, theirs, strict=True):
            assert one == pytest.approx(other, abs=0.05)
        for name in ("made", "offline"):
            assert client.delete(f"/v1/tasks/{name}").status_code == 204


@pytest.fixture
def page(url):
    """The page in Chromium, with its only task chosen."""
    complaints = []
    with chromium() as browser:
        page = browser.new_page()
        watch(page, url, complaints)
        page.goto(url)
        expect(page.get_by_role("complementary")).to_be_visible()
        yield page
    assert not complaints


def test_the_page_shows_what_the_api_answers_adapted_and_unadapted(page, url):
    page.get_by_role("radio", name="One per line").check()
    page.get_by_label("Compare with unadapted").check()
    classify(page, "\n".join(QUESTIONS))
    adapted, unadapted = (
        answers(url, "banking", QUESTIONS, adapted=adapted) for adapted in (True, False)
    )
    articles = page.get_by_role("article").all()
    assert len(articles) == len(QUESTIONS)
    for article, ours, plain in zip(articles, adapted, unadapted, strict=True):
        expect(article.locator(".verdict strong")).to_have_text(ours["label"])
        base = {score["label"]: score["score"] for score in plain["scores"]}
        best = ours["scores"][0]
        shown = [float(value.rstrip("%")) / 100 for value in values(article)[:2]]
        assert shown == pytest.approx([best["score"], base[best["label"]]], abs=0.005)


def test_the_pages_card_is_of_the_artifact_that_was_calibrated(page):
    artifact = load_artifact(ROOT / "demo" / "tasks" / "banking")
    rungs = artifact.spec.calibration.rungs
    assert len(rungs) == 9
    card = page.get_by_role("complementary")
    rows = card.get_by_role("table", name="Rungs tried").locator("tbody tr").all()
    for row, rung in zip(rows, rungs, strict=True):
        expect(row.get_by_role("cell").first).to_have_text(f"{rung.log_loss:.3f}")
        assert ("chosen" in row.inner_text()) == (rung.name == artifact.spec.rung)
    expect(card.locator(".provenance").first).to_contain_text(artifact.digest)
