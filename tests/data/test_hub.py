"""Which files of a data set of the Hub are found in its cache, and what is said of one that is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from bsr_explorer.data import hub
from bsr_explorer.data.hub import find, in_cache
from bsr_explorer.errors import UserError
from tests.hub_cache import REVISION, put

DATA = "hub:acme/birds"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The empty cache of this test."""
    return tmp_path / "hub"


def empty(*names: str) -> dict[str, bytes]:
    """Files; their content says their name, for blobs are named by content."""
    return {name: name.encode() for name in names}


def found(data: str = DATA) -> dict[str, list[str]]:
    """The names of the files that are found, by part."""
    snapshot = find(data)
    return {
        part: [file.relative_to(snapshot.root).as_posix() for file in files] for part, files in snapshot.parts
    }


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    said = str(error.value)
    assert said.startswith("--data: ")
    assert "\n" not in said
    return said


# --- in the cache ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (
            ["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"],
            {"train": ["data/train-00000-of-00001.parquet"], "test": ["data/test-00000-of-00001.parquet"]},
        ),
        (
            ["data/train-00001-of-00002-0a.parquet", "data/train-00000-of-00002-0b.parquet"],
            {"train": ["data/train-00000-of-00002-0b.parquet", "data/train-00001-of-00002-0a.parquet"]},
        ),
        (
            ["train.parquet", "valid.parquet", "test.parquet", "README.md", "extra.parquet"],
            {"train": ["train.parquet"], "validation": ["valid.parquet"], "test": ["test.parquet"]},
        ),
        (
            ["data/train.parquet", "data/val.parquet", "data/trainer.parquet", "data/train-1.parquet"],
            {"train": ["data/train.parquet"], "validation": ["data/val.parquet"]},
        ),
    ],
)
def test_parts_go_by_the_names_of_files(names: list[str], parts: dict[str, list[str]], cache: Path) -> None:
    assert not in_cache("acme/birds")
    root = put(cache, "acme/birds", empty(*names))
    assert found() == found(f"{DATA}/default") == parts
    snapshot = find(DATA)
    assert (snapshot.root, snapshot.name) == (root, "acme/birds@1a2b3c4")
    assert in_cache("acme/birds")


@pytest.mark.parametrize("folder", ["plain_text", "dataset", "data/small", "a/b"])
def test_the_only_configuration_is_taken(folder: str, cache: Path) -> None:
    put(cache, "acme/birds", empty(f"{folder}/train-00000-of-00001.parquet", "other/test.parquet"))
    name = folder.removeprefix("data/")
    assert found() == found(f"{DATA}/{name}") == {"train": [f"{folder}/train-00000-of-00001.parquet"]}
    assert find(DATA).name == f"acme/birds/{name}@1a2b3c4"


def test_of_several_configurations_one_has_to_be_chosen(cache: Path) -> None:
    put(cache, "acme/birds", empty("large/train.parquet", "small/train.parquet", "small/test.parquet"))
    with pytest.raises(UserError) as error:
        find(DATA)
    assert one_line(error) == (
        "--data: 'hub:acme/birds' has several configurations; choose from hub:acme/birds/large, hub:acme/birds/small"
    )
    assert found(f"{DATA}/small") == {"train": ["small/train.parquet"], "test": ["small/test.parquet"]}
    with pytest.raises(UserError, match="--data: hub:acme/birds/tiny is not in the Hub's cache"):
        find(f"{DATA}/tiny")  # the Hub may have it


def test_the_branch_comes_before_what_is_newer(cache: Path) -> None:
    newer = put(cache, "acme/birds", empty("train.parquet"), "f" * 40, main=False)
    assert find(DATA).root == newer, "as the library datasets downloads it"
    newest = put(cache, "acme/birds", empty("train.parquet", "test.parquet"), "e" * 40, main=False)
    os.utime(newer, (1, 1))
    assert find(DATA).root == newest
    main = put(cache, "acme/birds", empty("train.parquet"), "d" * 40)
    os.utime(main, (0, 0))
    assert find(DATA).root == main
    put(cache, "acme/birds", {"README.md": b"no images"}, "c" * 40)
    assert find(DATA).root == newest, "the branch has no images here"


def test_the_hub_s_own_client_finds_the_same(cache: Path) -> None:
    put(cache, "acme/birds", empty("data/train-00000-of-00001.parquet"))
    theirs = huggingface_hub.snapshot_download("acme/birds", repo_type="dataset", local_files_only=True)
    assert find(DATA).root == Path(theirs)
    (repository,) = huggingface_hub.scan_cache_dir(constants.HF_HUB_CACHE).repos
    assert (repository.repo_id, repository.repo_type) == ("acme/birds", "dataset")
    assert [revision.commit_hash for revision in repository.revisions] == [REVISION]


def test_the_cache_is_where_the_environment_says_and_nothing_heavy_is_imported(tmp_path: Path) -> None:
    put(tmp_path / "home" / "hub", "acme/birds", empty("train.parquet"))
    code = (
        "import sys; from bsr_explorer.data.hub import find, in_cache; "
        "assert 'huggingface_hub' not in sys.modules; "
        "assert in_cache('acme/birds') and not in_cache('acme/fish'); "
        "find('hub:acme/birds'); "
        "sys.exit(bool({'torch', 'numpy', 'pyarrow', 'httpx2', 'httpx'} & sys.modules.keys()))"
    )
    known = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**known, "HF_HOME": str(tmp_path / "home")}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0


# --- not in the cache -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", ["hub:", "hub:birds", "hub:acme/", "hub:acme/birds/", "hub:/birds", "hub:a b/c"]
)
def test_what_is_no_name_is_refused(data: str) -> None:
    with pytest.raises(UserError, match="names no data set of the Hub; write hub:OWNER/NAME or") as error:
        find(data)
    assert repr(data) in one_line(error)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["data/test-00000-of-00001.parquet"],
        ["data/train-00000-of-00003.parquet", "data/train-00002-of-00003.parquet"],
        ["data/train-00000-of-00001.parquet", "data/test-00001-of-00002.parquet"],
    ],
)
def test_what_is_not_there_as_a_whole_is_out_of_reach(names: list[str], cache: Path) -> None:
    put(cache, "acme/birds", empty("README.md", *names))
    assert not in_cache("acme/birds")
    with pytest.raises(UserError) as error:
        find(DATA)
    said = one_line(error)
    assert (
        f"--data: {DATA} is not in the Hub's cache, {cache}, or not all of it, and the Hub cannot be reached"
        in said
    )
    assert (
        "'hf download acme/birds --repo-type dataset', set HF_HOME to a cache that has it, or choose digits"
        in said
    )


def test_a_file_without_its_blob_is_not_there(cache: Path) -> None:
    put(cache, "acme/birds", empty("train.parquet"))
    for blob in (cache / "datasets--acme--birds" / "blobs").iterdir():
        blob.unlink()
    with pytest.raises(UserError, match="not all of it"):
        find(DATA)


def test_a_cache_that_may_not_be_looked_at_has_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(cache, "acme/birds", empty("train.parquet"))
    assert in_cache("acme/birds")

    def forbidden(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    assert not in_cache("acme/birds")


def test_offline_mode_of_the_hub_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "answers", lambda url: pytest.fail("nothing is asked offline"))
    with pytest.raises(UserError, match="and HF_HUB_OFFLINE is set; unset it, set HF_HOME") as error:
        find(DATA)
    one_line(error)


# --- downloads ------------------------------------------------------------------------------------------


class Remote:
    """The Hub, with one data set; downloads what it is asked for."""

    def __init__(self, cache: Path, *names: str) -> None:
        self.cache = cache
        self.names = names
        self.downloaded: list[str] = []

    def list_repo_files(self, repository: str, *, repo_type: str) -> list[str]:
        """As that of ``HfApi``."""
        assert (repository, repo_type) == ("acme/birds", "dataset")
        return [".gitattributes", "README.md", *self.names]

    def snapshot_download(self, repository: str, *, repo_type: str, allow_patterns: Iterable[str]) -> str:
        """As that of ``huggingface_hub``, which knows patterns too."""
        assert (repository, repo_type) == ("acme/birds", "dataset")
        self.downloaded = list(allow_patterns)
        return str(put(self.cache, repository, empty(*self.downloaded)))


@pytest.fixture
def remote(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    made = Remote(
        cache, "large/train.parquet", "small/train.parquet", "small/test.parquet", "small/extra.parquet"
    )
    monkeypatch.setattr(hub, "answers", lambda url: url == constants.ENDPOINT)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    return made


def test_what_is_not_in_the_cache_is_downloaded_once(remote: Remote) -> None:
    expected = {"train": ["small/train.parquet"], "test": ["small/test.parquet"]}
    assert found(f"{DATA}/small") == expected
    assert sorted(remote.downloaded) == ["small/test.parquet", "small/train.parquet"]
    remote.downloaded = []
    assert found(f"{DATA}/small") == expected
    assert remote.downloaded == []
    assert found(f"{DATA}/large") == {"train": ["large/train.parquet"]}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (DATA, "has several configurations; choose from hub:acme/birds/large, hub:acme/birds/small"),
        (
            f"{DATA}/tiny",
            "has no configuration 'tiny'; choose from hub:acme/birds/large, hub:acme/birds/small",
        ),
    ],
)
def test_nothing_is_downloaded_before_a_configuration_is_chosen(data: str, says: str, remote: Remote) -> None:
    with pytest.raises(UserError) as error:
        find(data)
    assert one_line(error) == f"--data: {data!r} {says}"
    assert remote.downloaded == []


def test_a_data_set_without_tables_is_refused(remote: Remote) -> None:
    remote.names = ("train/a/1.png", "data/all.parquet")
    with pytest.raises(UserError, match="has no training images in Parquet") as error:
        find(DATA)
    one_line(error)


def test_a_download_that_fails(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("404 Client Error.\n\nRepository not found")

    monkeypatch.setattr(remote, "list_repo_files", fail)
    with pytest.raises(UserError) as error:
        find(DATA)
    assert "cannot be downloaded (RuntimeError: 404 Client Error. Repository not found); set" in one_line(
        error
    )


@pytest.mark.network
def test_the_hub_has_the_copies_of_named_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    from bsr_explorer.data.catalogue import DATASETS

    monkeypatch.undo()
    for info in DATASETS.values():
        if info.copy is not None:
            names = huggingface_hub.HfApi().list_repo_files(info.copy.repository, repo_type="dataset")
            ((_, parts),) = hub._whole(names).items()
            assert set(parts) == {"train", info.copy.test}
