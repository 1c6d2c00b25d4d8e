"""Jobs in turn, stopped, killed and beside classifications; none leaves half a task."""

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from api.making import jobs as module
from api.making.features import AT_ONCE_BESIDE
from api.options import ServeOptions
from ifedicl_serve.fitting.task import fit_task
from ifedicl_serve.schema_jobs import FINAL
from ifedicl_serve.tasks.registry import TaskRegistry
from tests.api.conftest import application, running
from tests.api.fake_engine import FakeEngine
from tests.api.http.make.conftest import (
    ADMIN_KEY,
    KEYS,
    bearer,
    create,
    hidden,
    job_of,
    until,
)
from tests.api.http.test_errors import error_of
from tests.ifedicl_serve.factory import MODEL


@pytest.fixture
def other_process(folder, tokenizer, engine, client):
    """Another API process of the same server, as far as it can tell."""
    app = application(
        TaskRegistry(folder, MODEL, tokenizer), tokenizer, engine, [*KEYS, ADMIN_KEY], keys=KEYS
    )
    with running(app) as other:
        other.headers.update(bearer(ADMIN_KEY))
        yield other


def stop(client, job_id):
    response = client.delete(f"/v1/jobs/{job_id}")
    assert response.status_code == 202, response.text


def stop_and_cancel(client, app, job_id):
    """And its owner has cancelled it."""
    store, seen = app.state.ifedicl_jobs.store, Event()
    is_stopped = store.is_stopped

    def see(asked_of):
        stopped = is_stopped(asked_of)
        if stopped:
            seen.set()
        return stopped

    store.is_stopped = see
    stop(client, job_id)
    seen.wait()
    for _ in range(3):  # each is several rounds of the event loop, and that is two
        job_of(client, job_id)


def left_nothing(client, folder):
    assert client.get("/v1/tasks/team-banking").status_code == 404
    assert not (folder / "team-banking").exists()
    assert hidden(folder) == []


def test_a_job_is_seen_and_stopped_from_every_process(client, other_process, engine, folder):
    engine.held = True
    job_id = create(client).json()["id"]
    until(other_process, job_id, "reading")
    assert [job["id"] for job in other_process.get("/v1/jobs").json()["data"]] == [job_id]
    stop(other_process, job_id)
    until(client, job_id, "cancelled")
    assert engine.aborted == 24
    left_nothing(client, folder)


def test_jobs_of_all_processes_run_one_at_a_time(client, other_process, engine):
    engine.held = True
    first = create(client, "team-a").json()["id"]
    until(client, first, "reading")
    second = create(other_process, "team-b").json()["id"]
    third = create(client, "team-c").json()["id"]
    assert {job_of(client, job_id)["status"] for job_id in (second, third)} == {"queued"}
    assert len(engine.prompts) == 24  # of the first alone
    engine.held = False
    for job_id in (first, second, third):
        until(client, job_id, "done")


def test_a_job_that_waits_is_stopped_too(client, engine):
    engine.held = True
    until(client, create(client, "team-a").json()["id"], "reading")
    waiting = create(client, "team-b").json()["id"]
    stop(client, waiting)
    until(client, waiting, "cancelled")
    engine.held = False


def test_two_jobs_for_one_name(client, engine):
    """The second would only replace what the first makes."""
    engine.held = True
    first = create(client).json()["id"]
    message = error_of(create(client), 409)["message"]
    assert message.startswith(f"job {first} is making task 'team-banking'; wait for it, or stop it")
    engine.held = False
    until(client, first, "done")
    assert create(client, replace=True, wait=True).status_code == 201


def test_a_queue_that_is_full_says_when_to_come_again(client, engine, monkeypatch):
    monkeypatch.setattr(module, "MAX_QUEUED", 1)
    engine.held = True
    first = create(client, "team-a").json()["id"]
    response = create(client, "team-b")
    assert "1 jobs are waiting or running" in error_of(response, 503)["message"]
    assert response.headers["retry-after"] == "30"
    engine.held = False
    until(client, first, "done")


def test_a_request_beyond_the_bound_is_refused_before_its_texts_are_tokenised(
    client, engine, monkeypatch
):
    """Counted with those that are still tokenised."""
    begun, over = Event(), Event()
    drafted = module.drafted

    def slow(*arguments):
        begun.set()
        over.wait()
        return drafted(*arguments)

    monkeypatch.setattr(module, "MAX_QUEUED", 1)
    monkeypatch.setattr(module, "drafted", slow)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(create, client, "team-a")
        begun.wait()
        error_of(create(client, "team-b"), 503)
        over.set()
    until(client, first.result().json()["id"], "done")


@pytest.fixture
def fitting(monkeypatch):
    """Fitting that goes on until the test ends."""
    begun, over = Event(), Event()

    def fit(*arguments):
        begun.set()
        over.wait()
        return fit_task(*arguments)

    monkeypatch.setattr(module, "fit_task", fit)
    yield begun, over
    over.set()


def test_a_job_stopped_while_it_fits_leaves_no_half_task(client, app, fitting, folder):
    job_id = create(client).json()["id"]
    begun, over = fitting
    begun.wait()
    stop_and_cancel(client, app, job_id)
    waiting = create(client, "team-next").json()["id"]
    assert job_of(client, waiting)["status"] == "queued"  # while the thread still fits
    over.set()
    until(client, job_id, "cancelled")
    until(client, waiting, "done")
    left_nothing(client, folder)


def test_jobs_are_listed_while_one_writes(client, app, monkeypatch):
    jobs, writing, over = app.state.ifedicl_jobs, Event(), Event()
    put = jobs.editor.put

    def slow_put(*arguments, **options):
        writing.set()
        over.wait()
        return put(*arguments, **options)

    monkeypatch.setattr(jobs.editor, "put", slow_put)
    job_id = create(client).json()["id"]
    writing.wait()
    (job,) = client.get("/v1/jobs").json()["data"]
    assert (job["id"], job["status"]) == (job_id, "writing")
    over.set()
    until(client, job_id, "done")


def test_a_job_stopped_while_it_writes_is_done(client, app, folder, monkeypatch):
    """It is too late: what says it was cancelled must not serve."""
    jobs = app.state.ifedicl_jobs
    put = jobs.editor.put

    def put_when_stopped(*arguments, **options):
        jobs.store.stop(jobs.store.all()[0])
        return put(*arguments, **options)

    monkeypatch.setattr(jobs.editor, "put", put_when_stopped)
    job = until(client, create(client).json()["id"], "done")
    assert client.get("/v1/tasks/team-banking").json()["digest"] == job["digest"]


def test_who_waits_for_a_job_that_is_stopped_is_told(client, app, fitting, folder):
    begun, over = fitting

    def stop_it():
        begun.wait()
        stop_and_cancel(client, app, app.state.ifedicl_jobs.store.all()[0].id)
        over.set()

    with ThreadPoolExecutor() as threads:
        threads.submit(stop_it)
        message = error_of(create(client, wait=True), 409)["message"]
    assert message.endswith("was stopped, and task 'team-banking' was not made")
    left_nothing(client, folder)


def test_a_disk_that_fills_while_it_is_written_leaves_no_half_task(client, folder, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkdtemp", fail)
        error = error_of(create(client, wait=True), 507)
    assert error["message"].startswith("no space for the task (No space left on device), nothing")
    (job,) = client.get("/v1/jobs").json()["data"]
    assert (job["status"], job["error"]["message"]) == ("failed", error["message"])
    left_nothing(client, folder)


def test_a_folder_that_cannot_be_written_refuses_before_anything_is_read(
    client, engine, folder, monkeypatch
):
    def fail(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.mkdir", fail)
        message = error_of(create(client), 409)["message"]
    assert message.startswith("the tasks directory cannot be changed (Read-only file system); mou")
    assert engine.prompts == []
    left_nothing(client, folder)


def test_what_fails_in_a_job_is_told_and_logged_without_its_content(
    client, folder, monkeypatch, caplog
):
    said = "what a text says"

    def fail(*arguments):
        raise ValueError(said)

    monkeypatch.setattr(module, "fit_task", fail)
    error = error_of(create(client, wait=True), 500)
    assert "failed of ValueError at" in caplog.text and "in fail" in caplog.text
    assert said not in caplog.text
    assert error["message"] == "this is a defect of the server; its log says more about the job"
    left_nothing(client, folder)


def test_a_server_that_stops_ends_the_job_it_has(client, app, engine, folder, monkeypatch):
    monkeypatch.setattr("api.making.features.AT_ONCE_ALONE", 4)
    engine.held = True
    job_id = create(client).json()["id"]
    until(client, job_id, "reading")
    app.state.ifedicl_admission.draining = True
    engine.held = False
    job = until(client, job_id, "failed")
    assert job["error"]["message"] == "this server is stopping; send the request to another one"
    left_nothing(client, folder)


def test_beside_classifications_a_job_is_a_small_batch(client, app, engine):
    """Whoever comes next waits for no more than that."""
    engine.held = True
    with app.state.ifedicl_admission.hold(1):
        job_id = create(client).json()["id"]
        until(client, job_id, "reading")
        while len(engine.prompts) < AT_ONCE_BESIDE:
            time.sleep(0.005)
        job_of(client, job_id)  # the event loop has come round since, and nothing was added
        assert len(engine.prompts) == AT_ONCE_BESIDE
        engine.held = False
        until(client, job_id, "done")


def test_waiting_ends_with_the_servers_timeout_and_the_job_goes_on(
    registry, tokenizer, monkeypatch
):
    engine = FakeEngine()
    engine.held = True
    monkeypatch.setenv("IFEDICL_ADMIN_KEY", ADMIN_KEY)
    # Of waiting alone: the body has its own time to come.
    monkeypatch.setattr(ServeOptions, "seconds", lambda self, wanted: 0.05)
    app = application(registry, tokenizer, engine)
    with running(app) as client:
        client.headers.update(bearer(ADMIN_KEY))
        response = create(client, wait=True)
        assert response.status_code == 202
        assert response.json()["status"] not in FINAL
        engine.held = False
        until(client, response.json()["id"], "done")
