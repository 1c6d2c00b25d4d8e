"""The HTTP contract: what `/v1/classify` and `/v1/tasks` take and return."""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator

from ifedicl_serve.contract.text import why_unusable

MAX_BATCH = 2048  # as OpenAI's embeddings endpoint
MAX_TEXT_CHARS = 1 << 20  # a quarter of a million tokens, and about a second to tokenise
MAX_SCORES = 1 << 18  # of one request: texts times labels


class ClassifyRequest(BaseModel):
    """One text or a list of texts, to be classified by one task."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    task: Annotated[
        str,
        Field(
            validation_alias=AliasChoices("model", "task"),
            description="Name of a task listed by `GET /v1/tasks`; may be sent as `model`.",
        ),
    ]
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


class PromptTokensDetails(BaseModel):
    """How many prompt tokens were served from the prefix cache."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens of all inputs, as OpenAI counts them."""

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


class ErrorInfo(BaseModel):
    """The error object of OpenAI and vLLM."""

    message: str
    type: str
    param: str | None = None
    code: int


class ErrorResponse(BaseModel):
    """The body of every error this service answers."""

    error: ErrorInfo
