"""Methods that store what chosen linear layers read: what they cost, what they compose with, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import METHODS, parse_method
from bsr_explorer.methods.storing_linears import StoringLinears
from bsr_explorer.prediction import predict, tape_of
from tests.formats import every_way

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, 5, 2, method="full")
NAMES = [name for name, method in METHODS.items() if issubclass(method, StoringLinears)]
every_name = pytest.mark.parametrize("name", NAMES)
VARIANTS = (
    "velora(groups=8, on=('qkv', 'proj', 'fc1', 'fc2'))",
    "velora(groups=4, on='fc1', scale=0.1)",
    "wtacrs(ratio=0.6, on='proj')",
    "asi(ranks=(2, 4, 8), on=('qkv', 'proj', 'fc1', 'fc2'))",
    "asi(ranks={'fc1': (1.0, 0.3, 4), '1.fc1': (1, 2, 2), '3.proj': (0.5, 1.0, 1.0)})",
)
every_variant = pytest.mark.parametrize("method", [*NAMES, *VARIANTS])


def _exact(config: Config) -> None:
    predicted, measured = predict(config), measure(config)
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == measured.peak_bytes, predicted.peak


@every_way
@every_variant
def test_what_is_predicted_is_measured(method: str, precision: str, attention: str) -> None:
    _exact(replace(CONFIG, method=method, precision=precision, attention=attention))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "other",
    [
        "checkpoint",
        "offload",
        "checkpoint(blocks=(1, 2))+offload",
        "bsr(blocks=(1, 3), keep={1: 0.5})",
        "last(k=2)",
    ],
)
@every_variant
def test_nor_does_what_they_are_composed_with_change_that(method: str, other: str) -> None:
    _exact(replace(CONFIG, method=f"{method}+{other}", precision="amp_bf16"))
    _exact(replace(CONFIG, method=f"{method}+{other}", batch_size=4, micro_batches=2, attention="math"))


@every_name
@pytest.mark.parametrize("other", ["mesa", "backrazor(faithful=False)"])
def test_what_stores_these_inputs_too_is_refused(name: str, other: str) -> None:
    with pytest.raises(UserError, match="both choose how linear layers store what they read"):
        parse_method(f"{name}+{other}")


@every_name
@pytest.mark.parametrize("other", ["bitfit", "lora"])
def test_where_no_weight_of_theirs_trains_they_are_refused(name: str, other: str) -> None:
    for refusing in (predict, build):
        with pytest.raises(UserError, match="no weight of qkv, fc2 in a block trains"):
            refusing(CONFIG.with_method(f"{other}+{name}"))


@every_name
def test_only_chosen_layers_pack(name: str) -> None:
    tape = tape_of(CONFIG.with_method(f"{name}(on=('fc1',))"))
    assert {op.name for op in tape if op.packs} == {f"blocks.{block}.mlp.fc1" for block in range(4)}


@every_variant
def test_buffers_are_those_of_the_model(method: str) -> None:
    """After a first step, in which some get their form."""
    tape, net = tape_of(CONFIG.with_method(method)), build(CONFIG.with_method(method))
    net.train()(torch.randn(CONFIG.batch_size, 3, 48, 48))
    assert {name: b.shape for name, b in tape.buffers.items()} == {
        n: tuple(b.shape) for n, b in net.named_buffers()
    }


@every_name
def test_gradients_that_are_passed_on_are_exact(name: str) -> None:
    """Those of all that stands outside of the chosen weights."""
    images, labels = torch.randn(3, 3, 48, 48), torch.arange(3)
    found = []
    for method in ("full", name):
        model = build(CONFIG.with_method(method), seed=3).train()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    chosen = ("attn.qkv.weight", "mlp.fc2.weight")
    for parameter, exact in found[0].items():
        if not parameter.endswith(chosen):
            torch.testing.assert_close(found[1][parameter], exact)
