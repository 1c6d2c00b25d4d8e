"""Jobs of this process: in turn, one at a time in all processes of a tasks directory, each a path
from a draft to a task that serves. A job cancelled or killed anywhere on it leaves nothing behind.
"""

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple, TypeVar

from api.classify.encoder import PromptEncoder
from api.errors import error_info
from api.making.draft import Draft, drafted, telling_no_others
from api.making.features import FeatureReader
from api.making.report import report_of
from api.making.store import JobStore, new_id
from api.observe.context import RequestContext, current_request, enter_request
from ifedicl_serve import __version__
from ifedicl_serve.contract.artifact import TASK_FILE, VECTORS_FILE, artifact_files
from ifedicl_serve.contract.injection import SITES
from ifedicl_serve.contract.spec import TaskSpec
from ifedicl_serve.errors import DeadlineError, FolderError, IFedICLError, OverloadedError
from ifedicl_serve.fitting.record import measurements, rung_records
from ifedicl_serve.fitting.task import FittedTask, fit_task
from ifedicl_serve.schema import ErrorInfo
from ifedicl_serve.schema_jobs import FINAL, CreateTaskRequest, Job, Status, TaskReport
from ifedicl_serve.tasks.editor import TaskEditor
from ifedicl_serve.tasks.task import Task

T = TypeVar("T")

logger = logging.getLogger("vllm.ifedicl")  # vLLM formats and shows what is logged below "vllm"

MAX_QUEUED = 16
QUEUED_RETRY_S = 30
MAX_SECONDS = 3600.0  # of a job whose turn it is
POLL_S = 0.05  # how often a job looks whether it is its turn, or whether it was stopped
READ, FITTED = 0.8, 0.95  # shares of a job that are done then
TOLD = 0.02  # more of a job than that is told of


class Submitted(NamedTuple):
    """A job of this process, and the task that ends with what became of it."""

    job: Job
    ended: asyncio.Task[Job]


class Made(NamedTuple):
    """A task that serves, and what is said of it."""

    task: Task
    report: TaskReport


class Jobs:
    """Makes tasks, in turn."""

    def __init__(self, store: JobStore, reader: FeatureReader, editor: TaskEditor) -> None:
        self.store, self.reader, self.editor = store, reader, editor
        self._running: set[asyncio.Task[Job]] = set()  # a task must be held
        self._drafts = 0  # in work
        # Threads of our own, so that none waits for another kind of work.
        self._drafting = ThreadPoolExecutor(1, thread_name_prefix="ifedicl-draft")
        self._making = ThreadPoolExecutor(1, thread_name_prefix="ifedicl-make")
        self._files = ThreadPoolExecutor(1, thread_name_prefix="ifedicl-jobs")

    async def draft(
        self, body: CreateTaskRequest, like: Task | None, encoder: PromptEncoder
    ) -> Draft:
        """What is asked for, checked, after the queue: nobody waits for texts to be tokenised that
        cannot become a job. Raises InputError, or as `submit`."""
        ahead = self._drafts
        self._drafts += 1
        try:
            await self.in_files(self._refuse_crowded, body.name, ahead)
            return await _in(self._drafting, drafted, body, like, self.editor, encoder)
        finally:
            self._drafts -= 1

    async def submit(self, draft: Draft) -> Submitted:
        """Begin a job. Raises OverloadedError if too many wait, FolderError if one for the same
        name does, or if nothing can be written."""
        job = Job(
            id=new_id(),
            task=draft.spec.name,
            status="queued",
            progress=0.0,
            created=int(time.time()),
        )
        owned = await self.in_files(self._admitted, job)
        ended = asyncio.create_task(self._run(job, draft, owned))
        self._running.add(ended)
        ended.add_done_callback(self._running.discard)
        return Submitted(job, ended)

    async def in_files(self, function: Callable[..., T], *arguments: Any) -> T:
        """What reads and writes job files, in their thread."""
        return await _in(self._files, function, *arguments)

    def _admitted(self, job: Job) -> ExitStack:
        """What ends this process's ownership of it."""
        with self.store.admitting():
            self._refuse_crowded(job.task)
            owned = ExitStack()
            owned.enter_context(self.store.owning(job))
            return owned

    def _refuse_crowded(self, task: str, drafts: int = 0) -> None:
        """Raise OverloadedError or FolderError if no job for `task` can be added to those there
        are and will be of so many drafts."""
        waiting = [one for one in self.store.all() if one.status not in FINAL]
        if len(waiting) + drafts >= MAX_QUEUED:
            raise OverloadedError(
                f"{len(waiting) + drafts} jobs are waiting or running, which is the most; send the "
                "examples again later",
                QUEUED_RETRY_S,
            )
        for one in waiting:
            if one.task == task:
                raise FolderError(
                    f"job {one.id} is making task {task!r}; wait for it, or stop it with "
                    "DELETE /v1/jobs/{id}"
                )

    async def _run(self, job: Job, draft: Draft, owned: ExitStack) -> Job:
        """Make it unless it is stopped, and tell what became of it."""
        # No more of the request that sent it: its cached prefixes are its key's own.
        enter_request(RequestContext(id=job.id, tenant=current_request().tenant))
        told = Told(job, partial(self.in_files, self.store.save))
        working = asyncio.create_task(self._make(draft, told))
        watching = asyncio.create_task(self._stopped(job.id))
        try:
            await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
            working.cancel()
            (made,) = await asyncio.gather(working, return_exceptions=True)
            return await told.ended(made)
        finally:
            working.cancel()
            watching.cancel()
            owned.close()

    async def _make(self, draft: Draft, told: "Told") -> Made:
        """The path: examples read, a task fitted to them, and written."""
        async with self._turn(told.job.id), _in_time():
            await told.at("reading", 0.0)
            features = await self.reader.read(draft.task, draft.prompts, told.read)
            await told.at("fitting", READ)
            rows = features, draft.labels, draft.folds
            # Until the thread has ended: the next job would only wait for it.
            fitted = await _to_its_end(_in(self._making, fit_task, *rows, draft.rungs))
            report = report_of(draft, fitted)
            await told.at("writing", FITTED)
            return Made(await self._written(draft, fitted), report)

    @asynccontextmanager
    async def _turn(self, job_id: str) -> AsyncIterator[None]:
        with ExitStack() as held:
            while not await self._takes_turn(job_id, held):
                held.close()
                await asyncio.sleep(POLL_S)
            yield

    async def _takes_turn(self, job_id: str, held: ExitStack) -> bool:
        """To its end, or a turn would be taken that nobody gives up."""
        turn = self.store.turn(job_id)
        return await _to_its_end(self.in_files(held.enter_context, turn))

    async def _written(self, draft: Draft, fitted: FittedTask) -> Task:
        """The task, which serves. It is too late to cancel this: half of it is never there."""
        writing = asyncio.ensure_future(_in(self._making, self._put, draft, fitted))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            return await writing

    def _put(self, draft: Draft, fitted: FittedTask) -> Task:
        files = artifact_files(made_spec(draft.spec, fitted), fitted.tensors)
        name = draft.spec.name
        with telling_no_others(name):
            task, _ = self.editor.put(
                name, files[TASK_FILE], files[VECTORS_FILE], replace=draft.replace
            )
        return task

    async def _stopped(self, job_id: str) -> None:
        while not await self.in_files(self.store.is_stopped, job_id):
            await asyncio.sleep(POLL_S)


class Told:
    """What is told of a job while it runs."""

    def __init__(self, job: Job, save: Callable[[Job], Awaitable[None]]) -> None:
        self.job, self.save = job, save

    async def at(self, status: Status, progress: float) -> None:
        """A stage has begun, or has come so far."""
        self.job = self.job.model_copy(update={"status": status, "progress": progress})
        await self.save(self.job)

    async def read(self, share: float) -> None:
        """That share of the examples was read."""
        if READ * share - self.job.progress >= TOLD:
            await self.at("reading", READ * share)

    async def ended(self, made: Made | BaseException) -> Job:
        """What became of it."""
        self.job = self.job.model_copy(update=_outcome(self.job, made))
        logger.info("Job %s: task %r %s", self.job.id, self.job.task, self.job.status)
        try:
            await self.save(self.job)
        except FolderError as error:  # it looks lost to others then
            logger.error("Job %s: its end cannot be written: %s", self.job.id, error)
        return self.job


def _outcome(job: Job, made: Made | BaseException) -> dict[str, Any]:
    if isinstance(made, Made):
        done = {"digest": made.task.digest, "report": made.report}
        return {"status": "done", "progress": 1.0, **done}
    if isinstance(made, asyncio.CancelledError):
        return {"status": "cancelled"}
    if isinstance(made, IFedICLError):
        return {"status": "failed", "error": error_info(made)}
    where = "".join(traceback.format_tb(made.__traceback__))
    # Without its message, which may hold a text.
    logger.error("Job %s failed of %s at\n%s", job.id, type(made).__name__, where)
    return {"status": "failed", "error": DEFECT}


DEFECT = ErrorInfo(
    message="this is a defect of the server; its log says more about the job",
    type="InternalServerError",
    code=500,
)


async def _in(threads: ThreadPoolExecutor, function: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)


async def _to_its_end(work: Awaitable[T]) -> T:
    """What a thread returns. Cancelled, it ends only when the thread has."""
    working = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not working.done():
        try:
            await asyncio.wait([working])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return working.result()


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(MAX_SECONDS):
            yield
    except TimeoutError as error:
        raise DeadlineError(
            f"the task was not made within {MAX_SECONDS:g} seconds; send fewer examples"
        ) from error


def made_spec(spec: TaskSpec, fitted: FittedTask) -> TaskSpec:
    """`task.json`: that of the draft, and what came of it."""
    shape = (spec.num_layers, len(SITES), spec.hidden_size)
    record = spec.calibration.model_copy(
        update={
            "metrics": measurements(fitted.measured),
            "rungs": rung_records(fitted.trials, len(spec.labels), shape),
            "versions": {"ifedicl-serve": __version__, "torch": version("torch")},
        }
    )
    return spec.model_copy(update={"calibration": record})
