"""Public data sets as tasks: their prompts, the words for their labels, and fixed test rows.

The base model was trained on none of them. subj, emotion and ag_news are the paper's.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calibration.data.examples import Example, read_examples
from calibration.task import TaskDefinition
from ifedicl_serve.contract.prompt import PromptTemplate
from ifedicl_serve.contract.spec import Label

PAPER = ("subj", "emotion", "ag_news")
OTHERS = ("sst2", "tweeteval_offensive", "banking77")
TEMPLATES = {
    "subj": "Text: {text}\nLabel:",
    "emotion": "Text: {text}\nEmotion:",
    "ag_news": "News: {text}\nTopic:",
    "sst2": "Text: {text}\nSentiment:",
    "tweeteval_offensive": "Text: {text}\nLabel:",
    "banking77": "Text: {text}\nIntent:",
}
WORDS = {"Sci/Tech": "technology", "not-offensive": "polite"}
EVERY = {"banking77": 4}  # of its 77 labels each fourth: 20, most of several tokens


@dataclass(frozen=True)
class DataSet:
    """A labelled task with its fixed test rows."""

    task: TaskDefinition
    train: Sequence[Example]
    test: Sequence[Example]


def load_data_set(folder: Path, name: str, test: int) -> DataSet:
    """Read a data set and fix its `test` rows."""
    names = json.loads((folder / name / "labels.json").read_text(encoding="utf-8"))
    names = names[:: EVERY.get(name, 1)]
    labels = tuple(Label(name=label, verbalization=words(label)) for label in names)
    parts = [
        [row for row in read_examples(folder / name / f"{part}.jsonl") if row.label in names]
        for part in ("train", "test")
    ]
    return DataSet(
        TaskDefinition(name, PromptTemplate.of(TEMPLATES[name]), labels),
        parts[0],
        random.Random(0).sample(parts[1], test),
    )


def words(label: str) -> str:
    """What the model reads for a label."""
    return WORDS.get(label, label.lower().replace("_", " "))
