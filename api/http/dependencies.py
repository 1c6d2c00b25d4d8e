"""What routes ask for by type: the parts of this server, as FastAPI hands them over."""

from typing import Annotated, Any

from fastapi import Depends, Request

from api.access.allowed import VisibleTasks, visible_tasks
from api.classify.classifier import Classifier
from api.limits.admission import Admission
from api.making.jobs import Jobs
from api.options import ServeOptions
from ifedicl_serve.schema import ErrorResponse
from ifedicl_serve.tasks.editor import TaskEditor

# Of a route that classifies, for OpenAPI.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 404, 408, 413, 415, 422, 503, 504)
}


def get_tasks(request: Request) -> VisibleTasks:
    """The tasks this server has, as far as the request's key may use them."""
    return visible_tasks(request.app.state.ifedicl_registry)


def get_editor(request: Request) -> TaskEditor:
    """What changes this server's tasks."""
    return request.app.state.ifedicl_store


def get_classifier(request: Request) -> Classifier:
    """The classifier on this server's engine."""
    return request.app.state.ifedicl_classifier


def get_admission(request: Request) -> Admission:
    """Counts what this process has in flight."""
    return request.app.state.ifedicl_admission


def get_jobs(request: Request) -> Jobs:
    """What makes tasks from examples."""
    return request.app.state.ifedicl_jobs


def get_options(request: Request) -> ServeOptions:
    """This server's bounds."""
    return request.app.state.args.ifedicl


Tasks = Annotated[VisibleTasks, Depends(get_tasks)]
Editor = Annotated[TaskEditor, Depends(get_editor)]
ClassifierDep = Annotated[Classifier, Depends(get_classifier)]
AdmissionDep = Annotated[Admission, Depends(get_admission)]
JobsDep = Annotated[Jobs, Depends(get_jobs)]
Options = Annotated[ServeOptions, Depends(get_options)]
