"""Where data lie, and which there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bsr_explorer.data.catalogue import DATASETS, TEXTS
from bsr_explorer.data.places import check_data, default_data_dir, list_datasets
from bsr_explorer.errors import UserError
from tests.data.making import assert_disjoint, load, make_folder, sizes, write_idx


@pytest.mark.parametrize("validation", [None, "val", "validation"])
@pytest.mark.parametrize("test", [None, "test"])
def test_folders_of_parts(validation: str | None, test: str | None, tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"a": 20, "b": 20})
    for name in filter(None, (validation, test)):
        make_folder(tmp_path / name, {"a": 2, "b": 1})
    splits = load(str(tmp_path))
    cut = 4 * ((validation is None) + (test is None))
    assert sizes(splits) == (40 - cut, 3 if validation else 4, 3 if test else 4)
    assert_disjoint(splits)
    said = {0: "split as given", 1: "cut from train, stratified, split seed 0", 2: "stratified, split seed 0"}
    assert splits.description.endswith(said[cut // 4])


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": 5, "tram": 5})
    assert load(str(tmp_path)).num_classes == 2


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            "cifar11",
            r"neither a data set nor a folder \(did you mean 'cifar10'\?\); choose from digits, fashion",
        ),
        ("/no/such/folder", "neither a data set nor a folder.* or the path of an image folder"),
        (__file__, "is a file, not an image folder"),
    ],
)
def test_no_such_data(data: str, says: str, tmp_path: Path) -> None:
    for ask in (lambda: check_data(data, tmp_path), lambda: load(data, tmp_path)):
        with pytest.raises(UserError, match=f"^--data: .*{says}"):
            ask()


def test_the_list_has_every_data_set(tmp_path: Path) -> None:
    write_idx(tmp_path / "fashion_mnist")
    rows = {row["name"]: row for row in list_datasets(tmp_path)}
    composed = ["turned(NAME)", "swapped(NAME)", "sums(digits)", "tasks(NAME, NAME, …)"]
    assert [*rows] == [*DATASETS, "PATH", "hub:…", *composed, *TEXTS, "PATH.txt"]
    assert rows["digits"]["availability"] == "embedded"
    assert rows["fashion_mnist"]["availability"] == "on disk"
    assert rows["cifar10"]["availability"] == "download"
    assert rows["pets"]["classes"] == 37 and rows["pets"]["train"] == 3312
    assert len({tuple(row) for row in rows.values()}) == 1, "all rows have the same keys"


def test_what_only_the_hub_needs_is_not_imported_for_other_data(tmp_path: Path) -> None:
    make_folder(tmp_path / "birds", {"a": 2, "b": 2})
    write_idx(tmp_path / "fashion_mnist")
    code = (
        "import sys; from pathlib import Path; from bsr_explorer.data.places import check_data, count_classes\n"
        f"for data in ('digits', 'fashion_mnist', {str(tmp_path / 'birds')!r}):\n"
        f"    check_data(data, Path({str(tmp_path)!r})); count_classes(data)\n"
        "sys.exit(bool({'huggingface_hub', 'pyarrow', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_default_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BSR_EXPLORER_DATA", str(tmp_path))
    assert default_data_dir() == tmp_path
    monkeypatch.delenv("BSR_EXPLORER_DATA")
    assert default_data_dir() == Path.home() / ".cache" / "bsr-explorer" / "data"


def test_listing_data_sets_does_not_import_torch() -> None:
    code = (
        "import sys; from pathlib import Path; import bsr_explorer.data.places as d; "
        "d.list_datasets(Path('nowhere')); d.check_data('digits', Path('nowhere')); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
