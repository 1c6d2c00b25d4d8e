"""The HTTP contract of tasks made from labelled examples: `POST /v1/tasks` and `/v1/jobs`."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ifedicl_serve.contract.names import TaskName
from ifedicl_serve.contract.text import is_unicode, why_unusable
from ifedicl_serve.schema import MAX_TEXT_CHARS, ErrorInfo

MAX_EXAMPLES = 10_000
MAX_MADE_LABELS = 256  # fitting takes the square of them
MAX_MADE_SCORES = 1 << 20  # examples times labels

Status = Literal["queued", "reading", "fitting", "writing", "done", "failed", "cancelled"]
FINAL: tuple[Status, ...] = ("done", "failed", "cancelled")


class LabelledText(BaseModel):
    """A text and the name of its label."""

    model_config = ConfigDict(extra="forbid")

    text: str
    label: str


class Chat(BaseModel):
    """A prompt in the model's own chat template."""

    model_config = ConfigDict(extra="forbid")

    user: Annotated[
        str, Field(max_length=20_000, description="What the user says, with a place for the text.")
    ] = "{text}"
    system: Annotated[
        str | None,
        Field(max_length=20_000, description="The system message; the template's own if absent."),
    ] = None


class CreateTaskRequest(BaseModel):
    """Labelled examples, and what is to be made of them."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[TaskName, Field(description="Of the task.")]
    examples: list[LabelledText]
    labels: Annotated[
        list[str] | dict[str, str] | None,
        Field(
            description="The labels in the order that answers have, each with an example; as an "
            "object, with the words that the model reads for them. Those of `like`, else of the "
            "examples, sorted, if absent."
        ),
    ] = None
    template: Annotated[
        str | None,
        Field(
            max_length=20_000,
            description='The prompt with a place for the text, "Text: {text}\\nLabel:" if absent.',
        ),
    ] = None
    chat: Annotated[
        Chat | None, Field(description="In place of `template`: the model's own chat template.")
    ] = None
    like: Annotated[
        str | None,
        Field(
            description="In place of either: a task whose prompt to take, and the words of labels "
            "that it has too. Tasks of one prompt that adapt nothing compute a text once."
        ),
    ] = None
    fit: Annotated[
        Literal["auto", "head", "bias"],
        Field(description="What is fitted; auto: what the examples, each left out, speak for."),
    ] = "auto"
    truncate: Annotated[
        bool, Field(description="Cut texts that do not fit the context instead of refusing them.")
    ] = False
    replace: Annotated[
        bool, Field(description="true: take the place of a task of this name, instead of a 409.")
    ] = False
    wait: Annotated[
        bool,
        Field(
            description="Answer when the task serves: 201; 202 if that takes longer than the "
            "server's --request-timeout, and the job goes on."
        ),
    ] = False

    @field_validator("examples", mode="before")
    @classmethod
    def _examples_usable(cls, value: Any) -> Any:
        """One message that names the example, where a list would give one for every part."""
        if not isinstance(value, list):
            raise ValueError(f"a {type(value).__name__}, expected a list of examples")
        if not 2 <= len(value) <= MAX_EXAMPLES:
            raise ValueError(f"{len(value)} examples, expected 2 to {MAX_EXAMPLES}")
        for index, example in enumerate(value):
            if not isinstance(example, dict) or example.keys() != {"text", "label"}:
                raise ValueError(f'example {index} is no {{"text": ..., "label": ...}}')
            text, label = example["text"], example["label"]
            if not isinstance(text, str) or not isinstance(label, str):
                raise ValueError(f"example {index}: text and label must both be strings")
            if len(text) > MAX_TEXT_CHARS:
                raise ValueError(
                    f"example {index}: its text has {len(text)} characters, expected at most "
                    f"{MAX_TEXT_CHARS}"
                )
            if problem := why_unusable(text):
                raise ValueError(f"example {index}: its text {problem}")
            if not label.strip() or not is_unicode(label):
                raise ValueError(f"example {index}: its label is no name")
        return value

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        given = [name for name in ("template", "chat", "like") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} contradict each other; send one of them")
        return self


class HeldOut(BaseModel):
    """Of examples that were each predicted by what was fitted to others."""

    accuracy: float
    log_loss: Annotated[float, Field(description="Mean, of the true label's probability.")]


class MadeLabel(BaseModel):
    """How well a label is told."""

    label: str
    examples: int
    recall: Annotated[float, Field(description="Share of its examples that were given it.")]
    precision: Annotated[
        float | None, Field(description="Share of what was given it that has it; null of none.")
    ]


class Confusion(BaseModel):
    """Examples of one label that were given another."""

    label: str
    predicted: str
    examples: int


class Suspect(BaseModel):
    """An example that looks mislabelled: by the others, its label is much less likely than
    another."""

    index: Annotated[int, Field(description="Among the examples that were sent, from 0.")]
    label: str
    predicted: str
    loss: Annotated[float, Field(description="Minus the log-probability of its label.")]


class TaskReport(BaseModel):
    """What was made, and what a person needs to decide whether to use it. Metrics are
    cross-validated."""

    rung: Annotated[str, Field(description='What was fitted: "zero-shot", "bias" or "head".')]
    examples: int
    adapted: HeldOut
    zero_shot: Annotated[HeldOut, Field(description="Of the model without the task.")]
    guessing: Annotated[
        HeldOut,
        Field(
            description="Of always saying the commonest label (accuracy), and of saying how common "
            "each is (log-loss)."
        ),
    ]
    labels: list[MadeLabel]
    confused: Annotated[list[Confusion], Field(description="The most frequent first.")]
    suspects: Annotated[list[Suspect], Field(description="The most suspicious first.")]
    warnings: list[str]


class Job(BaseModel):
    """A task being made. It never shows a text."""

    id: str
    object: Literal["job"] = "job"
    task: Annotated[str, Field(description="The name that the task gets.")]
    status: Status
    progress: Annotated[float, Field(ge=0, le=1, description="Share done of all its stages.")]
    created: int
    digest: Annotated[str | None, Field(description="Of the task, when it serves.")] = None
    report: Annotated[TaskReport | None, Field(description="When it is done.")] = None
    error: Annotated[ErrorInfo | None, Field(description="Why it failed.")] = None


class JobList(BaseModel):
    """Jobs that run or wait, and the last that ended; the newest first."""

    object: Literal["list"] = "list"
    data: list[Job]
