"""Artifacts and metrics as tables on a console."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

if TYPE_CHECKING:
    from torch import Tensor

    from ifedicl_serve.contract.artifact import Artifact
    from ifedicl_serve.contract.identity import ModelIdentity
    from ifedicl_serve.contract.sharing import Sharing
    from ifedicl_serve.contract.spec import TaskSpec


def metrics_table(title: str, metrics: dict[str, dict[str, float]]) -> Table:
    """One row a method."""
    table = Table("", "accuracy", "log-loss", "macro-F1", title=title)
    for name, values in metrics.items():
        numbers = (values["accuracy"], values["log_loss"], values["macro_f1"])
        table.add_row(name.replace("_", " "), *(f"{number:.4f}" for number in numbers))
    return table


def artifact_table(artifact: Artifact, signature: str) -> Group:
    """What the artifact holds and how it was made, and which rungs were tried; `signature` says
    who vouches for it."""
    table = Table("field", Column("value", overflow="fold"), title=f"task {artifact.spec.name}")
    for key, value in _fields(artifact, signature).items():
        table.add_row(key, escape(value))
    tried = artifact.spec.calibration.rungs
    return Group(table, rungs_table(artifact.spec)) if tried else Group(table)


def tasks_table(specs: Sequence[TaskSpec]) -> Group:
    """One row a task, and which of them compute a text once, by base model."""
    from ifedicl_serve.contract.sharing import sharing_of  # imports transformers

    table = Table("task", "rung", "extent", "head", "base model", title="tasks")
    by_model: dict[ModelIdentity, list[TaskSpec]] = defaultdict(list)
    for spec in specs:
        by_model[spec.model.model_copy(update={"name": ""})].append(spec)
        row = (spec.name, spec.rung, spec.extent, json.dumps(spec.prompt.head), spec.model.name)
        table.add_row(*map(escape, row))
    told = [line for of_model in by_model.values() for line in _told(sharing_of(of_model))]
    return Group(table, *told)


def _told(sharing: Sharing) -> Iterator[str]:
    for head, names in sharing.heads.items():
        if len(names) > 1:
            yield escape(f"{', '.join(names)}: a text behind {json.dumps(head)} is computed once")
    if sharing.adapting:
        yield escape(
            f"{', '.join(sharing.adapting)}: each adapts a text's own tokens, so it is computed "
            "again; --extent tail would share it"
        )
    for pair in sharing.near:
        one, other = (f"{json.dumps(head)} ({', '.join(sharing.heads[head])})" for head in pair)
        yield "[yellow]warning:[/] " + escape(
            f"{one} and {other} nearly are one head, and share nothing; calibrate one side anew "
            "with --share-with a task of the other"
        )


def _fields(artifact: Artifact, signature: str) -> dict[str, str]:
    spec, record = artifact.spec, artifact.spec.calibration
    rows: dict[str, str] = {
        "digest": artifact.digest,
        "signature": signature,
        "base model": f"{spec.model.name} ({spec.model.architecture})",
        "template": json.dumps(spec.prompt.template),
        "labels": ", ".join(f"{label.name}={label.verbalization}" for label in spec.labels),
        "rung": spec.rung,
        "extent": spec.extent,
        "layers": ",".join(map(str, spec.layers)) or "none",
        "sites": ",".join(spec.sites) or "none",
        "shape": f"{spec.num_layers} layers, hidden size {spec.hidden_size}",
        **{name: _range(artifact.tensors[name]) for name in spec.tensors},
        "clients": ", ".join(map(str, record.client_sizes)),
    }
    for values in (record.settings, record.metrics, record.wire_bytes, record.versions):
        rows |= {key: str(value) for key, value in values.items() if key not in rows}
    return rows


def _range(tensor: Tensor) -> str:
    """What a tensor's numbers lie between, and its shape; of one number, the number."""
    if tensor.numel() == 1:
        return f"{tensor.item():.3f}"
    shape = " x ".join(map(str, tensor.shape))
    return f"{tensor.min():.3f} to {tensor.max():.3f} ({shape})"


def rungs_table(spec: TaskSpec) -> Table:
    """One row a rung that was tried, the chosen one marked."""
    columns = ("rung", "numbers", "log-loss", "above best", "accuracy")
    table = Table(*columns, title="rungs tried, on held-out rows", caption="* chosen")
    for rung in spec.calibration.rungs:
        table.add_row(
            escape(rung.name) + (" *" if rung.name == spec.rung else ""),
            f"{rung.numbers:,}",
            f"{rung.log_loss:.4f}",
            f"{rung.excess:.4f} ± {rung.standard_error:.4f}",
            f"{rung.accuracy:.4f}",
        )
    return table
