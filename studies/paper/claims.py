"""What the paper of BSR claims of memory, compute and time, beside what this package counts and measures.

The paper's figures are those of its abstract and of the captions of its figures (arXiv 2405.10951). Nothing here is
trained: the claims about accuracy are marked as not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import median
from typing import Any

from benchmarks.accounting import BACK_RAZOR_MIB, MIB
from bsr_explorer import Config, predict
from bsr_explorer.cost import published
from bsr_explorer.ledger import Ledger
from bsr_explorer.models.moe.architecture import numbers_of
from bsr_explorer.prediction import counted_bytes, published_tape, tape_of
from bsr_explorer.report.comparison.line import NOT_RUN
from bsr_explorer.units import in_gmacs, in_mib

VIT_B = Config("vit_b", 224, batch_size=32, optimizer="sgd_momentum", attention="math", method="full")
"""What the paper's first figure is of: the recipe's optimiser, and an explicit softmax as in the authors' code."""

DEIT_S = replace(VIT_B, model="deit_s", optimizer="adamw")

MEMORY, SPEED, ACTIVATIONS, COMPUTE, ALTERNATIVES = 5.47, 2.43, 6.0, 2.0, 1.4
"""The paper's own figures, each "times less" or "times as fast"."""

EXPERTS_MEMORY, EXPERTS_COMPUTE = 2.3, 1.5
"""The same of its model with mixtures of experts."""

MOE_B = replace(VIT_B, model="moe_vit(vit_b)")
"""As in the authors' code: mixtures in blocks 3, 7 and 11, 16 experts, of which 4 take a token."""

CLOSE = 0.05
"""A ratio that is so near to the paper's, which are rounded, is called reproduced."""

COLUMNS = (
    "the paper",
    "published accounting",
    "truth: peak of a step",
    "truth: saved activations, compute or time",
    "verdict",
)


@dataclass(frozen=True)
class Claim:
    """One row of the table: what the paper says, and what is found here."""

    what: str
    paper: str
    published: str
    peak: str
    saved: str
    verdict: str


def claims(times: Mapping[str, Any] | None) -> list[Claim]:
    """All claims.

    Args:
        times: what ``make.py --time`` has measured, if it has.
    """
    return [memory(), activations(), compute(), *alternatives(), experts(), speed(times), *untouched()]


def memory() -> Claim:
    """5.47x."""
    paper, peak, saved = (_ratio(VIT_B, key) for key in ("published", "peak", "saved"))
    fused = replace(VIT_B, attention="fused")
    bsr, rule = _ledger(VIT_B.with_method("bsr")), published_tape(VIT_B.with_method("bsr"))
    weights = bsr.parameter_bytes - published.parameter_bytes(rule)
    state = bsr.gradient_bytes + bsr.optimizer_bytes
    return Claim(
        "memory, ViT-B, CIFAR-10, batch 32: full fine-tuning over BSR",
        f"{MEMORY:.2f}x",
        f"{paper:.2f}x ({_mib(VIT_B, 'full', 'published')} → {_mib(VIT_B, 'bsr', 'published')} MiB)",
        f"{peak:.2f}x ({_mib(VIT_B, 'full', 'peak')} → {_mib(VIT_B, 'bsr', 'peak')} MiB); fused attention "
        f"{_ratio(fused, 'peak'):.2f}x",
        f"{saved:.2f}x; fused attention {_ratio(fused, 'saved'):.2f}x",
        f"{_same(paper, MEMORY)} by the paper's accounting. The peak differs by {_off(peak, MEMORY)}, because torch "
        f"keeps frozen weights at 32 bits and not 8 ({in_mib(weights):,.0f} MiB of BSR's peak), and gradients and "
        f"momentum of what trains ({in_mib(state):,.0f} MiB) count too.",
    )


def activations() -> Claim:
    """Up to 6x."""
    paper = {config.model: _activations(config) for config in (VIT_B, DEIT_S)}
    best = max(full / bsr for full, bsr in paper.values())
    saved = {config.model: _ratio(config, "saved") for config in (VIT_B, DEIT_S)}
    fused = {c.model: _ratio(replace(c, attention="fused"), "saved") for c in (VIT_B, DEIT_S)}
    said = "; ".join(
        f"{_NAMES[model]} {full / bsr:.2f}x ({in_mib(full):.2f} → {in_mib(bsr):.2f} MiB an image)"
        for model, (full, bsr) in paper.items()
    )
    held = _ledger(VIT_B.with_method("bsr")).saved_bytes / VIT_B.batch_size
    extra = held / paper["vit_b"][1] - 1
    return Claim(
        "activation memory: full fine-tuning over BSR",
        f"up to {ACTIVATIONS:.0f}x",
        said,
        "",
        "; ".join(
            f"{_NAMES[model]} {ratio:.2f}x, fused attention {fused[model]:.2f}x"
            for model, ratio in saved.items()
        ),
        f"{_same(best, ACTIVATIONS)} by the paper's accounting. What torch saves differs by "
        f"{_off(saved['vit_b'], ACTIVATIONS)} for ViT-B: under BSR it saves {extra:.0%} more than the rule says, such "
        "as the inputs of frozen norms; under full fine-tuning rule and truth agree.",
    )


def compute() -> Claim:
    """2x."""
    full, bsr = (_ledger(VIT_B.with_method(method)) for method in ("full", "bsr"))
    forward, train = full.forward_flops / bsr.forward_flops, full.train_flops / bsr.train_flops
    small = [_ledger(DEIT_S.with_method(method)) for method in ("full", "bsr")]
    return Claim(
        "compute, ViT-B: full fine-tuning (or an alternative that computes as much) over BSR",
        f"{COMPUTE:.0f}x",
        f"forward {forward:.2f}x ({_gmacs(full)} → {_gmacs(bsr)} GMACs an image); DeiT-S "
        f"{small[0].forward_flops / small[1].forward_flops:.2f}x",
        "",
        f"training FLOPs {train:.2f}x ({full.train_flops / 1e9:,.0f} → {bsr.train_flops / 1e9:,.0f} GFLOPs a step)",
        f"{_same(forward, COMPUTE)} for the forward pass. Of a whole training step BSR saves more, {train:.2f}x: "
        "nothing is computed backward below the first trained block, and no weight gradients in frozen ones.",
    )


def alternatives() -> list[Claim]:
    """1.4x less memory than Back Razor and Mesa, and than what needs no paper."""
    rows = []
    for method, (label, because) in _ALTERNATIVES.items():
        peak, saved = _over_bsr(method, "peak"), _over_bsr(method, "saved")
        bsr = _bytes(VIT_B, "bsr", "published")
        rule, whose = _own_count(method)
        found = {"at the peak": peak, "in saved activations": saved}
        if rule is not None:
            found = {"by published counts": rule / bsr, **found}
        verdicts = "; ".join(f"{_same(ratio, ALTERNATIVES)} {where}" for where, ratio in found.items())
        rows.append(
            Claim(
                f"memory, ViT-B, batch 32: {label} over BSR",
                f"up to {ALTERNATIVES}x",
                "—"
                if rule is None
                else f"{rule / bsr:.2f}x ({in_mib(rule):,.0f} MiB {whose}, BSR {in_mib(bsr):,.0f})",
                f"{peak:.2f}x",
                f"{saved:.2f}x",
                f"{verdicts}. {because}",
            )
        )
    return rows


def _own_count(method: str) -> tuple[int | None, str]:
    """Published bytes of an alternative, and whose count that is."""
    if method in BACK_RAZOR_MIB:
        return BACK_RAZOR_MIB[method] * MIB, "by its authors' count"
    if method.startswith("last"):
        return _bytes(VIT_B, method, "published"), "by BSR's rule"
    return None, ""


def speed(times: Mapping[str, Any] | None) -> Claim:
    """2.43x."""
    measured = "not measured"
    if times:
        measured = "; ".join(
            f"{_NAMES[each['model']]} (batch {each['batch_size']}, {each['attention']} attention) "
            f"{_quotient(each):.2f}x ({_range(each)})"
            for each in times["pairs"]
        )
        measured = f"on {times['device']}, beside other work: {measured}"
    return Claim(
        "training speed, ViT-B, CIFAR-10, batch 32, on a GPU: BSR over full fine-tuning",
        f"{SPEED:.2f}x",
        "",
        "",
        f"time of a step, full over BSR, {measured}",
        f"{NOT_RUN} (it needs a GPU): `bsr-explore compare studies/paper/figure1_vit_b_cifar10.toml --device cuda`.",
    )


def untouched() -> list[Claim]:
    """What needs training."""
    return [
        Claim(
            "accuracy similar to the alternatives', five data sets",
            "similar",
            "",
            "",
            "",
            f"{NOT_RUN} (it needs a GPU, weights and data): the commands at the head of the files in studies/paper.",
        ),
    ]


def experts() -> Claim:
    """2.3x and 1.5x."""
    rows = []
    for keep in (0.5, 0.7):
        plain = f"bsr(blocks=(3, 7, 11), keep={{3: {keep}, 6: {keep}, 9: {keep}}}, fuse=True)"
        for method in (plain, f"{plain}+freeze('experts')"):
            full, ours = (_ledger(MOE_B.with_method(each)) for each in ("full", method))
            rule = [published_of_experts(MOE_B.with_method(each)) for each in ("full", method)]
            rows.append(
                (
                    f"{keep} of the tokens{', experts frozen' if method != plain else ''}",
                    rule[0] / rule[1],
                    (full.peak_bytes, ours.peak_bytes),
                    full.saved_bytes / ours.saved_bytes,
                    full.forward_flops / ours.forward_flops,
                    full.train_flops / ours.train_flops,
                )
            )
    half, _, most, _ = ((full / ours, *rest) for _, _, (full, ours), *rest in rows)
    return Claim(
        "ViT-B with a mixture of experts, five tasks: full fine-tuning over BSR: memory, FLOPs",
        f"{EXPERTS_MEMORY}x, {EXPERTS_COMPUTE}x",
        "; ".join(f"{said} {rule:.2f}x" for said, rule, *_ in rows),
        "; ".join(
            f"{said} {full / ours:.2f}x ({_of(full)} → {_of(ours)} MiB)" for said, _, (full, ours), *_ in rows
        ),
        "; ".join(
            f"{said} saved {saved:.2f}x, forward FLOPs {forward:.2f}x, training FLOPs {train:.2f}x"
            for said, _, _, saved, forward, train in rows
        ),
        f"Where half of the tokens stay, memory {_same(half[0], EXPERTS_MEMORY)} at the peak, and forward FLOPs "
        f"{_same(half[2], EXPERTS_COMPUTE)}; where 0.7 of them do, memory {_same(most[0], EXPERTS_MEMORY)} at the "
        f"peak, and forward FLOPs {_same(most[2], EXPERTS_COMPUTE)}. The paper's keep rate, batch and optimiser are "
        "not known to us; tasks change none of these figures but for their heads. The published accounting has no "
        "rule for experts: counted is what it would count of the layers that they are.",
    )


def published_of_experts(config: Config) -> int:
    """What the paper's rule would count of a mixture: that of the dense model, with the inputs of the experts' layers
    and of GELU (``top`` rows for each token) in place of the MLP's, and the gate's; parameters of 32 bits, frozen ones
    of 8."""
    numbers = numbers_of(config.model)
    dense = replace(config, model=numbers.dense, method=str(config.method).split("+freeze")[0])
    rule, tape = published_tape(dense), tape_of(replace(config, batch_size=1))
    elements = 0
    for block in numbers.blocks:
        tokens = rule.tensors[f"blocks.{block}.norm2.out"]
        each, hidden = tokens.numel // config.batch_size, rule.tensors[f"blocks.{block}.mlp.fc1.out"].numel
        inputs, inner = each * numbers.top, round(each * numbers.top * numbers.ratio)
        trained = {
            part for part in ("gate", "fc1") if tape.parameters[_OF_MIXTURE[part].format(block)].trains
        }
        dense_trains = rule.parameters[f"blocks.{block}.mlp.fc1.weight"].trains
        elements -= (each * dense_trains) + hidden // config.batch_size * (1 + dense_trains)
        elements += each * ("gate" in trained) + inner + (inputs + inner) * ("fc1" in trained)
    parameters = published.parameter_bytes(tape)
    activations = published.activation_bytes_per_image(rule) + published.WIDTH_ACTIVATION * elements
    return activations * config.batch_size + parameters


def time_pairs(rounds: int) -> dict[str, Any]:
    """Seconds of steps of full fine-tuning and BSR in turn, on this machine's CPU."""
    from bsr_explorer.finetune.step_times import Stepper, in_turn
    from bsr_explorer.store.provenance import provenance

    pairs = []
    for config, batch in ((VIT_B, 4), (DEIT_S, 8)):
        for attention in ("math", "fused"):
            both = [
                replace(config, batch_size=batch, attention=attention, method=method)
                for method in ("full", "bsr")
            ]
            steppers = [Stepper(each) for each in both]
            in_turn(steppers, 1)  # makes the optimisers' state
            full, bsr = in_turn(steppers, rounds)
            pairs.append(
                {"model": config.model, "batch_size": batch, "attention": attention, "full": full, "bsr": bsr}
            )
    import torch

    cores = torch.get_num_threads()
    device = f"{cores} CPU core{'s' if cores > 1 else ''}"
    return {"device": device, "pairs": pairs, "provenance": provenance("cpu")}


_OF_MIXTURE = {"gate": "blocks.{}.mlp.gate.route.weight", "fc1": "blocks.{}.mlp.fc1.weight"}

_NAMES = {"vit_b": "ViT-B", "deit_s": "DeiT-S"}

_ALTERNATIVES = {
    "backrazor(ratio=0.9)": (
        "Back Razor at 0.9 (its recipe for CIFAR)",
        "Because it saves as little as BSR: what BSR is ahead at the peak is gradients and momentum of frozen blocks.",
    ),
    "backrazor(ratio=0.8)": ("Back Razor at 0.8", "Because it keeps twice as many elements as at 0.9."),
    "mesa": ("Mesa", "Because every weight has a gradient and momentum, beside 8-bit copies of every block."),
    "last(k=3)": (
        "training the last 3 blocks",
        "Because it drops no token, and needs nothing of the 9 blocks below at all.",
    ),
    "checkpoint": (
        "recomputing every block",
        "Because it keeps nothing but the inputs of blocks, and computes 4.4 times as much as BSR for it.",
    ),
}
"""Each alternative: its name, and why its memory is what it is."""


@lru_cache
def _ledger(config: Config) -> Ledger:
    return predict(config)


def _bytes(config: Config, method: str, counts: str) -> int:
    own = config.with_method(method)
    if counts == "published":
        return counted_bytes(own, counts)
    ledger = _ledger(own)
    return ledger.peak_bytes if counts == "peak" else ledger.saved_bytes


def _ratio(config: Config, counts: str) -> float:
    """Full fine-tuning over BSR."""
    return _bytes(config, "full", counts) / _bytes(config, "bsr", counts)


def _over_bsr(method: str, counts: str) -> float:
    return _bytes(VIT_B, method, counts) / _bytes(VIT_B, "bsr", counts)


def _mib(config: Config, method: str, counts: str) -> str:
    return f"{in_mib(_bytes(config, method, counts)):,.0f}"


def _of(size: int) -> str:
    return f"{in_mib(size):,.0f}"


def _activations(config: Config) -> tuple[int, int]:
    """Published bytes of one image's activations, of full fine-tuning and of BSR."""
    full, bsr = (published_tape(config.with_method(method)) for method in ("full", "bsr"))
    return published.activation_bytes_per_image(full), published.activation_bytes_per_image(bsr)


def _gmacs(ledger: Ledger) -> str:
    return f"{in_gmacs(ledger.forward_flops) / VIT_B.batch_size:.2f}"


def _off(ours: float, paper: float) -> str:
    return f"{100 * (ours / paper - 1):+.0f}%"


def _same(ours: float, paper: float) -> str:
    """Whether a ratio is the paper's."""
    return "reproduced" if abs(ours / paper - 1) <= CLOSE else f"differs by {_off(ours, paper)}"


def _quotient(pair: Mapping[str, Any]) -> float:
    return median(full / bsr for full, bsr in zip(pair["full"], pair["bsr"], strict=True))


def _range(pair: Mapping[str, Any]) -> str:
    ratios = sorted(full / bsr for full, bsr in zip(pair["full"], pair["bsr"], strict=True))
    return f"{ratios[0]:.2f}–{ratios[-1]:.2f}"
