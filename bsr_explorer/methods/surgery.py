"""How methods change a timm vision transformer. Parameters keep their state-dict names."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from os import SEEK_END
from tempfile import TemporaryFile
from typing import IO, Any, cast

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from bsr_explorer.methods import tokens
from bsr_explorer.storages.keeper import take_attached, thrown_away
from bsr_explorer.storages.layers import Stores, store_in_block
from bsr_explorer.tape import kept_tokens


class TokenDrop(nn.Module):
    """Drops patch tokens by class attention; sees the queries and keys of its block through ``watch``."""

    def __init__(self, keep: float, prefix: int, heads: int, fuse: bool, faithful: bool) -> None:
        super().__init__()
        self.keep, self.prefix, self.heads = keep, prefix, heads
        self.fuse, self.faithful = fuse, faithful
        self._qkv: torch.Tensor | None = None

    def watch(self, layer: nn.Module, inputs: Any, qkv: torch.Tensor) -> None:
        """Forward hook of the block's qkv layer."""
        self._qkv = qkv

    def forward(self, x: torch.Tensor, explicit: bool) -> torch.Tensor:
        """(B, N, D) → (B, fewer, D); ``explicit``: whether the block's attention has an explicit softmax."""
        qkv, self._qkv = self._qkv, None
        assert qkv is not None, "the block's attention runs before its drop"
        patches = int(x.shape[1]) - self.prefix
        if not self.faithful and kept_tokens(patches, self.keep) == patches:
            return x
        kept = take_attached(qkv)
        with nullcontext() if self.faithful else torch.no_grad():
            scores = tokens.class_attention(qkv, self.heads, self.prefix, explicit=explicit, kept=kept)
        return tokens.drop_tokens(x, scores, self.keep, self.prefix, self.fuse)


class TokenDropBlock(nn.Module):
    """Modifications of timm's ``Block``: tokens are dropped between its two residual branches."""

    def __init__(self, block: nn.Module, drop: TokenDrop) -> None:
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        self.drop = drop
        cast(Any, block).attn.qkv.register_forward_hook(drop.watch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, D) → (B, fewer, D)."""
        part = cast(Any, self)
        x = x + part.drop_path1(part.ls1(part.attn(part.norm1(x))))
        x = self.drop(x, explicit=not part.attn.fused_attn)
        return cast(torch.Tensor, x + part.drop_path2(part.ls2(part.mlp(part.norm2(x)))))


def drop_tokens_in(model: nn.Module, block: int, keep: float, fuse: bool, faithful: bool) -> None:
    """Let a block (0-based) of a timm vision transformer drop tokens, in place.

    Args:
        fuse: whether the dropped tokens live on as one.
        faithful: whether gradients pass to the scores that weight them.
    """
    vit = cast(Any, model)
    drop = TokenDrop(keep, vit.num_prefix_tokens, vit.blocks[block].attn.num_heads, fuse, faithful)
    vit.blocks[block] = TokenDropBlock(vit.blocks[block], drop)


def store_kept(model: nn.Module, stores: Stores, explicit_softmax: bool) -> None:
    """Let the operations of all blocks pack what they keep, in place.

    Args:
        stores: see ``methods.storing.Storing.stores``.
        explicit_softmax: whether attention shall run with an explicit softmax.
    """
    for block in cast(Any, model).blocks:
        if explicit_softmax:
            block.attn.fused_attn = False
        store_in_block(block, stores)


def checkpoint_block(model: nn.Module, block: int) -> None:
    """Let a block (0-based) keep its input only, and run again in backward, in place.

    What is random in it, the rounding of packed tensors, serves backward only, so that no state of a random
    generator is kept; and nothing is packed in the first run.
    """
    module = cast(Any, model).blocks[block]
    module.forward = partial(
        checkpoint,
        module.forward,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (thrown_away(), nullcontext()),
    )


class Elsewhere:
    """Hooks on saved tensors: all but weights go from a device to the host, or from the host to a file.

    A file serves one forward pass of one block, and is gone when the last of its tensors is.
    """

    def __init__(self, block: nn.Module) -> None:
        self._weights = {p.untyped_storage().data_ptr() for p in block.parameters()}
        self._file: IO[bytes] | None = None

    def pack(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Take a tensor away; returns what brings it back."""
        if tensor.untyped_storage().data_ptr() in self._weights:
            return partial(_itself, tensor.detach())
        if tensor.device.type != "cpu":
            return partial(tensor.detach().cpu().to, tensor.device)
        if self._file is None:
            self._file = TemporaryFile()  # noqa: SIM115  (it lives as long as its tensors)
        place = self._file.seek(0, SEEK_END)
        _bytes_of(tensor.detach().contiguous()).tofile(self._file)
        return partial(_read, self._file, place, tensor.shape, tensor.dtype)


def _itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _bytes_of(tensor: torch.Tensor) -> Any:
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _read(file: IO[bytes], place: int, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    file.seek(place)
    cast(Any, file).readinto(memoryview(_bytes_of(tensor)))
    return tensor


def offload_block(model: nn.Module, block: int) -> None:
    """Let what a block (0-based) saves for backward go elsewhere, in place."""
    module = cast(Any, model).blocks[block]
    inner = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autograd.graph.saved_tensors_hooks(Elsewhere(module).pack, lambda back: back()):
            return inner(*args, **kwargs)

    module.forward = forward


def use_attention_path(model: nn.Module, path: str) -> None:
    """Let every attention layer run ``math`` (explicit softmax), ``fused`` (the kernel that torch picks), or
    a CUDA kernel by its name: ``flash``, ``efficient`` or ``cudnn``."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            layer = cast(Any, module)
            layer.fused_attn = path != "math"
            layer.kernel = path
            if path in _KERNELS:
                layer.forward = partial(_with_kernel, _KERNELS[path], layer.forward)


_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


def _with_kernel(kernel: SDPBackend, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with sdpa_kernel(kernel):
        return forward(*args, **kwargs)
