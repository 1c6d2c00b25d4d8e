"""Options that several commands share: their help, once, and in groups (`option_groups`).

Defaults come from `Settings` and `Machine`.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from calibration.settings import Machine, Settings

Model = Annotated[str, typer.Option("--model", help="Checkpoint folder or hub name.")]
Task = Annotated[Path, typer.Option("--task", help="Folder of the calibrated task.")]
TextColumn = Annotated[str, typer.Option(help="Column that holds the text.")]
LabelColumn = Annotated[str, typer.Option(help="Column that holds the label.")]
Truncate = Annotated[
    bool, typer.Option("--truncate", help="Cut texts whose prompts the model cannot read whole.")
]
Seed = Annotated[int, typer.Option(help="Of every random choice.")]

StartFrom = Annotated[
    Path | None,
    typer.Option(
        help="A task, or a folder of tasks of the same model: the fit begins at the nearest, if "
        "held-out rows say that this is better."
    ),
]

TEMPLATE, SEPARATOR = r"Text: {text}\nLabel:", r"\n\n"

Out = Annotated[Path, typer.Option(help="Folder to write the task to.")]


@dataclass(frozen=True)
class PromptOptions:
    """What a task is called, and how its prompts are written."""

    name: Annotated[str | None, typer.Option(help="Task name (default: that of --out).")] = None
    template: Annotated[
        str | None,
        typer.Option(
            help=r"Prompt with {text}; \n is a newline. A label follows after a space, or directly "
            rf"behind white space (default: {TEMPLATE})."
        ),
    ] = None
    separator: Annotated[
        str | None, typer.Option(help=rf"Ends a demonstration (default: {SEPARATOR}).")
    ] = None
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Prompts in the model's chat template, instead."),
    ] = False
    system: Annotated[str | None, typer.Option(help="With --chat: the system message.")] = None
    user: Annotated[
        str | None, typer.Option(help="With --chat: the user's message (default: {text}).")
    ] = None
    share_with: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a task whose prompts begin alike, so that both read a text once."
        ),
    ] = None


@dataclass(frozen=True)
class Columns:
    """Where a data file has its texts and labels."""

    text_column: TextColumn = "text"
    label_column: LabelColumn = "label"

    @property
    def names(self) -> tuple[str, str]:
        return self.text_column, self.label_column


@dataclass(frozen=True)
class MachineOptions:
    """How the model is run here."""

    dtype: Annotated[
        str, typer.Option(help="fp32, bf16 or auto (the checkpoint's on a GPU, fp32 on a CPU).")
    ] = Machine.dtype
    device: Annotated[str, typer.Option(help="cpu, cuda or auto (cuda if there).")] = Machine.device
    device_map: Annotated[
        str, typer.Option(help="none, or auto: spread over all GPUs by accelerate.")
    ] = Machine.device_map
    max_batch_tokens: Annotated[
        int, typer.Option(help="Padded tokens of a pass; larger batches are run in pieces.")
    ] = Machine.max_batch_tokens
    checkpointing: Annotated[
        str,
        typer.Option(
            help="on: layers run again in the backward pass, in less memory; off; or auto: where "
            "it would not fit else."
        ),
    ] = Machine.checkpointing

    @property
    def machine(self) -> Machine:
        return Machine(**asdict(self))


@dataclass(frozen=True)
class FitOptions:
    """How a task is fitted."""

    fit: Annotated[
        str,
        typer.Option(
            help="bias, head, coefficients (the paper's), channels, or auto: by held-out rows."
        ),
    ] = Settings.fit
    readout: Annotated[
        str,
        typer.Option(help="On top: none, bias, head (label rows), or auto: by held-out rows."),
    ] = Settings.readout
    extent: Annotated[
        str, typer.Option(help="Tokens to adapt: all, or the tail behind the text alone.")
    ] = Settings.extent
    layers: Annotated[str, typer.Option(help="all, last:K or a list such as 0,3,5.")] = "all"
    sites: Annotated[str, typer.Option(help="attn, mlp or both.")] = "attn,mlp"
    loss: Annotated[
        str, typer.Option(help="restricted (to the task's labels) or vocabulary (the paper's).")
    ] = Settings.loss
    rounds: Annotated[int, typer.Option(help="Rounds of fit and averaging.")] = Settings.rounds
    local_steps: Annotated[int, typer.Option(help="Steps a round.")] = Settings.local_steps
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.")] = Settings.learning_rate
    channel_lr: Annotated[
        float, typer.Option("--channel-lr", help="Peak learning rate of channels.")
    ] = Settings.channel_learning_rate
    batch_size: Annotated[int, typer.Option(help="Examples a step.")] = Settings.batch_size
    demonstrations: Annotated[
        int, typer.Option(help="Most demonstrations a client extracts from; 0: all.")
    ] = Settings.demonstrations
    aggregation: Annotated[
        str,
        typer.Option(
            help="fedavg, or against poisoned clients: median, trimmed_mean, krum, multi_krum."
        ),
    ] = Settings.aggregation


@dataclass(frozen=True)
class PrivacyOptions:
    """What of a client's examples may show."""

    epsilon: Annotated[
        float, typer.Option(help="Differential privacy of each client's examples; 0: none.")
    ] = Settings.epsilon
    delta: Annotated[float, typer.Option(help="The probability with which --epsilon may fail.")] = (
        Settings.delta
    )
    vector_clip: Annotated[
        float, typer.Option(help="With --epsilon: clipping norm of an example's activations.")
    ] = Settings.vector_clip
    gradient_clip: Annotated[
        float, typer.Option(help="With --epsilon: clipping norm of an example's gradient.")
    ] = Settings.gradient_clip
