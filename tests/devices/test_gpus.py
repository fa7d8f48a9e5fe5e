"""Cards by name."""

from __future__ import annotations

import pytest

from bsr_explorer.devices.gpus import DEFAULT, GPUS, Gpu, gpu_of, name_of
from bsr_explorer.errors import UserError


@pytest.mark.parametrize("name", GPUS)
def test_a_card_stands_under_its_name(name: str) -> None:
    gpu = gpu_of(name)
    assert gpu.name == name
    assert gpu.multiprocessors > 0
    assert gpu.memory >= 8 * 10**9
    assert gpu.threads in (1024, 1536, 2048)


def test_any_card_can_be_said() -> None:
    assert gpu_of("sm_90x132") == Gpu("sm_90x132", "a GPU of compute capability 9.0", (9, 0), 132)
    assert gpu_of("sm_121x48").capability == (12, 1)
    assert gpu_of("H100") is gpu_of("h100")


@pytest.mark.parametrize(
    "name", ["h101", "sm_90", "sm_90x0", "sm_x132", "sm_900x1", "sm_20x4", "sm_90x99999", "sm_٩٠x132", ""]
)
def test_what_is_no_card_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"--gpu: unknown value.*choose from v100, t4, a100"):
        gpu_of(name)


@pytest.mark.parametrize(
    ("title", "capability", "multiprocessors", "name"),
    [
        ("NVIDIA H200", (9, 0), 132, "h200"),
        ("NVIDIA H100 80GB HBM3", (9, 0), 132, "h100"),
        ("NVIDIA GeForce RTX 4090", (8, 9), 128, "rtx4090"),
        ("NVIDIA H100 PCIe", (9, 0), 114, "sm_90x114"),
        ("Tesla T4", (7, 5), 40, "t4"),
        ("Another", (8, 6), 20, "sm_86x20"),
    ],
)
def test_a_card_that_is_found_has_a_name(
    title: str, capability: tuple[int, int], multiprocessors: int, name: str
) -> None:
    assert name_of(title, capability, multiprocessors) == name
    assert gpu_of(name).multiprocessors == multiprocessors


def test_the_default_is_one_of_them() -> None:
    assert DEFAULT in GPUS
