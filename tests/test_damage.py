"""Damaged images are found before anything trains: all of them, once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer import damage
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.damage import planned
from bsr_explorer.data.splits import Splits
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.job import Job, load_data
from tests.pictures import Pictures

pytestmark = pytest.mark.usefixtures("toy")

BAD = ("a/01.png", "b/00.png", "b/17.png")


@pytest.fixture
def folder(pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BSR_EXPLORER_CACHE", str(tmp_path / "cache"))
    return Path(pictures.root)


def job(folder: Path, **fidelity: Any) -> Job:
    return Job(str(folder), Fidelity(**fidelity), "random")


def files(asked: Job, part: str) -> list[str]:
    return list(getattr(load_data(CONFIG, asked), part).files().values())


CONFIG = Config("toy", 48, num_classes=2)


def test_all_damaged_images_are_named_at_once(folder: Path) -> None:
    with pytest.raises(UserError) as error:
        planned(CONFIG, job(folder))
    said = str(error.value)
    assert said.startswith(f"--data: '{folder}': 3 images cannot be read: a/01.png (")
    assert [said.index(name) for name in Pictures.bad] == sorted(said.index(name) for name in Pictures.bad)
    assert said.endswith("; replace or remove them, or leave them out with --skip-bad")
    assert "\n" not in said


def test_one_damaged_image_that_is_used_leads_to_all_others(pictures: Pictures, folder: Path) -> None:
    pictures.repair(remove=False)
    few = job(folder, train_size=2, val_size=2)
    used = {name for part in ("train", "validation") for name in files(few, part)}
    one = min(used)
    other = min(set(files(job(folder), "train")) - used)
    for name in (one, other):
        (folder / name).write_bytes(b"")
    with pytest.raises(UserError, match="2 images cannot be read") as error:
        planned(CONFIG, few)
    assert one in str(error.value) and other in str(error.value)


def test_damage_that_is_not_used_is_no_error(pictures: Pictures, folder: Path) -> None:
    pictures.repair(remove=False)
    few = job(folder, train_size=2, val_size=2)
    used = {name for part in ("train", "validation") for name in files(few, part)}
    (folder / min(set(files(job(folder), "train")) - used)).write_bytes(b"")
    assert planned(CONFIG, few) == few.fidelity


def test_what_is_not_used_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[set[str]] = []

    def noted(paths: Any, told: Any) -> dict[Path, str]:
        read.append({path.name for path in paths})
        return {}

    monkeypatch.setattr(damage, "unreadable", noted)
    for test, count in ((False, 4), (True, 8)):
        read.clear()
        planned(CONFIG, replace(job(folder, train_size=2, val_size=2), test=test))
        assert len(read) == 1
        assert len(read[0]) <= count


def test_damaged_images_are_left_out_if_that_is_asked_for(folder: Path) -> None:
    seen: list[int] = []

    def plan(given: Fidelity, splits: Splits) -> Fidelity:
        seen.append(len(splits.train))
        return replace(given, train_size=len(splits.train))

    fidelity = planned(CONFIG, job(folder), plan, skip_bad=True)
    assert fidelity.skip == Pictures.bad
    assert seen == [32, 30]
    assert fidelity.train_size == 30
    splits = load_data(CONFIG, replace(job(folder), fidelity=fidelity))
    assert splits.left_out == {"damaged": 3}
    assert planned(CONFIG, replace(job(folder), fidelity=fidelity)) == fidelity


def test_images_that_can_be_read_are_read_once(
    pictures: Pictures, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures.repair(remove=False)
    assert planned(CONFIG, job(folder)) == Fidelity()
    with monkeypatch.context() as patch:
        patch.setattr(damage, "unreadable", lambda *_: pytest.fail("they were read before"))
        assert planned(CONFIG, job(folder)) == Fidelity()
    pictures.damage()
    with pytest.raises(UserError, match="3 images cannot be read"):
        planned(CONFIG, job(folder))


def test_many_damaged_images_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "MOST_NAMED", 2)
    with pytest.raises(UserError, match=r"3 images .*a/01\.png \(.*\), b/00\.png \(.*\) and 1 more;"):
        planned(CONFIG, job(folder))


def test_images_in_memory_cannot_be_damaged() -> None:
    config = replace(CONFIG, num_classes=10)
    assert planned(config, Job("digits", weights="random"), skip_bad=True) == Fidelity()
