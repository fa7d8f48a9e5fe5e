"""Image folders: what is a class, what is an image, and what is left out for what."""

from __future__ import annotations

from pathlib import Path

import pytest
import torchvision

from bsr_explorer.data.folders import NO_CLASSES, class_folders, scan


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".git", *sorted(NO_CLASSES)])
def test_what_tools_make_is_no_class(name: str, tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.png", f"{name}/1.png", f"{name}/deep/2.png", f"a/{name}/3.png")
    assert class_folders(tmp_path) == {"a", "b"}
    found = scan(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.paths] == ["a/1.png", "b/1.png"]
    assert found.left_out == {"": {f"{name}/": 2}, "a": {f"{name}/": 1}, "b": {}}


def test_files_that_are_no_images_are_counted_by_extension(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "a/1.GIF",
        "a/2.Jp2",
        "a/x.xyz",
        "a/y.XYZ",
        "a/README",
        "a/._1.png",
        "a/.DS_Store",
        "b/1.pcx",
    )
    found = scan(tmp_path)
    assert [path.name for path in found.paths] == ["1.GIF", "2.Jp2", "1.pcx"]
    assert found.labels == (0, 0, 1)
    assert found.left_out["a"] == {".xyz": 2, "without extension": 1, "hidden": 2}


def test_the_order_is_torchvision_s(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"{label}/{name}" for label in "ba" for name in ("2.png", "10.png", "z/1.png", "a.b/3.png")),
    )
    theirs = torchvision.datasets.ImageFolder(str(tmp_path))
    found = scan(tmp_path)
    assert [
        (str(path), label) for path, label in zip(found.paths, found.labels, strict=True)
    ] == theirs.samples
    assert list(found.classes) == theirs.classes


def test_no_folder_has_no_classes(tmp_path: Path) -> None:
    assert class_folders(tmp_path / "nowhere") == set()
