"""The service's calls as exchanges: requests built, responses parsed, no I/O."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from ifedicl_serve.client.errors import (
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    TaskNotMadeError,
)
from ifedicl_serve.client.retry import Exchange, Retries, Wait
from ifedicl_serve.contract.text import is_unicode
from ifedicl_serve.schema import (
    ALL,
    MAX_BATCH,
    MAX_RESULTS,
    Classification,
    ClassifyResponse,
    ClassifyTasksResponse,
    RefusedTask,
    TaskCard,
    TaskError,
    TaskList,
    TaskSummary,
)
from ifedicl_serve.schema_jobs import FINAL, Job

M = TypeVar("M", bound=BaseModel)
POLL_S = 0.25  # how often a job is asked for
SHOWN = 200  # characters of a text in an error
OnProgress = Callable[[Job], None]
Build = Callable[..., httpx.Request]  # as httpx.Client.build_request
Result = Classification | TaskError


class Calls:
    """Builds each call's exchange with the server that `build` makes requests for."""

    def __init__(self, build: Build, retries: Retries, batch_size: int) -> None:
        if not 1 <= batch_size <= MAX_BATCH:
            raise ValueError(f"batch_size is {batch_size}, a request takes 1 to {MAX_BATCH} texts")
        self.build = build
        self.retries = retries
        self.batch_size = batch_size

    def classify(
        self,
        tasks: str | Sequence[str],
        texts: str | Sequence[str],
        top_k: int | None,
        truncate: bool,
        adapted: bool,
    ) -> list[Exchange[list[Result]]]:
        """One exchange per batch of texts, in order; fields are sent only if they say something.

        Raises ValueError for a string that no request can hold.
        """
        options, names = _of_tasks(tasks)
        if top_k is not None:
            options["top_k"] = top_k
        if truncate:
            options["truncate"] = True
        if not adapted:
            options["adapted"] = False
        texts = [texts] if isinstance(texts, str) else list(texts)
        for name in names:
            _refuse_halves(name, "the task's name")
        for index, text in enumerate(texts):
            _refuse_halves(text, f"text {index}")
        size = max(1, min(self.batch_size, MAX_RESULTS // max(1, len(names))))
        return [
            self._classify(options, texts[start : start + size], start)
            for start in range(0, len(texts), size)
        ]

    def _classify(
        self, options: dict[str, Any], texts: list[str], start: int
    ) -> Exchange[list[Result]]:
        model: type[ClassifyResponse] | type[ClassifyTasksResponse] = (
            ClassifyResponse if "task" in options else ClassifyTasksResponse
        )
        try:
            response = yield from self._send(
                model, "POST", "/v1/classify", json={**options, "input": texts}
            )
        except APIStatusError as error:
            if start:  # the server counts from 0
                error.add_note(f"in the request with texts {start} to {start + len(texts) - 1}")
            raise
        _refuse_missing(len(response.data), len(texts), options)
        return [
            result.model_copy(update={"index": start + result.index}) for result in response.data
        ]

    def tasks(self) -> Exchange[list[TaskSummary | RefusedTask]]:
        """Every artifact the server has, refused ones with their reason."""
        listed = yield from self._send(TaskList, "GET", "/v1/tasks")
        return listed.data

    def task(self, name: str) -> Exchange[TaskCard]:
        """One task's labels, template and provenance."""
        _refuse_halves(name, "the task's name")
        return (yield from self._send(TaskCard, "GET", f"/v1/tasks/{quote(name, safe='')}"))

    def create_task(
        self,
        name: str,
        texts: Sequence[str],
        labels: Sequence[str],
        words: Mapping[str, str] | None,
        timeout: float,
        on_progress: OnProgress | None,
        **options: Any,
    ) -> Exchange[Job]:
        """Begin a job, and ask for it until it has ended; options are sent unless they are None.

        Raises TaskNotMadeError, APITimeoutError after `timeout` seconds of asking, and ValueError
        for examples that no request can hold.
        """
        if len(texts) != len(labels):
            raise ValueError(f"{len(texts)} texts and {len(labels)} labels, expected a label each")
        for index, (text, label) in enumerate(zip(texts, labels, strict=True)):
            _refuse_halves(text, f"text {index}")
            _refuse_halves(label, f"label {index}")
        examples = [{"text": t, "label": label} for t, label in zip(texts, labels, strict=True)]
        options["labels"] = words
        said = {option: value for option, value in options.items() if value is not None}
        body = {"name": name, "examples": examples, **said}
        return self._create_task(body, timeout, on_progress)

    def _create_task(
        self, body: dict[str, Any], timeout: float, on_progress: OnProgress | None
    ) -> Exchange[Job]:
        job = yield from self._send(Job, "POST", "/v1/tasks", changes=True, json=body)
        deadline = self.retries.clock.monotonic() + timeout
        while True:
            if on_progress is not None:
                on_progress(job)
            if job.status in FINAL:
                break
            if self.retries.clock.monotonic() >= deadline:
                raise APITimeoutError(
                    f"job {job.id} of task {job.task!r} is {job.status} after {timeout:g} s, and "
                    f"goes on; look at it with GET /v1/jobs/{job.id}, or stop it with DELETE"
                )
            yield Wait(POLL_S)
            job = yield from self._send(Job, "GET", f"/v1/jobs/{quote(job.id, safe='')}")
        if job.status != "done":
            raise TaskNotMadeError(job)
        return job

    def _send(
        self, model: type[M], method: str, path: str, changes: bool = False, **content: Any
    ) -> Exchange[M]:
        def build(timeout: httpx.Timeout) -> httpx.Request:
            return self.build(method, path, timeout=timeout, **content)

        response = yield from self.retries.exchange(build, changes)
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            raise APIResponseError(
                f"{response.request.url} answered {response.status_code} with something else than "
                f"a {model.__name__}; is base_url that of an ifedicl server?"
            ) from error


def _of_tasks(tasks: str | Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The field that names tasks, and their names."""
    if tasks == ALL:
        return {"tasks": ALL}, []
    if isinstance(tasks, str):
        return {"task": tasks}, [tasks]
    names = list(tasks)
    return {"tasks": names}, names


def _refuse_missing(results: int, texts: int, options: dict[str, Any]) -> None:
    """How many tasks "*" stands for is the server's to say."""
    tasks = options.get("tasks", [""])
    expected = max(1, results // texts) if tasks == ALL else len(tasks)
    if results != texts * expected:
        by = "" if "task" in options else f" by {expected} tasks"
        raise APIResponseError(f"{results} results for {texts} texts{by}")


def _refuse_halves(text: object, what: str) -> None:
    if isinstance(text, str) and not is_unicode(text):
        raise ValueError(
            f"{what} is {text[:SHOWN]!r}, which holds half of a surrogate pair; expected Unicode "
            "text, write both halves or leave it out"
        )
