"""Experts that begin as the MLP of a dense model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bsr_explorer.models.moe.layer import Mixture


@torch.no_grad()
def begin(model: nn.Module, dense: nn.Module) -> str:
    """Give a model with mixtures the weights of a dense one, in place.

    Each expert takes hidden channels of the MLP in its block, the next expert the next ones, and round again. With
    equal gates of 1/experts each, the mixture is then on average what the MLP is: outputs are scaled for that.

    Returns:
        What was done, in words.
    """
    theirs = dense.state_dict()
    own = {name: tensor for name, tensor in model.state_dict().items() if name in theirs}
    fitting = {name: theirs[name] for name in own if own[name].shape == theirs[name].shape}
    model.load_state_dict(fitting, strict=False)
    for path, layer in model.named_modules():
        if isinstance(layer, Mixture):
            _begin_layer(layer, dense.get_submodule(path))
    return "experts from its MLPs"


def _begin_layer(layer: Mixture, mlp: Any) -> None:
    experts, _, hidden = layer.fc1.weight.shape
    whole = mlp.fc1.weight.shape[0]
    often = experts / layer.gate.top  # the inverse of the sum of the gates, if all are equal
    for expert in range(experts):
        channels = (torch.arange(hidden) + expert * hidden) % whole
        layer.fc1.weight[expert] = mlp.fc1.weight[channels].t()
        layer.fc1.bias[expert] = mlp.fc1.bias[channels]
        layer.fc2.weight[expert] = mlp.fc2.weight[:, channels].t() * (often * whole / hidden)
        layer.fc2.bias[expert] = mlp.fc2.bias * often
