"""Frozen blocks whose outputs are made once: the same to the last bit, shared where they may be, in bounds."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from timm.layers import Mlp
from torch import Tensor

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.data.images import ImageSplit
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.prefix import cache as module
from bsr_explorer.prefix.cache import Cache, default_folder
from bsr_explorer.prefix.continued import Continued
from bsr_explorer.prefix.frozen import frozen_blocks
from bsr_explorer.prefix.prefix import Prefix
from bsr_explorer.prefix.stages import stages_of
from bsr_explorer.store.records import Record
from bsr_explorer.train.recipes import RECIPES
from bsr_explorer.train.step import Step, autocast, image_dtype

# --- files ----------------------------------------------------------------------------------------------

ROWS = np.arange(100, dtype=np.int32).reshape(20, 5)  # 400 bytes


def get(cache: Cache, key: str, rows: Any = ROWS) -> Any:
    """The rows, kept in parts of 8."""
    return cache.get(key, rows.shape, np.int32, lambda: iter([rows[:8], rows[8:16], rows[16:]]))


def never() -> Iterator[Any]:
    """What is not to be asked for."""
    raise AssertionError("made again")


def kept(cache: Cache) -> set[str]:
    return {path.stem for path in cache.folder.glob("*.npy")}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_what_is_kept_is_made_once(cache: Cache) -> None:
    made = get(cache, "a")
    assert np.array_equal(made, ROWS)
    assert isinstance(made, np.memmap)
    found = cache.get("a", ROWS.shape, np.int32, never)
    assert np.array_equal(found, ROWS)
    assert np.array_equal(np.load(cache.folder / "a.npy"), ROWS)


def test_keys_are_kept_apart(cache: Cache) -> None:
    get(cache, "a")
    assert np.array_equal(get(cache, "b", ROWS + 1), ROWS + 1)
    assert kept(cache) == {"a", "b"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        "cut",
        "longer",
        np.zeros((20, 4), np.int32),
        np.zeros((20, 5), np.int16),
        np.array(["object"], dtype=object),
    ],
    ids=str,
)
def test_a_file_that_is_torn_or_foreign_is_made_again(cache: Cache, content: Any) -> None:
    get(cache, "a")
    path = cache.folder / "a.npy"
    if isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        whole = path.read_bytes()
        path.write_bytes({"cut": whole[:-1], "longer": whole + b"x"}.get(content, content))
    assert cache.find("a", ROWS.shape, np.int32) is None
    assert np.array_equal(get(cache, "a"), ROWS)
    assert np.array_equal(cache.find("a", ROWS.shape, np.int32), ROWS)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=str)
def test_what_is_not_made_whole_is_not_kept(cache: Cache, error: BaseException) -> None:
    def breaks() -> Iterator[Any]:
        yield ROWS[:8]
        raise error

    with pytest.raises(type(error)):
        cache.get("a", ROWS.shape, np.int32, breaks)
    assert kept(cache) == set()
    assert not list(cache.folder.glob(".*.tmp"))
    assert np.array_equal(get(cache, "a"), ROWS)


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, most_bytes=3 * 600)  # with its header, a file takes 528 bytes
    for age, key in enumerate("abc"):
        get(cache, key)
        os.utime(tmp_path / f"{key}.npy", (age, age))
    cache.find("a", ROWS.shape, np.int32)
    get(cache, "d")
    assert kept(cache) == {"a", "c", "d"}


def test_what_would_not_fit_moves_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache(tmp_path, most_bytes=1000)
    get(cache, "a")
    large = np.zeros((20, 500), np.int32)
    assert cache.get("b", large.shape, np.int32, never) is None
    assert kept(cache) == {"a"}
    assert "takes 0.040 MB (0.038 MiB), and the most is 0.0010 MB (0.00095 MiB)" in caplog.text


def test_a_disk_that_is_full_is_left_alone(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = module.shutil.disk_usage("/")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage._replace(free=300))
    assert cache.get("a", ROWS.shape, np.int32, never) is None


def test_what_is_being_read_may_be_removed(cache: Cache) -> None:
    made = get(cache, "a")
    cache.forget("a")
    assert np.array_equal(made, ROWS)
    assert cache.find("a", ROWS.shape, np.int32) is None
    cache.forget("a")


def test_a_folder_that_cannot_be_made_keeps_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert Cache(tmp_path / "file").get("a", ROWS.shape, np.int32, never) is None
    assert "nothing can be kept" in caplog.text


def test_what_cannot_be_marked_as_used_can_be_read(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    get(cache, "a")

    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "utime", refuse)
    assert np.array_equal(cache.get("a", ROWS.shape, np.int32, never), ROWS)  # type: ignore[arg-type]


def test_many_who_want_the_same_have_it_made_once(cache: Cache) -> None:
    made: list[int] = []

    def slowly() -> Iterator[Any]:
        made.append(1)
        time.sleep(0.2)
        yield ROWS

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: cache.get("a", ROWS.shape, np.int32, slowly), range(8)))
    assert len(made) == 1
    assert all(np.array_equal(rows, ROWS) for rows in found)


def test_what_many_make_at_once_stays_in_bounds(tmp_path: Path) -> None:
    cache, seen = Cache(tmp_path, most_bytes=3 * 600), []

    def slowly() -> Iterator[Any]:
        time.sleep(0.05)
        seen.append(sum(size.st_size for _, size in cache._files()))
        yield ROWS

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda key: cache.get(key, ROWS.shape, np.int32, slowly), "abcdef"))
    assert max(seen) <= cache.most_bytes
    assert 1 <= len(kept(cache)) <= 3


def test_what_a_killed_process_left_is_removed(cache: Cache) -> None:
    get(cache, "a")
    left, at_work = cache.folder / ".b.npy.x1y2.tmp", cache.folder / ".c.npy.x1y2.tmp"
    left.write_bytes(b"half")
    at_work.write_bytes(b"half")
    mine = cache.folder / ".d.npy.x1y2.tmp"
    mine.write_bytes(b"half")
    with FileLock(cache.folder / "c.lock"):
        get(cache, "d")
    assert not left.exists()
    assert not mine.exists()
    assert at_work.exists()


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BSR_EXPLORER_CACHE", raising=False)
    monkeypatch.delenv("BSR_EXPLORER_DATA", raising=False)
    assert default_folder() == Path("~/.cache/bsr-explorer/prefixes").expanduser()
    monkeypatch.setenv("BSR_EXPLORER_DATA", str(tmp_path / "data"))
    assert Cache().folder == tmp_path / "prefixes"
    monkeypatch.setenv("BSR_EXPLORER_CACHE", str(tmp_path / "other"))
    assert Cache().folder == tmp_path / "other"


# --- blocks ---------------------------------------------------------------------------------------------

TOY = Config(model="toy", image_size=48, batch_size=4)
PROXY = Fidelity(image_size=32, train_size=22, val_size=21, epochs=3)
GOING_ON = ("last(k=1)", "bsr(blocks=(2,), keep={0: 0.5, 3: 0.5})", "linear")
PRECISIONS = ("fp32", "amp_bf16", "bf16")


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("model", "method", "precision"),
    [
        *(("toy", method, precision) for method in GOING_ON for precision in PRECISIONS),
        *(
            (model, GOING_ON[at], PRECISIONS[(at + far) % 3])  # each with each of the other two
            for far, model in enumerate(("deit_t", "vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"))
            for at in range(3)
        ),
    ],
)
def test_a_model_goes_on_from_what_its_blocks_have_made(
    cache: Cache, model: str, method: str, precision: str
) -> None:
    config = Config(model, 56 if "14" in model else 48, method=method, precision=precision)
    whole = module_in(config)
    stages = stages_of(config)
    prefix = Prefix(whole, stages, cache, precision, model)
    images = torch.randn(2, 3, config.image_size, config.image_size, dtype=next(whole.parameters()).dtype)
    with torch.no_grad(), autocast(precision, torch.device("cpu")):
        tokens = prefix.model.prefix(images)
        assert tuple(tokens.shape[1:]) == stages[prefix.blocks].shape
        assert tokens.dtype == images.dtype
        assert torch.equal(prefix.model(tokens), whole(images))
        assert torch.equal(prefix.model(images), whole(images))
    assert len(stages) == 1 + len(whole.blocks)


def module_in(config: Config) -> Any:
    return build(config).to(image_dtype(config.precision))


# --- training -------------------------------------------------------------------------------------------


def tune(config: Config, cache: Cache | None = None, fidelity: Fidelity = PROXY, **options: Any) -> Record:
    options = {"weights": "random", "every_epoch": True, "seed": 3, **options}
    return fine_tune(config, "digits", fidelity, cache=cache, **options)


def told(record: Record) -> dict[str, Any]:
    """All that a record says but times."""
    values = record.to_dict()
    return {key: values[key] for key in values if key not in ("seconds", "step_seconds", "provenance")}


def blocks(record: Record) -> int:
    return int(record.provenance["cached_blocks"])


@pytest.fixture
def augmented(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the recipe augment."""

    def augment(how: Any) -> None:
        monkeypatch.setitem(RECIPES, "short", replace(RECIPES["short"], augment=how))

    return augment


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("changes", "augment", "views"),
    [
        ({"method": "last(k=2)"}, "crop_flip", 2),
        ({"method": "linear", "precision": "bf16"}, "none", 5),
        ({"method": "bsr(blocks=(2,), keep={0: 0.7, 3: 0.5})"}, "crop", 1),
        ({"method": "bsr(blocks=(2,), keep={1: 0.5}, fuse=False)", "micro_batches": 2}, "none", None),
        ({"method": "last(k=1)", "precision": "amp_bf16"}, "flip", 4),
        ({"method": "last(k=1)", "precision": "amp_fp16"}, "none", None),
        ({"method": "last(k=2)+mesa(faithful=False)", "precision": "amp_bf16"}, "crop_flip", 3),
        ({"method": "last(k=2)+backrazor(faithful=False)"}, "none", None),
        ({"method": "last(k=1)+checkpoint+offload"}, "flip", 2),
        (
            {"method": "last(k=1)", "optimizer": "adamw_8bit", "batch_size": 22},
            "none",
            None,
        ),  # one step an epoch
    ],
    ids=str,
)
def test_a_training_is_the_same_to_the_last_bit(
    cache: Cache, augmented: Any, changes: dict[str, Any], augment: str, views: int | None
) -> None:
    augmented(augment)
    config, fidelity = replace(TOY, **changes), replace(PROXY, views=views)
    whole = tune(config, fidelity=fidelity)
    filling, filled = (tune(config, cache, fidelity) for _ in range(2))
    assert told(filling) == told(filled) == told(whole)
    assert blocks(whole) == 0
    actual = replace(config, image_size=32)
    frozen = frozen_blocks(module_in(actual), stages_of(actual), config.precision)
    assert blocks(filling) == blocks(filled) == frozen


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("method", ["full", "bitfit", "last(k=1)+mesa", "last(k=1)+backrazor"])
def test_what_gains_nothing_or_is_not_steady_is_the_same_too(cache: Cache, method: str) -> None:
    config = TOY.with_method(method)
    assert told(tune(config, cache)) == told(tune(config))


@pytest.mark.usefixtures("toy")
def test_what_depends_on_the_place_in_a_batch_goes_the_whole_way(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, forward = TOY.with_method("last(k=1)"), Mlp.forward

    def by_place(self: Mlp, x: Tensor) -> Tensor:
        return forward(self, x) * (1 + 1e-6 * torch.arange(len(x)).view(-1, 1, 1))

    monkeypatch.setattr(Mlp, "forward", by_place)
    passes = watched(monkeypatch)
    assert told(tune(config, cache)) == told(tune(config))
    assert passes[:15] == ["images"] * 6 + ["tokens"] * 5 + ["images"] * 4  # validation has its own order


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes through the models that are trained and evaluated, batch by batch (pairs look at a model first)."""
    passes: list[str] = []
    forward = Continued.forward

    def noted(self: Continued, x: Tensor) -> Tensor:
        if len(x) != 2:
            passes.append("images" if x.dim() == 4 else "tokens")
        return forward(self, x)

    monkeypatch.setattr(Continued, "forward", noted)
    return passes


@pytest.mark.usefixtures("toy")
def test_the_first_batch_of_a_pass_goes_the_whole_way(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    passes, images = watched(monkeypatch), []
    few = ImageSplit.few
    monkeypatch.setattr(ImageSplit, "few", lambda self, items: images.append(len(items)) or few(self, items))
    record = tune(TOY.with_method("last(k=1)"), cache)
    batch = ["images"] + ["tokens"] * 5  # OFTEN batches from the last one that did
    assert passes == (
        ["images"] * 2 + ["tokens"] * 3 + batch + ["tokens"] * (5 + 6) + ["images"] + ["tokens"] * 4 + batch
    )
    assert record.measured is not None
    assert record.measured["peak_bytes"] == pytest.approx(record.measured["predicted_peak_bytes"], rel=0.01)
    monkeypatch.setattr(ImageSplit, "__getitems__", lambda self, items: never())
    tune(TOY.with_method("last(k=1)"), cache)
    assert images == ([4] * 5 + [4, 1]) * 2  # and, at the end, what went the short way last


@pytest.mark.usefixtures("toy")
def test_trials_with_the_same_prefix_share_it(cache: Cache) -> None:
    methods = [
        "last(k=1)",
        "bsr(blocks=(3,), keep={3: 0.5})",
        "last(k=1)+mesa(faithful=False)",
        "last(k=1)+checkpoint",
        "last(k=1)+offload+backrazor(faithful=False)",
        "bsr(blocks=(3,), keep={}, head=False, norm=False)",
    ]
    for method in methods:
        assert blocks(tune(replace(TOY.with_method(method), lr=1e-3), cache)) == 3
        assert len(kept(cache)) == 2  # to train on, and to validate on


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    "other",
    [
        {"method": "bsr(blocks=(3,), keep={1: 0.5})"},
        {"method": "bsr(blocks=(3,), keep={1: 0.5}, fuse=False)"},
        {"method": "last(k=2)"},
        {"precision": "amp_bf16"},
        {"batch_size": 5},
        {"attention": "math"},
        {"seed": 4},
        {"fidelity": replace(PROXY, image_size=48)},
        {"fidelity": replace(PROXY, train_size=23, val_size=22)},
    ],
    ids=str,
)
def test_trials_with_another_prefix_do_not(cache: Cache, other: dict[str, Any]) -> None:
    method = "bsr(blocks=(3,), keep={1: 0.7})"
    options = {key: value for key, value in other.items() if key in ("seed", "fidelity")}
    changes = {key: value for key, value in other.items() if key not in options}
    tune(TOY.with_method(method), cache)
    before = kept(cache)
    tune(replace(TOY, **{"method": method, **changes}), cache, **options)
    new = len(kept(cache) - before)
    assert new == 2 or (new == 1 and "attention" in other)  # an explicit softmax may not be steady


@pytest.mark.usefixtures("toy")
def test_a_longer_prefix_begins_where_a_shorter_one_ends(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(TOY.with_method("last(k=3)"), cache)
    tune(TOY.with_method("last(k=2)"), cache)
    began: list[int | None] = []
    prefix = Continued.prefix

    def noted(self: Continued, x: Tensor, done: int | None = None) -> Tensor:
        began.append(done)
        return prefix(self, x, done)

    monkeypatch.setattr(Continued, "prefix", noted)
    record = tune(TOY.with_method("linear"), cache)
    assert began == [None, *[2] * 12, None, None]  # after a look at the model, and before one at the end
    assert told(record) == told(tune(TOY.with_method("linear")))


@pytest.mark.usefixtures("toy")
def test_what_is_kept_and_wrong_is_noticed(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    config = TOY.with_method("last(k=1)")
    right = tune(config, cache)
    for path in cache.folder.glob("*.npy"):
        rows = np.load(path, mmap_mode="r+")
        rows[:] += 1
        rows.flush()
    wrong = tune(config, cache)
    assert told(wrong) == told(right)
    assert (
        "3 frozen blocks run again in each step: what they make of images is not what they made"
        in caplog.text
    )
    assert blocks(wrong) == 0


@pytest.mark.usefixtures("toy")
def test_what_turned_out_to_be_wrong_is_made_again(cache: Cache) -> None:
    config = TOY.with_method("last(k=1)")
    tune(config, cache)
    (train,) = (path for path in cache.folder.glob("*.npy") if len(np.load(path)) == 22)
    rows = np.load(train)
    np.save(train, rows + 1)
    assert [blocks(tune(config, cache)) for _ in range(2)] == [0, 3]
    assert np.array_equal(np.load(train), rows)


@pytest.mark.usefixtures("toy")
def test_a_cache_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    config = TOY.with_method("last(k=1)")
    whole = told(tune(config))
    (tmp_path / "file").touch()
    for cache in (Cache(tmp_path / "file"), Cache(tmp_path / "small", most_bytes=1000)):
        record = tune(config, cache)
        assert (told(record), blocks(record)) == (whole, 0)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("batch", [4, 16], ids=["many", "the second is not full"])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_last_images_that_are_no_full_batch_go_the_whole_way(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, batch: int, micro_batches: int
) -> None:
    monkeypatch.setitem(RECIPES, "short", replace(RECIPES["short"], partial_batch=True))
    config = replace(TOY, method="last(k=1)", batch_size=batch, micro_batches=micro_batches)
    whole = tune(config)
    assert whole.images_trained == 3 * 22
    trained_on: set[tuple[str, int]] = set()
    step = Step.__call__

    def noted(self: Step, images: Tensor, labels: Tensor) -> float:
        trained_on.add(("images" if images.dim() == 4 else "tokens", len(images)))
        return step(self, images, labels)

    monkeypatch.setattr(Step, "__call__", noted)
    filling, filled = (tune(config, cache) for _ in range(2))
    assert told(filling) == told(filled) == told(whole)
    assert blocks(filling) == blocks(filled) == 3
    assert trained_on == {("images", batch), ("images", 22 % batch), ("tokens", batch)}


@pytest.mark.usefixtures("toy")
def test_new_views_every_epoch_leave_only_validation_to_be_kept(
    cache: Cache, augmented: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    augmented("crop_flip")
    config = TOY.with_method("last(k=1)")
    whole = told(tune(config))
    passes = watched(monkeypatch)
    assert told(tune(config, cache)) == whole
    validation = ["images"] + ["tokens"] * 5
    assert passes == (
        ["images"] * 5 + validation + ["images"] * 5 + ["tokens"] * 6 + ["images"] * 5 + validation
    )
    assert len(kept(cache)) == 1


@pytest.mark.usefixtures("toy")
def test_views_are_made_when_their_epoch_comes(cache: Cache, augmented: Any) -> None:
    augmented("crop_flip")
    config = TOY.with_method("last(k=1)")
    many, two = (replace(PROXY, views=views) for views in (9, 2))
    stopped = tune(config, cache, many, rungs={2: float("inf")})
    assert stopped.status == "stopped"
    assert len(kept(cache)) == 3  # of 2 epochs, and of validation
    tune(config, cache, many)
    assert len(kept(cache)) == 4
    tune(config, cache, two)  # its two are the first two of nine
    assert len(kept(cache)) == 4


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("first", [True, False])
def test_an_interrupted_training_may_go_on_either_way(
    cache: Cache, tmp_path: Path, augmented: Any, first: bool
) -> None:
    augmented("flip")
    config, fidelity = TOY.with_method("last(k=2)+mesa(faithful=False)"), replace(PROXY, views=2)
    whole = told(tune(config, fidelity=fidelity))

    def stop(done: int, total: int, loss: float) -> None:
        if done == 7:
            raise KeyboardInterrupt

    path = tmp_path / "0001.ckpt"
    with pytest.raises(KeyboardInterrupt):
        tune(config, cache if first else None, fidelity, checkpoint=path, progress=stop)
    assert path.exists()
    assert told(tune(config, None if first else cache, fidelity, checkpoint=path)) == whole


@pytest.mark.usefixtures("toy")
def test_nothing_is_said_where_all_is_well(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        tune(TOY.with_method("last(k=1)"), cache)
        tune(TOY.with_method("full"), cache)
    assert not [record for record in caplog.records if record.name.startswith("bsr_explorer")]
