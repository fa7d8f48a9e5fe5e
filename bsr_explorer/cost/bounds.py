"""What of a step is not counted, so that figures are bounds."""

from __future__ import annotations

from dataclasses import replace

from bsr_explorer.cost.step import Recorded
from bsr_explorer.devices import device_of
from bsr_explorer.ledger import Unknown
from bsr_explorer.operations.kinds import rule_of


def unknown_of(recorded: Recorded, passes: int = 1) -> tuple[Unknown, ...]:
    """What of the operations cannot be counted, those that are alike as one.

    Args:
        passes: how often the tape runs in a step.
    """
    found: dict[tuple[object, ...], Unknown] = {}
    for c in recorded.contexts:
        figures, why = rule_of(c.op).lacks(c)
        if figures:
            what = str(c.op.attrs.get("function", c.op.kind))
            size = sum(tensor.bytes for tensor in (*c.reads, *c.params.values(), c.writes, *c.others))
            before = found.get((what, figures, why), Unknown(what, c.op.name, 0, 0, figures, why))
            more = replace(before, times=before.times + passes, bytes=max(before.bytes, size))
            found[what, figures, why] = more
    return (*found.values(), *_kernels(recorded, passes))


def _kernels(recorded: Recorded, passes: int) -> tuple[Unknown, ...]:
    """Of calls on a GPU: the rules of other kinds say what its kernels take on the way."""
    calls = [c for c in recorded.contexts if c.op.kind == "call"]
    device = device_of(recorded.tape.device)
    if not calls or not device.caches:
        return ()
    most, first = max(c.writes.bytes for c in calls), calls[0].op.name
    why = "what they take on the way is not followed, and was not checked on a device"
    return (Unknown(f"kernels of {device.title}", first, passes * len(calls), most, ("peak_bytes",), why),)
