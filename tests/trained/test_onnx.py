"""ONNX files: any number of images, the same logits as torch, and errors that say what to do."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import nn

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.train.step import in_precision
from bsr_explorer.trained import onnx

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.thorough]  # an export takes seconds


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        ("full", "fp32"),
        ("bsr(blocks=(1,), keep={0: 0.5, 1: 0.7}, fuse=True)", "bf16"),
        ("full+drop({0: 0.5}, criterion='attention')", "fp32"),
        ("full+drop({0: 0.5}, criterion='norm')", "fp32"),
        ("full+drop({0: 0.5}, criterion='random')", "fp32"),
        ("full+tome(r=1)", "fp32"),
        ("full+tome(r=1, proportional=True)", "fp32"),
        ("sparse_tuning(width=4)", "fp32"),
        ("last(k=2)+adapler", "fp32"),
    ],
)
def test_an_export_computes_the_same_for_any_number_of_images(method: str, precision: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = in_precision(build(Config("toy_2", 48, 7, method=method), seed=1), precision).eval()
    content = onnx.to_onnx(model, 48)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape[1:], made.name, made.shape[1:]) == ("images", [3, 48, 48], "logits", [7])
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, 48, 48)
        (found,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), model(images), rtol=1e-4, atol=1e-5)
    apart = onnx.difference(content, model, 48)
    assert apart is not None
    assert 0 < apart < 1e-5
    with pytest.raises(UserError, match="--export onnx: the file would give other logits than torch"):
        onnx.difference(content, build(Config("toy_2", 48, 7, method=method), seed=2).eval(), 48)


def test_without_onnxruntime_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    assert onnx.difference(b"", nn.Identity(), 48) is None


def test_a_file_that_cannot_be_run_is_refused_in_one_line() -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(
        UserError, match=r"^--export onnx: onnxruntime cannot run the file \(.+not written"
    ) as error:
        onnx.difference(b"no model", build(Config("toy_2", 48, 7, method="linear")).eval(), 48)
    assert "\n" not in str(error.value)


class Session:
    """Stands for onnxruntime's."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits

    def __call__(self, content: bytes, providers: list[str]) -> Session:
        return self

    def run(self, wanted: None, given: dict[str, Any]) -> list[Any]:
        """The same logits for every image."""
        return [self._logits.expand(len(given["images"]), -1).numpy()]


@pytest.mark.parametrize(("logit", "fails"), [(float("nan"), True), (0.0, False)])
def test_logits_that_are_no_numbers_are_no_match(
    monkeypatch: pytest.MonkeyPatch, logit: float, fails: bool
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session(torch.full((1, 7), logit)))
    model = build(Config("toy_2", 48, 7, method="linear")).eval()
    torch.nn.init.zeros_(model.get_submodule("head").get_parameter("weight"))
    torch.nn.init.zeros_(model.get_submodule("head").get_parameter("bias"))
    if fails:
        with pytest.raises(UserError, match="would give other logits than torch"):
            onnx.difference(b"", model, 48)
    else:
        assert onnx.difference(b"", model, 48) == 0


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    there = importlib.util.find_spec
    onnx.check_exporter()
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == missing else there(name))
    with pytest.raises(UserError) as error:
        onnx.check_exporter()
    assert str(error.value) == (
        f'--export onnx: needs {missing}; install with pip install "bsr-explorer[onnx]"'
    )


def test_a_model_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "MOST_BYTES", 1000)
    with pytest.raises(
        UserError, match=r"--export onnx: the weights take .* MB .* and an ONNX file holds 2 GiB"
    ):
        onnx.to_onnx(build(Config("toy", 48, method="full")), 48)


def test_a_model_that_cannot_be_exported_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operator\nat line 3")

    monkeypatch.setattr(torch.onnx, "export", broken)
    with pytest.raises(UserError) as error:
        onnx.to_onnx(build(Config("toy", 48, method="full")), 48)
    assert str(error.value) == (
        "--export onnx: torch cannot export this model (RuntimeError: no such operator); leave it out"
    )
