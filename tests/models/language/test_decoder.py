"""A decoder: causal, with positions that turn, and the same by both ways of attention."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.models.language.decoder import Decoder, angles, turned
from bsr_explorer.models.language.shape import Shape
from bsr_explorer.models.vit.attention_path import use_attention_path

SMALL = Shape(vocabulary=50, positions=16, width=32, depth=2, heads=4, groups=2, hidden=24)


def test_no_token_sees_a_later_one() -> None:
    torch.manual_seed(0)
    model, tokens = Decoder(SMALL).eval(), torch.randint(50, (2, 9))
    other = tokens.clone()
    other[:, 5:] = torch.randint(50, (2, 4))
    one, two = model(tokens), model(other)
    assert one.shape == (2, 9, 50)
    assert torch.allclose(one[:, :5], two[:, :5], atol=1e-6)
    assert not torch.allclose(one[:, 5:], two[:, 5:], atol=1e-3)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_explicit_attention_is_the_fused_one(groups: int) -> None:
    torch.manual_seed(0)
    model = Decoder(Shape(50, 16, 32, 2, 4, groups, 24)).eval()
    tokens = torch.randint(50, (2, 9))
    fused = model(tokens)
    use_attention_path(model, "math")
    assert torch.allclose(model(tokens), fused, atol=1e-5)


def test_scores_depend_on_distances_alone() -> None:
    torch.manual_seed(0)
    cos, sin = angles(16, 8, 10000.0)
    q, k = (torch.randn(1, 1, 1, 8).expand(1, 1, 16, 8) for _ in range(2))
    scores = turned(q, cos, sin) @ turned(k, cos, sin).transpose(-2, -1)
    for distance in range(1, 8):
        diagonal = scores[0, 0].diagonal(distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5)
    assert not torch.allclose(scores[0, 0, 0, 1], scores[0, 0, 0, 9], atol=1e-3)


def test_the_first_position_is_not_turned() -> None:
    cos, sin = angles(4, 6, 10000.0)
    assert cos.shape == sin.shape == (4, 3)
    assert torch.equal(cos[0], torch.ones(3)) and torch.equal(sin[0], torch.zeros(3))


def test_in_chunks_it_gives_what_the_head_takes_in_training_only() -> None:
    model = Decoder(Shape(50, 16, 32, 1, 4, 4, 24, chunk=5))
    tokens = torch.randint(50, (2, 9))
    assert model.train()(tokens).shape == (2, 9, 32)
    assert model.eval()(tokens).shape == (2, 9, 50)
