"""Where a private client measures its activations from: a point everybody can compute.

An activation is told as its distance from the reference, in units of the reference's norm at
each site. Sites differ 4 times in norm, and demonstrations share most of their activation, so
distances are short and alike: clipping them costs little, and noise is in proportion.
"""

from dataclasses import dataclass

from torch import Tensor

from calibration.data.examples import Example
from calibration.model.activations import mean_activation, rendered
from calibration.model.hooked import HookedModel
from calibration.settings import Settings
from calibration.task import TaskDefinition
from ifedicl_serve.contract.injection import adapted_mask

# What a private client measures its demonstrations from: sentences about nothing in particular,
# with each label of the task. Real demonstrations are nearer to them than to an empty text
# (subj, emotion, ag_news: the mean of 64 at 0.9 to 1.2 relative to |r|, not 1.5 to 1.8).
REFERENCE_TEXTS = (
    "This is a short text about something that happened.",
    "Here is what was said.",
    "It was the first time in a year, and nobody knew why.",
    "A man and a woman went to the city to look for work.",
)
TINY = 1e-6  # a site that is silent on the reference


@dataclass(frozen=True)
class Reference:
    """`activation` [layers, 2, hidden] of public texts; `mask` [layers, 2], the sites told of."""

    activation: Tensor
    mask: Tensor

    def distances(self, activations: Tensor) -> Tensor:
        """Relative distances of [batch, layers, 2, hidden]; 0 at sites nothing is told of."""
        return self._told * (activations - self.activation) / self._size

    def at(self, distance: Tensor) -> Tensor:
        """The activation [layers, 2, hidden] at a distance; the reference's at untold sites."""
        return self.activation + self._told * self._size * distance

    @property
    def _size(self) -> Tensor:
        return self.activation.norm(dim=-1, keepdim=True).clamp_min(TINY)

    @property
    def _told(self) -> Tensor:
        return self.mask.unsqueeze(-1).to(self.activation.device)


def task_reference(model: HookedModel, task: TaskDefinition, settings: Settings) -> Reference:
    """The mean activation of public texts with each of the task's labels."""
    public = [Example(text, name) for text in REFERENCE_TEXTS for name in task.names]
    mask = adapted_mask(model.num_layers, settings.layers, settings.sites)
    activation = mean_activation(model, rendered(model, task, public))
    return Reference(activation.to(model.device), mask)
