"""What is asked for, checked: a task that fits nothing yet, and its examples as the engine reads
them. Their texts go no further than here."""

import logging
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from api.classify.encoder import PromptEncoder
from ifedicl_serve.contract.artifact import Artifact
from ifedicl_serve.contract.chat import chat_prompt
from ifedicl_serve.contract.problem import first_problem
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.spec import CalibrationRecord, Label, TaskSpec
from ifedicl_serve.contract.words import refuse_unclear, verbalize
from ifedicl_serve.errors import (
    DataError,
    FolderError,
    InputError,
    PromptError,
    TaskNotFoundError,
    TextTooLongError,
)
from ifedicl_serve.fitting.folds import folds_of
from ifedicl_serve.fitting.rungs import BARE_RUNGS, Rung
from ifedicl_serve.schema_jobs import (
    MAX_MADE_LABELS,
    MAX_MADE_SCORES,
    CreateTaskRequest,
    LabelledText,
)
from ifedicl_serve.tasks.editor import PlaceError, TaskEditor
from ifedicl_serve.tasks.task import Task

logger = logging.getLogger("vllm.ifedicl")  # vLLM formats and shows what is logged below "vllm"

TEMPLATE = "Text: {text}\nLabel:"  # as `ifedicl calibrate`
LEAST_EXAMPLES = 2  # of a label, as one is never judged by what was fitted to another
FEW_EXAMPLES = 8  # of a label: bench/results/trials.md has 32 rows of 4 labels
RUNGS: dict[str, Sequence[Rung]] = {
    "auto": BARE_RUNGS,
    "bias": BARE_RUNGS[1:2],
    "head": BARE_RUNGS[2:],
}


Prompt: TypeAlias = "array[int]"  # of 4 bytes a token: a job may wait for an hour


@dataclass(frozen=True)
class Draft:
    """A task as it is before anything is fitted: the model's own answers to its prompt; and of
    every example the prompt's tokens, label [rows] and fold [rows]."""

    task: Task
    prompts: Sequence[Prompt]
    labels: npt.NDArray[np.int_]
    folds: npt.NDArray[np.int_]
    rungs: Sequence[Rung]
    replace: bool
    warnings: Sequence[str]

    @property
    def spec(self) -> TaskSpec:
        return self.task.spec


def drafted(
    body: CreateTaskRequest, like: Task | None, editor: TaskEditor, encoder: PromptEncoder
) -> Draft:
    """Check all that can be known before the engine is asked. Reads and tokenises, so for a thread.

    Raises InputError, FolderError for a name that is taken.
    """
    registry = editor.registry
    with telling_no_others(body.name):
        editor.refuse_unsigned(body.name, body.replace)
    try:
        labels = _labels(body, like)
        prompt = _prompt(body, like, registry.tokenizer)
        spec = TaskSpec(
            name=body.name,
            prompt=prompt,
            labels=labels,
            layers=(),
            sites=(),
            num_layers=editor.num_layers,
            hidden_size=editor.hidden_size,
            model=registry.model,
            calibration=CalibrationRecord(
                loss="restricted",
                rounds=0,
                seed=0,
                client_sizes=(len(body.examples),),
                settings={"fit": body.fit},
            ),
        )
        task = Task.of(Artifact(spec, {}, digest=""), registry.tokenizer, Path(body.name))
    except ValidationError as error:
        raise InputError(str(first_problem(error))) from error
    except (DataError, PromptError) as error:
        raise InputError(str(error)) from error
    position = {label.name: index for index, label in enumerate(labels)}
    texts = [example.text for example in body.examples]
    return Draft(
        task,
        _prompts(encoder, task, texts, body.truncate),
        np.array([position[example.label] for example in body.examples], dtype=int),
        folds_of(texts),
        RUNGS[body.fit],
        body.replace,
        _signs(body, registry.tokenizer),
    )


@contextmanager
def telling_no_others(name: str) -> Iterator[None]:
    """Log what tells of other tasks or of the folder: who makes tasks may not know those."""
    try:
        yield
    except (PlaceError, TaskNotFoundError) as error:
        logger.warning("Task %r cannot be made: %s", name, error)
        raise FolderError(f"the name {name!r} cannot be used; choose another") from None


def _labels(body: CreateTaskRequest, like: Task | None) -> tuple[Label, ...]:
    """In the order asked for, with the words asked for. Raises InputError or DataError unless there
    are enough examples of each."""
    counts = Counter(example.label for example in body.examples)
    known = {label.name: label.verbalization for label in like.spec.labels} if like else {}
    names = list(body.labels or ([name for name in known if name in counts] if like else ()))
    names += sorted(counts.keys() - set(names)) if body.labels is None else []
    words = body.labels if isinstance(body.labels, dict) else known
    _refuse_unbalanced(counts, names)
    pairs = [(name, words.get(name, verbalize(name))) for name in names]
    refuse_unclear(pairs, "labels")
    if len(names) * len(body.examples) > MAX_MADE_SCORES:
        raise InputError(
            f"{len(body.examples)} examples with {len(names)} labels make "
            f"{len(names) * len(body.examples)} scores, expected at most {MAX_MADE_SCORES}; send "
            "fewer examples"
        )
    return tuple(Label(name=name, verbalization=said) for name, said in pairs)


def _refuse_unbalanced(counts: Counter[str], names: Sequence[str]) -> None:
    unknown = sorted(counts.keys() - set(names))
    if unknown:
        raise InputError(
            f"labels: an example is labelled {unknown[0]!r}, which is not among them; add it, or "
            "leave labels out for those of the examples"
        )
    if not 2 <= len(names) <= MAX_MADE_LABELS:
        raise InputError(
            f"{len(names)} {'label' if len(names) == 1 else 'labels'}, expected 2 to "
            f"{MAX_MADE_LABELS}; a task tells labels apart"
        )
    for name in names:
        if counts[name] < LEAST_EXAMPLES:
            raise InputError(
                f"label {name!r} has {counts[name] or 'no'} "
                f"{'example' if counts[name] == 1 else 'examples'}, expected at least "
                f"{LEAST_EXAMPLES}, as one says nothing of how well others are told; add some, or "
                "leave the label out"
            )


def _prompt(body: CreateTaskRequest, like: Task | None, tokenizer: Any) -> PromptTemplate:
    if like is not None:
        return like.spec.prompt
    if body.chat is not None:
        return chat_prompt(tokenizer, body.chat.user, body.chat.system)
    return PromptTemplate.of(TEMPLATE if body.template is None else body.template)


def _prompts(encoder: PromptEncoder, task: Task, texts: list[str], truncate: bool) -> list[Prompt]:
    prompts = []
    for index, encoded in enumerate(encoder.encode_all(task, texts, truncate)):
        if isinstance(encoded, TextTooLongError):
            raise TextTooLongError(f"example {index}: {encoded}") from encoded
        prompts.append(array("i", encoded))
    return prompts


def _signs(body: CreateTaskRequest, tokenizer: Any) -> list[str]:
    """What of the examples promises no good task, each with what to do."""
    signs = [
        f"label {name!r} has {count} examples, so what is said of it is vague; add some, at least "
        f"{FEW_EXAMPLES}"
        for name, count in sorted(Counter(one.label for one in body.examples).items())
        if count < FEW_EXAMPLES
    ]
    if body.template is None and body.chat is None and body.like is None:
        if getattr(tokenizer, "chat_template", None):
            signs.append(
                f"prompts are plain ({TEMPLATE!r}), and this model has a chat template; send "
                '"chat": {} to have them written in it'
            )
    return signs + _repeated(body.examples)


def _repeated(examples: Sequence[LabelledText]) -> list[str]:
    rows_of: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        rows_of.setdefault(example.text, []).append(row)
    agreed: list[str] = []
    disputed: list[str] = []
    for rows in rows_of.values():
        if len(rows) > 1:
            several = len({examples[row].label for row in rows}) > 1
            (disputed if several else agreed).append(f"{rows[0]} and {rows[1]}")
    signs = []
    if disputed:
        signs.append(
            f"{len(disputed)} texts have several labels, such as those of examples {disputed[0]}; "
            "correct them"
        )
    if agreed:
        signs.append(
            f"{len(agreed)} texts are there more than once, such as those of examples {agreed[0]}; "
            "each counts as often"
        )
    return signs
