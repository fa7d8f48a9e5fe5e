"""The memory accounting of the BSR paper, beside the true one.

It is the rule of the authors' profiler (derived from TinyTL's): bytes of the layers' inputs an image,
times the batch, plus the parameters, of which the trained ones count 32 bits and the frozen ones 8.
Gradients and optimiser state count nothing, and neither do the inputs of frozen LayerNorms, although
autograd keeps them. For an MLP of ratio m, elements a block of n tokens·width before its drop and n'
after it:

=====================================  =================================
a block that trains                    6·n + H·N² + (2 + 2m)·n'
frozen, above the lowest that trains   3·n + H·N² + m·n'
frozen, below it                       0
=====================================  =================================

plus the inputs of the final norm and of the head and, if it trains, of the patch embedding. (The
authors' code has m = 4; other ratios are our reading of the same rule.)
"""

from __future__ import annotations

from bsr_explorer.tape import Op, Tape

WIDTH_TRAINED = WIDTH_ACTIVATION = 4
WIDTH_FROZEN = 1


def total_bytes(tape: Tape) -> int:
    """What the paper would say that this step takes: activations of the batch plus parameters."""
    batch = next(tensor for tensor in tape.inputs if tensor.name == "images").shape[0]
    return activation_bytes_per_image(tape) * batch + parameter_bytes(tape)


def parameter_bytes(tape: Tape) -> int:
    """32 bits a trained parameter, 8 bits a frozen one."""
    return sum(p.numel * (WIDTH_TRAINED if p.trains else WIDTH_FROZEN) for p in tape.parameters.values())


def activation_bytes_per_image(tape: Tape) -> int:
    """Activations of one image, whatever the batch of the tape."""
    trained = {p.block for p in tape.parameters.values() if p.trains}
    in_blocks = [block for block in trained if block is not None]
    whole = tape.parameters.get("patch_embed.proj.weight")
    lowest = 0 if whole and whole.trains else min(in_blocks, default=len(tape.blocks))
    size = sum(
        block_activation_bytes(tape, block, trains=block in trained, live=True)
        for block in tape.blocks
        if block >= lowest
    )
    if whole and whole.trains:
        size += _elements_per_image(tape, tape.op("patch_embed.proj", "patch_embed")) * WIDTH_ACTIVATION
    return size + tail_activation_bytes(tape)


def block_activation_bytes(tape: Tape, block: int, trains: bool, live: bool) -> int:
    """One block's activations of one image; ``live``: a gradient passes through it."""
    here = f"blocks.{block}"
    if not (trains or live):
        return 0
    before = _elements_per_image(tape, tape.op(f"{here}.norm1", "layer_norm"))
    after = _elements_per_image(tape, tape.op(f"{here}.norm2", "layer_norm"))
    attention = tape.op(f"{here}.attn", "attention")
    tokens = tape.tensors[attention.writes].shape[1]
    last = next(op for op in tape if op.name == f"{here}.mlp.fc2")  # of whatever kind a method has it run
    hidden = _elements_per_image(tape, last)
    scores = int(attention.attrs["heads"]) * tokens * tokens
    elements = 6 * before + 2 * after + 2 * hidden if trains else 3 * before + hidden
    return (elements + scores) * WIDTH_ACTIVATION


def tail_activation_bytes(tape: Tape) -> int:
    """Inputs of the final norm and of the head, of one image."""
    ops = [op for op in tape if op.name in ("norm", "fc_norm", "head")]
    return sum(_elements_per_image(tape, op) for op in ops) * WIDTH_ACTIVATION


def _elements_per_image(tape: Tape, op: Op) -> int:
    read = tape.tensors[op.reads[0]]
    return read.numel // read.shape[0]
