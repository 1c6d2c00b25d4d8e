"""What callers are told of a task, in the words of the HTTP contract."""

from typing import Any

from ifedicl_serve.contract.sharing import head_digest
from ifedicl_serve.schema import CalibrationCard, PromptParts, RungCard, TaskCard, TaskSummary
from ifedicl_serve.tasks.task import ListedTask


def task_summary(task: ListedTask) -> TaskSummary:
    """What the list says about a task."""
    return TaskSummary(**_summary(task))


def task_card(task: ListedTask) -> TaskCard:
    """All that a caller may know about a task."""
    made, prompt = task.spec.calibration, task.spec.prompt
    return TaskCard(
        **_summary(task),
        prompt=PromptParts(head=prompt.head, tail=prompt.tail, label_prefix=prompt.label_prefix),
        verbalizations=task.spec.verbalizations,
        calibration=CalibrationCard(
            loss=made.loss,
            rounds=made.rounds,
            round_losses=list(made.round_losses),
            seed=made.seed,
            clients=len(made.client_sizes),
            examples=sum(made.client_sizes),
            rungs=[RungCard(**rung.model_dump()) for rung in made.rungs],
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
        "rung": spec.rung,
        "extent": spec.extent,
        "adapts_text": spec.adapts_text,
        "head_digest": head_digest(spec.prompt),
        "layers": list(spec.layers),
        "sites": list(spec.sites),
        "metrics": spec.calibration.metrics,
    }
