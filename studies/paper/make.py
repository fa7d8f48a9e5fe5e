"""What of the paper can be had without a GPU or a download: its tables and figures of memory and compute.

    python studies/paper/make.py            # under 2 minutes on one CPU core
    python studies/paper/make.py --time 5   # measures steps of full fine-tuning and BSR too: minutes more

For each file of this folder, ``reports/paper`` gets tables (Markdown, CSV) and figures (PNG, PDF); its README the
paper's own figures beside ours. What was trained with ``bsr-explore compare FILE --out reports/paper/NAME`` before
is shown; what was not says so. What it wrote here is kept in ``reports/examples/paper``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # for `studies`, where this file is run as a script

from bsr_explorer.compare.folder import keep, stored
from bsr_explorer.compare.plan import plan_file
from bsr_explorer.methods import Bsr
from bsr_explorer.prediction import geometry_of
from bsr_explorer.report.comparison import datasets
from bsr_explorer.report.comparison.write import Report, predicted, report
from bsr_explorer.report.figures import ablation
from bsr_explorer.store.comparison_file import ComparisonFile
from bsr_explorer.store.comparison_folder import Comparison, read_comparison
from bsr_explorer.store.records import write_text
from studies.paper.claims import CLOSE, COLUMNS, Claim, claims, time_pairs

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "reports" / "paper"
TIMES = "step_seconds.json"


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--time", type=int, metavar="ROUNDS", help="steps to time; else earlier ones stand")
    options = parser.parse_args()
    written = {path: write(ComparisonFile.from_toml(path), options.out) for path in files()}
    if options.time:
        write_text(options.out / TIMES, json.dumps(time_pairs(options.time), indent=1) + "\n")
    times = options.out / TIMES
    found = claims(json.loads(times.read_text()) if times.exists() else None)
    write_text(options.out / "README.md", page(found, written, options.out))
    print((options.out / "README.md").read_text())


def files() -> list[Path]:
    """The comparisons of this folder."""
    return sorted(HERE.glob("*.toml"))


def write(asked: ComparisonFile, out: Path) -> list[Path]:
    """The tables and figures of one file; returns their paths. (Of several data sets, the table alone.)"""
    folder = out / asked.name
    before = read_comparison(folder)
    planned = plan_file(asked if before is None else asked.on(before.config["device"]))
    if len(planned) > 1:
        return datasets.write([_found(each, folder / each.data) for each in planned], folder)
    keep(stored(planned[0], folder) or planned[0], folder)
    made = report(folder)
    written = [*made.files, *_ablation(asked, made, folder / "figures")]
    for path in written:
        if path.suffix == ".svg":  # PDF says the same, in fewer bytes
            path.unlink()
    return [path for path in written if path.exists()]


def _found(planned: Comparison, folder: Path) -> Report:
    """What is known of one data set of several: what was trained in its folder, if anything was."""
    before = read_comparison(folder)
    return predicted(planned) if before is None else report(folder)


def _ablation(asked: ComparisonFile, made: Report, folder: Path) -> list[Path]:
    """The figure of a comparison of keep rates, or of trained blocks."""
    lines, protocol = made.lines, made.comparison.protocol
    bsr = {method: line for method, line in zip(asked.methods, lines, strict=True) if isinstance(method, Bsr)}
    full = next((line for line in lines if line.entry.method == "full"), None)
    if full is None or not asked.name.startswith("ablation"):
        return []
    if asked.name == "ablation_keep":
        series = {
            label: {
                min(method.keep.values(), default=1.0): line
                for method, line in bsr.items()
                if method.fuse == fuse or not method.keep
            }
            for label, fuse in (("dropped tokens fused into one", True), ("dropped", False))
        }
        return ablation.keep_rates(series, full, folder, protocol)
    chosen = {method.blocks: line for method, line in bsr.items()}
    return ablation.trained_blocks(chosen, full, geometry_of(asked.config).depth, folder, protocol)


def page(found: Sequence[Claim], written: dict[Path, list[Path]], out: Path) -> str:
    """The table of claims, and what lies where."""
    lines = [
        "# The paper, reproduced: memory and compute",
        "",
        "Block Selective Reprogramming (arXiv 2405.10951): its own figures beside ours. What needs a GPU or a download "
        "is one command, and stands here as *not run here* until it was run. Made by `python studies/paper/make.py`.",
        "",
        "*Published accounting* is the rule of the authors' profiler: activations and parameters, trained ones at 32 "
        "bits, frozen ones at 8; no gradients, no optimiser state. *Truth* is what torch holds, predicted "
        "(`benchmarks/exactness.py` and `benchmarks/peak.py` compare with real steps). Where nothing else is said: a "
        "CPU, 224 px, batch 32, fp32, an explicit softmax as in the authors' code, SGD with momentum for ViT-B and "
        f"AdamW for DeiT-S. *Reproduced* means within {CLOSE:.0%}.",
        "",
        f"| claim | {' | '.join(COLUMNS)} |",
        "|---" * (len(COLUMNS) + 1) + "|",
        *(f"| {c.what} | {c.paper} | {c.published} | {c.peak} | {c.saved} | {c.verdict} |" for c in found),
        "",
        "## Tables and figures",
        "",
    ]
    for source, paths in written.items():
        shown = [path.relative_to(out) for path in paths if path.suffix in (".md", ".png")]
        links = ", ".join(f"[{path.stem}]({path})" for path in shown)
        lines.append(f"- {_purpose(source)} ([{source.name}]({os.path.relpath(source, out)})): {links}")
    return "\n".join([*lines, ""])


def _purpose(source: Path) -> str:
    """What a file says at its head that it is of: its second paragraph's first sentence."""
    head = [
        line.removeprefix("#").strip() for line in source.read_text().splitlines() if line.startswith("#")
    ]
    after = " ".join(head[head.index("") + 1 :])
    return after.split(" Expected of the paper:")[0].rstrip(".")


if __name__ == "__main__":
    main()
