"""Which tasks are answered together: by one engine request a label node, after one prompt."""

from collections.abc import Callable, Hashable, Iterable, Sequence

from api.classify.encoder import Encoded
from ifedicl_serve.tasks.task import Task

Group = tuple[int, ...]  # the places of its tasks among all


def grouped(
    tasks: Sequence[Task], key: Callable[[Task], Hashable], alone: Callable[[Task], bool]
) -> list[Group]:
    """Tasks of equal key, of those of a `PromptEncoder`; those that must be `alone` are."""
    return _by_key((key(task), place if alone(task) else None) for place, task in enumerate(tasks))


def parted(groups: Sequence[Group], row: Sequence[Encoded | str]) -> list[Group]:
    """The groups for one text, whose prompts by all tasks are `row`: where it does not fit all of a
    group, those whose prompts, or reasons for none, are one object stay together."""
    return [
        tuple(group[place] for place in part)
        for group in groups
        for part in _by_key(id(row[place]) for place in group)
    ]


def _by_key(keys: Iterable[Hashable]) -> list[Group]:
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return list(map(tuple, groups.values()))
