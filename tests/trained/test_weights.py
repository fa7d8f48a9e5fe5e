"""Trained weights as a file: what plain timm makes of them, what ``load`` does, and what is refused."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import bsr_explorer as bx
from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build, make_step
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import METHODS, Adapler, Gradual, Last, Linear, Method, Wasi, parse_method
from bsr_explorer.methods.adding import Adding
from bsr_explorer.methods.base import PARAMETERS, STEPS, TOKENS
from bsr_explorer.methods.storing import Storing
from bsr_explorer.naming import TIMM, Naming
from bsr_explorer.prediction import geometry_of, predict
from bsr_explorer.tape import Op, Parameter, Tape
from bsr_explorer.train.recipes import recipe
from bsr_explorer.train.step import image_dtype, in_precision
from bsr_explorer.trained.weights import FILE, About, check, read_about, save

COMPOSED = (
    "bsr(blocks=(3, 7), keep={})+mesa+checkpoint",
    "bsr+mesa(faithful=False)+offload",
    "last(k=2)+backrazor(faithful=False)",
    "bitfit+checkpoint+offload",
)


def about(config: Config) -> About:
    return About(config, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bicubic", ("a", "b", "c"))


def one_step(config: Config) -> nn.Module:
    """A model after one step of training, in evaluation mode."""
    model = in_precision(build(config, seed=1), config.precision)
    images = torch.randn(2, 3, config.image_size, config.image_size).to(image_dtype(config.precision))
    make_step(model.train(), config, recipe("short"))(images, torch.tensor([0, 2]))
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    out: Tensor = model(images.to(next(model.parameters()).dtype))
    return out.float()


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("method", [*METHODS, *COMPOSED])
def test_what_keeps_the_architecture_is_a_plain_timm_model(method: str, tmp_path: Path) -> None:
    # What is left of a token drop is told apart by more tokens and a wider model than the toy's.
    left = parse_method(method).at_inference
    wide = "(3, 7)" in method or not (left is None or isinstance(left, Adding))
    model, name = ("deit_t", "deit_tiny_patch16_224") if wide else ("toy", "toy")
    config = Config(model, 48, 3, 2)
    config = config.with_method(parse_method(method, geometry_of(config)))
    trained, path = one_step(config), tmp_path / FILE
    save(path, trained, about(config))
    expected = logits(trained)
    loaded = bx.load(path)
    assert not loaded.training
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-5, atol=1e-6)
    if isinstance(left, (Adding, Adapler)):  # it brings parameters that stay: no plain model takes them
        with pytest.raises(RuntimeError, match="Unexpected key"):
            timm.create_model(name, num_classes=3, img_size=48).load_state_dict(load_file(path))
        return
    plain = timm.create_model(name, num_classes=3, img_size=48, checkpoint_path=str(path)).eval()
    other = timm.create_model(name, num_classes=3, img_size=48).eval()
    other.load_state_dict(load_file(path), strict=True)
    assert torch.equal(logits(plain), logits(other))
    if config.how.at_inference is None:
        torch.testing.assert_close(logits(plain), expected, rtol=1e-5, atol=1e-6)
    else:
        assert not torch.allclose(logits(plain), expected, rtol=1e-2, atol=1e-2)


SMALL = {
    "last": "last(k=1)",
    "blocks": "blocks(1)",
    "drop": "drop({1: 0.5})",
    "bsr": "bsr(blocks=(1,), keep={1: 0.5})",
    "alast": "alast(K=1)",
    "gradual": "gradual(k=1)",
}
"""What the defaults are in a model of 2 blocks."""


NAMES = list(METHODS)


def partner(at: int, step: int) -> str:
    """The name of a method, some way after another or before it, that chooses nothing that this one does."""
    own = METHODS[NAMES[at]]
    for far in range(4, len(NAMES)):
        other = METHODS[NAMES[(at + step * far) % len(NAMES)]]
        frozen = {issubclass(each, Adding) or each in (Linear, Gradual) for each in (own, other)}
        packs = issubclass(own, (Storing, Wasi)) or issubclass(other, (Storing, Wasi))
        both = set(own.chooses) | set(other.chooses)
        drops = TOKENS in both and (own.reads_all_tokens or other.reads_all_tokens)
        differ = any(one.alike and STEPS in two.chooses for one, two in ((own, other), (other, own)))
        apart = not set(own.chooses) & set(other.chooses)
        if apart and not drops and not differ and not (packs and True in frozen):
            return other.name
    raise AssertionError(NAMES[at])


FEW = [
    *((name, partner(at, 1), "fused") for at, name in enumerate(NAMES)),
    *((partner(at, -1), name, "math") for at, name in enumerate(NAMES)),
]
"""Each method before and behind another, with which it goes (see below)."""

PAIRED = {frozenset(case[:2]) for case in FEW}
OTHERS: list[tuple[str, str | None, str]] = [
    *((name, None, ("fused", "math")[at % 2]) for at, name in enumerate(NAMES)),
    *(
        (name, other, ("fused", "math")[at % 2])
        for at, (name, other) in enumerate(combinations(NAMES, 2))
        if frozenset((name, other)) not in PAIRED
    ),
]


THOROUGH = pytest.mark.thorough
"""Of every third of the other pairs; there are hundreds, and the rest is slow."""


def paired(name: str, other: str | None, attention: str) -> Config:
    """One or two methods of a model of 2 blocks.

    Raises:
        UserError: they do not go together.
    """
    method = "+".join(SMALL.get(each, each) for each in (name, other) if each)
    return Config("toy_2", 48, 3, 2, method=method, attention=attention)


def goes(name: str, other: str, attention: str) -> bool:
    try:
        check(paired(name, other, attention))
    except UserError:
        return False
    return True


@pytest.mark.usefixtures("toy")
def test_few_pairs_have_each_method_in_both_places() -> None:
    accepted = [case for case in FEW if goes(*case)]
    assert {name for name, _, _ in accepted} == {other for _, other, _ in accepted} == set(METHODS)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("name", "other", "attention"),
    [
        *FEW,
        *(
            pytest.param(*case, marks=THOROUGH if at % 3 == 0 else pytest.mark.slow)
            for at, case in enumerate(OTHERS)
        ),
    ],
)
def test_any_two_methods_are_refused_or_end_as_a_file(
    name: str, other: str | None, attention: str, tmp_path: Path
) -> None:
    try:
        config = paired(name, other, attention)
        predicted = predict(config)
        check(config)
    except UserError as refused:
        assert str(refused).startswith("--method: ")
        assert other is not None
        return
    difference = predicted - measure(config)
    assert (difference.rows, difference.peak_bytes) == ((), 0)
    trained = one_step(config)
    save(tmp_path / FILE, trained, about(config))
    # An explicit softmax of a method goes with it: its last bits are not those of the fused one.
    torch.testing.assert_close(logits(bx.load(tmp_path)), logits(trained), rtol=0, atol=1e-6)


@dataclass(frozen=True, eq=False, repr=False)
class Adapted(Last):
    """The last blocks train, and a layer beside the second one of each MLP."""

    name: ClassVar[str] = "adapted"

    def trains(self, parameter: str, depth: int, naming: Naming = TIMM) -> bool:
        """What ``Last`` trains, and the adapters."""
        return ".adapter." in parameter or super().trains(parameter, depth, naming)

    def rewrite(self, tape: Tape) -> Tape:
        """Add the adapters, and freeze."""
        for block in tape.blocks:
            here = f"blocks.{block}.mlp"
            fc2 = tape.op(f"{here}.fc2", "linear")
            shapes = {"weight": (32, 32), "bias": (32,)}
            names = {part: f"{here}.adapter.{part}" for part in shapes}
            new = {names[part]: Parameter(names[part], shape, block) for part, shape in shapes.items()}
            adapter = Op(f"{here}.adapter", "linear", block, (fc2.writes,), f"{here}.adapter.out", names)
            added = Op(here, "add", block, (fc2.writes, adapter.writes), f"{here}.out")
            tape = replace(tape, parameters={**tape.parameters, **new})
            tape = tape.insert_after(fc2, adapter).insert_after(adapter, added, instead_of=fc2.writes)
        return super().rewrite(tape)

    def apply(self, model: nn.Module) -> nn.Module:
        """The same to a model."""
        for block in cast(Any, model).blocks:
            block.mlp.adapter = nn.Linear(32, 32)
            block.mlp.register_forward_hook(lambda mlp, inputs, x: x + mlp.adapter(x))
        return super().apply(model)

    def canonical(self, depth: int) -> Method:
        """Itself."""
        return self


class Staying(Adapted):
    """The same, which says that it stays."""

    name: ClassVar[str] = "staying"

    @property
    def at_inference(self) -> Method | None:
        """Itself."""
        return self


@pytest.fixture
def adapters(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in (Adapted, Staying):
        monkeypatch.setitem(METHODS, method.name, method)


BESIDE = ["", *(f"+{SMALL.get(name, name)}" for name in METHODS if PARAMETERS not in METHODS[name].chooses)]
"""What can stand beside a method that chooses what trains."""


@pytest.mark.usefixtures("adapters")
@pytest.mark.parametrize(
    ("other", "attention"), [(other, ("math", "fused")[at % 2]) for at, other in enumerate(BESIDE)]
)
def test_a_method_that_adds_parameters_composes_and_is_kept_if_it_stays(
    other: str, attention: str, tmp_path: Path
) -> None:
    config = Config("toy_2", 48, 3, 2, method=f"staying(k=1){other}", attention=attention)
    check(config)
    assert (predict(config) - measure(config)).rows == ()
    trained = one_step(config)
    save(tmp_path / FILE, trained, about(config))
    assert not about(config).as_timm
    assert "blocks.0.mlp.adapter.weight" in load_file(tmp_path / FILE)
    torch.testing.assert_close(logits(bx.load(tmp_path)), logits(trained), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("adapters")
@pytest.mark.parametrize("other", BESIDE)
def test_what_could_not_be_kept_is_refused(other: str) -> None:
    config = Config("toy_2", 48, 3, 2, method=f"adapted(k=1){other}")
    with pytest.raises(UserError) as error:
        check(config)
    left = config.how.at_inference or "plain timm"
    assert f"cannot be saved: blocks.0.mlp.adapter.weight is not in the model that is left ({left})" in str(
        error.value
    )


@pytest.mark.usefixtures("toy")
def test_the_step_changed_the_weights(tmp_path: Path) -> None:
    config = Config("toy_2", 48, 3, 2, method="full")
    assert not torch.allclose(logits(one_step(config)), logits(build(config, seed=1).eval()), atol=1e-4)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("method", ["full", "bsr(blocks=(1,), keep={1: 0.5})"])
@pytest.mark.parametrize("precision", ["amp_bf16", "bf16"])
def test_weights_keep_their_number_format(method: str, precision: str, tmp_path: Path) -> None:
    config = Config("toy", 48, 3, 2, method=method, precision=precision)
    trained = one_step(config)
    save(tmp_path / FILE, trained, about(config))
    assert {w.dtype for w in load_file(tmp_path / FILE).values()} == {image_dtype(precision)}
    assert torch.equal(logits(bx.load(tmp_path)), logits(trained))


@pytest.mark.usefixtures("toy")
def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    config = Config("toy", 48, 3, 2, method="bsr(blocks=(1,), keep={1: 0.5})")
    save(tmp_path / FILE, build(config), about(config))
    with safe_open(tmp_path / FILE, "pt") as file:
        said = file.metadata()
        assert set(file.keys()) == build(config.with_method("full")).state_dict().keys()
    assert (said["model"], said["image_size"], said["num_classes"]) == ("toy", "48", "3")
    assert said["method"] == str(config.method)
    assert said["loads_with"] == "bsr_explorer.load"
    assert said["bsr_explorer"] == bx.__version__
    assert (json.loads(said["mean"]), json.loads(said["classes"])) == ([0.5, 0.4, 0.3], ["a", "b", "c"])
    assert read_about(tmp_path) == read_about(tmp_path / FILE) == about(config)


@pytest.mark.usefixtures("toy")
def test_what_was_trained_elsewhere_is_loaded_here(tmp_path: Path) -> None:
    config = Config("toy", 48, 3, 2, method="full", device="cuda", attention="efficient")
    save(tmp_path / FILE, build(replace(config, device="cpu", attention="fused"), seed=1), about(config))
    expected = build(Config("toy", 48, 3, method="full"), seed=1).eval()
    assert torch.equal(logits(bx.load(tmp_path)), logits(expected))


@pytest.mark.usefixtures("toy")
def test_a_full_disk_leaves_no_half_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    config = Config("toy", 48, 3, 2, method="full")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / FILE, build(config), about(config))
    assert list(tmp_path.iterdir()) == []


def strange(path: Path, how: str) -> None:
    """A file that is not one of ours."""
    if how == "text":
        path.write_text("hello")
    elif how == "theirs":
        save_file({"head.weight": torch.zeros(2, 2)}, path)
    elif how == "later":
        values = about(Config("toy")).to_metadata()
        config = {**json.loads(values["config"]), "rank": 3}
        save_file(
            {"x": torch.zeros(1)}, path, {**values, "bsr_explorer": "9.0", "config": json.dumps(config)}
        )
    elif how == "less":
        save_file({"x": torch.zeros(1)}, path, {"bsr_explorer": "9.0"})


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            "none",
            "there is no model.safetensors; give the folder of a finished `bsr-explore train`, or the file",
        ),
        ("text", "cannot be read as a safetensors file"),
        ("theirs", "not written by `bsr-explore train`; load it with timm instead"),
        ("later", "written by bsr-explorer 9.0, and not understood by"),
        ("less", "written by bsr-explorer 9.0, and not understood by"),
    ],
)
def test_what_is_no_trained_model_is_refused(how: str, words: str, tmp_path: Path) -> None:
    strange(tmp_path / FILE, how)
    with pytest.raises(UserError) as error:
        bx.load(tmp_path)
    assert words in str(error.value)
    assert str(tmp_path) in str(error.value)
