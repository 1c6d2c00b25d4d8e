"""A task that serves: its spec, its content's name, where it lies, and its label trie."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ifedicl_serve.contract.labels import LabelTrie
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
    """A task ready to serve: everything about it was checked."""

    trie: LabelTrie

    def read_out(self, choices: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Probabilities [..., labels] from the trie's log-softmaxes [..., choices].

        Raises TaskUnavailableError if one is NaN: a worker could not load the task.
        """
        if np.isnan(choices).any():
            raise unavailable(self)
        return np.exp(self.trie.log_probs(choices).astype(np.float64))


def unavailable(task: Task) -> TaskUnavailableError:
    """What to raise for a request whose task no worker could load."""
    return TaskUnavailableError(
        f"task {task.name!r} could not be loaded by the engine: its artifact "
        f"{task.digest[:16]} is gone, replaced or damaged, or overflows the model's dtype; send "
        "the request again, or see the server's log and restore the artifact (or touch its "
        "task.json)"
    )
