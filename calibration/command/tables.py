"""Artifacts and metrics as tables on a console."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Column, Table

if TYPE_CHECKING:
    from torch import Tensor

    from ifedicl_serve.contract.artifact import Artifact
    from ifedicl_serve.contract.spec import TaskSpec


def metrics_table(title: str, metrics: dict[str, dict[str, float]]) -> Table:
    """One row a method."""
    table = Table("", "accuracy", "log-loss", "macro-F1", title=title)
    for name, values in metrics.items():
        numbers = (values["accuracy"], values["log_loss"], values["macro_f1"])
        table.add_row(name.replace("_", " "), *(f"{number:.4f}" for number in numbers))
    return table


def _range(tensor: Tensor) -> str:
    shape = " x ".join(map(str, tensor.shape))
    return f"{tensor.min():.3f} to {tensor.max():.3f} ({shape})"


def rungs_table(spec: TaskSpec) -> Table:
    """What was tried, the simplest first; the task's own in bold."""
    header = ("rung", "numbers", "log-loss", "above the best", "accuracy")
    table = Table(*header, title="rungs, on held-out rows")
    for rung in spec.calibration.rungs:
        table.add_row(
            rung.name,
            str(rung.numbers),
            f"{rung.log_loss:.4f}",
            f"{rung.excess:+.4f} ± {rung.standard_error:.4f}",
            f"{rung.accuracy:.4f}",
            style="bold" if rung.name == spec.rung else None,
        )
    return table


def artifact_table(artifact: Artifact, signature: str) -> Table:
    """What the artifact holds and how it was made; `signature` says who vouches for it."""
    spec = artifact.spec
    rows: dict[str, str] = {
        "digest": artifact.digest,
        "signature": signature,
        "base model": f"{spec.model.name} ({spec.model.architecture})",
        "template": json.dumps(spec.prompt.template),
        "labels": ", ".join(f"{label.name}={label.verbalization}" for label in spec.labels),
        "layers": ",".join(map(str, spec.layers)),
        "sites": ",".join(spec.sites),
        "shape": f"{spec.num_layers} layers, hidden size {spec.hidden_size}",
        "clients": ", ".join(map(str, spec.calibration.client_sizes)),
        "rung": spec.rung,
        "extent": spec.extent,
        **{name: _range(artifact.tensors[name]) for name in spec.tensors},
    }
    record = spec.calibration
    for values in (record.settings, record.metrics, record.wire_bytes, record.versions):
        rows |= {key: str(value) for key, value in values.items() if key not in rows}
    table = Table("field", Column("value", overflow="fold"), title=f"task {spec.name}")
    for key, value in rows.items():
        table.add_row(key, escape(value))
    return table
