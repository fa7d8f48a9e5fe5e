"""Operations that merge alike tokens: which with which, how many each is then, and the merge itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bsr_explorer.devices import Device
from bsr_explorer.errors import UserError
from bsr_explorer.operations.kind import Casting, Formats, Kind
from bsr_explorer.operations.op import Op, Part, Tensor
from bsr_explorer.operations.rule import Backward, Context, Forward, Kept, Rule, kept, own, write
from bsr_explorer.storages.storage import Shape
from bsr_explorer.units import FLOPS_PER_MAC, WIDTH


def halves(tokens: int, prefix: int) -> tuple[int, int]:
    """How many patch tokens stand at an even place of all tokens, and how many at an odd one."""
    even, odd = first_places(prefix)
    return len(range(even, tokens, 2)), len(range(odd, tokens, 2))


def first_places(prefix: int) -> tuple[int, int]:
    """The first even and the first odd place behind the prefix."""
    return prefix + prefix % 2, prefix + 1 - prefix % 2


def merged_tokens(tokens: int, prefix: int, r: int) -> int:
    """How many tokens are merged into others where ``r`` shall be: at most half of the patches."""
    return min(r, (tokens - prefix) // 2)


def check_merging(patches: int, r: int) -> None:
    """Refuse a merge in every block of a model of so many patch tokens, if it would leave none of them.

    Raises:
        UserError: with what a block merges at most.
    """
    if r >= patches:
        raise UserError(
            f"--method: tome(r={r}) would leave none of the {patches} patch tokens; choose r below {patches} (a block "
            "merges at most half of the patches that there are)"
        )


# --- which with which -----------------------------------------------------------------------------------


def _match_shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """(B, N, 3·D) → (B, N)."""
    batch, tokens, _ = reads[0].shape
    return (batch, tokens)


def _match_forward(c: Context) -> int:
    """Each of one half times each of the other, a head wide."""
    batch, tokens, width3 = c.reads[0].shape
    even, odd = halves(tokens, c.op.attrs["prefix"])
    return int(FLOPS_PER_MAC * batch * even * odd * (width3 // 3 // c.op.attrs["heads"]))


def _match_run(c: Context, m: Forward) -> None:
    (batch, tokens, width3), width = c.reads[0].shape, WIDTH[c.reads[0].dtype]
    prefix, r, number = c.op.attrs["prefix"], c.op.attrs["r"], WIDTH["int64"]
    (even, odd), head = halves(tokens, prefix), width3 // 3 // c.op.attrs["heads"]
    m.take(c.own("mean keys"), batch * tokens * head * width)
    m.take(c.own("lengths"), batch * tokens * width)
    m.take(c.own("directions"), batch * tokens * head * width)
    m.drop(c.own("mean keys"), c.own("lengths"))
    m.take(c.own("similarities"), batch * even * odd * width)
    m.drop(c.own("directions"))
    m.take(c.own("best values"), batch * even * width)
    m.take(c.own("best"), batch * even * number)
    m.drop(c.own("similarities"))
    m.take(c.own("highest values"), batch * r * width)
    m.take(c.own("highest"), batch * r * number)
    m.drop(c.own("highest values"), c.own("best values"))
    m.take(c.own("stays"), batch * even * number)
    m.take(c.own("places"), batch * even * number)
    m.drop(c.own("stays"))
    m.take(c.own("onto"), batch * r * number)
    m.drop(c.own("onto"), c.own("best"), c.own("highest"))
    m.take(c.own("wide"), batch * tokens * number)
    for name, size in (("of prefix", prefix), ("of others", odd), ("of images", batch)):
        m.take(c.own(name), size * number)
        m.drop(c.own(name))
    write(c, m)
    m.drop(c.own("wide"), c.own("places"))


MATCH_TOKENS = Kind(
    name="match_tokens",
    summary="for each token its place once the most alike patches are merged",
    shape=_match_shape,
    plain=Rule(forward=_match_forward, run=_match_run),
)

# --- how many each is -----------------------------------------------------------------------------------


def _sizes_shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """(B, N) → (B, N − r)."""
    batch, tokens = reads[0].shape
    return (batch, tokens - op.attrs["r"])


def _sizes_run(c: Context, m: Forward) -> None:
    """Where there are no sizes yet, each token is one."""
    if len(c.reads) == 1:
        m.take(c.own("ones"), c.reads[0].numel * WIDTH[c.writes.dtype])
    write(c, m)
    if len(c.reads) == 1:
        m.drop(c.own("ones"))


MERGE_SIZES = Kind(
    name="merge_sizes",
    summary="how many of the model's tokens each token is, once some are merged",
    shape=_sizes_shape,
    plain=Rule(run=_sizes_run),
)

# --- what sizes add to attention --------------------------------------------------------------------------


def _log_shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """Tokens (B, N, D) and sizes (B, N) → (B, 1, 1, N)."""
    batch, tokens = reads[1].shape
    return (batch, 1, 1, tokens)


def _log_run(c: Context, m: Forward) -> None:
    """The logarithm is made in 32 bits, and is cast where tokens have 16."""
    if c.writes.dtype != "fp32":
        m.take(c.own("wide"), c.reads[1].bytes)
    write(c, m)
    m.drop(c.own("wide"))


def _log_autocast(formats: Formats, narrow: str, device: Device) -> Casting:
    """In the format of queries and keys."""
    return Casting(None, {"dtype": narrow})


LOG_SIZES = Kind(
    name="log_sizes",
    summary="the logarithm of how many of the model's tokens each token is",
    shape=_log_shape,
    plain=Rule(run=_log_run),
    as_first=True,
    autocast=_log_autocast,
)

# --- the merge ------------------------------------------------------------------------------------------


def _merge_shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """(B, N, D) → (B, N − r, D)."""
    batch, tokens, width = reads[0].shape
    return (batch, tokens - op.attrs["r"], width)


def _merge_keeps(c: Context) -> list[Kept]:
    """Each token's place, in 32 bits, and its share of what it is merged into."""
    if not c.needs[0]:
        return []
    return [kept(c.reads[1]), own(c, "shares", c.reads[1].shape, c.reads[0].dtype)]


def _merge_run(c: Context, m: Forward) -> None:
    tokens, dtype = c.reads[1].numel, c.reads[0].dtype
    wide = c.own("shares" if dtype == "fp32" else "wide shares")
    m.take(c.own("sizes"), tokens * WIDTH["fp32"])
    m.take(wide, tokens * WIDTH["fp32"])
    m.drop(c.own("sizes"))
    if dtype != "fp32":
        m.take(c.own("shares"), tokens * WIDTH[dtype])
        m.drop(wide)
    m.take(c.own("shared"), c.reads[0].bytes)
    write(c, m)
    m.drop(c.own("shared"), c.own("shares"))


def _merge_unwind(c: Context, b: Backward) -> None:
    b.give(0)
    b.end_call()


MERGE_TOKENS = Kind(
    name="merge_tokens",
    summary="the mean of merged tokens, by how many of the model's tokens each is",
    shape=_merge_shape,
    plain=Rule(keeps=_merge_keeps, run=_merge_run, unwind=_merge_unwind, keeps_results=True),
    as_first=True,
)
