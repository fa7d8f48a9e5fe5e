"""Methods that train a part of weights: what trains, what is remembered, what is merged, what is refused."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.methods import Apla, Paca, Spt, parse_method
from bsr_explorer.methods.partial import Partial
from bsr_explorer.prediction import predict, tape_of

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, 5, 2, method="full")
every_part = pytest.mark.parametrize("method", [Paca(4), Apla(4), Spt(0.005)], ids=str)


@every_part
def test_a_model_computes_what_it_did_before(method: Partial) -> None:
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    plain, partial = (build(CONFIG.with_method(how), seed=3).eval() for how in ("full", method))
    assert torch.equal(plain(images), partial(images))


@every_part
def test_what_trains_follows_from_the_seed_and_are_saved(method: Partial) -> None:
    first, again, other = (build(CONFIG.with_method(method), seed=seed).state_dict() for seed in (1, 1, 2))
    drawn = [name for name in first if name.endswith(".index")]
    assert drawn
    assert all(torch.equal(first[name], again[name]) for name in drawn)
    assert any(not torch.equal(first[name], other[name]) for name in drawn)
    buffers = tape_of(CONFIG.with_method(method)).buffers
    assert {name: buffer.shape for name, buffer in buffers.items()} == {
        name: first[name].shape for name in drawn
    }


def test_merging_writes_them_where_they_were_drawn() -> None:
    weight = torch.zeros(3, 4)
    columns = {"a.weight": weight, "a.columns": torch.ones(3, 2), "a.index": torch.tensor([1, 3])}
    assert Paca(2).merge(columns)["a.weight"].tolist() == [[0, 1, 0, 1]] * 3
    rows = {"a.weight": weight, "a.rows": torch.ones(1, 4), "a.index": torch.tensor([2])}
    assert Apla(1).merge(rows)["a.weight"].tolist() == [[0] * 4, [0] * 4, [1] * 4]
    entries = {"a.weight": weight, "a.entries": torch.ones(2), "a.index": torch.tensor([1, 7])}
    assert Spt().merge(entries)["a.weight"].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [0] * 4]
    assert Spt().merge(entries).keys() == {"a.weight"}
    assert Paca(2).merge(columns).keys() == Apla(1).merge(rows).keys() == {"a.weight"}
    assert weight.sum() == 0


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("paca(r=33)", r"blocks\.0\.attn\.qkv has 32 columns, so r must be 1 to 32"),
        ("paca(r=129, on='fc2')", r"blocks\.0\.mlp\.fc2 has 128 columns, so r must be 1 to 128"),
        ("apla(r=33)", r"blocks\.0\.attn\.proj has 32 rows, so r must be 1 to 32"),
    ],
)
def test_more_than_there_are_is_refused_before_anything_runs(method: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        predict(CONFIG.with_method(method))


@pytest.mark.parametrize("text", ["paca(r=0)", "apla(r=0)", "apla(r=True)", "paca(r='some')"])
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="r must be a whole number of at least 1"):
        parse_method(text)


def test_of_all_columns_gradients_are_those_of_the_weights() -> None:
    """And of all rows."""
    images, labels = torch.randn(3, 3, 48, 48), torch.arange(3)
    found = {}
    for method in ("full", "paca(r=32, on='qkv')", "apla(r=32)"):
        model = build(CONFIG.with_method(method), seed=3).train()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        found[method] = {name: p.grad for name, p in model.named_parameters()}
    for block in range(4):
        for (method, part), layer in zip(
            (("paca(r=32, on='qkv')", "columns"), ("apla(r=32)", "rows")), ("qkv", "proj"), strict=True
        ):
            here = f"blocks.{block}.attn.{layer}"
            torch.testing.assert_close(found[method][f"{here}.{part}"], found["full"][f"{here}.weight"])
