"""Where a private client measures its activations from: a point everybody can compute.

An activation is told as its distance from the reference, in units of the reference's norm at
each site. Sites differ 4 times in norm, and demonstrations share most of their activation, so
distances are short and alike: clipping them costs little, and noise is in proportion.
"""

from dataclasses import dataclass

from torch import Tensor

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
