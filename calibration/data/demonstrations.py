"""Which examples stand in a prompt or make a context vector."""

import random
from collections.abc import Sequence

from calibration.data.examples import Example


def choose_demonstrations(examples: Sequence[Example], limit: int, seed: int) -> list[Example]:
    """Up to `limit` examples (0: all), the labels as even as they come, the same per seed."""
    by_label: dict[str, list[Example]] = {}
    shuffled = random.Random(seed).sample(list(examples), len(examples))
    for example in shuffled:
        by_label.setdefault(example.label, []).append(example)
    turns = [(turn, example) for group in by_label.values() for turn, example in enumerate(group)]
    ordered = [example for _, example in sorted(turns, key=lambda item: item[0])]
    return ordered[: limit or len(ordered)]
