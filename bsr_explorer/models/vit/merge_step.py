"""The step of a vision transformer whose blocks merge alike tokens."""

from __future__ import annotations

from dataclasses import replace

from bsr_explorer.operations.merging import check_merging, merged_tokens
from bsr_explorer.tape import Op, Tape


def merge_tokens(tape: Tape, r: int, proportional: bool = False) -> Tape:
    """The tape with ``r`` tokens merged into others in each block, or half of its patches if there are fewer.

    Args:
        proportional: whether the logarithm of how many each token is is added to the attention that it receives.

    Raises:
        UserError: it would leave no patch token.
    """
    sizes: tuple[str, ...] = ()
    if tape.blocks:
        check_merging(tape.tensors["blocks.0.middle"].shape[1] - tape.prefix_tokens, r)
    for block in tape.blocks:
        here, prefix = f"blocks.{block}", tape.prefix_tokens
        count = merged_tokens(tape.tensors[f"{here}.middle"].shape[1], prefix, r)
        if proportional and sizes:
            tape = _with_sizes(tape, block, *sizes)
        if not count:
            continue
        attention = tape.op(f"{here}.attn", "attention")
        name, into, merged = f"{here}.merge", f"{here}.into", f"{here}.sizes"
        attrs = {"prefix": prefix, "heads": attention.attrs["heads"], "r": count, "detached": True}
        match = Op(name, "match_tokens", block, attention.reads[:1], into, attrs={**attrs, "dtype": "int32"})
        attrs = {"r": count, "detached": True, "dtype": "fp32"}
        sizing = Op(name, "merge_sizes", block, (into, *sizes), merged, attrs=attrs)
        reads = (f"{here}.middle", into, merged, *sizes)
        merge = Op(name, "merge_tokens", block, reads, f"{here}.merged", attrs={"r": count})
        residual = next(op for op in tape if op.writes == f"{here}.middle")
        tape = tape.insert_after(residual, merge, instead_of=f"{here}.middle")
        tape = tape.insert_after(residual, sizing)
        tape = tape.insert_after(residual, match)
        sizes = (merged,)
    return tape


def _with_sizes(tape: Tape, block: int, sizes: str) -> Tape:
    """The tape with the logarithm of sizes added to the attention scores of a block."""
    here = f"blocks.{block}"
    norm, attention = tape.op(f"{here}.norm1", "layer_norm"), tape.op(f"{here}.attn", "attention")
    bias = Op(here, "log_sizes", block, (norm.reads[0], sizes), f"{here}.log_sizes", attrs={"detached": True})
    tape = tape.insert_after(norm, bias)
    biased = replace(attention, reads=(*attention.reads, bias.writes))
    return replace(tape, ops=tuple(biased if op.writes == biased.writes else op for op in tape))
