"""Predicted memory on CUDA beside what a real GPU's allocator did: 38 steps of an H200. Needs no GPU.

    python benchmarks/recorded.py [--json]

The steps are those of ``tests/cost/recorded`` (see its README). Torch 2.11 and the card are those of the recording, and
so is BSR's token drop, whose code has changed since. Printed for each step: peak and reserved memory, predicted minus
recorded, and whether all events of more than 1 MiB agree in order and size.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script or not

from bsr_explorer.cli.console import out, table
from bsr_explorer.devices import cuda
from bsr_explorer.operations.kinds import KINDS
from bsr_explorer.trace import Trace, beside
from tests.cost.recorded import config_of, recorded
from tests.cost.recorded.then import DROP_THEN


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    answer = judged()
    if options.json:
        print(json.dumps(answer))
        return
    columns = ["configuration", "peak MB", "off", "%", "reserved MB", "off", "%", "events"]
    out.print(table(columns, [shown(step) for step in answer["steps"]], left=(0,), fold=(0,)))
    for kind in ("peak", "reserved"):
        of = answer[kind]
        out.print(
            f"{kind}: {of['exact']} of {len(answer['steps'])} to the byte; median {of['median']:.3%}, "
            f"worst {of['worst']:.2%}"
        )
    out.print(f"all events as predicted: {answer['events']} of {len(answer['steps'])}")


def judged() -> dict[str, Any]:
    """Of each recorded step, and of all of them."""
    then = (cuda._installed, KINDS["drop_tokens"])
    cuda._installed, KINDS["drop_tokens"] = (lambda: (2, 11)), DROP_THEN
    try:
        steps = [judged_step(step) for step in recorded()]
    finally:
        cuda._installed, KINDS["drop_tokens"] = then
    answer: dict[str, Any] = {"steps": steps, "events": sum(step["events_agree"] for step in steps)}
    for kind in ("peak", "reserved"):
        off = [abs(step[f"{kind}_off"]) / step[kind] for step in steps]
        answer[kind] = {"exact": off.count(0), "median": median(off), "worst": max(off)}
    return answer


def judged_step(step: Trace) -> dict[str, Any]:
    """One step."""
    config = config_of(step)
    compared = beside(step, config)
    return {
        "configuration": f"{config.model} B={config.batch_size} {config.precision} {config.attention} "
        f"{config.optimizer} {step.config['method']}",
        "peak": step.peak,
        "peak_off": compared.peak - step.peak,
        "reserved": step.reserved,
        "reserved_off": compared.reserved - step.reserved,
        "events": len(step.events),
        "events_agree": compared.first is None,
    }


def shown(step: dict[str, Any]) -> list[str]:
    """A line of the table."""
    cells = [step["configuration"]]
    for kind in ("peak", "reserved"):
        off = step[f"{kind}_off"]
        cells += [f"{step[kind] / 1e6:,.1f}", f"{off:+,}" if off else "0", f"{off / step[kind]:+.2%}"]
    return [*cells, f"{step['events']} agree" if step["events_agree"] else f"{step['events']} differ"]


if __name__ == "__main__":
    main()
