"""What the tasks of a request answer, and when that is no answer at all."""

import asyncio
from dataclasses import dataclass

from api.access.allowed import VisibleTasks
from api.classify.classifier import Classifier, Outcome, Scored
from api.errors import status_of
from api.http.asked import Found
from ifedicl_serve.errors import IFedICLError, TaskNotFoundError, TaskUnavailableError
from ifedicl_serve.schema import ClassifyRequest
from ifedicl_serve.tasks.task import Task


@dataclass(frozen=True)
class Answers:
    """Of one task (None: there is none of that name), a result or an error a text."""

    task: Task | None
    results: list[Outcome]

    @property
    def scored(self) -> list[Scored]:
        return [result for result in self.results if isinstance(result, Scored)]

    @property
    def errors(self) -> list[IFedICLError]:
        return [result for result in self.results if isinstance(result, IFedICLError)]


AllAnswers = dict[str, Answers]  # by the name that was asked for, in the order of the request


async def ask(
    found: Found, tasks: VisibleTasks, classifier: Classifier, body: ClassifyRequest
) -> AllAnswers:
    """The answers, of another version of a task if it was replaced before a worker needed it."""
    answers = await _classified(found, classifier, body)
    newer: Found = {
        name: await asyncio.to_thread(_successor, tasks, of_one.task)
        for name, of_one in answers.items()
        if of_one.task and any(isinstance(one, TaskUnavailableError) for one in of_one.errors)
    }
    if newer:
        again = await _classified(newer, classifier, body)
        answers |= {name: _renewed(answers[name], again[name]) for name in newer}
    return answers


def refuse_unanswered(answers: AllAnswers, body: ClassifyRequest) -> None:
    """Raise the error that the request is answered with, if any: the first of its one task, or of
    several that answer nothing the first of the highest status, as 5xx may pass by itself."""
    errors = [error for of_one in answers.values() for error in of_one.errors]
    if errors and body.names_one:
        raise errors[0]
    if not any(of_one.scored for of_one in answers.values()):
        raise max(errors, key=status_of)


async def _classified(found: Found, classifier: Classifier, body: ClassifyRequest) -> AllAnswers:
    tasks = [task for task in found.values() if isinstance(task, Task)]
    options = body.truncate, body.adapted, body.names_one
    rows = await classifier.classify(tasks, body.texts, *options) if tasks else []
    columns = zip(*rows, strict=True)
    return {
        name: Answers(task, list(next(columns)))
        if isinstance(task, Task)
        else Answers(None, [task] * len(body.texts))
        for name, task in found.items()
    }


def _successor(tasks: VisibleTasks, task: Task) -> Task | IFedICLError:
    try:
        return tasks.successor(task)
    except (TaskNotFoundError, TaskUnavailableError) as error:
        return error


def _renewed(answers: Answers, newer: Answers) -> Answers:
    """Those of the newer version. If there is none, what it was said to have come to stands where
    the task was unavailable."""
    if newer.task is not None:
        return newer
    pairs = zip(answers.results, newer.results, strict=True)
    return Answers(
        answers.task,
        [error if isinstance(old, TaskUnavailableError) else old for old, error in pairs],
    )
