"""(IA)³: learned factors of keys, values and the MLP's hidden layer train.

A factor starts at 1, and is folded into the weights when training is over: rows of qkv (and its bias), columns of fc2.
Few parameters, but each factor's gradient needs the tensor that it multiplies, so that nearly as much is kept as by
full fine-tuning. (A product has the number format of that tensor, as in PEFT.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import LAYERS, Adding, linears
from bsr_explorer.tape import Op, Parameter, Tape

if TYPE_CHECKING:
    from torch import Tensor, nn

SCALE = "ia3"
"""The name, within a layer, of the module that multiplies what it makes, or what it reads."""

GAMMA = f".{SCALE}.gamma"
"""What the names of factors end with."""


def check_thirds(out: int, width: int) -> None:
    """Keys and values must be as wide as queries, to be the last two thirds.

    Raises:
        UserError: they are not (several heads of queries share them).
    """
    if out != 3 * width:
        raise UserError(
            f"--method: ia3 scales the last two thirds of what qkv makes, and here it makes {out} channels of {width}, "
            "so that keys and values are no thirds; choose lora"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Ia3(Adding):
    """Factors of keys and values (2·D a block) and of the hidden layer (m·D), and the head, train."""

    name: ClassVar[str] = "ia3"
    summary: ClassVar[str] = "learned factors of keys, values and hidden layers train, and the head"
    citation: ClassVar[str] = (
        "Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning, NeurIPS "
        "2022 (arXiv 2205.05638)"
    )

    def is_own(self, parameter: str) -> bool:
        """Whether it holds factors."""
        return parameter.endswith(GAMMA)

    def rewrite(self, tape: Tape) -> Tape:
        """Behind qkv, its last two thirds are scaled; before fc2, all that it reads."""
        chosen = {op.name for op in linears(self, tape, ("qkv", "fc2"))}
        parameters, ops = dict(tape.parameters), list[Op]()
        instead = dict[str, str]()
        for op in tape:
            op = replace(op, reads=tuple(instead.get(name, name) for name in op.reads))
            if op.kind != "linear" or op.name not in chosen:
                ops.append(op)
                continue
            out, width = tape.parameters[op.params["weight"]].shape
            behind = op.name.endswith(LAYERS["qkv"])
            if behind:
                check_thirds(out, width)
            factors = Parameter(f"{op.name}{GAMMA}", (2 * out // 3 if behind else width,), op.block)
            parameters[factors.name] = factors
            read, scaled = op.writes if behind else op.reads[0], f"{op.name}.scaled"
            scale = Op(
                f"{op.name}.{SCALE}", "scale_channels", op.block, (read,), scaled, {"gamma": factors.name}
            )
            if behind:
                ops += [op, scale]
                instead[op.writes] = scaled
            else:
                ops += [scale, replace(op, reads=(scaled,))]
        return self.train_own(replace(tape, parameters=parameters, ops=tuple(ops)))

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model."""
        from bsr_explorer.methods.applied.ia3 import scale_channels_of

        scale_channels_of(model)
        return self.train_own_in(model)

    def merge(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Factors of outputs multiply rows of the weight and the bias, those of inputs its columns."""
        import torch

        merged = dict(weights)
        for name in [name for name in weights if self.is_own(name)]:
            layer, factors = name.removesuffix(GAMMA), merged.pop(name)
            weight, bias = weights[f"{layer}.weight"], weights.get(f"{layer}.bias")
            if layer.endswith(LAYERS["qkv"]):
                rows = torch.cat([factors.new_ones(len(weight) - len(factors)), factors])
                merged[f"{layer}.weight"] = weight * rows.unsqueeze(1)
                if bias is not None:
                    merged[f"{layer}.bias"] = bias * rows
            else:
                merged[f"{layer}.weight"] = weight * factors
        return merged
