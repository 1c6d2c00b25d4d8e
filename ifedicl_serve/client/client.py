"""`Client` and `AsyncClient`: they do the I/O of an exchange, each in its way, and nothing else."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

import httpx

from ifedicl_serve.bearer import why_unsendable
from ifedicl_serve.client.calls import Build, Calls, OnProgress
from ifedicl_serve.client.retry import Clock, Exchange, Reply, Retries, Step, Wait
from ifedicl_serve.schema import (
    Classification,
    RefusedTask,
    TaskCard,
    TaskClassification,
    TaskError,
    TaskSummary,
)
from ifedicl_serve.schema_jobs import Job

API_KEY_VARIABLE = "IFEDICL_API_KEY"
TIMEOUT_S = 600.0  # in all, retries included
JOB_TIMEOUT_S = 3600.0  # as long as a job whose turn it is may run
MAX_RETRIES = 5
BATCH_SIZE = 256  # texts per request: enough for the engine to be busy, answered within seconds
CONCURRENCY = 4  # requests of one call under way at once

T = TypeVar("T")
Tasks = Literal["*"] | list[str] | tuple[str, ...]  # several; "*": all that the key may use
TaskResults = list[TaskClassification | TaskError]


class Client:
    """Talks to the server at `base_url`, e.g. ``http://127.0.0.1:8000``, and blocks meanwhile.

    - `api_key`: what the server was given as --api-key; from IFEDICL_API_KEY if None.
    - `timeout`: seconds that one request may take in all, with its retries and waits; only a
      server that sends its answer in drops may take longer, as httpx counts between two of them.
    - `max_retries`: how often it is sent again after 429, 502, 503, 504 or a broken connection;
      after as many seconds as the server's Retry-After says, else after 0.5 s, then twice that
      each time up to 30 s, less a random share.
    - `batch_size`: texts per request; more are sent in several, one after the other. Fewer are
      sent at once to a list of so many tasks that the server would refuse the results. How many
      "*" stands for is not known here: if it is refused for that, choose a smaller one.
    - `http_client`: for own certificates, proxies or limits. It may serve several clients, so it
      is not changed, and stays open for its owner to close (OpenAI's client closes it).

    May be shared by threads. A call that fails raises APIError (`ifedicl_serve.client.errors`);
    arguments that no request can be made of, as NaN or half of a surrogate pair, are a ValueError
    or TypeError.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        timeout: float = TIMEOUT_S,
        max_retries: int = MAX_RETRIES,
        batch_size: int = BATCH_SIZE,
        http_client: httpx.Client | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._http = http_client or httpx.Client()
        self._owns_http = http_client is None
        self._clock = clock or Clock()
        retries = Retries(max_retries, timeout, self._clock)
        build = _pointed(self._http.build_request, base_url, api_key)
        self._calls = Calls(build, retries, batch_size)

    @overload  # "*" is no task's name
    def classify(  # type: ignore[overload-overlap]
        self,
        task: Tasks,
        texts: str | Sequence[str],
        top_k: int | None = None,
        truncate: bool = False,
        adapted: bool = True,
    ) -> TaskResults: ...

    @overload
    def classify(
        self,
        task: str,
        texts: str | Sequence[str],
        top_k: int | None = None,
        truncate: bool = False,
        adapted: bool = True,
    ) -> list[Classification]: ...

    def classify(
        self,
        task: str | list[str] | tuple[str, ...],
        texts: str | Sequence[str],
        top_k: int | None = None,
        truncate: bool = False,
        adapted: bool = True,
    ) -> list[Any]:
        """Classify texts (any number) by a task; one result each, in order.

        `top_k` returns only the best labels' scores, `truncate` cuts texts that do not fit the
        model's context instead of refusing them, and `adapted` False asks the unadapted base
        model. If one text is refused, nothing is returned.

        By several tasks (a list, or "*" for all that the key may use): one result per text and
        task, the first text's in the order of the tasks, then the second's; a `TaskError` where a
        task has none. If there is no result at all, one of these errors is raised.
        """
        exchanges = self._calls.classify(task, texts, top_k, truncate, adapted)
        return [result for exchange in exchanges for result in self._run(exchange)]

    def tasks(self) -> list[TaskSummary | RefusedTask]:
        """Every task of the server, and artifacts that it refused with the reason."""
        return self._run(self._calls.tasks())

    def task(self, name: str) -> TaskCard:
        """One task's labels, template, digest and calibration metrics."""
        return self._run(self._calls.task(name))

    def create_task(
        self,
        name: str,
        texts: Sequence[str],
        labels: Sequence[str],
        *,
        words: Mapping[str, str] | None = None,
        template: str | None = None,
        chat: Mapping[str, str] | None = None,
        like: str | None = None,
        fit: Literal["auto", "head", "bias"] = "auto",
        truncate: bool = False,
        replace: bool = False,
        timeout: float = JOB_TIMEOUT_S,
        on_progress: OnProgress | None = None,
    ) -> Job:
        """Make task `name` from texts and the label of each, on the server, and return its job when
        the task serves: `report` says how good it is.

        `words` is what the model reads for each label, in the order that answers have. `template`
        is a prompt with a place for the text, `chat` ({"user": ..., "system": ...}) one in the
        model's chat template, `like` a task whose prompt to take. `on_progress` is called with the
        job as it comes along. Needs a key that may make tasks.

        Raises TaskNotMadeError if the job fails, and APITimeoutError with its id if it has not
        ended after `timeout` seconds: it goes on. What begins it is sent again only if the server
        has not taken it: after a connection that broke, a job may be there that nobody waits for.
        """
        return self._run(
            self._calls.create_task(
                name,
                texts,
                labels,
                words,
                timeout,
                on_progress,
                template=template,
                chat=chat,
                like=like,
                fit=fit,
                truncate=truncate,
                replace=replace,
            )
        )

    def close(self) -> None:
        """Close the connections, unless they are those of a given `http_client`."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, exchange: Exchange[T]) -> T:
        reply: Reply = None
        while True:
            try:
                step = exchange.send(reply)
            except StopIteration as end:
                return end.value
            reply = self._perform(step)

    def _perform(self, step: Step) -> Reply:
        if isinstance(step, Wait):
            self._clock.sleep(step.seconds)
            return None
        try:
            return self._http.send(step)
        except httpx.RequestError as error:
            return error


class AsyncClient:
    """As `Client`, for asyncio; the batches of one call are under way `concurrency` at a time."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        timeout: float = TIMEOUT_S,
        max_retries: int = MAX_RETRIES,
        batch_size: int = BATCH_SIZE,
        concurrency: int = CONCURRENCY,
        http_client: httpx.AsyncClient | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._http = http_client or httpx.AsyncClient()
        self._owns_http = http_client is None
        self._clock = clock or Clock()
        retries = Retries(max_retries, timeout, self._clock)
        build = _pointed(self._http.build_request, base_url, api_key)
        self._calls = Calls(build, retries, batch_size)
        self._concurrency = concurrency

    @overload  # "*" is no task's name
    async def classify(  # type: ignore[overload-overlap]
        self,
        task: Tasks,
        texts: str | Sequence[str],
        top_k: int | None = None,
        truncate: bool = False,
        adapted: bool = True,
    ) -> TaskResults: ...

    @overload
    async def classify(
        self,
        task: str,
        texts: str | Sequence[str],
        top_k: int | None = None,
        truncate: bool = False,
        adapted: bool = True,
    ) -> list[Classification]: ...

    async def classify(
        self,
        task: str | list[str] | tuple[str, ...],
        texts: str | Sequence[str],
        top_k: int | None = None,
        truncate: bool = False,
        adapted: bool = True,
    ) -> list[Any]:
        """As `Client.classify`; the first batch that fails cancels the others."""
        exchanges = self._calls.classify(task, texts, top_k, truncate, adapted)
        free = asyncio.Semaphore(self._concurrency)

        async def run(exchange: Exchange[T]) -> T:
            async with free:
                return await self._run(exchange)

        batches = [asyncio.ensure_future(run(exchange)) for exchange in exchanges]
        try:
            return [result for batch in await asyncio.gather(*batches) for result in batch]
        finally:
            for batch in batches:
                batch.cancel()

    async def tasks(self) -> list[TaskSummary | RefusedTask]:
        """As `Client.tasks`."""
        return await self._run(self._calls.tasks())

    async def task(self, name: str) -> TaskCard:
        """As `Client.task`."""
        return await self._run(self._calls.task(name))

    async def create_task(
        self,
        name: str,
        texts: Sequence[str],
        labels: Sequence[str],
        *,
        words: Mapping[str, str] | None = None,
        template: str | None = None,
        chat: Mapping[str, str] | None = None,
        like: str | None = None,
        fit: Literal["auto", "head", "bias"] = "auto",
        truncate: bool = False,
        replace: bool = False,
        timeout: float = JOB_TIMEOUT_S,
        on_progress: OnProgress | None = None,
    ) -> Job:
        """As `Client.create_task`."""
        return await self._run(
            self._calls.create_task(
                name,
                texts,
                labels,
                words,
                timeout,
                on_progress,
                template=template,
                chat=chat,
                like=like,
                fit=fit,
                truncate=truncate,
                replace=replace,
            )
        )

    async def close(self) -> None:
        """As `Client.close`."""
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, exchange: Exchange[T]) -> T:
        reply: Reply = None
        while True:
            try:
                step = exchange.send(reply)
            except StopIteration as end:
                return end.value
            reply = await self._perform(step)

    async def _perform(self, step: Step) -> Reply:
        if isinstance(step, Wait):
            await self._clock.sleep_async(step.seconds)
            return None
        try:
            return await self._http.send(step)
        except httpx.RequestError as error:
            return error


def _pointed(build: Build, base_url: str, api_key: str | None) -> Build:
    """`build` for paths of that server, with the key. Raises ValueError if `base_url` is no URL, or
    if the key cannot be sent."""
    expected = f"base_url is {base_url!r}, expected a URL such as http://127.0.0.1:8000"
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{expected}: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(expected)
    root = str(url).rstrip("/")
    key = api_key or os.environ.get(API_KEY_VARIABLE)
    if key and (problem := why_unsendable(key, "api_key" if api_key else API_KEY_VARIABLE)):
        raise ValueError(problem)
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    def pointed(method: str, path: str, **content: Any) -> httpx.Request:
        return build(method, root + path, headers=headers, **content)

    return pointed
