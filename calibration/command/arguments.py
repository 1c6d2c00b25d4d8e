"""Options that several commands share: their help, once. Defaults come from `Settings`."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Option("--model", help="Checkpoint folder or hub name.")]
Task = Annotated[Path, typer.Option("--task", help="Folder of the calibrated task.")]
Dtype = Annotated[str, typer.Option(help="fp32 or bf16.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto (cuda if there).")]
TextColumn = Annotated[str, typer.Option(help="Column that holds the text.")]
LabelColumn = Annotated[str, typer.Option(help="Column that holds the label.")]
Seed = Annotated[int, typer.Option(help="Of every random choice.")]

# What is calibrated.
Out = Annotated[Path, typer.Option(help="Folder to write the task to.")]
Name = Annotated[str | None, typer.Option(help="Task name (default: that of --out).")]
Template = Annotated[str, typer.Option(help=r"Prompt with {text}; \n is a newline.")]
Separator = Annotated[str, typer.Option(help="Ends a demonstration.")]
TEMPLATE, SEPARATOR = r"Text: {text}\nLabel:", r"\n\n"

# How.
Layers = Annotated[str, typer.Option(help="all, last:K or a list such as 0,3,5.")]
Sites = Annotated[str, typer.Option(help="attn, mlp or both.")]
Loss = Annotated[
    str, typer.Option(help="restricted (to the task's labels) or vocabulary (the paper's).")
]
Rounds = Annotated[int, typer.Option(help="Rounds of fit and averaging.")]
LocalSteps = Annotated[int, typer.Option(help="Steps a round.")]
LearningRate = Annotated[float, typer.Option("--lr", help="Peak learning rate.")]
BatchSize = Annotated[int, typer.Option(help="Examples a step.")]
Demonstrations = Annotated[
    int, typer.Option(help="Most demonstrations a client extracts from; 0: all.")
]
Aggregation = Annotated[
    str,
    typer.Option(
        help="fedavg, or against poisoned clients: median, trimmed_mean, krum, multi_krum."
    ),
]
Epsilon = Annotated[
    float, typer.Option(help="Differential privacy of each client's examples; 0: none.")
]
Delta = Annotated[float, typer.Option(help="The probability with which --epsilon may fail.")]
VectorClip = Annotated[
    float, typer.Option(help="With --epsilon: clipping norm of an example's activations.")
]
GradientClip = Annotated[
    float, typer.Option(help="With --epsilon: clipping norm of an example's gradient.")
]
