"""A mixture of experts: a gate sends each token to a few of many small MLPs.

As in M3ViT (arXiv 2210.14793), which the BSR paper builds on: the gate's logits have noise in training, the softmax is
taken before the top k, and what is left is not normalised again; y = Σ gate·expert. Tokens go by index: what an expert
is given is gathered, and what it makes is added to its tokens.

What a step holds and computes does not depend on which token goes where. Without a capacity, every token goes to its
``top`` experts, and there are as many rows in all. With one, each expert takes so many rows of a batch, filled up or
not; tokens beyond that skip it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsr_explorer.models.moe.grouped import Grouped

_LEAST_NOISE = 0.01
_TINY = 1e-10


class Gate(nn.Module):
    """Chooses experts.

    Attributes:
        balanced: whether it says in training how unbalanced its choice is.
        draws: whether something random is in it (``methods.applied.checkpoint``).
    """

    def __init__(self, width: int, experts: int, top: int, noise: bool, balanced: bool = True) -> None:
        super().__init__()
        self.top, self.draws, self.balanced = top, noise, balanced
        self.route = nn.Linear(width, experts, bias=False)
        self.noise = nn.Linear(width, experts, bias=False) if noise else None
        nn.init.normal_(self.route.weight, std=0.01)
        if self.noise is not None:
            nn.init.zeros_(self.noise.weight)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens (T, D) → gates and experts, (T, top) each, and how unbalanced they are."""
        clean = self.route(tokens)
        noisy, spread = clean, None
        if self.training and self.noise is not None:
            spread = F.softplus(self.noise(tokens)) + _LEAST_NOISE
            noisy = clean + torch.randn_like(clean) * spread
        gates, chosen = noisy.softmax(-1).topk(self.top, -1)
        if not (self.training and self.balanced):
            return gates, chosen, None
        importance = gates.new_zeros(clean.shape[-1]).index_add(0, chosen.flatten(), gates.flatten())
        unbalanced = _cv_squared(importance)
        if spread is not None and self.top < clean.shape[-1]:
            unbalanced = unbalanced + _cv_squared(_load(clean, noisy, spread, self.top))
        return gates, chosen, unbalanced


def _load(clean: Tensor, noisy: Tensor, spread: Tensor, top: int) -> Tensor:
    """How many tokens each expert would get on average over the noise, (experts,): of a token, the chance that with
    fresh noise it is among the top (Shazeer et al., arXiv 1701.06538, appendix A)."""
    best = noisy.topk(top + 1, -1).values
    last, next_best = best[:, top - 1 : top], best[:, top:]
    threshold = torch.where(noisy > next_best, next_best, last)
    chances: Tensor = torch.special.ndtr((clean - threshold) / spread)
    return chances.sum(0)


def _cv_squared(values: Tensor) -> Tensor:
    """The squared coefficient of variation of (experts,) numbers."""
    return values.var() / (values.mean() ** 2 + _TINY)


class Mixture(nn.Module):
    """A mixture of experts in place of an MLP.

    Attributes:
        capacity: rows that an expert takes of an image, over those that it would take if all took as many; None: it
            takes all that are sent to it.
        unbalanced: of the last forward pass in training, until it is taken.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        experts: int,
        top: int,
        capacity: float | None = None,
        noise: bool = True,
        balanced: bool = True,
    ) -> None:
        super().__init__()
        self.capacity = capacity
        self.gate = Gate(width, experts, top, noise, balanced)
        self.fc1 = Grouped(experts, width, hidden)
        self.act = nn.GELU()
        self.fc2 = Grouped(experts, hidden, width)
        self.unbalanced: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) → the same."""
        tokens = x.reshape(-1, x.shape[-1])
        gates, chosen, unbalanced = self.gate(tokens)
        if torch._C._current_graph_task_id() == -1:  # else it runs again in backward
            self.unbalanced = unbalanced
        del unbalanced
        order = chosen.flatten().argsort(stable=True)
        expert = chosen.flatten().index_select(0, order)
        token, share = order // gates.shape[-1], gates.flatten().index_select(0, order)
        ends = None
        numbers = torch.arange(len(self.fc1.weight), device=x.device)
        if self.capacity is None:
            ends = torch.searchsorted(expert, numbers, right=True)
        else:
            most = len(x) * capacity_of_image(self.capacity, gates.shape[-1], x.shape[1], len(numbers))
            rank = torch.arange(len(expert), device=x.device) - torch.searchsorted(expert, numbers)[expert]
            slots = len(numbers) * most
            slot = torch.where(rank < most, expert * most + rank, slots)  # one more, which is thrown away
            token = token.new_zeros(slots + 1).scatter(0, slot, token)[:-1]
            share = share.new_zeros(slots + 1).scatter(0, slot, share)[:-1]
        rows: Tensor = (
            self.fc2(self.act(self.fc1(tokens.index_select(0, token), ends)), ends) * share[:, None]
        )
        return rows.new_zeros(tokens.shape).index_add(0, token, rows).view(x.shape)

    def take_unbalanced(self) -> Tensor:
        """How unbalanced the last choice was; nobody holds it any longer."""
        taken, self.unbalanced = self.unbalanced, None
        assert taken is not None, "it has not run in training"
        return taken


def capacity_of_image(capacity: float, top: int, tokens: int, experts: int) -> int:
    """Rows that an expert takes of an image, rounded up."""
    return ceil(capacity * top * tokens / experts)


@dataclass
class BalancedLoss:
    """The loss of a model's classes, and how unbalanced the experts of all mixtures are.

    Attributes:
        weight: of the latter.
        of_classes: of logits (B, classes) and labels (B,), see ``models.tasks``.
    """

    layers: list[Mixture]
    weight: float
    of_classes: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """One number."""
        loss = self.of_classes(logits, labels)
        for layer in self.layers:
            loss = loss + self.weight * layer.take_unbalanced()
        return loss
