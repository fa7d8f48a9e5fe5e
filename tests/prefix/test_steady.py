"""Whether an image comes out the same at every place in a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import Mlp
from torch import Tensor

from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build
from bsr_explorer.prefix.continued import Continued
from bsr_explorer.prefix.stages import stages_of
from bsr_explorer.prefix.steady import Steadiness

pytestmark = pytest.mark.usefixtures("toy")


def _tried(attention: str = "fused") -> Steadiness:
    config = Config("toy", 48, method="last(k=1)", attention=attention)
    shapes = [stage.shape for stage in stages_of(config)]
    return Steadiness(Continued(build(config), 3), shapes, "fp32")


def _mlp(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Any]) -> list[int]:
    """Every MLP's output is changed; notes how many images went through."""
    passed: list[int] = []
    forward = Mlp.forward

    def changed(self: Mlp, x: Tensor) -> Tensor:
        passed.append(len(x))
        return forward(self, x) * change(x)

    monkeypatch.setattr(Mlp, "forward", changed)
    return passed


def test_one_image_is_always_steady() -> None:
    assert _tried().steady(1)


def test_what_depends_on_the_place_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = _tried()
    _mlp(monkeypatch, lambda x: 1 + 1e-6 * torch.arange(len(x)).view(-1, 1, 1))
    assert not tried.steady(4)
    assert tried.steady(1)


def test_what_depends_on_the_number_of_images_alone_is_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = _tried()
    _mlp(monkeypatch, len)
    assert tried.steady(4)


def test_each_number_of_images_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = _tried()
    passed = _mlp(monkeypatch, lambda x: 1.0)
    assert tried.steady(2) == tried.steady(2)
    # One block of the three, for they are of one shape: as it is, and in four orders.
    assert passed == [2] * 5
    tried.steady(3)
    assert passed == [2] * 5 + [3] * 5


def test_the_products_around_an_explicit_softmax_are_tried_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from bsr_explorer.prefix import steady

    seen: list[tuple[int, ...]] = []
    attended = steady._attended

    def noted(qkv: Tensor) -> Tensor:
        seen.append(tuple(qkv.shape))
        return attended(qkv)

    monkeypatch.setattr(steady, "_attended", noted)
    _tried().steady(2)
    assert seen == []
    _tried("math").steady(2)
    assert set(seen) == {(2, 3, 2, 10, 16)}


def test_trying_draws_nothing() -> None:
    tried, before = _tried(), torch.get_rng_state()
    tried.steady(3)
    assert torch.equal(torch.get_rng_state(), before)
