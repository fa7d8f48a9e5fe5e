"""Study files: read as they were written, and refused with the place that is wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.config import ONLY_GPUS, Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.store.study import COUNTS, FILE, SAMPLERS, SpaceSpec, Study

STUDY = Study(
    name="a study",
    config=Config(model="deit_t", image_size=48, num_classes=10, batch_size=4),
    budget="60MB",
    counts="saved",
    data="digits",
    weights="random",
    fidelity=Fidelity(image_size=32, train_size=20, val_size=None, epochs=1),
    space=SpaceSpec(("linear", "last(k=3)"), 2, (3, 6), (1.0, 0.5), (True,)),
    seed=7,
    trials=5,
    time_limit=90.0,
    sampler="tpe",
    rungs=(1, 3),
    replicas=2,
)

Edit = Callable[[dict[str, Any]], None]


def edited(folder: Path, edit: Edit) -> Path:
    """A file of ``STUDY`` after a change of its tables."""
    tables: dict[str, Any] = STUDY.to_toml()
    edit(tables)
    path = folder / "edited.toml"
    path.write_text(tomli_w.dumps(tables))
    return path


def put(table: str, key: str, value: Any) -> Edit:
    return lambda tables: tables.setdefault(table, {}).__setitem__(key, value)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        Study.from_toml(path)
    text = str(error.value)
    assert "\n" not in text
    return text


# --- there and back -------------------------------------------------------------------------------------


def test_a_study_is_read_as_it_was_written(tmp_path: Path) -> None:
    STUDY.write(tmp_path, "bsr-explore search --budget 60MB")
    assert Study.from_toml(tmp_path / FILE) == STUDY


def test_the_file_says_how_it_was_made_and_how_to_repeat_it(tmp_path: Path) -> None:
    STUDY.write(tmp_path, "bsr-explore search --budget 60MB")
    first, second, *_ = (tmp_path / FILE).read_text().splitlines()
    assert first == "# Made by: bsr-explore search --budget 60MB"
    assert second == f"# Run it again with: bsr-explore search {tmp_path / FILE} --out {tmp_path}"


def test_what_is_asked_for_now_replaces_what_was_and_the_first_command_stays(tmp_path: Path) -> None:
    STUDY.update(tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing there to replace
    STUDY.write(tmp_path, "the first command")
    before = (tmp_path / FILE).read_text()
    STUDY.update(tmp_path)
    assert (tmp_path / FILE).read_text() == before
    more = replace(STUDY, trials=99, sampler="qmc")
    more.update(tmp_path)
    assert Study.from_toml(tmp_path / FILE) == more
    assert (tmp_path / FILE).read_text().splitlines()[:3] == before.splitlines()[:3]


@given(
    counts=st.sampled_from(sorted(COUNTS)),
    budget=st.sampled_from(["1B", "2GB", "1.5GiB", "512 MiB"]),
    blocks=st.integers(0, 12),
    drop_at=st.lists(st.integers(0, 11), unique=True, max_size=4).map(tuple),
    keep=st.lists(st.floats(0.01, 1), min_size=1, max_size=4).map(tuple),
    fuse=st.sampled_from([(True,), (False,), (True, False)]),
    limit=st.none() | st.floats(0.1, 1e6),
    batch_sizes=st.lists(st.integers(1, 512), unique=True, max_size=3).map(tuple),
    sizes=st.tuples(*[st.none() | st.integers(1, 10_000)] * 4),
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20),
)
def test_every_study_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    counts: str,
    budget: str,
    blocks: int,
    drop_at: tuple[int, ...],
    keep: tuple[float, ...],
    fuse: tuple[bool, ...],
    limit: float | None,
    batch_sizes: tuple[int, ...],
    sizes: tuple[int | None, int | None, int | None, int | None],
    name: str,
) -> None:
    space = SpaceSpec(STUDY.space.start, blocks, drop_at, keep, fuse, batch_sizes)
    fidelity = Fidelity(*sizes)
    config = replace(STUDY.config, device="cuda") if counts in ONLY_GPUS else STUDY.config
    how = {"name": name, "counts": counts, "budget": budget, "space": space, "fidelity": fidelity}
    study = replace(STUDY, config=config, time_limit=limit, **how)
    folder = tmp_path_factory.mktemp("study")
    study.write(folder, "a command")
    assert Study.from_toml(folder / FILE) == study


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "amp_fp16"},
        {"optimizer": "adamw_8bit"},
        {"implementation": "foreach"},
        {"micro_batches": 2},
        {"set_to_none": False},
        {"device": "cuda", "attention": "flash", "precision": "bf16"},
        {"lr": 2e-4},
    ],
)
def test_every_configuration_is_read_as_it_was_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    study = replace(STUDY, config=replace(STUDY.config, **changes))
    study.write(tmp_path, "a command")
    assert Study.from_toml(tmp_path / FILE) == study
    assert tomllib.loads((tmp_path / FILE).read_text())["config"].items() >= changes.items()


def test_a_study_of_a_card_is_read_back(tmp_path: Path) -> None:
    study = replace(STUDY, config=replace(STUDY.config, device="cuda", gpu="t4"), counts="reserved")
    study.write(tmp_path, "a command")
    assert Study.from_toml(tmp_path / FILE) == study


def test_every_field_of_a_configuration_has_a_key_in_the_file() -> None:
    study = replace(
        STUDY, config=replace(STUDY.config, lr=1e-3, device="cuda", gpu="t4").with_classes((2, 3))
    )
    bound = {"unknown"}  # a search refuses it
    assert set(study.to_toml()["config"]) == {f.name for f in fields(Config)} - {"method"} - bound
    assert set(STUDY.to_toml()["config"]) == set(study.to_toml()["config"]) - {"lr", "gpu", "tasks"}
    keys = {f.name for f in fields(SpaceSpec)}
    assert set(STUDY.to_toml()["space"]) == keys - {"families", "axes"}  # where nothing but bsr is searched
    more = replace(STUDY.space, families=("bsr", "mesa"), axes={"mesa": {"bits": [4]}})
    assert set(replace(STUDY, space=more).to_toml()["space"]) == keys


def test_what_a_file_leaves_out_has_a_default(tmp_path: Path) -> None:
    path = tmp_path / "least.toml"
    path.write_text('config = {}\nbudget.bytes = "1GB"\nspace = {start=["full"], max_blocks=1, drop_at=[]}')
    study = Study.from_toml(path)
    assert (study.name, study.config, study.counts) == ("least", Config(), "peak")
    assert (study.data, study.weights, study.fidelity) == ("digits", "auto", Fidelity())
    assert (study.seed, study.trials, study.time_limit) == (0, 12, None)
    assert (study.sampler, study.rungs, study.replicas) == ("exact", (), 3)


def test_what_is_open_is_not_in_the_file() -> None:
    tables = replace(STUDY, time_limit=None).to_toml()
    assert "time_limit" not in tables["study"]
    assert "val_size" not in tables["fidelity"]
    assert "method" not in tables["config"]
    assert tomllib.loads(tomli_w.dumps(tables)) == tables


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "hint"), [("fidelty", "fidelity"), ("Space", "space"), ("budgets", "budget")]
)
def test_an_unknown_table_is_refused_with_the_nearest(tmp_path: Path, table: str, hint: str) -> None:
    path = edited(tmp_path, put(table, "x", 1))
    text = f"{path}: table: unknown value {table!r} (did you mean {hint!r}?); choose from study, config, "
    assert refused(path).startswith(text)


@pytest.mark.parametrize(
    ("table", "key", "hint"),
    [
        ("study", "trails", "trials"),
        ("config", "batchsize", "batch_size"),
        ("budget", "count", "counts"),
        ("data", "weight", "weights"),
        ("fidelity", "epoch", "epochs"),
        ("space", "max_block", "max_blocks"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(tmp_path: Path, table: str, key: str, hint: str) -> None:
    path = edited(tmp_path, put(table, key, 1))
    text = f"{path}: key of [{table}]: unknown value {key!r} (did you mean {hint!r}?); choose from "
    assert refused(path).startswith(text)


def test_a_method_of_the_configuration_is_tried_first(tmp_path: Path) -> None:
    study = Study.from_toml(edited(tmp_path, put("config", "method", "last(k=2)")))
    assert study.space.start == ("last(k=2)", *STUDY.space.start)
    assert study.config == STUDY.config
    again = Study.from_toml(edited(tmp_path, put("config", "method", STUDY.space.start[-1])))
    assert again.space.start == (STUDY.space.start[-1], *STUDY.space.start[:-1])
    assert "--method: unknown value 'fll'" in refused(edited(tmp_path, put("config", "method", "fll")))


@pytest.mark.parametrize(
    ("table", "key", "value", "words"),
    [
        ("study", "trials", 0, "--trials: 0 must be"),
        ("study", "trials", "3", "[study] trials must be a whole number, and is '3'"),
        ("study", "trials", True, "[study] trials must be a whole number, and is True"),
        ("study", "time_limit", 0, "--time-limit: 0 seconds"),
        ("study", "time_limit", -1.5, "--time-limit: -1.5 seconds"),
        ("budget", "bytes", "2G", "--budget: '2G' has no unit that says its size: 'G'"),
        ("budget", "bytes", "2", "--budget: '2' has no unit"),
        ("budget", "counts", "peek", "--budget-counts: unknown value 'peek' (did you mean 'peak'?)"),
        ("budget", "quantile", 1.5, "--budget-quantile: 1.5 must be a share of the steps from 0 to 1"),
        ("budget", "quantile", -0.1, "--budget-quantile: -0.1 must be a share of the steps from 0 to 1"),
        ("budget", "quantile", "most", "[budget] quantile must be a number, and is 'most'"),
        ("config", "batch_size", 0, "--batch-size: 0"),
        ("config", "batch_size", 1.5, "[config] batch_size must be a whole number, and is 1.5"),
        ("config", "precision", "bf61", "--precision: unknown value 'bf61' (did you mean 'bf16'?)"),
        ("config", "device", "auto", "--device: unknown value 'auto'; choose from cpu, cuda"),
        (
            "config",
            "implementation",
            "for",
            "--implementation: unknown value 'for' (did you mean 'foreach'?)",
        ),
        ("config", "micro_batches", 3, "--micro-batches: 4 images do not fall into 3 equal parts"),
        ("config", "micro_batches", "2", "[config] micro_batches must be a whole number, and is '2'"),
        ("config", "set_to_none", "yes", "[config] set_to_none must be true or false, and is 'yes'"),
        ("config", "optimizer", "adam", "--optimizer: unknown value 'adam' (did you mean 'adamw'?)"),
        ("config", "attention", "flash", "--attention: the kernel 'flash' exists on CUDA only"),
        ("config", "attention", "flsh", "--attention: unknown value 'flsh' (did you mean 'flash'?)"),
        ("fidelity", "epochs", 0, "--epochs: 0"),
        ("fidelity", "train_size", "all", "[fidelity] train_size must be a whole number, and is 'all'"),
        ("search", "sampler", "tpa", "--sampler: unknown value 'tpa' (did you mean 'tpe'?)"),
        ("search", "rungs", [0], "--rungs: (0,) must be whole numbers of epochs, from 1 and each more"),
        ("search", "rungs", [2, 1], "--rungs: (2, 1) must be whole numbers"),
        ("search", "rungs", [1, 1], "--rungs: (1, 1) must be whole numbers"),
        ("search", "rungs", [1.5], "[search] rungs must be a list, each item a whole number"),
        ("search", "replicas", -1, "--replicas: -1 must be a whole number of at least 0"),
        ("search", "replicas", True, "[search] replicas must be a whole number, and is True"),
        ("space", "keep", [0.5, 0], "[space] keep: 0 is no keep rate"),
        ("space", "keep", [1.5], "[space] keep: 1.5 is no keep rate"),
        ("space", "keep", ["half"], "[space] keep must be a list, each item a number, and is ['half']"),
        ("space", "keep", [], "[space] keep and fuse need at least one value each"),
        ("space", "fuse", [], "[space] keep and fuse need at least one value each"),
        ("space", "batch_sizes", 16, "[space] batch_sizes must be a list, each item a whole number"),
        ("space", "batch_sizes", [1.5], "[space] batch_sizes must be a list, each item a whole number"),
        (
            "space",
            "batch_sizes",
            [16, 0],
            "--batch-size: 0 is no number of images; each must be a whole number",
        ),
        ("space", "batch_sizes", [16, 16], "--batch-size: (16, 16) names a size twice; name each once"),
        ("space", "start", ["bsr", "lnear"], "--method: unknown value 'lnear' (did you mean 'linear'?)"),
        ("space", "start", ["bsr(keep={3: 0})"], "a keep rate must be above 0"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(
    tmp_path: Path, table: str, key: str, value: Any, words: str
) -> None:
    assert words in refused(edited(tmp_path, put(table, key, value)))


@pytest.mark.parametrize(
    ("table", "key", "missing"),
    [
        ("config", None, "'config' is missing"),
        ("budget", None, "'budget' is missing"),
        ("budget", "bytes", "'bytes' is missing"),
        ("space", None, "'space' is missing"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, table: str, key: str | None, missing: str) -> None:
    def drop(tables: dict[str, Any]) -> None:
        del (tables if key is None else tables[table])[key or table]

    path = edited(tmp_path, drop)
    text = refused(path)
    assert text.startswith(f"{path}: ")
    assert missing in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("data", "digits"),
        pytest.param("study", 3),
        ("budget", "2GB"),
        ("config", "deit_t"),
        ("fidelity", 1),
        ("space", [1]),
    ],
)
def test_a_key_where_a_table_belongs_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    path = edited(tmp_path, lambda tables: tables.__setitem__(name, value))
    assert refused(path).startswith(f"{path}: ")


# --- a share of the steps -------------------------------------------------------------------------------


def test_a_quantile_is_written_where_there_is_one_and_read_again(tmp_path: Path) -> None:
    assert "quantile" not in STUDY.to_toml()["budget"]
    study = replace(STUDY, quantile=0.95)
    study.write(tmp_path, "a command")
    assert Study.from_toml(tmp_path / FILE) == study


# --- the same study, or another -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seed": 8}, "study.seed: 7 → 8"),
        ({"budget": "61MB"}, "budget.bytes: '60MB' → '61MB'"),
        ({"counts": "peak"}, "budget.counts: 'saved' → 'peak'"),
        ({"quantile": 0.9}, "budget.quantile: 'unset' → 0.9"),
        ({"data": "pets"}, "data.name: 'digits' → 'pets'"),
        ({"weights": "hub"}, "data.weights: 'random' → 'hub'"),
        ({"config": replace(STUDY.config, batch_size=8)}, "config.batch_size: 4 → 8"),
        ({"fidelity": replace(STUDY.fidelity, epochs=2)}, "fidelity.epochs: 1 → 2"),
        ({"fidelity": replace(STUDY.fidelity, val_size=9)}, "fidelity.val_size: 'unset' → 9"),
        ({"fidelity": replace(STUDY.fidelity, train_size=None)}, "fidelity.train_size: 20 → 'unset'"),
        ({"space": replace(STUDY.space, drop_at=(3,))}, "space.drop_at: [3, 6] → [3]"),
        ({"space": replace(STUDY.space, batch_sizes=(4, 8))}, "space.batch_sizes: [] → [4, 8]"),
        ({"config": replace(STUDY.config, device="cuda")}, "config.device: 'cpu' → 'cuda'"),
        ({"config": replace(STUDY.config, precision="bf16")}, "config.precision: 'fp32' → 'bf16'"),
    ],
)
def test_a_difference_is_told_by_its_key(changes: dict[str, Any], line: str) -> None:
    assert STUDY.differences(replace(STUDY, **changes)) == [line]


def test_how_long_and_how_a_study_searches_is_no_difference() -> None:
    assert STUDY.differences(replace(STUDY, name="other", trials=99, time_limit=None)) == []
    assert STUDY.differences(replace(STUDY, sampler="exact", rungs=(), replicas=0)) == []


def test_every_sampler_has_a_name_that_a_study_may_have() -> None:
    from bsr_explorer.search import proposals

    assert list(SAMPLERS) == list(proposals.SAMPLERS)


def test_runs_to_expect_are_trials_and_fresh_seeds_of_a_front() -> None:
    runs = {
        (trials, replicas): replace(STUDY, trials=trials, replicas=replicas).runs
        for trials in (1, 12, 60)
        for replicas in (0, 3)
    }
    assert runs == {(1, 0): 1, (1, 3): 4, (12, 0): 12, (12, 3): 21, (60, 0): 60, (60, 3): 105}


def test_what_was_left_open_is_taken_from_the_stored_study() -> None:
    asked = replace(STUDY, weights="auto", fidelity=Fidelity(epochs=1), trials=9)
    completed = asked.completed_by(STUDY)
    assert (completed.fidelity, completed.weights, completed.trials) == (STUDY.fidelity, "random", 9)
    assert STUDY.differences(completed) == []


def test_what_was_given_is_not_replaced_by_the_stored_study() -> None:
    asked = replace(STUDY, weights="hub", fidelity=Fidelity(epochs=2, recipe="paper-deit-s"))
    completed = asked.completed_by(STUDY)
    assert (completed.weights, completed.fidelity.epochs, completed.fidelity.recipe) == (
        "hub",
        2,
        "paper-deit-s",
    )
    assert completed.fidelity.train_size == 20


def test_the_budget_is_in_bytes() -> None:
    assert STUDY.budget_bytes == 60_000_000
    assert replace(STUDY, budget="2GiB").budget_bytes == 2**31
