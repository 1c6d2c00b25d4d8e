"""Which tasks are answered together: by one engine request a label node, after one prompt."""

from collections.abc import Callable, Sequence
from typing import Any

from api.classify.encoder import PromptEncoder
from ifedicl_serve.tasks.task import Task

Group = list[int]  # the places of its tasks among all


def grouped(
    tasks: Sequence[Task], prompts: PromptEncoder, alone: Callable[[Task], bool]
) -> list[Group]:
    """Tasks whose prompts are equal, whatever the text; those that must be `alone` are."""
    groups: dict[Any, Group] = {}
    for place, task in enumerate(tasks):
        own = place if alone(task) else None
        groups.setdefault((prompts.key(task), own), []).append(place)
    return list(groups.values())
