"""What nothing can change in training: derived of tape and model, and never guessed by names."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.data.splits import Splits
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.job import Job
from bsr_explorer.finetune.run import run
from bsr_explorer.methods import METHODS, Last
from bsr_explorer.prefix.cache import Cache
from bsr_explorer.prefix.continued import Continued
from bsr_explorer.prefix.frozen import frozen_blocks, hashes
from bsr_explorer.prefix.stages import stages_of
from bsr_explorer.store.records import Record
from tests.prefix.changing import TOY, Prompted

pytestmark = pytest.mark.usefixtures("toy")

FIDELITY = Fidelity(train_size=22, val_size=21, epochs=6)


@pytest.mark.parametrize(
    ("method", "blocks"),
    [
        ("full", 0),
        ("bitfit", 0),
        ("last(k=4)", 0),
        ("last(k=3)", 1),
        ("last(k=1)+mesa+checkpoint+offload", 3),
        ("last(k=1)+asi", 3),
        ("last(k=2)+wasi", 2),
        ("linear", 4),
        ("bsr(blocks=(2,), keep={0: 0.5, 3: 0.5})", 2),
        ("bsr(blocks=(1, 3), keep={}, head=False)", 1),
        ("bsr(blocks=(), keep={1: 0.5})", 4),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "amp_bf16"])
def test_the_blocks_below_the_lowest_that_trains(method: str, blocks: int, precision: str) -> None:
    config = replace(TOY, method=method, precision=precision)
    assert frozen_blocks(build(config), stages_of(config), precision) == blocks


# --- methods that change what stands below block 0 ------------------------------------------------------

Change = Callable[[Any], None]


def of_the_stem(vit: Any) -> None:
    """A trained layer that no name of timm's gives away."""
    vit.my_stem = nn.Linear(32, 32)
    vit.patch_embed.register_forward_hook(lambda module, inputs, x: x + vit.my_stem(x))


def prompt(vit: Any) -> None:
    """A trained vector that is added to all tokens."""
    vit.prompt = nn.Parameter(torch.full((32,), 0.1))
    vit.blocks[0].register_forward_pre_hook(lambda block, inputs: (inputs[0] + vit.prompt,))


def in_pixels(vit: Any) -> None:
    """A trained image that is added to all images."""
    vit.visual = nn.Parameter(torch.full((3, 32, 32), 0.1))
    vit.register_forward_pre_hook(lambda model, inputs: (inputs[0] + vit.visual,))


def in_a_frozen_block(vit: Any) -> None:
    """A trained adapter of the second block."""
    vit.blocks[1].adapter = nn.Linear(32, 32)
    vit.blocks[1].register_forward_hook(lambda block, inputs, x: x + block.adapter(x))


class Scaled(nn.Module):
    """Divides by a running size, which training changes."""

    size: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("size", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        if self.training:
            with torch.no_grad():
                self.size.lerp_(x.std(), 0.1)
        return x / self.size


def state(vit: Any) -> None:
    """A buffer that changes in training."""
    vit.norm_pre = Scaled()


class BatchNorm(nn.Module):
    """Of each channel, without weights and without a running mean: an image depends on its companions."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        return (x - x.mean((0, 1))) / x.std((0, 1)) if self.training else x


def companions(vit: Any) -> None:
    """What a batch has in common."""
    vit.norm_pre = BatchNorm()


def chance(vit: Any) -> None:
    """Dropout."""
    vit.pos_drop = nn.Dropout(0.1)


def beside(vit: Any) -> None:
    """A trained layer that goes by what the first block makes."""
    vit.side = nn.Linear(32, 32)
    seen: list[Tensor] = []
    vit.blocks[0].register_forward_hook(lambda block, inputs, x: seen.append(x))
    vit.norm.register_forward_pre_hook(lambda norm, inputs: (inputs[0] + vit.side(seen.pop()),))


def behind(vit: Any) -> None:
    """Logits that are not those of the head."""
    vit.register_forward_hook(lambda model, inputs, logits: 2 * logits)


CHANGES: dict[Change, str] = {
    of_the_stem: "nothing trains below block 3, and in the model gradients end at block 0",
    prompt: "nothing trains below block 3, and in the model gradients end at block 0",
    in_pixels: "nothing trains below block 3, and in the model gradients end at block 0",
    in_a_frozen_block: "nothing trains below block 3, and in the model gradients end at block 1",
    state: "change their state in training",
    companions: "does not follow from the image alone",
    chance: "are left to chance",
    beside: "does not go on from their output alone",
    behind: "does not go on from their output alone",
}
"""Ways to change a model, and why its first blocks then are not made once."""


@dataclass(frozen=True, eq=False, repr=False)
class Changing(Last):
    """The last blocks train, and what ``change`` adds, of which the tape knows nothing."""

    name: ClassVar[str] = "changing"
    change: ClassVar[Change]

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze, then change."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            type(self).change(super().apply(model))
        return model


@pytest.fixture
def changing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], Config]:
    """A configuration of a method with this change."""

    def made(change: Change) -> Config:
        monkeypatch.setattr(Changing, "change", staticmethod(change), raising=False)
        monkeypatch.setitem(METHODS, "changing", Changing)
        return TOY.with_method("changing(k=1)")

    return made


class Weights:
    """Keeps what a training ends with."""

    def __init__(self) -> None:
        self.final: dict[str, Tensor] = {}

    def peak(self, measured: int, predicted: int) -> None:
        """Nothing."""

    def epoch(self, number: int, epochs: int, loss: float, accuracy: float) -> None:
        """Nothing."""

    def trained(self, model: nn.Module, splits: Splits) -> None:
        """Keep the weights."""
        self.final = {name: tensor.clone() for name, tensor in model.state_dict().items()}


def tune(
    config: Config, cache: Cache | None, epochs: int = 6, **more: Any
) -> tuple[Record, dict[str, Tensor]]:
    watch = Weights()
    job = Job(
        "digits", replace(FIDELITY, epochs=epochs), "random", seed=3, every_epoch=True, cache=cache, **more
    )
    return run(config, job, watch=watch), watch.final


def same(mine: tuple[Record, dict[str, Tensor]], theirs: tuple[Record, dict[str, Tensor]]) -> bool:
    """Whether two trainings came to the same, to the last bit."""
    one, other = mine[0], theirs[0]
    assert one.status == other.status == "finished"
    assert (one.losses, one.history) == (other.losses, other.history)
    assert mine[1].keys() == theirs[1].keys()
    return all(torch.equal(tensor, theirs[1][name]) for name, tensor in mine[1].items())


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changes_below_is_not_made_once(
    change: Change, changing: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = changing(change)
    cached = tune(config, Cache(tmp_path), epochs=2)
    assert same(cached, tune(config, None, epochs=2))
    assert cached[0].provenance["cached_blocks"] == 0
    assert CHANGES[change] in caplog.text


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_model_is_left_as_it_was(change: Change, changing: Any) -> None:
    config = changing(change)
    model = build(config)
    model.eval()
    model.blocks[1].train()  # type: ignore[index]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    assert frozen_blocks(model, stages_of(config), "fp32") == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.blocks] == [False, True, False, False]  # type: ignore[union-attr]
    assert not [p for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    "drawing", [{"proj_drop_rate": 0.1}, {"drop_path_rate": 0.1}, {"pos_drop_rate": 0.1}, {}]
)
def test_blocks_that_draw_are_not_kept(drawing: dict[str, float]) -> None:
    config = TOY.with_method("last(k=1)")
    model = VisionTransformer(patch_size=16, img_size=32, embed_dim=32, depth=4, num_heads=2, **drawing)
    config.how.apply(model)
    assert frozen_blocks(model, stages_of(config), "fp32") == (0 if drawing else 3)


@pytest.mark.parametrize("method", ["last(k=1)+asi", "last(k=1)+wasi"])
def test_what_has_no_form_before_a_first_batch_has_none_after(method: str, tmp_path: Path) -> None:
    """And so the bases are those of the training's own batches, with or without a cache."""
    config = TOY.with_method(method)
    model = build(config)
    assert frozen_blocks(model, stages_of(config), "fp32") == 3
    assert not any(buffer.numel() for buffer in model.buffers())
    cached = tune(config, Cache(tmp_path))
    assert same(cached, tune(config, None))
    assert cached[0].provenance["cached_blocks"] == 3


def above(vit: Any) -> None:
    """What is added above is no matter: a trained layer behind the blocks, dropout before the head."""
    vit.fc_norm = nn.Linear(32, 32)
    vit.head_drop = nn.Dropout(0.2)
    vit.blocks[3].register_forward_pre_hook(lambda block, inputs: (inputs[0] + vit.fc_norm.bias,))


def test_what_changes_above_is_no_matter(changing: Any, tmp_path: Path) -> None:
    config = changing(above)
    cached = tune(config, Cache(tmp_path))
    assert same(cached, tune(config, None))
    assert cached[0].provenance["cached_blocks"] == 3


def test_nothing_is_said_where_the_tape_knows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(METHODS, "prompted", Prompted)
    config = TOY.with_method("prompted(k=1)")
    with caplog.at_level(logging.INFO):
        assert frozen_blocks(build(TOY.with_method("last(k=1)")), stages_of(config), "fp32") == 0
    assert caplog.text == ""


# --- what is kept turns out to be wrong -----------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("after", [14, 31])
def test_what_changes_later_is_noticed_and_training_begins_again(
    after: int, changing: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def drifts(vit: Any) -> None:
        """After so many passes in training the first block makes something else."""
        passes: list[int] = []
        vit.blocks[3].register_forward_hook(
            lambda block, inputs, x: passes.append(1) if block.training else None
        )
        vit.blocks[0].register_forward_hook(lambda block, inputs, x: x * 1.5 if len(passes) > after else x)

    config = changing(drifts)
    cached = tune(config, Cache(tmp_path / "cache"), checkpoint=tmp_path / "checkpoint.pt")
    assert same(cached, tune(config, None))
    assert cached[0].provenance["cached_blocks"] == 0
    assert "3 frozen blocks: what they make of images is not what they made of them before" in caplog.text
    assert "training begins again, and they run in each step" in caplog.text


def test_what_went_wrong_before_an_interruption_is_not_gone_on_from(tmp_path: Path) -> None:
    config, cache = TOY.with_method("last(k=1)"), Cache(tmp_path / "cache")
    path = tmp_path / "checkpoint.pt"

    def stop(done: int, total: int, loss: float) -> None:
        if done == 17:
            raise KeyboardInterrupt

    job = Job("digits", FIDELITY, "random", seed=3, every_epoch=True, cache=cache, checkpoint=path)
    with pytest.raises(KeyboardInterrupt):
        run(config, job, stop)
    for file in cache.folder.glob("*.npy"):
        rows = np.load(file, mmap_mode="r+")
        rows[:] += 1
        rows.flush()
    assert same(tune(config, cache, checkpoint=path), tune(config, None))


# --- what it goes by ------------------------------------------------------------------------------------


def names(vit: nn.Module) -> list[str]:
    config = TOY.with_method("last(k=1)")
    return list(hashes(Continued(vit, 3), stages_of(config), "fp32", "about"))


def frozen_layer(vit: Any, value: float, where: Any) -> None:
    """A frozen weight under a name of its own."""
    vit.mine = nn.Parameter(torch.full((32,), value), requires_grad=False)
    where.register_forward_hook(lambda module, inputs, x: x + vit.mine)


def plain_tensor(vit: Any, value: float, where: Any) -> None:
    """A tensor that the model knows nothing of."""
    mine = torch.full((32,), value)
    where.register_forward_hook(lambda module, inputs, x: x + mine)


@pytest.mark.parametrize("add", [frozen_layer, plain_tensor])
def test_a_name_follows_from_all_that_is_read(add: Callable[..., None]) -> None:
    def made(value: float, block: int | None) -> list[str]:
        vit: Any = build(TOY.with_method("last(k=1)"))
        add(vit, value, vit.patch_embed if block is None else vit.blocks[block])
        return names(vit)

    plain = names(build(TOY.with_method("last(k=1)")))
    assert len(set(plain)) == 4
    stem, again, other = made(1.0, None), made(1.0, None), made(2.0, None)
    assert stem == again
    assert not set(stem) & set(other)
    one, another = made(1.0, 1), made(2.0, 1)
    assert one[:2] == another[:2] == plain[:2]
    assert not set(one[2:]) & set(another[2:])
    assert made(1.0, 3) == made(2.0, 3) == plain  # above


def test_a_name_tells_weights_apart_that_changed_places() -> None:
    vit: Any = build(TOY.with_method("last(k=1)"))
    with torch.no_grad():
        vit.blocks[0].norm1.weight.fill_(2.0)
    before = names(vit)
    vit.blocks[0].norm1, vit.blocks[0].norm2 = vit.blocks[0].norm2, vit.blocks[0].norm1
    assert names(vit)[0] == before[0]
    assert not set(names(vit)[1:]) & set(before[1:])


def test_what_trains_has_no_part_in_a_name() -> None:
    names_of = [
        names(build(TOY.with_method(method)))
        for method in ("last(k=1)", "last(k=1)+mesa", "last(k=1)+checkpoint")
    ]
    vit: Any = build(TOY.with_method("last(k=1)"))
    with torch.no_grad():
        vit.blocks[3].attn.qkv.weight.zero_()
    assert all(each == names_of[0] for each in (*names_of, names(vit)))
