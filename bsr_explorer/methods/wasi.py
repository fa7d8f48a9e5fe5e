"""WASI: weights that train are products of two factors of low rank, and their inputs are kept as ``asi`` keeps them.

W ≈ L·R with L (out, K) and R (K, in), the nearest of rank K to the weight at the beginning, divided so that both
factors are as large. There is no W in training: y = (x·Rᵀ)·Lᵀ + b. L and R are the parameters, and any optimiser
updates them by their own gradients, G·Rᵀ and Lᵀ·G. G, the gradient of L·R, is M·U₃ᵀ of the decomposed input
(``storages.tucker``) and is never formed either. When training is over, L·R is the plain weight.

The authors' update is another (``step="authors"``): one step of subspace iteration on W − η·G, with orthonormal L. It
has the learning rate within, and so stands for plain SGD alone, without momentum, clipping or micro-batches. Their
code keeps the dense weight and its gradient for it; here neither is formed. The step is taken in the backward pass, as
soon as M is there, so that no gradient of the factors is held either. Both updates move L·R only where matrices of rank
K can follow G; how far along each of these directions differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, cast

from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods.adding import checked_layers, linears, linears_in
from bsr_explorer.methods.arguments import quiet
from bsr_explorer.methods.asi import check_ranks, checked_ranks, is_rank
from bsr_explorer.methods.axes import Axis, Choices, Numbers
from bsr_explorer.methods.base import LINEAR_INPUTS, STEPS, Method
from bsr_explorer.methods.by_layer import check_blocks, checked, layers_of, value_in
from bsr_explorer.naming import blocks_of
from bsr_explorer.storages import Tucker
from bsr_explorer.storages.tucker import Ranks
from bsr_explorer.tape import Parameter, Shape, Tape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bsr_explorer.models.base import Geometry

LEFT, RIGHT = "left", "right"
"""The parameters of a layer that hold L and R."""

OPTIMIZER, AUTHORS = "optimizer", "authors"
"""Values of ``step``."""


@dataclass(frozen=True, eq=False, repr=False)
class Wasi(Method):
    """Chosen linear layers whose weights train have two factors instead; all else is left as it is.

    Attributes:
        rank: K, a share of the smaller side of a weight (0.5), or a number (64); or a dictionary of them, by layer, or
            by block and layer (``by_layer``).
        ranks: of the inputs, see ``Asi``; where this or ``rank`` is a dictionary, a layer must have both.
        on: which layers of all blocks: names of ``adding.LAYERS``; those that a dictionary names, where there is one.
        step: how factors are updated: ``optimizer``, as any other parameter, or ``authors``, by subspace iteration in
            the backward pass, which goes with ``sgd`` alone.
    """

    rank: float | Mapping[str, float] = 0.5
    ranks: Ranks | Mapping[str, Ranks] = (0.5, 0.125, 0.125)
    on: tuple[str, ...] = quiet(("fc1", "fc2"))
    step: str = quiet(OPTIMIZER)

    alike: ClassVar[str] = STEPS
    name: ClassVar[str] = "wasi"
    summary: ClassVar[str] = (
        "weights of linear layers are two factors of low rank, and their inputs are kept as by asi"
    )
    citation: ClassVar[str] = "WASI: Weight-Activation Subspace Iteration (arXiv 2510.09160)"
    stage: ClassVar[int] = 1
    chooses: ClassVar[tuple[str, ...]] = (LINEAR_INPUTS,)

    def __post_init__(self) -> None:
        rank = checked(self.name, "rank", self.rank, self._checked_rank)
        ranks = checked(
            self.name, "ranks", self.ranks, lambda written, value: checked_ranks(self.name, written, value)
        )
        object.__setattr__(self, "rank", rank)
        object.__setattr__(self, "ranks", ranks)
        for named in (rank, ranks):
            if isinstance(named, Mapping) and self.on == type(self).on:
                object.__setattr__(self, "on", layers_of(named))
        object.__setattr__(self, "on", checked_layers(self.name, self.on))
        for argument, named in (("rank", rank), ("ranks", ranks)):
            if isinstance(named, Mapping) and set(self.on) != set(layers_of(named)):
                raise UserError(
                    f"--method: wasi(on={self.on!r}): {argument} names other layers, {', '.join(named)}; leave on out"
                )
        if isinstance(rank, Mapping) and isinstance(ranks, Mapping) and set(rank) != set(ranks):
            odd = sorted(set(rank) ^ set(ranks))[0]
            raise UserError(
                f"--method: wasi: {odd!r} stands in only one of rank={{…}} and ranks={{…}}; name the same layers in "
                "both"
            )
        if self.step not in (OPTIMIZER, AUTHORS):
            raise unknown("--method: wasi(step=…)", self.step, (OPTIMIZER, AUTHORS))

    def _checked_rank(self, written: str, rank: Any) -> float:
        if not is_rank(rank):
            raise UserError(
                f"--method: wasi({written}): rank must be a whole number of at least 1, or a share above 0.0 and at "
                "most 1.0"
            )
        return cast(float, rank)

    def check_step(self, optimizer: str, precision: str, micro_batches: int) -> None:
        """The authors' step has the learning rate within, and is taken before all else of the gradient is known."""
        if self.step != AUTHORS:
            return
        if optimizer != "sgd":
            raise UserError(
                f"--optimizer: {optimizer} does not go with wasi(step='authors'), whose step is that of plain SGD: it "
                "has the learning rate within, and no gradient that an optimiser could go by; choose sgd, or leave "
                "step out"
            )
        if micro_batches > 1:
            raise UserError(
                f"--micro-batches: {micro_batches} do not go with wasi(step='authors'), which takes a step in each "
                "backward pass; choose 1, or leave step out"
            )
        if precision == "amp_fp16":
            raise UserError(
                "--precision: amp_fp16 does not go with wasi(step='authors'): a step is taken in the backward pass, "
                "before it is known whether a scaled gradient overflowed; choose amp_bf16, or leave step out"
            )

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """Ranks of weights and of inputs; the layers that it has by itself, if a study names no others."""
        inputs = Choices("ranks", ((0.5, 0.0625, 0.0625), (0.5, 0.125, 0.125), (0.5, 0.25, 0.25)))
        return Numbers("rank", (0.25, 0.5)), inputs, Choices("on", (("fc1", "fc2"),))

    def chosen_in(self, block: int, layer: str, weight: Shape) -> tuple[int, Tucker] | None:
        """What becomes of the layer ``layer`` (a name of ``adding.LAYERS``) of a block (0-based), of this weight (out,
        in): K, and how its input is kept. None: it is left as it is.

        Raises:
            UserError: it has not so many ranks.
        """
        rank, ranks = value_in(self.rank, block, layer), value_in(self.ranks, block, layer)
        if rank is None or ranks is None:
            return None
        least = min(weight)
        if isinstance(rank, float):
            rank = max(1, round(rank * least))
        if rank > least:
            raise UserError(
                f"--method: wasi(rank={self.rank}): {block}.{layer} has a matrix of {weight[0]} x {weight[1]}, so rank "
                f"must be 1 to {least}, or a share such as 0.5"
            )
        return rank, Tucker(ranks)

    def rewrite(self, tape: Tape) -> Tape:
        """Each chosen layer whose weight trains gets two factors, and packs its input."""
        self._check_blocks(len(tape.blocks))
        factors, buffers, changed = dict[str, list[Parameter]](), dict(tape.buffers), {}
        needs = tape.needs_grad()
        for op, (block, layer) in zip(
            linears(self, tape, self.on), product(tape.blocks, self.on), strict=True
        ):
            weight = tape.parameters.get(op.params["weight"])
            if weight is None or not weight.trains:
                continue
            chosen = self.chosen_in(block, layer, weight.shape)
            if chosen is None:
                continue
            rank, packing = chosen
            own, bias = self.step == AUTHORS, tape.parameters.get(op.params.get("bias", ""))
            if own and not (needs[op.reads[0]] or (bias is not None and bias.trains)):
                raise UserError(
                    f"--method: {self}: nothing of or below {op.name} would train but its factors, which the backward "
                    "pass then does not reach; let a norm or the bias train, or leave step out"
                )
            shape = tape.tensors[op.reads[0]].shape
            check_ranks(self.name, op.name, packing, shape)
            out, width = weight.shape
            left = Parameter(f"{op.name}.{LEFT}", (out, rank), op.block, trains=not own)
            right = Parameter(f"{op.name}.{RIGHT}", (rank, width), op.block, trains=not own)
            factors[weight.name] = [left, right]
            running = Parameter(
                f"{op.name}.kept.running", packing.remembers_of(shape), op.block, trains=False
            )
            buffers[running.name] = running
            rest = {part: name for part, name in op.params.items() if part != "weight"}
            params = {LEFT: left.name, RIGHT: right.name, **rest}
            kind = "subspace_linear" if own else "factored_linear"
            changed[op.name] = replace(op, kind=kind, params=params, stored={op.reads[0]: packing})
        self._check_some_weight_trains(bool(changed))
        parameters = {p.name: p for old in tape.parameters.values() for p in factors.get(old.name, [old])}
        ops = tuple(changed[op.name] if op.kind == "linear" and op.name in changed else op for op in tape)
        return replace(tape, ops=ops, parameters=parameters, buffers=buffers)

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model.

        Raises:
            UserError: a rank that a weight does not have, or no weight of the chosen layers trains.
        """
        from bsr_explorer.methods.applied.wasi import FactoredLinear, SubspaceLinear, factor

        depth = len(blocks_of(model))
        self._check_blocks(depth)
        places = product(range(depth), self.on)
        chosen = {
            place: of_layer
            for place, layer in zip(places, linears_in(model, self.on), strict=True)
            if layer.weight.requires_grad
            and (of_layer := self.chosen_in(*place, cast(Shape, tuple(layer.weight.shape))))
        }
        self._check_some_weight_trains(bool(chosen))
        factor(model, chosen, SubspaceLinear if self.step == AUTHORS else FactoredLinear)
        return model

    def own_state(self, model: nn.Module) -> dict[str, Any]:
        """Factors that no optimiser knows."""
        return {name: p.detach() for name, p in self._stepping(model)}

    def load_own_state(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Go on with them."""
        import torch

        with torch.no_grad():
            for name, p in self._stepping(model):
                p.copy_(state[name])

    def _stepping(self, model: nn.Module) -> list[tuple[str, nn.Parameter]]:
        if self.step != AUTHORS:
            return []
        named = dict(model.named_parameters())
        layers = [name.removesuffix(f".{LEFT}") for name in named if name.endswith(f".{LEFT}")]
        return [(f"{layer}.{part}", named[f"{layer}.{part}"]) for layer in layers for part in (LEFT, RIGHT)]

    def _check_blocks(self, depth: int) -> None:
        for argument in ("rank", "ranks"):
            check_blocks(self.name, argument, getattr(self, argument), depth)

    def _check_some_weight_trains(self, trains: bool) -> None:
        if not trains:
            raise UserError(
                f"--method: {self} has nothing to factor: no weight of {', '.join(self.on)} in a block trains; leave "
                "it out, or let such a weight train"
            )

    @property
    def at_inference(self) -> Method | None:
        """Nothing: factors are multiplied."""
        return None

    def merge(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The product of each layer's factors is its weight."""
        merged = dict(weights)
        for name in weights:
            layer = name.removesuffix(f".{LEFT}")
            if layer != name and f"{layer}.{RIGHT}" in weights:
                left, right = merged.pop(name), merged.pop(f"{layer}.{RIGHT}")
                merged[f"{layer}.weight"] = (left.float() @ right.float()).to(left.dtype)
                merged.pop(f"{layer}.kept.running", None)
        return merged
