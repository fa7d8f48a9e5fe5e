"""Is a prediction exact where steps differ? Random schedules, each step of which is compared with a real one.

    python benchmarks/schedules.py --schedules 150

Draws models as ``exactness.py`` does, and a method whose steps differ: LISA, SlimFit, AutoFreeze, DropBP or ALaST,
alone or composed with others. Each trains for some steps as its method chooses; of each distinct step saved bytes,
FLOPs, gradients, optimiser state and the peak are compared with its prediction, and the peak with the largest that was
said beforehand. Prints how many steps missed by a byte or a FLOP: 0 is expected.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from timm.models.vision_transformer import VisionTransformer

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.exactness import Case, draw
from bsr_explorer.cost.peak import step_ledger
from bsr_explorer.cost.setup import Setup
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.phases import settle
from bsr_explorer.fullest import fullest
from bsr_explorer.measurement.step import measure_step, one_that_updates
from bsr_explorer.methods import (
    Adapter,
    Alast,
    ApproxBP,
    AutoFreeze,
    BackRazor,
    Checkpoint,
    Drop,
    DropBP,
    Last,
    Lisa,
    Lora,
    Mesa,
    Method,
    Msln,
    Offload,
    SlimFit,
    Velora,
    WtaCrs,
)
from bsr_explorer.methods.applied.moving import turned
from bsr_explorer.methods.composed import parts_of
from bsr_explorer.methods.moving import InStep
from bsr_explorer.methods.steps import EVERYTHING, Shape
from bsr_explorer.models.lowering import PRECISIONS, lower
from bsr_explorer.models.vit.attention_path import use_attention_path
from bsr_explorer.models.vit.reading import read_geometry
from bsr_explorer.models.vit.step import step_tape
from bsr_explorer.train.optimizer import make_optimizer
from bsr_explorer.train.recipes import Recipe
from bsr_explorer.train.step import Step, image_dtype, in_precision

STEPS = 6


def moving(rng: random.Random, shape: dict[str, Any]) -> Method:
    """A method whose steps differ, perhaps composed with others."""
    depth, class_token, gated = shape["depth"], shape["class_token"], "mlp_layer" in shape
    method: Method = rng.choice(
        (
            Lisa(rng.randint(1, depth), rng.randint(1, 2), rng.random() < 0.5),
            SlimFit(rng.choice((0.3, 0.5, 0.75, 0.9))),
            AutoFreeze(1, rng.choice((50.0, 80.0, 100.0))),
            DropBP(rng.choice((0.2, 0.5, 0.8)), rng.choice(("each", "count"))),
            Alast(
                rng.randint(1, depth),
                rng.choice((0.1, 10.0, 1000.0)) if class_token else 0.0,
                rng.choice(("top", "sample")),
                rng.random() < 0.5,
            ),
        )
    )
    if isinstance(method, DropBP) and rng.random() < 0.6:
        method = rng.choice((Lora(4, ("qkv", "fc1")), Adapter(4), Last(rng.randint(1, depth)))) + method
    storing = [Mesa(), BackRazor(0.8), Velora(groups=1), WtaCrs(), Msln()]
    if rng.random() < 0.4 and "Adapter" not in str(type(method)):
        other = rng.choice(storing)
        lora = "lora" in str(method) or "adapter" in str(method)
        if not (lora and isinstance(other, (Velora, WtaCrs))):
            method = method + other
    if not gated and rng.random() < 0.2 and "mesa" not in str(method) and "backrazor" not in str(method):
        method = method + ApproxBP()
    if class_token and rng.random() < 0.25 and "alast" not in str(method):
        method = method + Drop({rng.randrange(depth): rng.choice((0.3, 0.5, 0.9))}, rng.random() < 0.7)
    for keeping in (Checkpoint, Offload):
        if rng.random() < 0.2:
            some = tuple(block for block in range(depth) if rng.random() < 0.6)
            method = method + keeping(rng.choice((None, some)))
    return method


def follow(case: Case, seed: int) -> tuple[int, dict[str, Counter[str]]]:
    """How many distinct steps a schedule had, and what of which was missed."""
    torch.manual_seed(seed)
    model: Any = VisionTransformer(**case.shape)
    geometry, how = read_geometry(model), case.method
    plain = step_tape(geometry, case.batch, case.attention)
    setup = Setup(case.optimizer, micro_batches=case.micro_batches, scaler=case.precision == "amp_fp16")

    def predicted(shape: Shape) -> Any:
        return step_ledger(lower(InStep(how, shape).rewrite(plain), case.precision, "cpu"), setup)

    tape = lambda shape: lower(InStep(how, shape).rewrite(plain), case.precision, "cpu")  # noqa: E731
    steps = how.steps(geometry.depth)
    assert steps is not None
    alike = all(part.stage <= 1 for part in parts_of(how))
    most = predicted(fullest(steps, tape, lambda t: step_ledger(t, setup).peak_bytes, alike)).peak_bytes
    use_attention_path(model, case.attention)
    model = in_precision(how.apply(model), case.precision)
    images = torch.randn(case.batch * case.micro_batches, 3, geometry.image_size, geometry.image_size)
    images = images.to(image_dtype(case.precision))
    labels = torch.randint(geometry.num_classes, (len(images),))
    decay = 0.05 if case.optimizer.startswith("adamw") else 0.0
    rules = Recipe("", "", case.optimizer, lr=1e-4, weight_decay=decay, epochs=1, batch_size=case.batch)
    step = Step(model, make_optimizer(model, rules, case.batch), case.precision, case.micro_batches)
    if not how.forgets:  # so that what is remembered of a parameter is there
        how.turn(model, EVERYTHING)
        one_that_updates(step, images, labels)
    seen: dict[Shape, Counter[str]] = {}
    for done in range(STEPS):
        how.before_step(model, done, 100)
        settle(step, how.forgets)
        shape = turned(model).shape
        if shape in seen:
            step(images, labels)
            continue
        expected = predicted(shape)
        measured = measure_step(step, images, labels)
        missed: Counter[str] = Counter()
        for row in (expected - measured.ledger).rows:
            missed[row.kind] += abs(row.bytes) + abs(row.flops)
        if expected.peak_bytes != measured.ledger.peak_bytes:
            missed["peak"] = expected.peak_bytes - measured.ledger.peak_bytes
        if expected.peak_bytes > most:
            missed["above the largest"] = expected.peak_bytes - most
        missed.update({f"uncounted {name}": 1 for name in measured.uncounted})
        seen[shape] = missed
    return len(seen), {str(shape): missed for shape, missed in seen.items() if missed}


def main() -> None:
    """Follow schedules, and say how many steps missed; exit 1 if any did."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--schedules", type=int, default=150, help="in all")
    parser.add_argument("--precision", choices=PRECISIONS, help="one number format; all in turn if left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rng, formats = random.Random(options.seed), [options.precision] if options.precision else [*PRECISIONS]
    steps, names, missed, offs = 0, Counter[str](), 0, []
    for number in track(range(options.schedules), "following schedules", disable=options.json):
        case = draw(rng, formats[number % len(formats)])
        while True:
            case = replace(case, method=moving(rng, case.shape))
            try:
                case.method.rewrite(
                    step_tape(read_geometry(VisionTransformer(**case.shape)), 1, case.attention)
                )
                break
            except UserError:  # it does not go together
                continue
        count, off = follow(case, number)
        steps, missed = steps + count, missed + len(off)
        names.update(part.name for part in getattr(case.method, "parts", (case.method,)))
        for shape, what in off.items():
            offs.append({"case": str(case), "step": shape, "missed": dict(what)})
            if not options.json:
                print(offs[-1], flush=True)
    answer = {
        "schedules": options.schedules,
        "distinct_steps": steps,
        "missed": missed,
        "methods": dict(names),
    }
    if options.json:
        print(json.dumps({**answer, "misses": offs}))
    else:
        print(f"{options.schedules} schedules, {steps} distinct steps ({dict(names)}): {missed} missed")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
