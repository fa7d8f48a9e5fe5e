"""Kernels in Triton's interpreter, which has to be chosen before Triton is loaded: in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")


def run_interpreted(name: str) -> None:
    """Run the tests of a file beside this one; fail with what they print, if one does."""
    file = Path(__file__).with_name(name)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(file)]
    ended = subprocess.run(
        command,
        cwd=file.parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def assert_same(one: tuple[object, ...] | object, other: tuple[object, ...] | object) -> None:
    """Tensors that are equal to the bit; what is not a number in one is none in the other."""
    from torch.testing import assert_close

    assert_close(one, other, rtol=0, atol=0, equal_nan=True)
