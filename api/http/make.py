"""`POST /v1/tasks` and `/v1/jobs`: a task made from labelled examples, and how far it is.

Who holds a key for it can
- add tasks, and replace ones, of the names that fit its patterns (the admin key: any);
- have the engine read its examples, one job at a time in all, beside classifications;
- fill the tasks directory with such tasks, and the queue with jobs.
It cannot
- see jobs of other names, or texts of anybody: a job shows numbers, and examples by their index;
- name a task to the engine, or be told what the model computed of a text: hidden states are
  fitted to and dropped;
- put there what would not pass the checks of an upload (`api.http.admin`).
"""

import asyncio
import logging
from typing import Any

from fastapi import APIRouter, Depends, Response
from starlette.exceptions import HTTPException

from api.access.allowed import find_task
from api.access.makers import Maker, MakerDep, require_maker
from api.errors import TaskRoute
from api.http.dependencies import ClassifierDep, JobsDep, Options, Tasks
from api.making.jobs import Jobs
from api.making.store import unknown
from ifedicl_serve.schema import ErrorResponse
from ifedicl_serve.schema_jobs import CreateTaskRequest, Job, JobList

logger = logging.getLogger("vllm.ifedicl")  # vLLM formats and shows what is logged below "vllm"


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Of a route here, for OpenAPI."""
    return {status: {"model": ErrorResponse} for status in (401, 403, 404, *statuses)}


router = APIRouter(route_class=TaskRoute, tags=["making"], dependencies=[Depends(require_maker)])


@router.post(
    "/v1/tasks",
    status_code=202,
    response_model=Job,
    responses={201: {"model": Job}, **errors(400, 408, 409, 413, 415, 422, 500, 503, 504, 507)},
)
async def create_task(
    body: CreateTaskRequest,
    maker: MakerDep,
    tasks: Tasks,
    jobs: JobsDep,
    classifier: ClassifierDep,
    options: Options,
    response: Response,
) -> Job:
    """Make a task from labelled examples: 202 with the job that does, or, with `wait`, 201 when the
    task serves."""
    maker.refuse(body.name)
    like = None if body.like is None else await find_task(tasks, body.like)
    draft = await jobs.draft(body, like, classifier.encoder.prompts)
    job, ended = await jobs.submit(draft)
    logger.info("Job %s: task %r of %d examples", job.id, job.task, len(body.examples))
    if body.wait:
        await asyncio.wait({ended}, timeout=options.seconds(None))
        if ended.done():
            job = _made(ended.result())
            response.status_code = 201
    response.headers["Location"] = (
        f"/v1/tasks/{job.task}" if response.status_code == 201 else f"/v1/jobs/{job.id}"
    )
    return job


@router.get("/v1/jobs", responses=errors())
async def list_jobs(maker: MakerDep, jobs: JobsDep) -> JobList:
    """Jobs of the tasks that the key may make, of all processes, the newest first."""
    every = await jobs.in_files(jobs.store.all)
    return JobList(data=[job for job in every if maker.may_make(job.task)])


@router.get("/v1/jobs/{id}", responses=errors(422))
async def get_job(id: str, maker: MakerDep, jobs: JobsDep) -> Job:
    """How far a job is, and what came of it."""
    return await _visible(id, maker, jobs)


@router.delete("/v1/jobs/{id}", status_code=202, responses=errors(409, 422, 507))
async def stop_job(id: str, maker: MakerDep, jobs: JobsDep) -> Job:
    """Have a job end: it is cancelled soon, unless it is done before. One that has ended stays."""
    job = await _visible(id, maker, jobs)
    await jobs.in_files(jobs.store.stop, job)
    return job


async def _visible(id: str, maker: Maker, jobs: Jobs) -> Job:
    """Another key's job is no job."""
    job = await jobs.in_files(jobs.store.get, id)
    if not maker.may_make(job.task):
        raise unknown(id)
    return job


def _made(job: Job) -> Job:
    """The job, if it is done. Raises HTTPException with what it failed of, or 409 if it was
    stopped meanwhile."""
    if job.error is not None:
        raise HTTPException(job.error.code, job.error.message)
    if job.status == "cancelled":
        raise HTTPException(409, f"job {job.id} was stopped, and task {job.task!r} was not made")
    return job
