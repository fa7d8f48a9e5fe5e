"""Is a traced tape exact? Models of many families, each frozen in several ways, against real steps.

    python benchmarks/families.py --minutes 60 [--out reports/families] [--models resnet18 swin_tiny_patch4_window7_224]

Each model of timm at the image size that it was made for, two images, AdamW, fp32: all trains (``full``), the head
(``linear``), the head and the last block (``last(k=1)``), biases (``bitfit``), and the first block alone
(``blocks(0, norm=False)``); and what calls keep is packed (``full+mesa(ema=0)``, ``last(k=1)+backrazor``). Of each it
says by how many bytes and FLOPs saved bytes and FLOPs were off (0 is expected), and by how much the peak was; and how
long tracing, a first prediction and a later one took. Each line is written as it comes, and a killed run goes on.
(DeiT-III has a tape by hand; it stands beside the others.)

    python benchmarks/families.py --census 200

traces so many models of timm, of each of its families in turn, and says of how many the whole step is predicted, and
which calls have no rule. No real step is run.

    python benchmarks/families.py --speed 60 [--models …]

traces each model once, and then predicts so many random choices of trainable blocks: configurations a second.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.rows import append_row, read_rows
from bsr_explorer.cli.console import out, table
from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.measure import measure
from bsr_explorer.models.architecture import architecture_of
from bsr_explorer.prediction import geometry_of, predict

FAMILIES: dict[str, tuple[str, ...]] = {
    "Swin": ("swin_tiny_patch4_window7_224",),
    "Swin v2": ("swinv2_tiny_window8_256", "swinv2_cr_tiny_ns_224"),
    "DeiT, distilled": ("deit_tiny_distilled_patch16_224",),
    "DeiT-III": ("deit3_small_patch16_224",),
    "BEiT": ("beit_base_patch16_224",),
    "EVA-02": ("eva02_tiny_patch14_224",),
    "SigLIP": ("vit_base_patch32_siglip_256",),
    "DINOv3": ("vit_small_patch16_dinov3",),
    "hybrid ViT": ("vit_small_r26_s32_224",),
    "XCiT": ("xcit_nano_12_p16_224",),
    "CaiT": ("cait_xxs24_224",),
    "ConvNeXt": ("convnext_atto", "convnextv2_atto"),
    "EfficientNet": ("efficientnet_b0", "tf_efficientnetv2_b0"),
    "MobileNet": ("mobilenetv3_small_100", "mobilenetv4_conv_small"),
    "ResNet": ("resnet18", "resnet50"),
    "RegNet": ("regnetx_002", "regnety_002"),
    "DenseNet": ("densenet121",),
    "Mixer": ("mixer_s32_224", "resmlp_12_224"),
    "PVT": ("pvt_v2_b0",),
    "PoolFormer": ("poolformer_s12",),
    "MobileViT": ("mobilevit_xxs", "mobilevitv2_050"),
    "LeViT": ("levit_128s",),
    "Twins": ("twins_svt_small",),
    "PiT": ("pit_ti_224",),
    "TNT": ("tnt_s_patch16_224",),
    "CrossViT": ("crossvit_9_240",),
    "CoaT": ("coat_tiny",),
    "EdgeNeXt": ("edgenext_xx_small",),
    "GhostNet": ("ghostnet_100",),
    "DLA": ("dla34",),
    "FocalNet": ("focalnet_tiny_srf",),
    "EfficientFormer": ("efficientformer_l1",),
    "Hiera": ("hiera_tiny_224",),
    "TinyViT": ("tiny_vit_5m_224",),
    "MaxViT": ("maxvit_rmlp_pico_rw_256",),
    "StarNet": ("starnet_s1",),
    "MViT": ("mvitv2_tiny",),
    "VOLO": ("volo_d1_224",),
    "torchvision ViT": ("torchvision.models:vit_b_32",),
    "torchvision Swin": ("torchvision.models:swin_t",),
}
"""Small models of each family."""

WAYS = (
    "full",
    "linear",
    "last(k=1)",
    "bitfit",
    "blocks(0, norm=False)",
    "full+mesa(ema=0)",
    "last(k=1)+backrazor",
)
IMAGES, RESULTS = 2, "families.csv"


def main() -> None:
    """Compare, or count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", help="these alone")
    parser.add_argument("--ways", nargs="+", default=WAYS, help="method expressions")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--census", type=int, metavar="MODELS", help="trace so many models, and run none")
    parser.add_argument(
        "--speed", type=int, metavar="CONFIGS", help="predict so many of each model, and run none"
    )
    parser.add_argument("--out", type=Path, help="folder of the table, which grows")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ends = time.monotonic() + 60 * options.minutes
    if options.census:
        census(options.census, ends, options.json)
        return
    if options.speed:
        speeds = list(timed(options.models, options.speed, ends))
        if options.json:
            print(json.dumps(speeds))
        else:
            out.print(table(SPEED, [[str(row[head]) for head in SPEED] for row in speeds], left=(0,)))
        return
    rows = list(compared(options.models, options.ways, ends, options.out))
    if options.json:
        print(json.dumps(rows))
    else:
        show(rows)
    sys.exit(any(row["off"] for row in rows))


def compared(
    models: Sequence[str] | None, ways: Sequence[str], ends: float, folder: Path | None
) -> Iterator[dict[str, Any]]:
    """Each model in each way, until the time is over; those that are in the table already as they are."""
    file = folder / RESULTS if folder else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    known = {(row["model"], row["way"]): row for row in (read_rows(file) if file else [])}
    for family, names in FAMILIES.items():
        for name in names:
            for way in ways if models is None or name in models else ():
                if (name, way) in known:
                    row: dict[str, Any] = dict(known[name, way])
                    row["off"] = row["off"] == "True"
                    yield row
                elif time.monotonic() < ends:
                    row = compare(family, name, way)
                    if file:
                        append_row(file, row)
                    yield row


def compare(family: str, model: str, way: str) -> dict[str, Any]:
    """A prediction and a real step."""
    config = Config(model, size_of(model), 10, IMAGES, method=way)
    row: dict[str, Any] = {"family": family, "model": model, "way": way}
    began = time.perf_counter()
    try:
        geometry_of(config)
        traced = time.perf_counter()
        predicted = predict(config)
        first = time.perf_counter()
        measured = measure(config)
    except UserError as error:
        return {**row, **dict.fromkeys(COLUMNS, ""), "off": True, "why": str(error)}
    saved = predicted.saved_bytes - measured.saved_bytes
    flops = predicted.train_flops - measured.train_flops
    peak = predicted.peak_bytes - measured.peak_bytes
    return {
        **row,
        "saved MB": f"{measured.saved_bytes / 1e6:.1f}",
        "saved off": saved,
        "FLOPs off": flops,
        "peak MB": f"{measured.peak_bytes / 1e6:.1f}",
        "peak off": peak,
        "peak off %": f"{100 * peak / measured.peak_bytes:.4f}",
        "trace s": f"{traced - began:.1f}",
        "predict s": f"{first - traced:.2f}",
        "off": bool(saved or flops or abs(peak) > 0.01 * measured.peak_bytes),
        "why": "",
    }


COLUMNS = ("saved MB", "saved off", "FLOPs off", "peak MB", "peak off", "peak off %", "trace s", "predict s")


def size_of(model: str) -> int:
    """The side of the images that a model was made for."""
    import timm

    return 224 if ":" in model else int(timm.get_pretrained_cfg(model).input_size[-1])  # type: ignore[union-attr]


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The table, and what it comes to."""
    heads = ["family", "model", "way", *COLUMNS]
    out.print(table(heads, [[str(row[head]) for head in heads] for row in rows], left=(0, 1, 2)))
    done = [row for row in rows if not row["why"]]
    exact = sum(int(row["peak off"]) == 0 for row in done)
    worst = max((abs(float(row["peak off %"])) for row in done), default=0.0)
    missed = [row for row in rows if row["off"]]
    out.print(
        f"{len({row['model'] for row in rows})} models of {len({row['family'] for row in rows})} families, "
        f"{len(rows)} configurations: {len(missed)} missed; peaks {exact} of {len(done)} to the byte, worst "
        f"{worst:.4f}%"
    )
    for row in missed:
        out.print(f"missed: {row['model']}, {row['way']}: {row['why'] or 'see above'}", markup=False)


# --- speed ------------------------------------------------------------------------------------------------

SPEED = ("model", "blocks", "trace s", "first s", "configurations", "a second")


def timed(models: Sequence[str] | None, count: int, ends: float) -> Iterator[dict[str, Any]]:
    """Trace once, then predict: the first configuration, in which all trains, and random ones."""
    for model in models or [name for names in FAMILIES.values() for name in names]:
        if time.monotonic() > ends:
            return
        config = Config(model, size_of(model), 10, IMAGES, method="full")
        began = time.perf_counter()
        depth = geometry_of(config).depth
        traced = time.perf_counter()
        predict(config)
        first = time.perf_counter()
        rng, chosen = random.Random(0), set[tuple[int, ...]]()
        while len(chosen) < min(count, 2**depth - 1):
            chosen.add(tuple(block for block in range(depth) if rng.random() < 0.5) or (0,))
        begin = time.perf_counter()
        for blocks in chosen:
            predict(config.with_method(f"blocks({', '.join(map(str, blocks))})"))
        seconds = time.perf_counter() - begin
        yield {
            "model": model,
            "blocks": depth,
            "trace s": f"{traced - began:.1f}",
            "first s": f"{first - traced:.2f}",
            "configurations": len(chosen),
            "a second": f"{len(chosen) / seconds:.1f}",
        }


# --- census -----------------------------------------------------------------------------------------------


def census(count: int, ends: float, as_json: bool) -> None:
    """Trace models, of each module of timm in turn the next, and predict a step in which all trains."""
    whole, lacking, failed = list[str](), Counter[str](), dict[str, str]()
    for model in in_turn(count):
        if time.monotonic() > ends:
            break
        try:
            predict(Config(model, size_of(model), 10, IMAGES, method="full"))
            whole.append(model)
        except UserError as error:
            said = str(error)
            lacking[
                said.split(" no rule for ")[1].split(" of ")[0] if " no rule for " in said else "no trace"
            ] += 1
            failed[model] = said
        except Exception as error:
            lacking[f"{type(error).__name__}"] += 1
            failed[model] = f"{type(error).__name__}: {error}"
        if not as_json:
            out.print(f"{len(whole)} of {len(whole) + len(failed)} whole: {model}", markup=False)
    if as_json:
        print(json.dumps({"whole": whole, "lacking": lacking, "failed": failed}))
        return
    for model, why in failed.items():
        out.print(f"{model}: {why[:300]}", markup=False)
    out.print(
        table(["call without a rule", "models"], [[k, str(n)] for k, n in lacking.most_common()], left=(0,))
    )
    out.print(f"{len(whole)} of {len(whole) + len(failed)} models of timm are predicted whole")


def in_turn(count: int) -> list[str]:
    """Models of timm, the smallest names of each module first, one of each module in turn."""
    import timm

    by_module = [
        sorted(timm.list_models(module=module), key=lambda name: (any(s in name for s in LARGE), name))
        for module in timm.list_modules()
    ]
    found: list[str] = []
    for place in range(max(map(len, by_module))):
        found += [names[place] for names in by_module if place < len(names)]
    return list(
        islice((name for name in found if "vit" in name or architecture_of(name).name == "traced"), count)
    )


LARGE = (
    "giant",
    "huge",
    "enormous",
    "gigantic",
    "large",
    "xlarge",
    "so150m",
    "so400m",
    "_448",
    "_512",
    "_1024",
    "xxl",
)
"""In the names of models that take longest."""


if __name__ == "__main__":
    main()
