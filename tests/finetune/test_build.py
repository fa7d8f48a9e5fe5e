"""Models, devices and steps, as a configuration says."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import as_run, build, device_of, make_step, pick_device
from bsr_explorer.finetune.job import Job, rules_of
from bsr_explorer.finetune.measure import measure
from bsr_explorer.prediction import predict
from bsr_explorer.train.recipes import RECIPES
from tests.finetune.tuning import CONFIG, Weights, tune

pytestmark = pytest.mark.usefixtures("toy")


def test_the_learning_rate_keeps_its_layer_decay_and_the_heads_scale(weights: Weights) -> None:
    config = replace(CONFIG.with_method("full"), lr=1e-3)
    optimizer = make_step(build(config), config, rules_of(config, Job())).optimizer
    rates = {group["lr"] for group in optimizer.param_groups}
    assert max(rates) == 1e-3 * RECIPES["short"].head_lr_scale
    assert 1e-3 * RECIPES["short"].layer_decay ** 5 in rates


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(UserError, match="--device: unknown device 'tpu'; choose auto, cpu or cuda"):
        pick_device("tpu")


def test_a_device_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = replace(CONFIG, device="cuda")
    for refusing in (device_of, measure, tune):
        with pytest.raises(UserError, match="--device: no CUDA device is available here; choose cpu or auto"):
            refusing(config)
    assert predict(config).peak_bytes > 0


@pytest.mark.parametrize(("there", "device"), [(False, "cpu"), (True, "cuda")])
def test_auto_is_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch, there: bool, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert pick_device("auto") == device
    assert [pick_device(name) for name in ("cpu", "cuda")] == ["cpu", "cuda"]


def test_the_device_is_the_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [device_of(replace(CONFIG, device=name)).type for name in ("cpu", "cuda")] == ["cpu", "cuda"]


def test_a_run_is_on_the_card_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="NVIDIA L4", major=8, minor=9, multi_processor_count=58)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card)
    planned = replace(CONFIG, device="cuda", gpu="orin")
    for there, gpu in ((True, "l4"), (False, "orin")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert as_run(planned) == replace(planned, gpu=gpu)
        assert as_run(CONFIG) is CONFIG


def test_build_applies_the_method() -> None:
    model = build(CONFIG)
    trained = {
        name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad and "blocks" in name
    }
    assert trained == {"0", "2"}
    assert model(torch.zeros(2, 3, 48, 48)).shape == (2, 10)


def test_build_depends_on_the_seed_alone() -> None:
    one, same, other = (build(CONFIG, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(one["head.weight"], same["head.weight"])
    assert not torch.equal(one["patch_embed.proj.weight"], other["patch_embed.proj.weight"])
