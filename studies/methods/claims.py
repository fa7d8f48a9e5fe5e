"""What the methods' papers say that they save, counted as the paper counts and as a step holds it.

    python studies/methods/claims.py [--out reports/methods]

Nothing is trained: saved bytes, peak and FLOPs are predicted, and predictions are exact on a CPU. A paper's own models
and settings are taken where a vision transformer of this package has them, else the nearest, which the table says. The
papers' figures are those of their abstracts or of their authors' pages. Where a paper counts the inputs of some layers
alone and says no ranks, such ranks are taken as reach its figure: the question is what a step then holds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bsr_explorer import Config, Ledger, predict
from bsr_explorer.cli.console import out, say_written, table
from bsr_explorer.store.records import write_text

CLOSE = 0.05
"""A ratio that is so near to the paper's, which are rounded, is called reproduced."""

VIT_B = Config("vit_b", 224, batch_size=64)
WASI_OWN = Config("vit_base_patch32_224", 224, batch_size=128, optimizer="sgd")
"""Model, batch and optimiser of the authors of ASI and WASI."""

WASI_SWIN = Config("swin_tiny_patch4_window7_224", 224, batch_size=128, optimizer="sgd")
MESA_SWIN = Config("swin_tiny_patch4_window7_224", 224, batch_size=128, precision="amp_fp16")
"""Swin-T as WASI's authors and as Mesa's have it. Its step is traced."""

MOE_B = Config("moe_vit(vit_b)", 224, batch_size=32, optimizer="sgd_momentum")
"""ViT-B with mixtures as in the code of BSR's authors, and the optimiser and batch of their first figure. (Those of
their figures of mixtures are not known.)"""

LANGUAGE = Config("tinyllama", 512, 1, batch_size=8, optimizer="sgd")
"""TinyLlama 1.1B with 8 sequences of 512 tokens, traced. (Queries, keys and values are one product here.)"""

COLUMNS = (
    "method",
    "the paper",
    "here",
    "what the paper counts",
    "all saved",
    "peak",
    "FLOPs",
    "verdict",
)

PASSING = ("norm1", "attn", "norm2", "act")
"""Operations of a frozen block that keep something so that a gradient passes."""

SETTINGS = "other settings"


@dataclass(frozen=True)
class Claim:
    """What a paper says, and the step that it is held against.

    Attributes:
        says: in the paper's words and figures.
        factor: times less, of ``judged``.
        config: model and step.
        against, ours: methods.
        counted: ends of the names of operations in blocks whose saved bytes the paper counts; none: the peak.
        why: what to say where the figure is not reproduced.
    """

    method: str
    says: str
    factor: float
    config: Config
    against: str
    ours: str
    counted: tuple[str, ...]
    why: str


BSR_AT_07 = "bsr(blocks=(3, 7, 11), keep={3: 0.7, 6: 0.7, 9: 0.7}, fuse=True)"

CLAIMS = (
    Claim(
        "bsr",
        "2.3x less memory and 1.5x fewer FLOPs, of a mixture of experts on five tasks; half of the tokens stay",
        2.3,
        MOE_B,
        "full",
        "bsr",
        (),
        "",
    ),
    Claim(
        "bsr",
        "the same, 0.7 of the tokens stay (the forward pass then has 1.5x fewer FLOPs)",
        2.3,
        MOE_B,
        "full",
        BSR_AT_07,
        (),
        "",
    ),
    Claim(
        "bsr",
        "the same, half of the tokens stay, experts frozen",
        2.3,
        MOE_B,
        "full",
        "bsr+freeze('experts')",
        (),
        "",
    ),
    Claim(
        "approxbp",
        "about 30% less peak memory (1.43x less)",
        1 / 0.7,
        VIT_B,
        "lora(r=8)",
        "lora(r=8)+approxbp+msln",
        (),
        "",
    ),
    Claim(
        "approxbp",
        "the same, of full fine-tuning",
        1 / 0.7,
        VIT_B,
        "full",
        "full+approxbp+msln",
        (),
        "",
    ),
    Claim(
        "approxbp",
        "the same, of full fine-tuning, GELU alone",
        1 / 0.7,
        VIT_B,
        "full",
        "full+approxbp",
        (),
        "GELU's input alone; the paper's figure is with norms that share their output with the next layer",
    ),
    Claim(
        "apla",
        "52.6% less memory than full fine-tuning (2.11x less)",
        1 / 0.474,
        VIT_B,
        "full",
        "apla(r=8)",
        (),
        "passing a gradient through frozen blocks keeps most of what a block keeps; the paper's figure is its best",
    ),
    Claim(
        "paca",
        "16% less memory than LoRA (1.19x less)",
        1 / 0.84,
        VIT_B,
        "lora(r=8)",
        "paca(r=8)",
        (),
        "updates on qkv alone; the paper's stand on all linear layers, see below",
    ),
    Claim(
        "paca",
        "the same, updates on all linear layers",
        1 / 0.84,
        VIT_B,
        "lora(r=8, on=('qkv', 'proj', 'fc1', 'fc2'))",
        "paca(r=8, on=('qkv', 'proj', 'fc1', 'fc2'))",
        (),
        "",
    ),
    Claim(
        "wtacrs",
        "2.7x less peak memory",
        2.7,
        VIT_B,
        "full",
        "full+wtacrs(ratio=0.3, on=('qkv', 'fc1', 'fc2'))",
        (),
        "the paper's are language models with LoRA; of a vision transformer attention, norms and GELU keep as much",
    ),
    Claim(
        "lst",
        "69% less memory than full fine-tuning (3.23x less; T5, CLIP-T5)",
        1 / 0.31,
        VIT_B,
        "full",
        "lst(r=8)",
        (),
        "",
    ),
    Claim(
        "alast",
        "up to 2x less memory and 2x fewer FLOPs than full fine-tuning; K is 9 (the fullest step here)",
        2.0,
        VIT_B,
        "full",
        "alast(K=9, stem=False)",
        (),
        "9 of 12 blocks keep as much as ever; budgets lower the mean, not the largest step",
    ),
    Claim(
        "alast",
        "the same, K = 4",
        2.0,
        VIT_B,
        "full",
        "alast(K=4, stem=False)",
        (),
        "the lowest block may train, and a gradient then passes through all",
    ),
    Claim(
        "slimfit",
        "2.2x less memory on average, up to 95% of layers frozen",
        2.2,
        VIT_B,
        "full",
        "slimfit(freeze=0.92)",
        (),
        "the paper's also stores what must stay in fewer bits, see below",
    ),
    Claim(
        "slimfit",
        "the same, with 8 bits for what stays",
        2.2,
        VIT_B,
        "full",
        "slimfit(freeze=0.92)+mesa",
        (),
        "",
    ),
    Claim(
        "dtl",
        "blocks 0 to 6 of 12 keep no graph (no figure of memory in its abstract)",
        12 / 5,
        VIT_B,
        "lora(r=8)",
        "dtl(r=2)",
        PASSING,
        "",
    ),
    Claim(
        "sherl",
        "a gradient passes through the last of 12 blocks alone (no figure of memory in its abstract)",
        12.0,
        VIT_B,
        "lora(r=8)",
        "sherl(r=8)",
        PASSING,
        "",
    ),
    Claim(
        "velora",
        "a number a group in place of its channels (24x of qkv, 96x of fc2)",
        (768 + 3072) / (2 * 32),
        VIT_B,
        "full",
        "full+velora(groups=32, on=('qkv', 'fc2'))",
        ("qkv", "fc2"),
        "",
    ),
    Claim(
        "asi",
        "120x less activation memory, 1.86x fewer FLOPs",
        120.0,
        WASI_OWN,
        "full",
        "full+asi(ranks=(0.125, 0.0625, 0.03), on=('fc1', 'fc2'))",
        ("fc1", "fc2"),
        "",
    ),
    Claim(
        "wasi",
        "62x less memory, 2x fewer FLOPs",
        62.0,
        WASI_OWN,
        "full",
        "full+wasi(rank=0.125, ranks=(0.25, 0.0625, 0.0625), on=('fc1', 'fc2'))",
        ("fc1", "fc2"),
        "",
    ),
    Claim(
        "wasi",
        "62x less memory, 2x fewer FLOPs",
        62.0,
        WASI_SWIN,
        "full",
        "full+wasi(rank=0.125, ranks=(0.25, 0.0625, 0.0625), on=('fc1', 'fc2'))",
        ("fc1", "fc2"),
        "",
    ),
    Claim(
        "wasi",
        "62x less memory, 2x fewer FLOPs (of all its models, TinyLlama among them)",
        62.0,
        LANGUAGE,
        "full",
        "full+wasi(rank=0.125, ranks=(0.25, 0.0625, 0.0625), on=('fc1', 'fc2'))",
        ("fc1", "fc2"),
        "",
    ),
    Claim(
        "velora",
        "of LLaMA, values and down projections: a number a group of 32 (64x of qkv, 176x of fc2)",
        (2048 + 5632) / (2 * 32),
        LANGUAGE,
        "full",
        "full+velora(groups=32, on=('qkv', 'fc2'))",
        ("qkv", "fc2"),
        "",
    ),
)


@dataclass(frozen=True)
class NotRun:
    """What a paper says, where there is no step here that it could be held against; what it saves from is predicted."""

    method: str
    says: str
    config: Config
    against: str
    why: str


NOT_RUN = (
    NotRun(
        "mesa",
        "11,812 to 5,371 MB (2.20x less)",
        MESA_SWIN,
        "full",
        "what a traced model keeps cannot be packed",
    ),
)


@dataclass(frozen=True)
class Answer:
    """Times less than what it is held against: what the paper counts, all saved bytes, the peak, and FLOPs."""

    claim: Claim
    counted: float
    saved: float
    peak: float
    flops: float

    @property
    def verdict(self) -> str:
        """Reproduced, or how it differs."""
        judged = self.counted if self.claim.counted else self.peak
        close = abs(judged / self.claim.factor - 1) <= CLOSE or judged >= self.claim.factor
        if close and not self.claim.counted:
            return "reproduced"
        if close:
            return f"reproduced as counted; the step's peak is {self.peak:.2f}x less"
        return f"differs: {self.claim.why}" if self.claim.why else "differs"


def answer(claim: Claim) -> Answer:
    """Both steps, predicted."""
    theirs, ours = (predict(claim.config.with_method(method)) for method in (claim.against, claim.ours))
    counted = counted_bytes(theirs, claim.counted) / counted_bytes(ours, claim.counted)
    return Answer(
        claim,
        counted,
        theirs.saved_bytes / ours.saved_bytes,
        theirs.peak_bytes / ours.peak_bytes,
        theirs.train_flops / ours.train_flops,
    )


def counted_bytes(ledger: Ledger, ends: Sequence[str]) -> int:
    """Saved bytes of the operations in blocks whose names end so; the peak, where none are named."""
    if not ends:
        return ledger.peak_bytes
    frame = ledger.to_frame()
    there = frame["operation"].str.endswith(tuple(f".{end}" for end in ends)) & (frame["kind"] == "saved")
    return int(frame["bytes"][there].sum())


def cells(each: Answer) -> list[str]:
    """A line of the table."""
    claim = each.claim
    return [
        claim.method,
        claim.says,
        f"{_step(claim)}: {claim.ours} against {claim.against}",
        f"saved by {', '.join(claim.counted)}: {each.counted:.1f}x less" if claim.counted else "peak",
        f"{each.saved:.2f}x less",
        f"{each.peak:.2f}x less",
        f"{each.flops:.2f}x fewer",
        each.verdict,
    ]


def cells_of_not_run(claim: NotRun) -> list[str]:
    """The same of what is not run."""
    peak = predict(claim.config.with_method(claim.against)).peak_bytes
    said = f"peak of {claim.against}: {peak / 1e6:,.0f} MB"
    return [claim.method, claim.says, _step(claim), said, "—", "—", "—", f"not run here: {claim.why}"]


def _step(claim: Claim | NotRun) -> str:
    return f"{claim.config.model}, batch {claim.config.batch_size}"


def main() -> None:
    """Print, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("reports/methods"))
    options = parser.parse_args()
    found = [*(cells(answer(claim)) for claim in CLAIMS), *map(cells_of_not_run, NOT_RUN)]
    rows = [COLUMNS, ("---",) * len(COLUMNS), *found]
    text = (
        "# What papers say that methods save\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
    )
    out.print(table(COLUMNS, found, left=range(len(COLUMNS)), fold=(1, 2, 3, 7)))
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "claims.md", text)
    say_written([options.out / "claims.md"])


if __name__ == "__main__":
    main()
