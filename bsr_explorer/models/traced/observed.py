"""Making one call, and its backward, with tensors that have shapes and no memory, and seeing what happens.

What autograd keeps, which tensors come into being and go, and the FLOPs are those of the installed torch, not of a
table: torch's own hooks on saved tensors, its FLOP counter, and the life of each storage. Calls that are alike (the
same function, shapes and strides, the same arguments that need a gradient) are made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses import FakeTensorMode

from bsr_explorer.errors import UserError
from bsr_explorer.models.traced.calls import Call, Place, mapped, quiet
from bsr_explorer.models.traced.watch import Sink, Watch, source
from bsr_explorer.operations.call import Facts, Happening, Holds

_KNOWN: dict[Any, Facts] = {}
_FAKE = FakeTensorMode(allow_non_fake_inputs=True)


@dataclass(frozen=True)
class Observed:
    """A call whose sizes are known, and what it does (see ``operations.call.Observer``).

    Attributes:
        autocast: number format that autocast uses; None: it does not run.
    """

    call: Call
    autocast: torch.dtype | None = None
    device: str = "cpu"
    _mine: dict[tuple[bool, ...], Facts] = field(default_factory=dict, compare=False, repr=False)

    def facts(self, needs: tuple[bool, ...]) -> Facts:
        """See ``Observer``.

        Raises:
            UserError: the call cannot be made alone.
        """
        if needs not in self._mine:
            self._mine[needs] = self._found(needs)
        return self._mine[needs]

    def _found(self, needs: tuple[bool, ...]) -> Facts:
        call = self.call
        needs = tuple(
            need and given.spec.dtype.is_floating_point and not call.detached
            for need, given in zip(needs, call.given, strict=True)
        )
        key = (
            getattr(call.function, "key", call.function),
            repr((call.args, call.kwargs)),
            tuple(given.spec for given in call.given),
            call.changes,
            call.views,
            needs,
            self.autocast,
            self.device,
        )
        if key not in _KNOWN:
            try:
                _KNOWN[key] = observe(call, needs, self.autocast, self.device)
            except UserError:
                raise
            except Exception as error:
                raise self._refusal(
                    f"made alone, it fails: {(str(error).splitlines() or [''])[0][:160]}"
                ) from error
        return _KNOWN[key]

    def _refusal(self, why: str) -> UserError:
        call = self.call
        shapes = ", ".join(str(given.spec.shape) for given in call.given)
        return UserError(
            f"--model: no rule for {call.name} of {shapes} in {call.path or 'the model'}: {why}; freeze what lies "
            "below it, or choose another model"
        )


def observe(call: Call, needs: Sequence[bool], autocast: torch.dtype | None, device: str) -> Facts:
    """Make a call, and its backward where one of its tensors needs a gradient."""
    watch = Watch()
    with ExitStack() as stack:
        stack.enter_context(quiet())
        stack.enter_context(_FAKE)
        tensors = []
        for place, (each, need) in enumerate(zip(call.given, needs, strict=True)):
            tensor = torch.empty_strided(
                each.spec.shape, each.spec.stride, dtype=each.spec.dtype, device=device
            )
            tensors.append(source(tensor, watch, place) if need else tensor)
            del tensor
        watch.given(tensors)
        if autocast is not None:
            stack.enter_context(torch.autocast(device, autocast))
        if call.detached:
            stack.enter_context(torch.no_grad())
        with watch.saving(), watch:
            results = _results(call, tensors)
        run, forward, numbers = watch.run(results), watch.flops, watch.numbers
        carries = tuple(result.requires_grad for result in results)
        if not any(carries):
            return Facts((), forward, 0, run, (), carries)
        kept = watch.kept()
        start = torch.empty(())
        sink = Sink.apply(watch, *(result for result in results if result.requires_grad))
        del results, tensors
        watch.begin_backward(carries)
        with watch:
            sink.backward(start)
        unwind = watch.unwind()
    if _norm_in_two_formats(call, device):
        kept, run = _in_32_bits(kept, run)
    early, computed = watch.early
    late = hasattr(call.function, "key") or computed > 0 or any(held.what == "result" for held in kept)
    late = late or any(event.what == "make" for event in run[:early])
    return Facts(kept, forward, watch.flops - forward, run, unwind, carries, late, numbers, early)


def _norm_in_two_formats(call: Call, device: str) -> bool:
    """A batch norm of 16 bits with weights of 32: on the CPU it keeps its statistics in 32 bits, which torch's kernel
    without memory does not say."""
    formats = [given.spec.dtype for given in call.given]
    two = formats[0] in (torch.bfloat16, torch.float16) and torch.float32 in formats[1:]
    return call.name == "batch_norm" and device == "cpu" and two


def _in_32_bits(
    kept: tuple[Holds, ...], run: tuple[Happening, ...]
) -> tuple[tuple[Holds, ...], tuple[Happening, ...]]:
    own = {held.which for held in kept if held.what == "own"}
    return (
        tuple(held._replace(bytes=2 * held.bytes) if held.what == "own" else held for held in kept),
        tuple(e._replace(bytes=2 * e.bytes) if e.what == "take" and e.which in own else e for e in run),
    )


def _results(call: Call, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What it makes, in the order of ``Call.made``."""
    given, tensors = tensors, list(tensors)
    for place, view, offset in call.views:
        tensors[place] = given[place].as_strided(
            view.shape, view.stride, given[place].storage_offset() + offset
        )

    def fill(leaf: Any) -> Any:
        return tensors[leaf.number] if isinstance(leaf, Place) else leaf

    result = call.function(*mapped(call.args, fill), **mapped(call.kwargs, fill))
    found: list[torch.Tensor] = []
    mapped(result, lambda leaf: found.append(leaf) if isinstance(leaf, torch.Tensor) else None)
    there = {id(tensor) for tensor in (*given, *tensors)}
    fresh = [*{id(each): each for each in found if id(each) not in there}.values()]
    of_views = {place for place, _, _ in call.views}
    for place in call.changes:
        fresh += [given[place], tensors[place]] if place in of_views else [tensors[place]]
    return fresh
