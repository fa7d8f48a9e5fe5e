"""Making one call, and its backward, with tensors that have shapes and no memory, and seeing what happens.

What autograd keeps, which tensors come into being and go, and the FLOPs are those of the installed torch, not of a
table: torch's own hooks on saved tensors, its FLOP counter, and the life of each storage. Calls that are alike (the
same function, shapes and strides, the same arguments that need a gradient) are made once.

Where a bound is asked for, a call may be one of which something cannot be counted: a product without a FLOP formula
counts as no FLOPs (nor is its workspace known, if it has one), and of a backward that cannot be made without numbers
nothing is counted but the gradients that it hands on. What lacks is said (``Facts.lacks``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from bsr_explorer.counting import NoFormula
from bsr_explorer.errors import UserError
from bsr_explorer.models.traced.calls import Call, quiet
from bsr_explorer.models.traced.casts import casts
from bsr_explorer.models.traced.kernels import on_cpu, with_backward
from bsr_explorer.models.traced.making import FAKE, empty, results_of
from bsr_explorer.models.traced.watch import Sink, Watch, source
from bsr_explorer.operations.call import Facts, Happening, Holds
from bsr_explorer.operations.rule import Lacking
from bsr_explorer.storages.by_call import NOTHING, Packs, laid_out

_KNOWN: dict[Any, Facts] = {}
_CASTS: dict[Any, tuple[int, ...]] = {}


@dataclass(frozen=True)
class Observed:
    """A call whose sizes are known, and what it does (see ``operations.call.Observer``).

    Attributes:
        autocast: number format that autocast uses; None: it does not run.
        bounds: whether what cannot be counted is said, and not refused.
    """

    call: Call
    autocast: torch.dtype | None = None
    device: str = "cpu"
    bounds: bool = False
    _mine: dict[tuple[tuple[bool, ...], Packs], Facts] = field(
        default_factory=dict, compare=False, repr=False
    )

    def facts(self, needs: tuple[bool, ...], packs: Packs = NOTHING) -> Facts:
        """See ``Observer``.

        Raises:
            UserError: the call cannot be made alone.
        """
        if self.device != "cpu" and not self.bounds:
            raise UserError(
                "--device, --gpu: of a traced model nobody knows what the kernels of a GPU take on the way; ask for a "
                "bound of the peak (--unknown bound, of profile, max-batch and compare; of the rest it is none), or "
                "choose --device cpu, or a plain vision transformer"
            )
        if (needs, packs) not in self._mine:
            self._mine[needs, packs] = self._found(needs, packs)
        return self._mine[needs, packs]

    def bounding(self) -> Observed:
        """See ``Observer``."""
        return Observed(self.call, self.autocast, self.device, bounds=True)

    def casts(self) -> tuple[int, ...]:
        """See ``Observer``. (Of a call without a graph, none: its copies are its own.)"""
        if self.autocast is None or self.call.detached:
            return ()
        key = self._key((False,) * len(self.call.given))
        if key not in _CASTS:
            _CASTS[key] = casts(self.call, self.autocast, self.device)
        return _CASTS[key]

    def given_copies(self, numbers: Sequence[int]) -> Observed:
        """See ``Observer``."""
        assert self.autocast is not None
        given = tuple(
            replace(each, spec=replace(each.spec, dtype=self.autocast)) if number in numbers else each
            for number, each in enumerate(self.call.given)
        )
        return Observed(replace(self.call, given=given), self.autocast, self.device, self.bounds)

    def _key(self, needs: tuple[bool, ...]) -> tuple[Any, ...]:
        """Calls that are alike have the same."""
        call = self.call
        return (
            getattr(call.function, "key", call.function),
            repr((call.args, call.kwargs)),
            tuple(given.spec for given in call.given),
            call.changes,
            call.views,
            needs,
            self.autocast,
            self.device,
            self.bounds,
        )

    def _found(self, needs: tuple[bool, ...], packs: Packs) -> Facts:
        call = self.call
        needs = tuple(
            need and given.spec.dtype.is_floating_point and not call.detached
            for need, given in zip(needs, call.given, strict=True)
        )
        key = (*self._key(needs), packs)
        if key not in _KNOWN:
            try:
                _KNOWN[key] = observe(call, needs, self.autocast, self.device, self.bounds, packs)
            except UserError:
                raise
            except NoFormula as error:
                raise self._refusal(said(error), _BOUND) from error
            except _BackwardFails as error:
                raise self._refusal(f"{_ALONE}: {said(error)}", _BOUND) from error
            except Exception as error:
                raise self._refusal(f"made alone, it fails: {said(error)}") from error
        return _KNOWN[key]

    def _refusal(self, why: str, way: str = "") -> UserError:
        call = self.call
        shapes = ", ".join(str(given.spec.shape) for given in call.given)
        return UserError(
            f"--model: no rule for {call.name} of {shapes} in {call.path or 'the model'}: {why}; {way}freeze what lies "
            "below it, or choose another model"
        )


_BOUND = "ask for a bound (--unknown bound, of profile, max-batch and compare), "
_ALONE = "its backward cannot be made alone"


class _BackwardFails(Exception):
    """The backward of a call cannot be made with tensors that have no memory."""


def said(error: Exception) -> str:
    """The first line of an error's text."""
    return (str(error).splitlines() or [""])[0][:160]


def observe(
    call: Call,
    needs: Sequence[bool],
    autocast: torch.dtype | None,
    device: str,
    bounds: bool = False,
    packs: Packs = NOTHING,
) -> Facts:
    """Make a call, and its backward where one of its tensors needs a gradient.

    Args:
        bounds: see ``Observed``.
        packs: what of it is kept packed.

    Raises:
        NoFormula: it multiplies matrices, and nobody counts its FLOPs (unless ``bounds``).
        Exception: whatever torch says of a call that cannot be made.
    """
    watch = Watch(bounds)
    with ExitStack() as stack:
        stack.enter_context(quiet())
        stack.enter_context(FAKE)
        tensors = []
        for place, (each, need) in enumerate(zip(call.given, needs, strict=True)):
            tensor = empty(each.spec, device)
            tensors.append(source(tensor, watch, place) if need else tensor)
            del tensor
        watch.given(tensors)
        if autocast is not None:
            stack.enter_context(torch.autocast(device, autocast))
        if call.detached:
            stack.enter_context(torch.no_grad())
        with watch.saving(packs, [each.spec for each in call.given]), watch:
            results = results_of(call, tensors)
        run, forward, numbers = watch.run(results), watch.flops, watch.numbers
        forwards = [*watch.uncounted]
        carries = tuple(result.requires_grad for result in results)
        laid = laid_out(tuple(results[0].shape), results[0].stride()) if results else None
        if not any(carries):
            return Facts((), forward, 0, run, (), carries, lacks=_lacking(forwards, [], run, ""))
        kept = watch.kept()
        if device != "cpu":  # a GPU that is not here runs no backward
            found = Facts(kept, forward, 0, run, _least(call, needs, carries), carries, True, numbers)
            return with_backward(found, call, observe(on_cpu(call), needs, autocast, "cpu", bounds))
        start = torch.empty(())
        sink = Sink.apply(watch, *(result for result in results if result.requires_grad))
        del results, tensors
        watch.begin_backward(carries)
        fails = ""
        try:
            with watch:
                sink.backward(start)
            unwind = watch.unwind()
        except NoFormula:
            raise
        except Exception as error:
            if not bounds:
                raise _BackwardFails(said(error)) from error
            fails, unwind = said(error), _least(call, needs, carries)
    if _norm_in_two_formats(call, device):
        kept, run = _in_32_bits(kept, run)
    early, computed = watch.early
    late = hasattr(call.function, "key") or computed > 0 or any(held.what == "result" for held in kept)
    late = late or any(event.what == "make" for event in run[:early])
    lacks = _lacking(forwards, [*watch.uncounted][len(forwards) :], (*run, *unwind), fails)
    backward = watch.flops - forward
    return Facts(kept, forward, backward, run, unwind, carries, late, numbers, early, lacks, laid)


def _least(call: Call, needs: Sequence[bool], carries: Sequence[bool]) -> tuple[Happening, ...]:
    """What a backward does to memory at least: the gradient of each argument comes; of what is no parameter, that of a
    result is passed on, where one has its shape."""
    found = []
    for place, (given, need) in enumerate(zip(call.given, needs, strict=True)):
        same = (
            number
            for number, (made, carried) in enumerate(zip(call.made, carries, strict=True))
            if carried and (made.spec.shape, made.spec.dtype) == (given.spec.shape, given.spec.dtype)
        )
        source = next(same, None) if given.kind == "read" else None
        if need:
            found.append(
                Happening("give", place) if source is None else Happening("pass", place, source=source)
            )
    return tuple(found)


def _lacking(
    forward: Sequence[str], backward: Sequence[str], happened: Sequence[Happening], fails: str
) -> Lacking:
    """What of a call cannot be counted.

    Args:
        forward, backward: operations whose FLOPs nobody counts. If they take memory of their own, nobody knows how
            much: of a workspace without numbers, torch's kernels say nothing (``mkldnn_rnn_layer``).
        happened: to memory.
        fails: why its backward cannot be made alone.
    """
    if not (forward or backward or fails):
        return Lacking()
    opaque = bool(forward or backward) and any(each.what == "take" for each in happened)
    figures = [
        *(["forward_flops"] if forward else []),
        "train_flops",
        *(["saved_bytes"] if opaque else []),
        *(["peak_bytes"] if opaque or fails else []),
    ]
    names = ", ".join(dict.fromkeys((*forward, *backward)))
    why = [f"nobody counts the FLOPs of {names}"] if names else []
    return Lacking(tuple(figures), "; ".join([*why, *([f"{_ALONE}: {fails}"] if fails else [])]))


def _norm_in_two_formats(call: Call, device: str) -> bool:
    """A norm of 16 bits with weights of 32: on the CPU it keeps its statistics in 32 bits, which torch's kernel without
    memory does not say."""
    formats = [given.spec.dtype for given in call.given]
    two = formats[0] in (torch.bfloat16, torch.float16) and torch.float32 in formats[1:]
    return call.name in ("batch_norm", "layer_norm", "group_norm") and device == "cpu" and two


def _in_32_bits(
    kept: tuple[Holds, ...], run: tuple[Happening, ...]
) -> tuple[tuple[Holds, ...], tuple[Happening, ...]]:
    own = {held.which for held in kept if held.what == "own"}
    return (
        tuple(held._replace(bytes=2 * held.bytes) if held.what == "own" else held for held in kept),
        tuple(e._replace(bytes=2 * e.bytes) if e.what == "take" and e.which in own else e for e in run),
    )
