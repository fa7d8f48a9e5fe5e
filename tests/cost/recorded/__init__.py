"""Recorded steps (see ``README.md``)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from bsr_explorer.config import Config
from bsr_explorer.trace import Trace


def recorded() -> list[Trace]:
    """All of them."""
    with gzip.open(Path(__file__).with_name("h200.jsonl.gz"), "rt") as lines:
        return [Trace.from_dict(json.loads(line)) for line in lines]


def config_of(step: Trace) -> Config:
    """Its configuration, on the card that it was recorded on. (BSR passed no gradients to scores then.)"""
    method = step.config["method"].replace("fuse=True)", "fuse=True, faithful=False)")
    return Config.from_dict({**step.config, "method": method, "gpu": "h200"})
