"""Kernels of few bits: in Triton's interpreter, and whether all of them compile for cards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storages.interpreting import needs_triton, run_interpreted

pytestmark = [needs_triton, pytest.mark.long]


@pytest.mark.slow  # minutes in the interpreter
def test_they_do_what_torchs_path_does() -> None:
    run_interpreted("interpreted_kernels.py")


@pytest.mark.thorough  # a compiler
@pytest.mark.parametrize("capability", [90, pytest.param(75, marks=pytest.mark.slow)])
def test_they_compile_for_a_card(capability: int, tmp_path: Path) -> None:
    """Down to machine code, without one; and what torch rounds twice, no fused multiply-add rounds once."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(Path(__file__).with_name("compiling.py")), str(capability)]
    ended = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    compiled = json.loads(ended.stdout)
    assert {kernel["name"] for kernel in compiled} == {
        "extremes_of_runs",
        "extremes_of_columns",
        "settle",
        "pack_numbers",
        "unpack_numbers",
        "thresholds",
        "compact",
        "expand",
    }
    assert all(kernel["bytes"] > 0 and not kernel["fuses"] for kernel in compiled)
