"""A step recorded on a GPU."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.tracing import trace


def test_without_a_gpu_it_says_what_else_there_is() -> None:
    with pytest.raises(UserError, match="--read compares a file"):
        trace(Config(device="cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="none is available here"):
            trace(Config(device="cuda"))


RECORD = """
from bsr_explorer.cli.console import found_gpu
from bsr_explorer.config import Config
from bsr_explorer.finetune.tracing import trace
from bsr_explorer.trace import beside

found = trace(Config("deit_s", batch_size=32, method="{method}", device="cuda", gpu=found_gpu("cuda")))
compared = beside(found)
print(compared.peak / found.peak, compared.reserved / found.reserved, compared.first)
"""


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["linear", "last(k=3)", "full"])
def test_a_recorded_step_is_as_predicted(method: str) -> None:
    """In a fresh process, as the command does it."""
    done = subprocess.run(
        [sys.executable, "-c", RECORD.format(method=method)], capture_output=True, text=True, check=True
    )
    peak, reserved, *_ = done.stdout.split()
    assert float(peak) == pytest.approx(1, rel=0.01), done.stdout
    assert float(reserved) == pytest.approx(1, rel=0.03), done.stdout
