"""Ranks from a model and a batch: the best choice within a budget, and what it is made of."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.ranks import choose_ranks, least_errors, weight_ranks
from bsr_explorer.methods import Asi
from bsr_explorer.prediction import predict

IMAGES = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(4)


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_the_best_of_all(seed: int) -> None:
    rng = random.Random(seed)
    choices = [
        [(rng.randint(1, 40), rng.choice((rng.random(), 0.5))) for _ in range(rng.randint(1, 4))]
        for _ in range(5)
    ]
    budget = rng.randint(10, 130)
    ways = itertools.product(*[range(len(of)) for of in choices])
    sums = {
        way: [sum(of[pick][k] for of, pick in zip(choices, way, strict=True)) for k in (0, 1)] for way in ways
    }
    fitting = [error for size, error in sums.values() if size <= budget]
    chosen = least_errors(choices, budget)
    if not fitting:
        assert chosen is None
        return
    assert chosen is not None
    size, error = sums[tuple(chosen)]
    assert size <= budget
    assert error == pytest.approx(min(fitting))


def _model(method: str = "last(k=2)") -> torch.nn.Module:
    return build(Config("toy", 48, 5, 4, method=method), seed=2)


@pytest.mark.usefixtures("toy")
def test_ranks_are_those_of_trained_layers_and_go_into_the_method() -> None:
    model = _model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    ranks = choose_ranks(model, IMAGES, LABELS, "1MB")
    assert list(ranks) == ["2.qkv", "2.fc2", "3.qkv", "3.fc2"]
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    config = Config("toy", 48, 5, 4, method=f"last(k=2)+asi(ranks={ranks})")
    assert predict(config).saved_bytes < predict(config.with_method("last(k=2)")).saved_bytes


@pytest.mark.usefixtures("toy")
def test_more_bytes_buy_smaller_errors_and_are_never_exceeded() -> None:
    model, plain = _model(), Config("toy", 48, 5, 4, method="last(k=2)")

    def held(ranks: dict[str, tuple[int, int, int]]) -> int:
        """Bytes of the chosen layers: what is predicted, without what all other tensors take."""
        on = ("qkv", "fc2")
        tape = predict(plain.with_method(f"last(k=2)+{Asi(on, ranks)}"))
        rest = sum(row.bytes for row in predict(plain).rows if row.kind in ("saved", "parameter"))
        dense = 2 * 4 * 10 * (32 + 128) * 4
        return sum(row.bytes for row in tape.rows if row.kind in ("saved", "parameter")) - (rest - dense)

    most = choose_ranks(model, IMAGES, LABELS, "1MB")
    least = held(choose_ranks(model, IMAGES, LABELS, held(most), explained=(0.4,)))
    for budget in (least, (least + held(most)) // 2, held(most)):
        ranks = choose_ranks(model, IMAGES, LABELS, budget)
        assert held(ranks) <= budget
    assert ranks == most
    with pytest.raises(UserError, match=r"--budget: .* is less than the least that these layers hold"):
        choose_ranks(model, IMAGES, LABELS, least - 1)


@pytest.mark.usefixtures("toy")
def test_all_of_the_variance_takes_all_ranks() -> None:
    ranks = choose_ranks(_model(), IMAGES, LABELS, "10MB", explained=(1.0,), on="fc1")
    assert set(ranks) == {"2.fc1", "3.fc1"}
    assert all(images == 4 and tokens == 10 for images, tokens, _ in ranks.values())


@pytest.mark.usefixtures("toy")
def test_ranks_of_weights_are_the_least_that_explain_a_share() -> None:
    model = _model()
    weight = model.get_submodule("blocks.3.mlp.fc1").weight
    with torch.no_grad():
        weight.zero_()
        weight.diagonal().copy_(torch.tensor([4.0, 3.0, 2.0, 1.0] + [0.0] * 28))  # squares: 16, 9, 4, 1 of 30
    shares = {0.5: 1, 16 / 30: 1, 0.6: 2, 25 / 30: 2, 0.9: 3, 0.97: 4, 1.0: 4}
    assert {share: weight_ranks(model, ["3.fc1"], share)["3.fc1"] for share in shares} == shares


@pytest.mark.usefixtures("toy")
def test_where_nothing_trains_there_is_nothing_to_choose() -> None:
    with pytest.raises(UserError, match="no weight of qkv, fc2 in a block trains; nothing to choose"):
        choose_ranks(_model("linear"), IMAGES, LABELS, "1MB")
