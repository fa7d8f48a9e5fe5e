"""Calls of functions of torch that pack what they keep, whatever the model.

A block of a traced model is not known layer by layer, but call by call. While such a model runs, each call of its
blocks is seen (torch's ``TorchFunctionMode``), and what autograd saves of it is packed, if its place says so
(``by_call``): by hooks on saved tensors, which stand only while the call runs. Gradients are autograd's own, of what
was unpacked. What is packed is a whole storage, once, in the shape in which it was made; whoever saved a part of it
gets that part of what is unpacked.

Hooks take what is saved out of the sight of others. So it is saved by a node of its own (``_Node``), and whoever looks
around the model at what is saved sees it: a measurement, or what sends it elsewhere.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.profiler import record_function

from bsr_explorer.storages.base import Packing
from bsr_explorer.storages.by_call import CALLS, Keeping, Packs, laid_out, place_of
from bsr_explorer.storages.storage import Shape

StoresCall = Callable[[int, str, Shape, int], Packing | None]
"""How a tensor is packed, by the block (0-based) that keeps it, its place (``by_call``), the shape that it was made in,
and the images of the batch; None: as it is."""

_NONE: Mapping[str, Any] = MappingProxyType({})


def pack_calls(model: nn.Module, modules: Iterable[tuple[int | None, nn.Module]], stores: StoresCall) -> None:
    """Let the calls of blocks pack what they keep, in place.

    Args:
        modules: blocks, each with its number (0-based); and what they share with others that belongs to another block,
            or to none.
    """
    mode = PackingCalls(stores)
    for number, module in modules:
        cast(Any, module).forward = partial(_in_block, mode, number, module.forward)
    cast(Any, model).forward = partial(_within, mode, model, model.forward)


def _within(
    mode: PackingCalls, model: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    mode.begin(model, next(_tensors((*args, *kwargs.values()))))
    try:
        with mode:
            return forward(*args, **kwargs)
    finally:
        mode.forget()


def _in_block(
    mode: PackingCalls, block: int | None, forward: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    with mode.in_block(block):
        return forward(*args, **kwargs)


def laid(tensor: torch.Tensor) -> Shape | None:
    """How a tensor lies in its storage (``by_call.laid_out``); None, if it is not all of it."""
    whole = tensor.numel() * tensor.itemsize == tensor.untyped_storage().nbytes()
    return laid_out(tuple(tensor.shape), tensor.stride()) if whole else None


# --- what is saved --------------------------------------------------------------------------------------


class _Node(torch.autograd.Function):
    """Saves tensors, and does nothing else."""

    @staticmethod
    def forward(ctx: Any, token: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        """Save them.

        Args:
            token: of no elements, which needs a gradient, so that there is a node.
        """
        ctx.save_for_backward(*tensors)
        return token.view_as(token)


def _saved_by_node(token: torch.Tensor, *tensors: torch.Tensor) -> Any:
    with torch.enable_grad():
        return cast(Any, _Node.apply(token, *tensors)).grad_fn


class _Packed:
    """A storage that is packed.

    Args:
        whole: all of it.
    """

    def __init__(self, whole: torch.Tensor, packing: Packing, token: torch.Tensor) -> None:
        self.shape, self.dtype, self.packing = tuple(whole.shape), whole.dtype, packing
        self._node = _saved_by_node(token, *packing.pack(whole))
        self._back: StorageWeakRef | None = None

    def restore(self) -> torch.Tensor:
        """All of it, brought back once as long as somebody holds it. (Autograd holds its storage, not this tensor.)"""
        if self._back is not None and (storage := there(self._back)) is not None:
            again = torch.empty(0, dtype=self.dtype, device=storage.device)
            return again.set_(storage, 0, self.shape, _strides(self.shape))
        whole = self.packing.unpack(tuple(self._node.saved_tensors), self.shape, self.dtype)
        self._back = StorageWeakRef(whole.untyped_storage())
        return whole


def there(reference: StorageWeakRef) -> torch.UntypedStorage | None:
    """The storage that is referred to, as long as somebody holds it."""
    found: torch.UntypedStorage | None = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
    return found


class _Part(NamedTuple):
    """A saved tensor: how it lies in a storage that is packed."""

    packed: _Packed
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int

    def restore(self) -> torch.Tensor:
        """As it was saved."""
        return self.packed.restore().as_strided(self.shape, self.stride, self.offset)


class _Plain(NamedTuple):
    """A saved tensor that is kept as it is."""

    node: Any

    def restore(self) -> torch.Tensor:
        """Itself."""
        return cast(torch.Tensor, self.node.saved_tensors[0])


def _restored(saved: _Part | _Plain) -> torch.Tensor:
    with torch.no_grad():
        return saved.restore()


# --- calls ----------------------------------------------------------------------------------------------


@dataclass
class _Storage:
    """What is known of a storage.

    Attributes:
        shape: as the tensor lies in it that brought it; None, if that is not all of it.
        kept_by: block (0-based) and place of the first call that may keep it.
    """

    itself: StorageWeakRef
    shape: Shape | None
    kept_by: tuple[int, str] | None = None


class PackingCalls(TorchFunctionMode):
    """While it stands, calls of blocks pack what they keep.

    Args:
        stores: how.
    """

    def __init__(self, stores: StoresCall) -> None:
        super().__init__()
        self._stores = stores
        self._block: int | None = None
        self._images = 0
        self._storages: dict[int, _Storage] = {}
        self._packed: dict[int, tuple[int, weakref.ref[_Packed]]] = {}
        self._own: frozenset[int] = frozenset()

    def begin(self, model: nn.Module, batch: torch.Tensor) -> None:
        """A forward pass of these images begins."""
        own = (*model.parameters(), *model.buffers())
        self._own = frozenset(tensor.untyped_storage()._cdata for tensor in own)
        self.forget()
        self._images = len(batch)

    def forget(self) -> None:
        """What is known of storages holds for one forward pass (and cannot be copied)."""
        self._storages, self._packed = {}, {}

    @contextmanager
    def in_block(self, block: int | None) -> Iterator[None]:
        """Calls are those of a block (0-based), or of none."""
        outer, self._block = self._block, block
        try:
            yield
        finally:
            self._block = outer

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = _NONE,
    ) -> Any:
        kwargs = kwargs or {}
        keeping = None if self._block is None else CALLS.get(str(getattr(func, "__name__", "")))
        if keeping is None or not torch.is_grad_enabled() or kwargs.get("inplace"):
            result = func(*args, **kwargs)
        else:
            given = [*{id(tensor): tensor for tensor in _tensors((*args, *kwargs.values()))}.values()]
            for number, place in keeping.arguments.items():
                if number < len(given):
                    self._may_keep(given[number], place)
            with _Call(self, keeping, given).hooks:
                result = func(*args, **kwargs)
            if keeping.made:
                self._may_keep(result, keeping.made)
        for tensor in _tensors((result,)):
            self._known(tensor)
        return result

    def _known(self, tensor: torch.Tensor) -> _Storage:
        """What is known of a tensor's storage, which the first tensor that is seen of it has brought."""
        storage = tensor.untyped_storage()
        known = self._storages.get(storage._cdata)
        if known is None or known.itself.expired():
            known = _Storage(StorageWeakRef(storage), laid(tensor))
            self._storages[storage._cdata] = known
            self._packed.pop(storage._cdata, None)
        return known

    def _may_keep(self, tensor: torch.Tensor, place: str) -> _Storage:
        """A call may keep a tensor."""
        known = self._known(tensor)
        if known.kept_by is None and known.shape is not None and self._block is not None:
            known.kept_by = self._block, place_of(place, tensor.numel(), math.prod(known.shape))
        return known

    def pack(self, tensor: torch.Tensor, version: int, place: str, token: torch.Tensor) -> _Packed | None:
        """What a tensor is a part of, packed once; None, if it is kept as it is.

        Args:
            place: of what has none yet.
        """
        storage = tensor.untyped_storage()
        if storage._cdata in self._own:
            return None
        known = self._may_keep(tensor, place)
        if known.shape is None or known.kept_by is None:
            return None
        earlier = self._packed.get(storage._cdata)
        if earlier is not None and earlier[0] == version and (packed := earlier[1]()) is not None:
            return packed
        if (packing := self._stores(*known.kept_by, known.shape, self._images)) is None:
            return None
        packed = _Packed(tensor.as_strided(known.shape, _strides(known.shape), 0), packing, token)
        self._packed[storage._cdata] = version, weakref.ref(packed)
        return packed


class _Call:
    """One call.

    Args:
        given: the tensors that it is given, each once.
    """

    def __init__(self, mode: PackingCalls, keeping: Keeping, given: list[torch.Tensor]) -> None:
        self._mode, self._keeping = mode, keeping
        self._versions = [tensor._version for tensor in given]
        self._shapes = [tuple(tensor.shape) for tensor in given]
        self._numbers: dict[int, int] = {}
        for number, tensor in enumerate(given):
            self._numbers.setdefault(tensor.untyped_storage()._cdata, number)
        arguments = frozenset(number for number in keeping.arguments if number < len(given))
        self._packs = Packs(arguments, keeping.least if keeping.made else 0)
        self._token = torch.empty(0, requires_grad=True)
        self.hooks = saved_tensors_hooks(self._pack, _restored)

    def _pack(self, tensor: torch.Tensor) -> _Part | _Plain:
        place, version = self._place(tensor)
        with self._away(), record_function("packing"):  # or a profiler takes what it takes for the call's own
            packed = self._mode.pack(tensor, version, place, self._token) if place else None
            if packed is None:
                return _Plain(_saved_by_node(self._token, tensor))
        return _Part(packed, tensor.shape, tensor.stride(), int(tensor.storage_offset()))

    def _place(self, tensor: torch.Tensor) -> tuple[str, int]:
        """The place of what is saved (nothing: it is kept as it is), and its version."""
        keeping = self._keeping
        if not tensor.is_floating_point():
            return "", 0
        if (number := self._numbers.get(tensor.untyped_storage()._cdata)) is not None:
            return keeping.arguments.get(number, ""), self._versions[number]
        if laid(tensor) is None:
            return "", 0
        if (copied := self._packs.copied(tuple(tensor.shape), self._shapes)) is not None:
            return keeping.arguments[copied], 0
        return keeping.made if self._packs.makes(tuple(tensor.shape), self._shapes) else "", 0

    @contextmanager
    def _away(self) -> Iterator[None]:
        """Within it, our hooks do not stand, but those around the model do."""
        autograd: Any = torch._C._autograd
        autograd._pop_saved_tensors_default_hooks()
        try:
            yield
        finally:
            autograd._push_saved_tensors_default_hooks(self.hooks.pack_hook, self.hooks.unpack_hook)


def _strides(shape: Shape) -> Shape:
    """Of a tensor in order."""
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))


def _tensors(structure: Any) -> Iterator[torch.Tensor]:
    """Tensors in arguments, in order."""
    for each in structure:
        if isinstance(each, torch.Tensor):
            yield each
        elif isinstance(each, (tuple, list)):
            yield from _tensors(each)
