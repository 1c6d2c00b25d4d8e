"""A task that serves: its spec, its content's name, where it lies, and what its answers take."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ifedicl_serve.contract.artifact import Artifact
from ifedicl_serve.contract.labels import LabelTrie
from ifedicl_serve.contract.prompt import label_trie, tail_tokens
from ifedicl_serve.contract.readout import Readout
from ifedicl_serve.contract.spec import TaskSpec
from ifedicl_serve.errors import TaskUnavailableError


@dataclass(frozen=True)
class ListedTask:
    """A task whose task.json is valid and for this model; its tensors were not read yet.

    `generation` changes whenever the folder does: a task that an engine failed to load is
    tried again as another generation.
    """

    spec: TaskSpec
    digest: str
    generation: str
    folder: Path

    @property
    def name(self) -> str:
        return self.spec.name


@dataclass(frozen=True)
class Task(ListedTask):
    """A task ready to serve: everything about it was checked.

    `adapts` is False where its prompts' KV and last hidden states are the base model's own (rungs
    `bias` and `head`); else `tail` is how many tokens of a prompt it adapts, the last ones (None:
    all). `readout` is without the label rows, which only workers keep; `label_rows` says how many
    there are.
    """

    trie: LabelTrie
    adapts: bool
    tail: int | None
    readout: Readout | None

    @classmethod
    def of(cls, artifact: Artifact, tokenizer: Any, folder: Path, generation: str = "") -> "Task":
        """Raises PromptError for labels that the tokenizer cannot keep apart."""
        spec, readout = artifact.spec, artifact.readout
        return cls(
            spec,
            artifact.digest,
            generation,
            folder,
            trie=label_trie(tokenizer, spec.prompt, spec.verbalizations),
            adapts=not artifact.injection.unchanged().all(),
            tail=tail_tokens(tokenizer, spec.prompt) if spec.extent == "tail" else None,
            readout=readout and replace(readout, label_rows=None),
        )

    @property
    def label_rows(self) -> int:
        """How many label rows a worker has of it: one a label, or none."""
        return len(self.spec.labels) if self.spec.readout == "head" else 0

    def read_out(
        self,
        choices: npt.NDArray[np.float32],
        row_scores: npt.NDArray[np.float32] | None = None,
        adapted: bool = True,
    ) -> npt.NDArray[np.float64]:
        """Probabilities [..., labels] from the trie's log-softmaxes [..., choices] and the scores
        of the task's label rows [..., labels], if it has some.

        Unadapted is the base model's own answer: without the readout. Raises TaskUnavailableError
        if a score is NaN, as a worker could not load the task, or a row's is beyond float32.
        """
        overflows = row_scores is not None and not np.isfinite(row_scores).all()
        if overflows or np.isnan(choices).any():
            raise unavailable(self)
        log_probs = self.trie.log_probs(choices)
        if self.readout is None or not adapted:
            return np.exp(log_probs.astype(np.float64))
        return np.exp(self.readout(log_probs, row_scores))


def unavailable(task: Task) -> TaskUnavailableError:
    """What to raise for a request whose task no worker could load."""
    return TaskUnavailableError(
        f"task {task.name!r} could not be loaded by the engine: its artifact "
        f"{task.digest[:16]} is gone, replaced or damaged, or overflows the model's dtype; send "
        "the request again, or see the server's log and restore the artifact (or touch its "
        "task.json)"
    )
