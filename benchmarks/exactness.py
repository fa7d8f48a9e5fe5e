"""Is a prediction exact? Random configurations, each compared with a real step, operation by operation.

    python benchmarks/exactness.py --configs 200

Prints for each number format how many configurations were compared and how many missed by a byte or a
FLOP: 0 is expected. About 10 minutes on 2 CPU cores for all four formats. Small models of different
geometry, random subsets of blocks, keep schedules, fusing, half of them with packed tensors (Back Razor, Mesa, both
also in our variants), a third with recomputed or offloaded blocks, attention paths, optimisers, micro-batches, and
batch sizes 1, 2, 5 and 8.

    python benchmarks/exactness.py --configs 100 --methods all

draws LoRA, LoRA-FA, DoRA, VeRA, PaCA, APLA, SPT, (IA)³, adapters, prompts, Sparse-Tuning, LST, DTL, SHERL, LoSA,
Rep-Net, TinyTL, VeLoRA, WTA-CRS, ASI, WASI, Approx-BP and MS-LN instead, alone and composed with each other, token
drops or merges, recomputation and offloading; and the peak must be exact, too. `--methods tokens` draws what drops or
merges tokens, with all of the others.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import track
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer

from bsr_explorer.cli.console import found_gpu
from bsr_explorer.cost.peak import step_ledger
from bsr_explorer.cost.setup import Setup
from bsr_explorer.measurement.step import measure_step
from bsr_explorer.methods import (
    Adapler,
    Adapter,
    Apla,
    ApproxBP,
    Asi,
    BackRazor,
    BitFit,
    Bsr,
    Checkpoint,
    Dora,
    Drop,
    Dtl,
    Full,
    Ia3,
    Last,
    Linear,
    Lora,
    LoraFA,
    Losa,
    Lst,
    Mesa,
    Method,
    Msln,
    Offload,
    Paca,
    RepNet,
    Sherl,
    SparseTuning,
    Spt,
    TinyTL,
    Tome,
    Velora,
    Vera,
    Vpt,
    Wasi,
    WtaCrs,
)
from bsr_explorer.methods.adding import LAYERS
from bsr_explorer.methods.base import TOKENS
from bsr_explorer.methods.composed import parts_of
from bsr_explorer.methods.criteria import criteria_of
from bsr_explorer.methods.side import SideNetwork
from bsr_explorer.models.lowering import PRECISIONS, lower
from bsr_explorer.models.vit.attention_path import use_attention_path
from bsr_explorer.models.vit.reading import read_geometry
from bsr_explorer.models.vit.step import step_tape
from bsr_explorer.train.optimizer import make_optimizer
from bsr_explorer.train.recipes import Recipe
from bsr_explorer.train.step import Step, image_dtype, in_precision

BATCHES = (1, 2, 5, 8)
OPTIMIZERS = ("adamw", "sgd", "sgd_momentum", "adamw_8bit")


@dataclass(frozen=True)
class Case:
    """One configuration of a model that is made for it."""

    shape: dict[str, Any]
    method: Method
    batch: int
    micro_batches: int
    precision: str
    attention: str
    optimizer: str

    def __str__(self) -> str:
        return (
            f"{self.shape} {self.method} batch {self.micro_batches} x {self.batch} {self.precision} "
            f"{self.attention} {self.optimizer}"
        )


def draw(
    rng: random.Random,
    precision: str,
    packed: bool = False,
    of_the_field: bool = False,
    of_tokens: bool = False,
) -> Case:
    """A random configuration; models have 2 to 48 blocks, most of them few.

    Args:
        packed: whether it packs tensors for certain.
        of_the_field: whether its method is one of those that ``_of_the_field`` draws.
        of_tokens: whether such a one drops or merges tokens for certain.
    """
    depth = rng.choice((2, 3, 4, 6, 12, 12, rng.randint(13, 48)))
    heads = rng.choice((1, 2, 3, 4))
    patch = rng.choice((4, 8, 14, 16))
    pool = rng.choice(("token", "token", "avg"))
    class_token = pool == "token" or rng.random() < 0.7
    shape: dict[str, Any] = {
        "img_size": patch * rng.randint(2, 6),
        "patch_size": patch,
        "embed_dim": heads * rng.choice((8, 16, 24)),
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": rng.choice((2.0, 3.0, 4.0)),
        "num_classes": rng.choice((2, 10, 100)),
        "qkv_bias": rng.random() < 0.8,
        "init_values": rng.choice((None, 1e-5)),
        "class_token": class_token,
        "reg_tokens": rng.choice((0, 0, 4)) if class_token else 0,
        "no_embed_class": rng.random() < 0.3,
        "pre_norm": rng.random() < 0.15,
        "global_pool": pool,
        "fc_norm": rng.choice((None, False, True)),
    }
    if rng.random() < 0.15:
        shape |= {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU}
    return Case(
        shape,
        _of_the_field(rng, shape, of_tokens) if of_the_field else _method(rng, depth, class_token, packed),
        rng.choice(BATCHES),
        rng.choice((1, 1, 1, 2)),
        precision,
        rng.choice(("fused", "math")),
        rng.choice(OPTIMIZERS),
    )


def _method(rng: random.Random, depth: int, class_token: bool, packed: bool) -> Method:
    method = _trained(rng, depth, class_token)
    while packed and not _keeps_something(method):
        method = _trained(rng, depth, class_token)
    if _keeps_something(method) and (packed or rng.random() < 0.5):
        method = method + _storing(rng)
    for keeping in (Checkpoint, Offload):
        if rng.random() < 0.2:
            some = tuple(block for block in range(depth) if rng.random() < 0.6)
            method = method + keeping(rng.choice((None, some)))
    return method


def _of_the_field(rng: random.Random, shape: dict[str, Any], of_tokens: bool = False) -> Method:
    """A method that brings parameters, or one that stores what layers read, or both; perhaps with drops (for certain,
    if it is to be ``of_tokens``), and with blocks that are recomputed or offloaded."""
    depth, width, gated = shape["depth"], shape["embed_dim"], "mlp_layer" in shape
    hidden = int(width * shape["mlp_ratio"]) // (2 if gated else 1)
    layers = tuple(LAYERS)
    on = tuple(name for name in layers if rng.random() < 0.5) or ("qkv",)
    r = rng.randint(1, 8)
    brings: tuple[Method, ...] = (
        Lora(r, on, rng.choice((float(r), 8.0, 16.0))),
        LoraFA(r, on, rng.choice((float(r), 8.0))),
        Dora(r, on, rng.choice((float(r), 8.0))),
        Vera(rng.choice((r, 32)), on),
        Paca(r, on),
        Apla(r),
        Spt(rng.choice((0.005, 0.1, {name: rng.choice((0.01, 1.0)) for name in on}))),
        Ia3(),
        Adapter(rng.choice((1, 4, 16)), rng.choice(("serial", "parallel")), rng.choice((None, 1.0, 0.5))),
        Vpt(rng.choice((1, 3, 10)), rng.random() < 0.5),
        *_side_networks(rng, shape, hidden),
        SparseTuning(rng.choice((0.3, 0.7, 0.9)) if shape["class_token"] else 1.0, rng.choice((2, 4, 16))),
    )
    common = math.gcd(width, hidden)
    groups = rng.choice([parts for parts in range(1, common + 1) if common % parts == 0])
    stores: tuple[Method, ...] = (
        Velora(on, groups, rng.choice((1.0, 0.1))),
        WtaCrs(on, rng.choice((0.1, 0.3, 0.5, round(rng.uniform(0.01, 0.6), 3)))),
        Asi(on, _ranks(rng, depth, on)),
        Wasi(rng.choice((0.1, 0.5, 1.0, 1)), _shares(rng), on),
        Msln(),
    )
    if rng.random() < 0.7:
        method = rng.choice(brings)
        if isinstance(method, Lora) and not isinstance(method, LoraFA) and {"qkv", "fc1"} & {*method.on}:
            method = rng.choice((method, method + Msln()))
    else:
        method = rng.choice((Full(), Last(rng.randint(1, depth)))) + rng.choice(stores)
    beside = isinstance(method, SideNetwork)
    live = (
        not beside
        or isinstance(method, (Sherl, TinyTL))
        or (isinstance(method, Dtl) and method.begins(depth) < depth - 1)
    )
    if not gated and live and rng.random() < 0.3:
        method = method + ApproxBP()
    decides = any(TOKENS in part.chooses for part in parts_of(method))
    if not beside and (of_tokens or rng.random() < 0.3) and not decides:
        keep = {rng.randrange(depth): rng.choice((0.3, 0.5, 0.9))}
        criterion = rng.choice(criteria_of(shape["class_token"]))
        drop = Drop(keep, rng.random() < 0.7, criterion=criterion, inference=rng.random() < 0.7)
        patches = (shape["img_size"] // shape["patch_size"]) ** 2
        method = method + rng.choice(
            (
                drop,
                Tome(min(rng.choice((1, 2, 5)), patches - 1), rng.random() < 0.5),
                Adapler(rng.choice((0.3, 0.7))),
            )
        )
    for keeping in (Checkpoint, Offload):
        if rng.random() < 0.2:
            some = tuple(block for block in range(depth) if rng.random() < 0.6)
            method = method + keeping(rng.choice((None, some)))
    return method


def _divisor(rng: random.Random, number: int) -> int:
    return rng.choice([r for r in range(1, number + 1) if number % r == 0])


def _side_networks(rng: random.Random, shape: dict[str, Any], hidden: int) -> tuple[Method, ...]:
    depth, width = shape["depth"], shape["embed_dim"]
    return (
        Lst(_divisor(rng, math.gcd(width // shape["num_heads"], hidden))),
        Sherl(_divisor(rng, width)),
        Losa(rng.randint(1, min(12, width))),
        Dtl(rng.randint(1, 8), rng.choice((None, rng.randrange(depth))), rng.random() < 0.5),
        RepNet(*_lite(rng, width)),
        TinyTL(*_lite(rng, width)),
    )


def _lite(rng: random.Random, width: int) -> tuple[int, int]:
    """How many times fewer channels, and groups."""
    groups = _divisor(rng, width)
    return _divisor(rng, width // groups), groups


def _ranks(rng: random.Random, depth: int, on: tuple[str, ...]) -> Any:
    """Shares for all layers, or for some layers of some blocks."""

    if rng.random() < 0.6:
        return _shares(rng)
    some = {f"{block}.{name}": _shares(rng) for block in range(depth) for name in on if rng.random() < 0.3}
    return {**{name: _shares(rng) for name in on}, **some}


def _shares(rng: random.Random) -> tuple[float, float, float]:
    images, tokens, channels = (rng.choice((0.1, 0.3, 0.5, 1.0)) for _ in range(3))
    return images, tokens, channels


def _keeps_something(method: Method) -> bool:
    """Whether something in a block trains."""
    return not isinstance(method, Linear) and bool(getattr(method, "blocks", True))


def _storing(rng: random.Random) -> Method:
    faithful = rng.random() < 0.5
    if rng.random() < 0.5:
        return Mesa(
            rng.choice((8, 8, 4, 2)),
            rng.choice(("heads", "channels", "tensor")),
            rng.choice((0.0, 0.9)),
            faithful,
        )
    return BackRazor(
        rng.choice((0.0, 0.5, 0.8, 0.9, round(rng.uniform(0, 0.99), 3))),
        rng.choice(("fp16", "fp16", "bf16", "fp32")),
        rng.choice((None, None, 8, 4)),
        rng.choice(("dense16", "dense", "sparse")),
        faithful,
    )


def _trained(rng: random.Random, depth: int, class_token: bool) -> Method:
    others = (Full(), Linear(), BitFit(), Last(rng.randint(1, depth)))
    if rng.random() < 0.2:
        return rng.choice(others)
    blocks = tuple(block for block in range(depth) if rng.random() < rng.choice((0.1, 0.5, 0.9)))
    places = [block for block in range(depth) if rng.random() < 0.4] if class_token else []
    keep = {
        block: rng.choice((0.05, 0.3, 0.5, 0.7, 0.9, 1.0, round(rng.uniform(0.01, 1), 3))) for block in places
    }
    head, norm = rng.random() < 0.9, rng.random() < 0.9
    fuse, faithful = rng.random() < 0.7, rng.random() < 0.7
    return Bsr(blocks, keep, fuse, head or not blocks, norm, faithful)


def compare(case: Case, seed: int, peak: bool = False, device: str = "cpu") -> Counter[str]:
    """What of a case was missed: by kind, the sum of the differences (empty if nothing was).

    Args:
        peak: whether the peak counts, too.
    """
    torch.manual_seed(seed)
    model: Any = VisionTransformer(**case.shape)
    geometry = read_geometry(model)
    tape = case.method.rewrite(step_tape(geometry, case.batch, case.attention))
    card = found_gpu(device)
    place = f"{device}/{card}" if card else device
    scaler = case.precision == "amp_fp16"
    setup = Setup(case.optimizer, device=place, micro_batches=case.micro_batches, scaler=scaler)
    predicted = step_ledger(lower(tape, case.precision, place), setup)
    use_attention_path(model, case.attention)
    model = in_precision(case.method.apply(model), case.precision).to(device)
    images_in_all = case.batch * case.micro_batches
    images = torch.randn(images_in_all, 3, geometry.image_size, geometry.image_size)
    labels = torch.randint(geometry.num_classes, (images_in_all,))
    decay = (
        0.05 if case.optimizer.startswith("adamw") else 0.0
    )  # with which parameters are stepped in two groups
    rules = Recipe("", "", case.optimizer, lr=1e-4, weight_decay=decay, epochs=1, batch_size=case.batch)
    step = Step(model, make_optimizer(model, rules, case.batch), case.precision, case.micro_batches)
    measurement = measure_step(step, images.to(device, image_dtype(case.precision)), labels.to(device))
    missed: Counter[str] = Counter()
    for row in (predicted - measurement.ledger).rows:
        missed[row.kind] += abs(row.bytes) + abs(row.flops)
    if peak and predicted.peak_bytes != measurement.ledger.peak_bytes:
        missed["peak"] += abs(predicted.peak_bytes - measurement.ledger.peak_bytes)
    missed.update({f"uncounted {name}": 1 for name in measurement.uncounted})
    return missed


def main() -> None:
    """Compare, and say how many missed; exit 1 if any did."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configs", type=int, default=200, help="of each number format")
    parser.add_argument("--precision", choices=PRECISIONS, help="one number format; all if left out")
    parser.add_argument("--packed", action="store_true", help="every configuration packs its tensors")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--methods", choices=("blocks", "all", "tokens"), default="blocks", help="which are drawn"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    answers = []
    for precision in [options.precision] if options.precision else PRECISIONS:
        rng = random.Random(f"{options.seed} {precision}")
        field, tokens = options.methods != "blocks", options.methods == "tokens"
        cases = [draw(rng, precision, options.packed, field, tokens) for _ in range(options.configs)]
        missed = []
        for number, case in enumerate(track(cases, f"comparing {precision}", disable=options.json)):
            if misses := compare(case, number, field, options.device):
                missed.append({"case": str(case), "missed": dict(misses)})
        names = (part.name for case in cases for part in getattr(case.method, "parts", (case.method,)))
        answers.append(
            {
                "precision": precision,
                "configurations": len(cases),
                "misses": len(missed),
                "methods": dict(Counter(names)),
                "missed": missed,
            }
        )
        if not options.json:
            for miss in missed:
                print(miss)
            print(
                f"{precision}: {len(cases)} configurations ({dict(answers[-1]['methods'])}): "
                f"{len(missed)} missed by a byte or a FLOP"
            )
    if options.json:
        print(json.dumps(answers))
    sys.exit(any(answer["misses"] for answer in answers))


if __name__ == "__main__":
    main()
