"""What several tests share: toy models, a small finished study, and the command line in this process."""

from __future__ import annotations

import atexit
import gc
import importlib
import os

# Two threads that share two busy cores wait for each other far longer than one thread works.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.pictures import Pictures

if TYPE_CHECKING:  # what a fixture needs is imported when it is asked for: most tests need no search library
    from bsr_explorer.search.coordinator import Search
    from bsr_explorer.search.space import Candidate
    from bsr_explorer.store.records import Record
    from bsr_explorer.store.study import Study

atexit.register(gc.unfreeze)

# A slow moment of the machine is no failure; half of hypothesis's own number of examples, for these here are models.
settings.register_profile("busy", deadline=None, max_examples=50)
settings.load_profile("busy")

_modules = 0
"""Modules that were loaded when all that was alive was last frozen."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what is ``long`` begin first: as the last, it would run alone while the other cores have nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none. Each measured step collects all garbage, and would walk through all
    that was ever imported to find it."""
    global _modules
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
    if len(sys.modules) > _modules:
        _read_once()
        gc.freeze()
        _modules = len(sys.modules)


def _read_once() -> None:
    """Optuna reads all its migrations whenever a database is opened; within a run they stay what they are."""
    versions = getattr(sys.modules.get("optuna.storages._rdb.storage"), "_VersionManager", None)
    read = getattr(versions, "get_head_version", None)
    if versions and read and not _head:
        _head.append("")

        def get_head_version(manager: Any) -> str:
            _head[0] = _head[0] or read(manager)
            return _head[0]

        versions.get_head_version = get_head_version


_head: list[str] = []
"""The version of Optuna's tables, once it is known."""


MakeStudy = Callable[..., "Study"]
OpenSearch = Callable[..., "Search"]
MakeComparison = Callable[..., Any]


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Ctrl-C is Python's own in each test, whatever a command left behind; in the background of a script it would be
    ignored, and so would what tests press."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def toy() -> str:
    """The name of a vision transformer of 4 blocks that trains in no time; ``toy_2`` has 2 blocks."""
    importlib.import_module("tests.toy")
    return "toy"


@pytest.fixture(scope="session")
def make_study(toy: str) -> MakeStudy:
    """A study of the toy model: trains in no time, at 32 of 48 pixels; cannot afford ``full``, checkpointed or not.
    Nothing is trained on fresh seeds."""

    from bsr_explorer.config import Config, Fidelity
    from bsr_explorer.store.study import Study

    def make(**changed: Any) -> Study:
        config = Config(**{"model": toy, "image_size": 48, "batch_size": 4, **changed.pop("config", {})})
        settings: dict[str, Any] = {
            "name": "toy-study",
            "config": config,
            "budget": "1400KB",
            "counts": "peak",
            "data": "digits",
            "weights": "random",
            "fidelity": Fidelity(image_size=32, train_size=20, val_size=20, epochs=1),
            "trials": 7,
            "sampler": "random",
            "replicas": 0,
        }
        if "space" not in changed:
            from bsr_explorer.prediction import geometry_of
            from bsr_explorer.search.space import default_space

            settings["space"] = default_space(geometry_of(config))
        return Study(**{**settings, **changed})

    return make


@pytest.fixture(scope="session")
def open_search() -> OpenSearch:
    """Opens, or reopens, the search of a study in a folder."""

    def open_it(study: Study, folder: Path, workers: Any = None) -> Search:
        from bsr_explorer.finetune.job import Job
        from bsr_explorer.search.coordinator import Search
        from bsr_explorer.search.space import Space
        from bsr_explorer.store.reopened import open_folder

        study = open_folder(study, folder, "bsr-explore search")
        job = Job(data=study.data, fidelity=study.fidelity, weights=study.weights)
        return Search(study, folder, Space(study), job, workers)

    return open_it


class Quiet:
    """Watches a search and says nothing."""

    def trial_starts(self, number: int, candidate: Candidate, replica: int) -> None:
        """Say nothing."""

    def step(self, number: int, done: int, total: int, loss: float) -> None:
        """Say nothing."""

    def trial_crashed(self, number: int, reason: str) -> None:
        """Say nothing."""

    def trial_ends(self, number: int, record: Record) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def quiet() -> Quiet:
    """Watches a search and says nothing."""
    return Quiet()


@pytest.fixture(scope="session")
def finished_once(
    make_study: MakeStudy, open_search: OpenSearch, quiet: Quiet, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished study of 7 trials. Not to be changed; see ``study_folder``."""
    folder = tmp_path_factory.mktemp("finished") / "toy-study"
    ended = open_search(make_study(), folder).run(quiet)
    assert (ended.because, ended.finished) == ("trials", 7)
    return folder


@pytest.fixture
def study_folder(finished_once: Path, tmp_path: Path) -> Path:
    """A copy of a finished study of 7 trials."""
    return Path(shutil.copytree(finished_once, tmp_path / "toy-study"))


class Still:
    """Watches a comparison and says nothing, but counts what ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def begins(self, tasks: Any) -> None:
        """Say nothing."""

    def starts(self, task: Any) -> None:
        """Say nothing."""

    def step(self, done: int, total: int, loss: float = 0.0) -> None:
        """Say nothing."""

    def ends(self, task: Any, record: Record | None) -> None:
        """Count."""
        self.ended.append(task.what)


@pytest.fixture(scope="session")
def make_comparison(toy: str) -> MakeComparison:
    """A comparison of the toy model, trained in no time at 32 of 48 pixels, with nothing left open."""

    def make(methods: str = "full, linear, last(k=1)", budget: str | None = None, **changed: Any) -> Any:
        from bsr_explorer.compare.plan import plan
        from bsr_explorer.config import Config, Fidelity
        from bsr_explorer.methods import parse_methods

        settings: dict[str, Any] = {
            "config": Config(toy, 48, batch_size=4),
            "data": "digits",
            "weights": "random",
            "fidelity": Fidelity(image_size=32, train_size=20, val_size=20, epochs=1),
            "seeds": 2,
            "counts": "peak",
        }
        return plan(methods=parse_methods(methods), budget=budget, **{**settings, **changed})

    return make


@pytest.fixture(scope="session")
def compared_once(make_comparison: MakeComparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison of 3 methods with 2 seeds. Not to be changed; see ``compared_folder``."""
    from bsr_explorer.compare.run import compare
    from bsr_explorer.data.places import default_data_dir

    folder = tmp_path_factory.mktemp("compared") / "toy-comparison"
    watch = Still()
    compare(make_comparison(), folder, default_data_dir(), 3, watch)
    assert len(watch.ended) == 7
    return folder


@pytest.fixture
def compared_folder(compared_once: Path, tmp_path: Path) -> Path:
    """A copy of a finished comparison of 3 methods with 2 seeds."""
    return Path(shutil.copytree(compared_once, tmp_path / "toy-comparison"))


@pytest.fixture
def still() -> Still:
    """Watches a comparison and says nothing, but counts what ended."""
    return Still()


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    """A folder of 40 images in two classes, three of them damaged."""
    made = Pictures(tmp_path / "pictures")
    made.damage()
    return made


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Done]:
    """Runs the command line in this process, in an empty working directory."""
    from bsr_explorer.cli import main
    from bsr_explorer.cli.app import app

    monkeypatch.setattr(app, "registered_commands", [])  # main registers them anew each time
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BSR_EXPLORER_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BSR_EXPLORER_CACHE", str(tmp_path.with_name(f"{tmp_path.name}-cache")))

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["bsr-explore", *map(str, arguments)])
        capsys.readouterr()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as a process begins
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else int(code is not None), said.out, said.err)

    return run
