"""CUDA: which attention runs, what the allocator hands out, and what libraries take."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from bsr_explorer.devices import CPU, CUDA, device_of
from bsr_explorer.devices.cuda import workspaces
from bsr_explorer.devices.gpus import GPUS

MiB = 2**20


@pytest.mark.parametrize(
    ("card", "dtype", "path"),
    [
        ("h100", "fp32", "efficient"),
        ("h100", "fp16", "cudnn"),
        ("b200", "bf16", "cudnn"),
        ("a100", "bf16", "flash"),
        ("rtx5090", "bf16", "flash"),
        ("t4", "fp16", "efficient"),
    ],
)
def test_the_fused_kernel_follows_from_card_and_format(card: str, dtype: str, path: str) -> None:
    device = device_of(f"cuda/{card}")
    assert device.path("fused", dtype) == path
    assert device.path("math", dtype) == "math"
    assert device.path("fused", dtype, packed=True) == path.replace("cudnn", "flash")


def test_without_a_card_it_is_the_default_one() -> None:
    assert device_of("cuda") is CUDA is device_of("cuda/h100")
    assert CUDA.name == "cuda"


def test_it_hands_out_pieces_of_512_bytes() -> None:
    assert [CUDA.rounded(size) for size in (0, 1, 512, 513)] == [0, 512, 512, 1024]


@pytest.mark.parametrize(
    ("card", "torch", "environ", "forward", "backward"),
    [
        ("h200", (2, 11), {}, 33 * MiB, 32 * MiB),  # recorded
        ("h200", (2, 12), {}, 32 * MiB, 32 * MiB),
        ("a100", (2, 12), {}, 8_519_680, 8_519_680),
        ("rtx5090", (2, 11), {}, 8_519_680 + MiB, 8_519_680),
        ("rtx5090", (2, 12), {}, 32 * MiB, 32 * MiB),
        ("h100", (2, 12), {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}, 32 * MiB, 32 * MiB),
        ("h100", (2, 12), {"CUBLAS_WORKSPACE_CONFIG": ":16:8"}, 131_072, 131_072),
        ("h100", (2, 12), {"CUBLAS_WORKSPACE_CONFIG": ":0:0"}, 0, 0),
        ("h100", (2, 12), {"CUBLAS_WORKSPACE_CONFIG": "nonsense"}, 32 * MiB, 32 * MiB),
        ("h100", (2, 11), {"CUBLASLT_WORKSPACE_SIZE": "4096"}, 36 * MiB, 32 * MiB),
        ("h100", (2, 12), {"TORCH_CUBLASLT_UNIFIED_WORKSPACE": "0"}, 33 * MiB, 32 * MiB),
    ],
)
def test_workspaces_follow_from_card_torch_and_environment(
    card: str, torch: tuple[int, int], environ: dict[str, str], forward: int, backward: int
) -> None:
    made = workspaces(GPUS[card], torch, environ)
    assert (sum(made["forward"].values()), sum(made["backward"].values())) == (forward, backward)


def test_they_are_those_of_the_torch_that_is_here() -> None:
    major, minor, *_ = version("torch").split(".")
    assert CUDA.workspaces == workspaces(GPUS["h100"], (int(major), int(minor)), {})
    assert CUDA.workspace == CUDA.rounded(CUDA.workspace) >= 64 * MiB


def test_what_the_cpu_runs_it_runs_too() -> None:
    assert set(CPU.attention) < set(CUDA.attention)
