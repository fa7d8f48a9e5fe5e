"""The rule table: for each kind of operation, what autograd keeps of it, the FLOPs it takes, and what it
allocates and lets go on the way.

Read in torch's derivative formulas and confirmed, byte by byte and FLOP by FLOP, against real steps
(``tests/cost``). Conventions: 2 FLOPs a multiply-add; matrix products and convolutions only, as torch's
``FlopCounterMode`` counts. Attention's products count Q·Kᵀ and P·V forward; backward, the explicit
("math") path does twice the forward's work, and the fused kernel 2.5 times, for it recomputes the scores.
What a kernel allocates and gives back within one call (its scratch) depends on the machine, its threads
and its libraries, and is nobody's rule: a measurement reports it apart.
"""

from __future__ import annotations

from bsr_explorer.operations.attention import ATTENTION, CLASS_ATTENTION
from bsr_explorer.operations.elementwise import (
    ADD,
    ADD_PARAMETER,
    GATE_HALF,
    GELU,
    LAYER_NORM,
    SCALE,
    SILU_HALF,
)
from bsr_explorer.operations.kind import Context, Kept, Rule
from bsr_explorer.operations.linear import CAST, CAST_PARAMETER, LINEAR, PATCH_EMBED
from bsr_explorer.operations.packed import PACKED
from bsr_explorer.operations.tokens import (
    CROSS_ENTROPY,
    DROP_TOKENS,
    MEAN_TOKENS,
    PREFIX_TOKENS,
    SELECT_TOKEN,
)
from bsr_explorer.tape import Op

RULES: dict[str, Rule] = {
    "patch_embed": PATCH_EMBED,
    "prefix_tokens": PREFIX_TOKENS,
    "add_parameter": ADD_PARAMETER,
    "layer_norm": LAYER_NORM,
    "linear": LINEAR,
    "attention": ATTENTION,
    "class_attention": CLASS_ATTENTION,
    "drop_tokens": DROP_TOKENS,
    "gelu": GELU,
    "silu_half": SILU_HALF,
    "gate_half": GATE_HALF,
    "scale": SCALE,
    "add": ADD,
    "select_token": SELECT_TOKEN,
    "mean_tokens": MEAN_TOKENS,
    "cross_entropy": CROSS_ENTROPY,
    "cast": CAST,
    "cast_parameter": CAST_PARAMETER,
}


def rule_of(op: Op) -> Rule:
    """The rule of an operation, as it is run."""
    return PACKED[op.kind] if op.packs else RULES[op.kind]


__all__ = ["PACKED", "RULES", "Context", "Kept", "Rule", "rule_of"]
