"""No method makes a training step wait for a GPU: nothing of it is read before the next one can be launched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.devices import CUDA, DEVICES
from bsr_explorer.finetune.build import build, make_step
from bsr_explorer.finetune.job import Job, rules_of
from bsr_explorer.methods import METHODS, parse_method
from bsr_explorer.models.lowering import PRECISIONS
from bsr_explorer.prediction import geometry_of
from bsr_explorer.train.step import Step, image_dtype, in_precision
from tests.waiting import Waits

pytestmark = pytest.mark.usefixtures("toy")

SCALER = "amp/grad_scaler.py"
"""Torch's gradient scaler reads whether gradients overflowed, for it then updates nothing."""

WAIT = {
    "backrazor": "storages/sparse.py",  # positions of kept values, where no kernels of our own pack
}
"""Methods that wait, and where."""


def step_of(name: str, precision: str, device: str = "cpu") -> tuple[Step, torch.Tensor, torch.Tensor]:
    """A step of a method that has run twice, and a batch."""
    config = Config("toy", image_size=64, batch_size=4, precision=precision, implementation="foreach")
    config = config.with_method(parse_method(name, geometry_of(config)))
    model = in_precision(build(config), precision).to(device)
    step = make_step(model, config, replace(rules_of(config, Job()), clip=1.0))
    step.model.train()
    step.later = True
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 64, 64, generator=generator).to(device, image_dtype(precision))
    labels = torch.arange(4, device=device)
    for _ in range(2):
        step(images, labels)
    return step, images, labels


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors are packed as they are on a GPU."""
    monkeypatch.setitem(DEVICES, "cpu", replace(CUDA, name="cpu"))


@pytest.mark.usefixtures("as_on_cuda")
@pytest.mark.parametrize("name", METHODS)
def test_a_step_waits_for_nothing(name: str) -> None:
    for precision in PRECISIONS:
        step, images, labels = step_of(name, precision)
        counts = [state["step"] for state in step.optimizer.state.values()]
        with Waits(counts) as found:
            step(images, labels)
        scaler = {what for what in found if what.endswith(SCALER)}
        assert bool(scaler) == (precision == "amp_fp16")
        rest = [what for what in found if what not in scaler]
        assert all(name in WAIT and what.endswith(WAIT[name]) for what in rest), (precision, rest)
        assert bool(rest) == (name in WAIT)


def test_what_waits_is_found() -> None:
    x = torch.arange(4.0)
    with Waits() as found:
        x[x > 1]
        x.nonzero()
        float(x[0])
        torch.equal(x, x)
        torch.tensor([1.0], device=x.device)
        x.tolist()
    assert found.total() == 6
    counted = torch.zeros(())
    with Waits([counted]) as found:
        counted.item()
        torch.tensor([1.0], device="cpu")
        x.add_(1).mul(x).sum()
    assert not found


@contextmanager
def refusing_to_wait() -> Iterator[None]:
    """Torch refuses what waits."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", [name for name in METHODS if name not in WAIT])
@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "amp_fp16"])
def test_a_step_on_a_gpu_waits_for_nothing(name: str, precision: str) -> None:
    step, images, labels = step_of(name, precision, "cuda")
    with refusing_to_wait():
        loss = step(images, labels)
    assert float(loss) > 0
