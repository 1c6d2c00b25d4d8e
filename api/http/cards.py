"""What callers are told of a task, in the words of the HTTP contract."""

from typing import Any

from ifedicl_serve.schema import CalibrationCard, TaskCard, TaskSummary
from ifedicl_serve.tasks.task import ListedTask


def task_summary(task: ListedTask) -> TaskSummary:
    """What the list says about a task."""
    return TaskSummary(**_summary(task))


def task_card(task: ListedTask) -> TaskCard:
    """All that a caller may know about a task."""
    made = task.spec.calibration
    return TaskCard(
        **_summary(task),
        verbalizations=task.spec.verbalizations,
        calibration=CalibrationCard(
            loss=made.loss,
            rounds=made.rounds,
            round_losses=list(made.round_losses),
            seed=made.seed,
            clients=len(made.client_sizes),
            examples=sum(made.client_sizes),
            settings=made.settings,
            wire_bytes=made.wire_bytes,
            versions=made.versions,
        ),
    )


def _summary(task: ListedTask) -> dict[str, Any]:
    spec = task.spec
    return {
        "id": spec.name,
        "digest": task.digest,
        "labels": [label.name for label in spec.labels],
        "template": spec.prompt.template,
        "base_model": spec.model.name,
        "layers": list(spec.layers),
        "sites": list(spec.sites),
        "metrics": spec.calibration.metrics,
    }
