"""SPT: of frozen weights, the entries to which the loss is most sensitive train.

The sensitivity of an entry is the sum of its squared gradients over some batches of training images, as in the authors'
code; it is found before the first step, and saved with the weights. Differences from the authors:

* they rank all entries of the model in one order, so that how many each matrix has is known only once images were seen;
  here each layer's share is said beforehand, and with it every byte (a share for each kind of layer, if it is a dict);
* where a matrix has many of them they give it a low-rank update instead; here every layer has its entries (for the
  other, there is ``lora``);
* biases and norms do not train here;
* the batches that are looked at are the first ones of the training, at most half of each. The sums have a number for
  each weight; where they do not fit into what a step takes, some layers are looked at after others.

What it saves is optimiser state and gradients, and nothing of what is kept for the backward pass: a layer's whole input
is kept, as in full fine-tuning, and the whole gradient of its weight is made before the entries are picked from it. The
entries are a vector, which weight decay leaves alone as it does others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import LAYERS, checked_layers, whole_number
from bsr_explorer.methods.arguments import quiet
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.methods.partial import Partial
from bsr_explorer.tape import Shape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry


@dataclass(frozen=True, eq=False, repr=False)
class Spt(Partial):
    """The most sensitive entries of chosen layers' weights, and the head, train.

    Attributes:
        share: of the entries of each weight, in (0, 1]: of all linear layers of all blocks, or by their names in
            ``adding.LAYERS``; a layer that is not named is frozen. At least one entry trains of each.
        batches: training batches that the sensitivity is summed over.
    """

    share: float | Mapping[str, float] = 0.005
    batches: int = quiet(8)

    name: ClassVar[str] = "spt"
    summary: ClassVar[str] = "the most sensitive entries of frozen linear layers train, and the head"
    citation: ClassVar[str] = (
        "He et al., Sensitivity-Aware Visual Parameter-Efficient Fine-Tuning, ICCV 2023 (arXiv 2303.08566)"
    )
    part: ClassVar[str] = "entries"

    def __post_init__(self) -> None:
        whole_number(self, "batches")
        object.__setattr__(self, "share", _checked(self.share))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """The share, of all layers."""
        return (Numbers("share", (0.001, 0.005, 0.02)),)

    @property
    def _shares(self) -> Mapping[str, float]:
        return self.share if isinstance(self.share, Mapping) else dict.fromkeys(LAYERS, self.share)

    @property
    def layers(self) -> tuple[str, ...]:
        """See ``Partial``."""
        return tuple(self._shares)

    def count(self, name: str, weight: Shape, layer: str = "a layer") -> int:
        """See ``Partial``."""
        return max(1, round(self._shares[name] * prod(weight)))

    @property
    def looks(self) -> int:
        """See ``Method``."""
        return self.batches

    def looking(self, model: nn.Module, room: int) -> Iterator[AbstractContextManager[None]]:
        """See ``Method``: as many layers a round as there is room for their sums, at least one."""
        from bsr_explorer.methods.applied.partial import most_sensitive

        yield from most_sensitive(model, room)


def _checked(share: Any) -> float | dict[str, float]:
    """A share, or shares by layer in the order of ``LAYERS``; one number where all layers have the same.

    Raises:
        UserError: no share, or no layer.
    """
    shares = share if isinstance(share, Mapping) else {"": share}
    for value in shares.values():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise UserError(
                f"--method: spt(share={share!r}): a share must be above 0 and at most 1, such as 0.005 or "
                "{'qkv': 0.01, 'fc2': 0.002}"
            )
    if not isinstance(share, Mapping):
        return float(share)
    found = {name: float(share[name]) for name in checked_layers("spt", tuple(share))}
    return found["qkv"] if len(found) == len(LAYERS) and len(set(found.values())) == 1 else found
