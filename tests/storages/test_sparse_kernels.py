"""Kernels of the largest elements, in Triton's interpreter. (``test_kernels`` compiles them.)"""

from __future__ import annotations

import pytest

from tests.storages.interpreting import needs_triton, run_interpreted

pytestmark = [needs_triton, pytest.mark.long]


@pytest.mark.slow  # minutes in the interpreter
def test_they_do_what_torchs_path_does() -> None:
    run_interpreted("interpreted_sparse_kernels.py")
