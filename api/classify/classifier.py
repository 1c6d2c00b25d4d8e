"""Classification, as one path: prompts, label scores, probabilities. Knows no HTTP and no vLLM."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

import numpy as np
import numpy.typing as npt

from api.classify.encoder import Encoded, PromptEncoder
from api.classify.engine import (
    GroupRequest,
    LabelEngine,
    TokenScores,
    group_requests,
    trie_scores,
)
from api.classify.groups import Group, grouped, parted
from api.classify.threads import EncoderThreads
from api.classify.together import all_or_none
from api.observe.context import name_request
from ifedicl_serve.errors import (
    IFedICLError,
    InputError,
    TaskUnavailableError,
    TextTooLongError,
)
from ifedicl_serve.tasks.task import Task


@dataclass(frozen=True)
class Scored:
    """One text's label probabilities [labels], in the task's label order."""

    probabilities: npt.NDArray[np.float64]
    prompt_tokens: int
    cached_tokens: int


Outcome = Scored | IFedICLError


class Classifier:
    """Classifies texts by tasks on one engine."""

    def __init__(self, engine: LabelEngine, prompts: PromptEncoder) -> None:
        self.engine = engine
        self.encoder = EncoderThreads(prompts)

    async def classify(
        self,
        tasks: Sequence[Task],
        texts: list[str],
        truncate: bool = False,
        adapted: bool = True,
        all_fit: bool = False,
    ) -> list[list[Outcome]]:
        """What each task answers to each text, [texts][tasks]; an error is in its own place alone.

        With `all_fit` the first text that is too long is raised instead, before the engine sees
        any. Unadapted is the base model's answer to the same prompts.

        All requests are with the engine together, a text's side by side: what their prompts share
        is computed once.
        """
        prompts = await self.encoder.encode(tasks, texts, truncate, all_fit)
        groups = self._groups(tasks, self.encoder.prompts.key, adapted)

        @cache
        def requests(group: Group) -> list[GroupRequest]:
            return group_requests([tasks[place] for place in group], adapted)

        async def of_text(row: list[Encoded]) -> list[Outcome]:
            parts = parted(groups, row)
            answered = await all_or_none(
                self._score([tasks[place] for place in part], requests(part), row[part[0]], adapted)
                for part in parts
            )
            return _placed(parts, answered)

        return await all_or_none(map(of_text, prompts))

    def requests(self, tasks: Sequence[Task], adapted: bool, truncate: bool) -> int:
        """How often the engine is asked about a text at most: once for each node of a task's label
        trie, and for tasks that share a prompt once for all of them, as far as one request holds
        them. Tasks that cut a text may not share what they leave of it."""
        prompts = self.encoder.prompts
        groups = self._groups(tasks, prompts.cut_key if truncate else prompts.key, adapted)
        return sum(
            self.engine.requests(request.asked)
            for group in groups
            for request in group_requests([tasks[place] for place in group], adapted)
        )

    def _groups(
        self, tasks: Sequence[Task], key: Callable[[Task], Hashable], adapted: bool
    ) -> list[Group]:
        return grouped(
            tasks,
            key,
            alone=lambda task: adapted and (task.adapts or self._refusal(task) is not None),
        )

    def _refusal(self, task: Task) -> InputError | None:
        """Why this engine cannot answer a task, adapted."""
        try:
            self.engine.refuse(task)
        except InputError as error:
            return error
        return None

    async def _score(
        self, tasks: list[Task], requests: list[GroupRequest], prompt: Encoded, adapted: bool
    ) -> list[Outcome]:
        """What a group's tasks answer to one prompt."""
        if isinstance(prompt, TextTooLongError):
            return [prompt] * len(tasks)
        if adapted and (refusal := self._refusal(tasks[0])) is not None:  # then it is alone
            return [refusal]
        name_request([task.name for task in tasks])
        scores = await trie_scores(self.engine, requests, prompt)
        return _read_out(tasks, requests, scores, len(prompt), adapted)


def _read_out(
    tasks: list[Task],
    requests: list[GroupRequest],
    scores: list[TokenScores],
    prompt_tokens: int,
    adapted: bool,
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    answered_by = {
        node.task: number
        for number, request in enumerate(requests)
        for node in request.nodes
        if node.node == 0
    }
    told: set[int] = set()  # requests whose computing a result has told of
    for place, (task, of_task) in enumerate(zip(tasks, scores, strict=True)):
        try:
            probabilities = task.read_out(of_task.log_probs, of_task.row_scores, adapted)
        except TaskUnavailableError as error:
            outcomes.append(error)
        else:
            first = answered_by[place] not in told
            cached = of_task.cached_tokens if first else prompt_tokens
            outcomes.append(Scored(probabilities, prompt_tokens, cached))
            told.add(answered_by[place])
    return outcomes


def _placed(groups: list[Group], answered: list[list[Outcome]]) -> list[Outcome]:
    """Of one text, what its groups answered in the order of the tasks."""
    places = chain.from_iterable(groups)
    by_place = dict(zip(places, chain.from_iterable(answered), strict=True))
    return [by_place[place] for place in sorted(by_place)]
