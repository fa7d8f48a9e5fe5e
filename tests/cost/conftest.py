"""A step of a small vision transformer, predicted and measured."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from bsr_explorer.cost.holders import Memory
from bsr_explorer.cost.passes import Pass
from bsr_explorer.cost.peak import step_ledger
from bsr_explorer.cost.setup import Setup
from bsr_explorer.cost.step import Recorded
from bsr_explorer.ledger import Ledger
from bsr_explorer.measurement.step import measure_step
from bsr_explorer.methods import Method, parse_method
from bsr_explorer.models.lowering import lower
from bsr_explorer.models.vit.attention_path import use_attention_path
from bsr_explorer.models.vit.reading import read_geometry
from bsr_explorer.models.vit.step import step_tape
from bsr_explorer.tape import Op, Tape, Tensor
from bsr_explorer.train.optimizer import make_optimizer
from bsr_explorer.train.recipes import Recipe
from bsr_explorer.train.step import Step, image_dtype, in_precision

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 5}

Both = Callable[..., tuple[Ledger, Ledger]]


@pytest.fixture(scope="session")
def both() -> Iterator[Both]:
    """The predicted and the measured ledger of a step on the CPU."""

    def both(
        method: Method | str = "full",
        attention: str = "fused",
        batch: int = 2,
        precision: str = "fp32",
        optimizer: str = "sgd",
        implementation: str = "auto",
        micro_batches: int = 1,
        set_to_none: bool = True,
        **options: Any,
    ) -> tuple[Ledger, Ledger]:
        """``batch``: images a micro-batch; ``options``: of timm's model, beside or instead of ``SMALL``."""
        torch.manual_seed(0)
        how = parse_method(method) if isinstance(method, str) else method
        model = VisionTransformer(**{**SMALL, **options})
        tape = step_tape(read_geometry(model), batch, attention)
        scaler = precision == "amp_fp16"
        setup = Setup(optimizer, implementation, "cpu", micro_batches, set_to_none, scaler)
        predicted = step_ledger(lower(how.rewrite(tape), precision, "cpu"), setup)

        use_attention_path(model, attention)
        how.apply(in_precision(model, precision))
        decay = 0.05 if optimizer.startswith("adamw") else 0.0
        recipe = Recipe("", "", optimizer, lr=1e-4, weight_decay=decay, epochs=1, batch_size=1)
        made = make_optimizer(model, recipe, 1, optimizer, implementation)
        step = Step(model, made, precision, micro_batches, set_to_none)
        shape = (batch * micro_batches, *tape.tensors["images"].shape[1:])
        images = torch.randn(shape).to(image_dtype(precision))
        measured = measure_step(step, images, torch.zeros(len(images), dtype=torch.int64))
        assert measured.uncounted == ()
        return predicted, measured.ledger

    gc.collect()
    gc.freeze()  # a measurement collects garbage first: let it look at its own objects only
    yield both
    gc.unfreeze()


def chain(*names: str) -> Tape:
    """x → 0.out → 1.out …, each of 10 numbers, by activations of these names."""
    reads = ["x", *(f"{index}.out" for index in range(len(names)))]
    ops = (Op(name, "gelu", 0, (reads[i],), f"{i}.out") for i, name in enumerate(names))
    return Tape((Tensor("x", (10,), "x"),), {}, tuple(ops))


def alive(changes: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Bytes by name at the end."""
    alive: Counter[str] = Counter()
    for name, change in changes:
        alive[name] += change
    return {name: size for name, size in alive.items() if size}


Changes = list[tuple[str, int]]


@pytest.fixture(scope="session")
def passes() -> Callable[..., tuple[Changes, Changes]]:
    """What the forward and the backward pass of a part of a step allocate and free, by name, in order."""

    def passes(tape: Tape, live: bool = True, stand: bool = False) -> tuple[Changes, Changes]:
        """``live``: something trains below the part; ``stand``: gradients exist already."""
        memory = Memory()
        for tensor in tape.inputs:
            memory.found(tensor.name, tensor.bytes)
        run = Pass(Recorded.of(tape, live), memory, gradients_stand=stand)
        run.forward(to_the_end=False)
        until = len(memory.events)
        if run.contexts[-1].live:
            run.feed_gradient()
            run.backward()
        changes = [(event.name, event.change) for event in memory.events]
        return changes[:until], changes[until:]

    return passes
