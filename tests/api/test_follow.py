"""Tasks that come and go while requests run."""

import asyncio
import shutil
from contextlib import asynccontextmanager

import httpx
import pytest
from prometheus_client import REGISTRY

import api.follow
from api.follow import follow
from ifedicl_serve.contract.artifact import TASK_FILE, VECTORS_FILE
from ifedicl_serve.tasks.editor import TaskEditor
from ifedicl_serve.tasks.registry import TaskRegistry
from tests.api.conftest import application
from tests.api.fake_engine import FakeEngine
from tests.ifedicl_serve.factory import HIDDEN, LAYERS, MODEL, make_artifact

LIMIT_S = 60


@pytest.fixture
def registry(tokenizer, tmp_path):
    make_artifact(tmp_path / "sst2")
    return TaskRegistry(tmp_path, MODEL, tokenizer)


class SlowEngine(FakeEngine):
    """Answers once it is let go."""

    def __init__(self):
        super().__init__()
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def token_scores(self, prompt_ids, request):
        self.asked.set()
        await self.go.wait()
        return await super().token_scores(prompt_ids, request)


@asynccontextmanager
async def serving(registry, tokenizer, engine):
    """A client of the routes, while the registry follows its folder."""
    app = application(registry, tokenizer, engine)
    follower = asyncio.create_task(follow(registry))
    transport = httpx.ASGITransport(app)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client
    finally:
        follower.cancel()
        await asyncio.wait([follower])


async def until(condition):
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.01)


def classify(client, task="sst2", text="fine"):
    return client.post("/v1/classify", json={"task": task, "input": text})


def test_tasks_come_change_and_go_without_a_restart(registry, tokenizer, tmp_path):
    async def scenario():
        async with serving(registry, tokenizer, FakeEngine()) as client:
            assert (await classify(client, "trec")).status_code == 404
            first = make_artifact(tmp_path / "trec", name="trec").digest
            await until(lambda: "trec" in registry.tasks)
            assert (await classify(client, "trec")).json()["task_digest"] == first
            second = make_artifact(tmp_path / "trec", name="trec", seed=1).digest
            await until(lambda: registry.get("trec").digest == second)
            assert (await classify(client, "trec")).json()["task_digest"] == second
            shutil.rmtree(tmp_path / "trec")
            await until(lambda: "trec" not in registry.tasks)
            assert (await classify(client, "trec")).status_code == 404
            assert (await classify(client)).status_code == 200

    asyncio.run(scenario())


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_a_running_request_ends_with_the_version_it_began_with(
    registry, tokenizer, tmp_path, change
):
    """All of its texts and label nodes, too."""
    old = registry.get("sst2").digest

    async def scenario():
        engine = SlowEngine()
        async with serving(registry, tokenizer, engine) as client:
            running = asyncio.create_task(classify(client, text=["one", "two"]))
            await engine.asked.wait()
            shutil.rmtree(tmp_path / "sst2")
            if change == "replaced":
                make_artifact(tmp_path / "sst2", seed=1)
            await until(lambda: getattr(registry.tasks.get("sst2"), "digest", None) != old)
            engine.go.set()
            response = await running
            assert response.status_code == 200
            assert response.json()["task_digest"] == old
            assert (await classify(client)).status_code == (200 if change == "replaced" else 404)

    asyncio.run(scenario())


def test_a_half_written_folder_is_listed_with_its_reason_until_it_is_whole(
    registry, tokenizer, tmp_path
):
    make_artifact(tmp_path / ".source" / "trec", name="trec")

    async def scenario():
        async with serving(registry, tokenizer, FakeEngine()) as client:
            shutil.copytree(
                tmp_path / ".source" / "trec",
                tmp_path / "trec",
                ignore=shutil.ignore_patterns(VECTORS_FILE),
            )
            await until(lambda: "trec" in registry.refused)
            listed = (await client.get("/v1/tasks")).json()["data"]
            assert listed[1]["id"] == "trec"
            assert "vectors.safetensors: cannot read" in listed[1]["reason"]
            assert (await classify(client, "trec")).status_code == 404
            shutil.copy(tmp_path / ".source" / "trec" / VECTORS_FILE, tmp_path / "trec")
            await until(lambda: "trec" in registry.tasks)
            assert (await classify(client, "trec")).status_code == 200

    asyncio.run(scenario())


def test_without_notices_the_folder_is_looked_at_all_the_same(
    registry, tokenizer, tmp_path, monkeypatch
):
    def no_notices(*args, **options):
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr(api.follow, "awatch", no_notices)

    async def scenario():
        async with serving(registry, tokenizer, FakeEngine()):
            make_artifact(tmp_path / "trec", name="trec")
            await until(lambda: "trec" in registry.tasks)

    asyncio.run(scenario())


def test_a_defect_ends_no_following(registry, tokenizer, tmp_path, monkeypatch, logged):
    """It is logged, once and where it was, and the folder is looked at again."""
    refresh, defects = registry.refresh, iter([TypeError("defect")] * 2)

    def refresh_with_defects(names=None):
        for defect in defects:
            raise defect
        return refresh(names)

    monkeypatch.setattr(registry, "refresh", refresh_with_defects)

    async def scenario():
        async with serving(registry, tokenizer, FakeEngine()):
            make_artifact(tmp_path / "trec", name="trec")
            await until(lambda: "trec" in registry.tasks)

    asyncio.run(scenario())
    assert logged.text.count("TypeError: defect") == 1
    assert "in refresh_with_defects" in logged.text


def test_changes_through_the_admin_routes_are_counted_and_logged(
    registry, tokenizer, tmp_path, logged
):
    made = tmp_path / ".made" / "trec"
    make_artifact(made, name="trec")
    files = [(made / name).read_bytes() for name in (TASK_FILE, VECTORS_FILE)]

    def serving_tasks():
        return REGISTRY.get_sample_value("ifedicl:tasks", {"status": "ready"})

    async def scenario():
        async with serving(registry, tokenizer, FakeEngine()):
            store = TaskEditor(registry, LAYERS, HIDDEN)
            await asyncio.sleep(0.01)  # the follower begins
            await asyncio.to_thread(store.put, "trec", *files)
            await until(lambda: serving_tasks() == 2)
            await asyncio.to_thread(store.delete, "trec")
            await until(lambda: serving_tasks() == 1)

    asyncio.run(scenario())
    assert "Artifact folder trec: serves task 'trec'" in logged.text
    assert "Artifact folder trec: removed" in logged.text


def test_a_tasks_directory_that_comes_back_is_followed_again(registry, tokenizer, tmp_path):
    async def scenario():
        async with serving(registry, tokenizer, FakeEngine()) as client:
            away = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-away"))
            await asyncio.sleep(2 * api.follow.TURN_MS / 1000)
            assert (await classify(client)).status_code == 200
            away.rename(tmp_path)
            make_artifact(tmp_path / "trec", name="trec")
            await until(lambda: "trec" in registry.tasks)

    asyncio.run(scenario())
