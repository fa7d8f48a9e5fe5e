"""The loss of language models: cross entropy over the vocabulary, whole or in chunks.

The logits of all tokens, (B·T, vocabulary), with what softmax makes of them are the peak of a step. In chunks, those of
so many tokens are there at once: backward makes them again, at the price of one product more.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of logits (B, T, vocabulary) and labels (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def chunked_loss(head: nn.Linear, chunk: int, x: Tensor, labels: Tensor) -> Tensor:
    """The same of what the head takes, (B, T, D), for so many tokens at once."""
    x, weight = x.flatten(0, 1), head.weight
    if torch.is_autocast_enabled(x.device.type):  # which does not look into functions of our own
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    loss: Tensor = InChunks.apply(x, weight, labels.flatten(), chunk)
    return loss


class InChunks(torch.autograd.Function):
    """Mean cross entropy of x·Wᵀ, (N, vocabulary), of which only chunks come into being. It keeps x and W, and a number
    a token: the logarithm of the sum of its exponentials."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, chunk: int) -> Tensor:
        sums = x.new_empty(len(x), dtype=torch.float32)
        loss = x.new_zeros((), dtype=torch.float32)
        for start in range(0, len(x), chunk):
            here = slice(start, start + chunk)
            logits = (x[here] @ weight.t()).float()
            torch.logsumexp(logits, dim=-1, out=sums[here])
            loss += (sums[here] - logits.gather(1, labels[here, None])[:, 0]).sum()
            del logits  # before the next ones come
        ctx.save_for_backward(x, weight, labels, sums)
        ctx.chunk = chunk
        return (loss / len(x)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight, labels, sums = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        to_x = torch.empty_like(x) if wanted[0] else None
        to_weight = torch.zeros_like(weight) if wanted[1] else None
        share = gradients[0].float() / len(x)
        for start in range(0, len(x), ctx.chunk):
            here = slice(start, start + ctx.chunk)
            logits = (x[here] @ weight.t()).float()
            to_logits = logits.sub_(sums[here, None]).exp_()
            del logits
            to_logits.scatter_add_(1, labels[here, None], torch.full_like(to_logits[:, :1], -1.0))
            to_logits = to_logits.mul_(share).to(x.dtype)
            if to_x is not None:
                torch.mm(to_logits, weight, out=to_x[here])
            if to_weight is not None:
                torch.addmm(to_weight, to_logits.t(), x[here], out=to_weight)
            del to_logits
        return to_x, to_weight, None, None
