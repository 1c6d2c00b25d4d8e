"""The HTTP contract: what `/v1/classify` and `/v1/tasks` take and return."""

from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from ifedicl_serve.contract.text import why_unusable

MAX_BATCH = 2048  # as OpenAI's embeddings endpoint
MAX_TEXT_CHARS = 1 << 20  # a quarter of a million tokens, and about a second to tokenise
MAX_SCORES = 1 << 18  # of one request: texts times labels, of all its tasks
MAX_TASKS = 256  # of one request
MAX_RESULTS = 1 << 14  # of one request: texts times tasks, as each may be an error with its words
MAX_NAME_CHARS = 128  # of a task
ALL = "*"  # no task's name


class ClassifyRequest(BaseModel):
    """One text or a list of texts, to be classified by one task (`task`) or by several
    (`tasks`)."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    task: Annotated[
        str | None,
        Field(
            validation_alias=AliasChoices("model", "task"),
            description="Name of a task listed by `GET /v1/tasks`; may be sent as `model`.",
        ),
    ] = None
    tasks: Annotated[
        Literal["*"] | Annotated[list[str], Field(max_length=MAX_TASKS)] | None,
        Field(
            validate_default=True,
            description='In place of `task`: names of several, or "*" for all that the key may '
            "use. Every text is classified by each of them, and what they share of its prompt is "
            "computed once.",
        ),
    ] = None
    input: str | list[str]
    top_k: Annotated[
        int | None, Field(ge=1, description="Return only the k best labels; all if absent.")
    ] = None
    truncate: Annotated[
        bool, Field(description="Cut texts that do not fit the context instead of refusing them.")
    ] = False
    timeout: Annotated[
        float | None,
        Field(
            gt=0,
            description="Seconds to answer in, or 504; the server's --request-timeout if longer "
            "or absent.",
        ),
    ] = None
    adapted: Annotated[
        bool,
        Field(
            description="false: the base model's answer to the same prompt, without the task's "
            "injection, to compare with."
        ),
    ] = True

    @field_validator("tasks", mode="before")
    @classmethod
    def _names_differ(cls, value: Any) -> Any:
        """One message for all that can be wrong, where a union would give one per branch."""
        if value is None or value == ALL:
            return value
        if not isinstance(value, list):
            seen = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
            raise ValueError(f'is {seen}, expected a list of names, or "*" for all there are')
        if not 1 <= len(value) <= MAX_TASKS:
            raise ValueError(f"{len(value)} tasks, expected 1 to {MAX_TASKS}")
        for index, name in enumerate(value):
            if not isinstance(name, str):
                raise ValueError(f"task {index} is a {type(name).__name__}, expected its name")
            if len(name) > MAX_NAME_CHARS:
                raise ValueError(
                    f"task {index} has {len(name)} characters, names have at most {MAX_NAME_CHARS}"
                )
            if name in value[:index]:
                raise ValueError(f"task {index} repeats {name!r}; name each once")
        return value

    @field_validator("tasks")
    @classmethod
    def _one_of_both(cls, value: Any, known: ValidationInfo) -> Any:
        if "task" in known.data and (known.data["task"] is None) == (value is None):
            raise ValueError(
                "neither `task` nor `tasks` is given, expected one of them"
                if value is None
                else "`task` (or `model`) and `tasks` are both given, expected one of them"
            )
        return value

    @field_validator("input", mode="before")
    @classmethod
    def _texts_not_empty(cls, value: Any) -> Any:
        """One message for all that can be wrong, where a union would give one per branch."""
        texts = value if isinstance(value, list) else [value]
        if not 1 <= len(texts) <= MAX_BATCH:
            raise ValueError(f"{len(texts)} texts, expected 1 to {MAX_BATCH}")
        for index, text in enumerate(texts):
            where = f"text {index}" if isinstance(value, list) else "the text"
            if not isinstance(text, str):
                kind = type(text).__name__
                raise ValueError(f"{where} is a {kind}, expected a string or a list of strings")
            if len(text) > MAX_TEXT_CHARS:
                raise ValueError(
                    f"{where} has {len(text)} characters, expected at most {MAX_TEXT_CHARS}"
                )
            if problem := why_unusable(text):
                raise ValueError(f"{where} {problem}")
        return value

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input

    @property
    def names_one(self) -> bool:
        """Whether it is for one task alone, whose error is then that of the request."""
        return self.tasks is None


class LabelScore(BaseModel):
    """A label and its probability."""

    label: str
    score: float


class Classification(BaseModel):
    """The result for one input: the best label, and all (or top_k) scores, best first."""

    object: Literal["classification"] = "classification"
    index: int
    label: str
    score: float
    scores: list[LabelScore]
    prompt_tokens: int


class TaskClassification(Classification):
    """The result for one input by one of several tasks."""

    task: str
    task_digest: str


class ErrorInfo(BaseModel):
    """The error object of OpenAI and vLLM."""

    message: str
    type: str
    param: str | None = None
    code: int


class TaskError(BaseModel):
    """Why one of several tasks has no result for an input: what a request for it alone would have
    been answered with."""

    object: Literal["error"] = "error"
    index: int
    task: str
    error: ErrorInfo


class PromptTokensDetails(BaseModel):
    """How many prompt tokens were not computed for the result that they are of: they were in the
    prefix cache, or computed for another result of the same request. Each as the result's first
    engine request found the prompt; requests for further nodes of a label trie are not counted."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens of all results, as OpenAI counts them: each has its whole prompt, also where several
    tasks share one. Computed were `prompt_tokens` less the cached ones, beside what further nodes
    of a label trie take."""

    prompt_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ClassifyResponse(BaseModel):
    """One classification per input, in the order they were sent."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    task_digest: str
    adapted: bool
    data: list[Classification]
    usage: Usage


TaskResult = Annotated[TaskClassification | TaskError, Field(discriminator="object")]


class ClassifyTasksResponse(BaseModel):
    """A result, or an error in its place, per input and task: the first input's in the order of
    the tasks, then the second's."""

    id: str
    object: Literal["list"] = "list"
    created: int
    adapted: bool
    data: list[TaskResult]
    usage: Usage


class TaskSummary(BaseModel):
    """A served task, as it is listed."""

    id: str
    object: Literal["task"] = "task"
    status: Literal["ready"] = "ready"
    digest: str
    labels: list[str]
    template: str
    base_model: str
    rung: Annotated[
        str, Field(description='What was fitted, e.g. "channels+head"; "zero-shot" if nothing.')
    ]
    extent: Annotated[
        Literal["all", "tail"],
        Field(description="Which tokens of a prompt are adapted: all, or those behind the text."),
    ]
    adapts_text: Annotated[
        bool,
        Field(
            description="false: the text is read as the base model reads it, once for all such "
            "tasks of one `head_digest`."
        ),
    ]
    head_digest: Annotated[
        str, Field(description="SHA-256 of what the prompt has before the text.")
    ]
    layers: list[int]
    sites: list[str]
    metrics: dict[str, float]


class PromptParts(BaseModel):
    """A prompt is `head`, the text and `tail`; a label follows behind `label_prefix`."""

    head: str
    tail: str
    label_prefix: str


class RungCard(BaseModel):
    """A rung that was tried, and what held-out rows said of it."""

    name: str
    numbers: Annotated[int, Field(description="How many were fitted.")]
    log_loss: float
    excess: Annotated[float, Field(description="Log-loss above that of the best rung.")]
    standard_error: Annotated[float, Field(description="Of `excess`.")]
    accuracy: float


class CalibrationCard(BaseModel):
    """How a task was made. How many examples each client holds is the clients' business."""

    loss: str
    rounds: int
    round_losses: Annotated[
        list[float],
        Field(description="Mean loss of each round; empty if withheld, or of an older artifact."),
    ]
    seed: int
    clients: int
    examples: int
    rungs: Annotated[
        list[RungCard], Field(description="What was tried; the chosen one has the task's `rung`.")
    ]
    settings: dict[str, int | float | str]
    wire_bytes: dict[str, int]
    versions: dict[str, str]


class TaskCard(TaskSummary):
    """What is known about a served task."""

    prompt: PromptParts
    verbalizations: Annotated[
        list[str], Field(description="The words the model reads, in the order of `labels`.")
    ]
    calibration: CalibrationCard


class InjectionCard(BaseModel):
    """`h' = scale * h + shift`, channel by channel, in numbers of every layer (row) and site
    (column); the identity where the task does not adapt."""

    model_config = ConfigDict(populate_by_name=True)

    layers: list[int]
    sites: list[str]
    scale: Annotated[list[list[float]], Field(description="Mean over channels; identity: 1.")]
    scale_spread: Annotated[
        list[list[float]],
        Field(description="Standard deviation over channels; 0 where a site has one scale."),
    ]
    shift: Annotated[
        list[list[float]], Field(description="Root mean square over channels; identity: 0.")
    ]
    beta: Annotated[
        list[list[float]] | None,
        Field(
            description="Of a task that is fitted by `h' = beta * h + lambda * v`, else null, as "
            "`lambda`."
        ),
    ]
    lambda_: Annotated[list[list[float]] | None, Field(alias="lambda")]


class ReadoutCard(BaseModel):
    """`logits = sharpness * label log-probabilities + label rows . last hidden state + bias`."""

    sharpness: float
    bias: Annotated[dict[str, float], Field(description="Of every label.")]
    label_rows: Annotated[bool, Field(description="Whether there are any.")]


class Fitted(BaseModel):
    """What a task's calibration fitted: what it does at the sites, and with the labels' scores."""

    id: str
    object: Literal["task.fitted"] = "task.fitted"
    digest: str
    injection: InjectionCard
    readout: Annotated[
        ReadoutCard | None, Field(description="null: the model's own scores are the answer.")
    ]


class RefusedTask(BaseModel):
    """An artifact folder that does not serve, and why."""

    id: str
    object: Literal["task"] = "task"
    status: Literal["refused"] = "refused"
    reason: str


class TaskList(BaseModel):
    """Every artifact in the tasks directory."""

    object: Literal["list"] = "list"
    data: list[TaskSummary | RefusedTask]


class ReloadReport(BaseModel):
    """What became of each sub-folder that had changed since this process last looked."""

    object: Literal["reload"] = "reload"
    changed: dict[str, str]


class ErrorResponse(BaseModel):
    """The body of every error this service answers."""

    error: ErrorInfo
