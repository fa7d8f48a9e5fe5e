"""``bsr-explore search``: from flags or a study file, in full, in part, or only planned."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from huggingface_hub import constants

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.run import run
from bsr_explorer.search import plan, speed
from bsr_explorer.search.space import Space
from bsr_explorer.store.records import Record, read_records
from bsr_explorer.store.space import SEARCHED
from bsr_explorer.store.study import SpaceSpec, Study
from tests.hub_cache import TEST, TRAIN, birds, png, put, table
from tests.pictures import Pictures

pytestmark = pytest.mark.usefixtures("toy")

Cli = Callable[..., Any]
MakeStudy = Callable[..., Study]

DEFAULT = (
    *("search", "--model", "toy", "--budget", "1400KB", "--batch-size", "4", "--image-size", "48"),
    *("--proxy-size", "32", "--train-size", "20", "--val-size", "20", "--epochs", "1"),
    *(
        "--weights",
        "random",
        "--device",
        "cpu",
        "--sampler",
        "random",
        "--replicas",
        "0",
        "--trials",
        "12",
        "--jobs",
        "0",
    ),
)
FLAGS = (*DEFAULT, "--family", "bsr")
"""One family: what a search does does not depend on how many there are."""

NAME = "toy-digits-1400KB"


def outcomes(folder: Path) -> list[tuple[str, int, float | None, list[float]]]:
    return [(r.key, r.seed, r.accuracy, r.losses) for r in read_records(folder).values()]


def expanded(line: str) -> list[Path]:
    """``a.{b,c}`` is a.b and a.c."""
    stem, _, kinds = line.partition("{")
    return [Path(f"{stem}{kind}") for kind in kinds.removesuffix("}").split(",")] if kinds else [Path(line)]


def study_file(study: Study, path: Path) -> Path:
    path.write_text(tomli_w.dumps(study.to_toml()))
    return path


# --- from flags -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_format")
def test_a_search_shows_its_front_and_names_its_files(cli: Cli) -> None:
    done = cli(*FLAGS, "--trials", "3")
    assert done.code == 0, done.err
    folder = Path("reports") / NAME
    assert len(read_records(folder)) == 3
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[0].startswith(
        f"{NAME}: 851 configurations of toy at 48 px, batch 4, from 0.47 MB (0.45 MiB)"
    )
    assert any(line.startswith("Recommended: ") for line in lines)
    assert "a proxy: trials train at 32 px; memory is counted at 48 px" in " ".join(lines)
    written = [path for line in lines[lines.index("Written:") + 1 :] for path in expanded(line)]
    assert len(written) == 2 + 2 + 1 + 8 + 3  # pages, tables, figures, and what the search itself wrote
    assert all(path.exists() for path in written)
    assert [line.split(":")[0] for line in done.err.splitlines() if line.startswith("trial ")] == [
        *("trial 0", "trial 1", "trial 2")
    ]


@pytest.mark.parametrize("flag", ["--out", "--study"])
def test_a_name_with_brackets_is_shown(quick: Cli, tmp_path: Path, flag: str) -> None:
    done = quick(*FLAGS, flag, "a[old]b", "--dry-run")
    assert (done.code, list(tmp_path.iterdir())) == (0, [])
    assert "a[old]b" in done.out


def test_json_is_all_there_is(quick: Cli) -> None:
    done = quick(*FLAGS, "--trials", "2", "--out", "here", "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert done.out.count("\n") == 1
    assert (answer["folder"], answer["ended"], answer["trials"], answer["finished"]) == (
        "here",
        "trials",
        2,
        2,
    )
    assert answer["study"] == Study.from_toml(Path("here/study.toml")).to_toml()
    records = read_records(Path("here"))
    with Path("here/front.csv").open() as file:
        assert [entry["trial"] for entry in answer["front"]] == [
            int(row["trial"]) for row in csv.DictReader(file)
        ]
    for entry in answer["front"]:
        record = records[entry["trial"]]
        assert (entry["method"], entry["accuracy"]) == (record.method, record.accuracy)
        assert entry["counted_bytes"] == record.study["counted_bytes"]
        assert entry["train_flops"] == record.predicted["train_flops"]
    assert answer["recommended"]["trial"] in [entry["trial"] for entry in answer["front"]]
    assert all(Path(path).exists() for path in answer["files"])


def test_flags_are_the_study(quick: Cli) -> None:
    quick(
        *FLAGS, "--trials", "1", "--out", "here", "--seed", "5", "--study", "mine", "--budget-counts", "saved"
    )
    study = Study.from_toml(Path("here/study.toml"))
    assert (study.name, study.seed, study.trials, study.time_limit) == ("mine", 5, 1, 480.0)
    assert (study.budget, study.counts, study.data, study.weights) == ("1400KB", "saved", "digits", "random")
    assert (study.config.image_size, study.config.batch_size, study.config.num_classes) == (48, 4, 10)
    assert study.fidelity == Fidelity(32, 20, 20, 1, "short")
    first = Path("here/study.toml").read_text().splitlines()[0]
    assert first.startswith("# Made by: bsr-explore search --model toy ")


# --- only planned ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_training")
def test_a_search_by_the_authors_protocol_is_refused(quick: Cli, tmp_path: Path) -> None:
    done = quick("search", "--protocol", "authors", "--out", tmp_path / "new")
    assert done.code == 2
    assert done.err == (
        "error: --protocol: a search by 'authors' would choose by the test set; choose held-out, and take the other in "
        "compare or train\n"
    )
    assert not (tmp_path / "new").exists()


def test_a_new_study_names_its_families_and_one_of_before_goes_on_with_its_own(
    quick: Cli, tmp_path: Path
) -> None:
    flags = (*DEFAULT, "--trials", "1", "--json", "--out")
    new = json.loads(quick(*flags, tmp_path / "new", "--dry-run").out)["study"]
    assert new["space"]["families"] == list(SEARCHED)
    old = quick(*flags, tmp_path / "old", "--family", "bsr")
    assert old.code == 0, old.err
    assert "families" not in (tmp_path / "old" / "study.toml").read_text()
    again = quick(*flags, tmp_path / "old", "--trials", "2")
    assert again.code == 0, again.err
    assert "families" not in json.loads(again.out)["study"]["space"]


def test_a_mixture_is_searched_with_drops_and_frozen_experts(quick: Cli, tmp_path: Path) -> None:
    mixture = ("--model", "moe_vit(toy_2, blocks=(1,), experts=4, top=2)", "--budget", "1GB", "--trials", "2")
    families = ("--family", "last(k=1)+evit+freeze", "--family", "linear")
    flags = (*DEFAULT, *mixture, *families, "--out", tmp_path / "mixture", "--json")
    planned = json.loads(quick(*flags, "--dry-run").out)
    assert planned["configurations"] == 5 * 4 + 1
    done = quick(*flags)
    assert done.code == 0, done.err
    found = read_records(tmp_path / "mixture").values()
    assert len(found) == 2 and all(record.accuracy is not None for record in found)


@pytest.mark.usefixtures("no_training")
def test_families_may_be_searched(quick: Cli) -> None:
    more = ("--family", "bsr", "--family", "bsr+mesa(bits=4)", "--family", "bitfit")
    answer = json.loads(quick(*DEFAULT, *more, "--dry-run", "--json").out)
    assert answer["study"]["space"]["families"] == ["bsr", "bsr+mesa(bits=4)", "bitfit"]
    assert answer["configurations"] == 851 + 2 * 53 * 15 + 1
    done = quick(*FLAGS, "--family", "bsr+mezza", "--dry-run")
    assert (done.code, done.err.split(";")[0]) == (
        2,
        "error: --method: unknown value 'mezza' (did you mean 'mesa'?)",
    )


@pytest.mark.usefixtures("no_training")
def test_a_dry_run_leaves_a_study_alone(quick: Cli, study_folder: Path) -> None:
    before = {path: path.read_bytes() for path in study_folder.rglob("*") if path.is_file()}
    assert quick(*FLAGS, "--out", study_folder, "--trials", "20", "--dry-run").code == 0
    assert {path: path.read_bytes() for path in study_folder.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("no_training")
def test_a_card_that_is_not_here_can_be_planned_for(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    flags = [flag for flag in FLAGS if flag not in ("--device", "cpu")]
    flags = [*flags, "--gpu", "orin", "--budget", "60MB", "--dry-run"]
    answer = json.loads(cli(*flags, "--json").out)
    config, counts = answer["study"]["config"], answer["study"]["budget"]["counts"]
    assert (config["device"], config["gpu"], counts) == ("cuda", "orin", "reserved")
    assert (answer["configurations"], answer["fitting_is"]) == (851, "at most")
    assert answer["expected_seconds"] is None
    said = " ".join(cli(*flags).out.split())
    assert "within the budget at most 851" in said
    assert "plan none, for cuda/orin is not here to be timed" in said
    assert not list(tmp_path.iterdir())
    refused = cli(*[flag for flag in flags if flag != "--dry-run"])
    assert (refused.code, refused.err) == (
        2,
        "error: --device: no CUDA device is available here; choose cpu or auto\n",
    )
    beside = cli(*FLAGS, "--gpu", "orin")
    assert "--gpu: orin is a card for --device cuda, and the device is cpu" in beside.err


def test_a_card_is_taken_beside_a_file(
    cli: Cli, tmp_path: Path, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = study_file(make_study(budget="60MB"), tmp_path / "study.toml")
    answer = json.loads(cli("search", path, "--gpu", "l4", "--dry-run", "--json").out)
    assert answer["study"]["config"]["gpu"] == "l4"


# --- several batch sizes, and other ways to run ---------------------------------------------------------


@pytest.mark.usefixtures("no_training")
def test_several_batch_sizes_are_a_part_of_the_space(
    quick: Cli, tmp_path: Path, make_study: MakeStudy
) -> None:
    done = quick(*FLAGS, "--batch-size", "4, 8,2", "--dry-run", "--json")
    assert (done.code, list(tmp_path.iterdir())) == (0, [])
    answer, study = json.loads(done.out), make_study()
    assert answer["study"]["space"]["batch_sizes"] == [4, 8, 2]
    assert answer["study"]["config"]["batch_size"] == 4
    space = Space(replace(study, space=replace(study.space, batch_sizes=(4, 8, 2))))
    assert (answer["configurations"], answer["fitting"]) == (len(space), space.fitting)
    assert answer["configurations"] == 3 * len(Space(study))
    assert (answer["least_bytes"], answer["most_bytes"]) == space.range_bytes


@pytest.mark.usefixtures("no_training")
def test_one_batch_size_is_the_configurations(quick: Cli) -> None:
    study = json.loads(quick(*FLAGS, "--batch-size", "8", "--dry-run", "--json").out)["study"]
    assert (study["config"]["batch_size"], study["space"]["batch_sizes"]) == (8, [])


def test_a_search_over_batch_sizes_goes_on(quick: Cli) -> None:
    flags = (*FLAGS, "--batch-size", "4,2", "--out", "here")
    assert quick(*flags, "--trials", "1").code == 0
    before = outcomes(Path("here"))
    done = quick(*flags, "--trials", "2")
    assert done.code == 0, done.err
    assert outcomes(Path("here"))[:1] == before
    assert len(outcomes(Path("here"))) == 2
    assert Study.from_toml(Path("here/study.toml")).space.batch_sizes == (4, 2)


@pytest.mark.thorough
def test_a_search_trains_in_its_precision(quick: Cli) -> None:
    flags = ("--precision", "amp_bf16", "--optimizer", "adamw_8bit", "--micro-batches", "2")
    done = quick(*FLAGS, *flags, "--trials", "2", "--out", "here")
    assert done.code == 0, done.err
    config = Study.from_toml(Path("here/study.toml")).config
    assert (config.precision, config.optimizer, config.micro_batches) == ("amp_bf16", "adamw_8bit", 2)
    for record in read_records(Path("here")).values():
        assert Config.from_dict(record.config) == config.with_method(record.method)
        assert record.measured is not None
        assert record.measured["saved_bytes"] == record.measured["predicted_saved_bytes"]


# --- going on -------------------------------------------------------------------------------------------


def test_the_same_command_trains_nothing_twice(quick: Cli, study_folder: Path) -> None:
    before = outcomes(study_folder)
    done = quick(*FLAGS, "--out", study_folder, "--trials", "7")
    assert done.code == 0, done.err
    assert done.out.startswith("toy-study is finished: 7 trials, ")
    assert outcomes(study_folder) == before


def test_more_trials_go_on(quick: Cli, study_folder: Path) -> None:
    before = outcomes(study_folder)
    done = quick(*FLAGS, "--out", study_folder, "--trials", "8")
    assert done.code == 0, done.err
    assert outcomes(study_folder)[:7] == before
    assert len(outcomes(study_folder)) == 8


def test_what_a_folder_has_decided_need_not_be_said_again(quick: Cli, study_folder: Path) -> None:
    start = [flag for flag in FLAGS if flag not in ("--proxy-size", "32", "--train-size", "--val-size", "20")]
    done = quick(*start, "--out", study_folder, "--trials", "8")
    assert done.code == 0, done.err
    assert "20 training images" in done.out


def test_ctrl_c_says_how_to_go_on(quick: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Record] = []

    def stopped(*arguments: Any) -> Record:
        if len(trained) == 1:
            raise KeyboardInterrupt
        trained.append(run(*arguments))
        return trained[0]

    with monkeypatch.context() as patch:
        patch.setattr("bsr_explorer.finetune.attempt.run", stopped)
        done = quick(*FLAGS, "--trials", "3", "--out", "here")
    assert done.code == 130
    assert "the same command goes on" in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert len(read_records(Path("here"))) == 1
    assert quick(*FLAGS, "--trials", "3", "--out", "here").code == 0
    assert list(read_records(Path("here"))) == [0, 1, 2]


def test_ctrl_c_before_the_first_trial_is_130(
    quick: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "settle", stop)
    assert quick(*FLAGS).code == 130
    assert list(tmp_path.iterdir()) == []


# --- from a study file ----------------------------------------------------------------------------------


def test_a_study_file_is_the_same_search_as_its_flags(quick: Cli) -> None:
    assert quick(*FLAGS, "--trials", "2", "--out", "flags").code == 0
    assert quick("search", "flags/study.toml", "--out", "file", "--device", "cpu", "--jobs", "0").code == 0
    assert outcomes(Path("file")) == outcomes(Path("flags"))
    assert Study.from_toml(Path("file/study.toml")) == Study.from_toml(Path("flags/study.toml"))


@pytest.mark.thorough
def test_the_command_in_a_study_file_goes_on_with_it(quick: Cli) -> None:
    assert quick(*FLAGS, "--trials", "2", "--out", "here").code == 0
    before = outcomes(Path("here"))
    comment = Path("here/study.toml").read_text().splitlines()[1]
    program, *arguments = shlex.split(comment.partition(": ")[2])
    assert program == "bsr-explore"
    done = quick(*arguments, "--trials", "3", "--jobs", "0")
    assert done.code == 0, done.err
    assert outcomes(Path("here"))[:2] == before
    assert len(outcomes(Path("here"))) == 3


def test_trials_and_time_may_be_given_beside_a_file(
    quick: Cli, make_study: MakeStudy, tmp_path: Path
) -> None:
    path = study_file(make_study(time_limit=7.0), tmp_path / "study.toml")
    done = quick("search", path, "--trials", "5", "--time-limit", "2m", "--dry-run", "--json")
    said = json.loads(done.out)
    assert said["study"]["study"] == {"name": "toy-study", "seed": 0, "trials": 5, "time_limit": 120.0}
    said = json.loads(quick("search", path, "--dry-run", "--json").out)
    assert said["study"]["study"] == {"name": "toy-study", "seed": 0, "trials": 7, "time_limit": 7.0}
    assert said["folder"] == "reports/toy-study"


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("--model", "deit_t"), ("--budget", "1GB"), ("--budget-counts", "saved"), ("--data", "digits")),
        *(("--batch-size", "4"), ("--image-size", "48"), ("--attention", "math"), ("--recipe", "short")),
        *(("--weights", "random"), ("--proxy-size", "32"), ("--train-size", "20"), ("--val-size", "20")),
        *(("--epochs", "1"), ("--seed", "0"), ("--study", "mine"), ("--precision", "fp32")),
        *(("--optimizer", "adamw"), ("--micro-batches", "1"), ("--views", "2")),
    ],
)
def test_a_flag_beside_a_study_file_is_refused(
    quick: Cli, make_study: MakeStudy, tmp_path: Path, flag: str, value: str
) -> None:
    path = study_file(make_study(), tmp_path / "study.toml")
    done = quick("search", path, flag, value)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {flag}: cannot be given beside a file")
    assert list(tmp_path.iterdir()) == [path]


def test_how_to_search_may_be_given_beside_a_file(quick: Cli, make_study: MakeStudy, tmp_path: Path) -> None:
    path = study_file(make_study(), tmp_path / "study.toml")
    how = ("--sampler", "qmc", "--objectives", "accuracy, memory,flops", "--rungs", "1, 3", "--replicas", "2")
    done = quick("search", path, *how, "--jobs", "0", "--cache", "none", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["study"]["search"] == {
        "sampler": "qmc",
        "objectives": ["accuracy", "memory", "flops"],
        "rungs": [1, 3],
        "replicas": 2,
    }
    said = json.loads(quick("search", path, "--rungs", "none", "--dry-run", "--json").out)
    assert said["study"]["search"] == {**make_study().to_toml()["search"]}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--sampler", "tpa"), "--sampler: unknown value 'tpa' (did you mean 'tpe'?)"),
        (("--objectives", "memory"), "--objectives: memory cannot be searched for; choose accuracy,memory"),
        (("--rungs", "1.5"), "--rungs: '1.5' must be whole numbers of epochs, such as 1,3, or none"),
        (("--rungs", "3,1"), "--rungs: (3, 1) must be whole numbers of epochs, from 1 and each more"),
        (("--replicas", "-1"), "--replicas: -1 must be a whole number of at least 0"),
        (("--jobs", "-1"), "--jobs: -1 must be a whole number of at least 0"),
        (("--cache", "4G"), "--cache: '4G' has no unit that says its size"),
        (("--trial-timeout", "soon"), "--trial-timeout: cannot read 'soon'; write a time such as"),
        (("--views", "0"), "--views: 0 must be a whole number of at least 1"),
        (("--cluster", "127.0.0.1:1"), "--cluster: no Ray cluster answers at '127.0.0.1:1'"),
    ],
    ids=" ".join,
)
def test_how_it_cannot_be_searched_is_a_line(
    quick: Cli, tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    done = quick(*FLAGS, *flags)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {words}")
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_needs_ray(quick: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = quick(*FLAGS, "--cluster", "local")
    assert done.code == 2
    assert done.err == 'error: --cluster: needs ray; install it with pip install "bsr-explorer[cluster]"\n'


def test_what_a_killed_search_has_left_is_told(
    quick: Cli, study_folder: Path, open_search: Any, make_study: MakeStudy
) -> None:
    search = open_search(make_study(), study_folder)
    search.book.add(search.space.at(5))
    done = quick(*FLAGS, "--out", study_folder, "--trials", "8")
    assert done.code == 0, done.err
    assert "trial 7 had not ended: it goes on" in done.out
    assert Study.from_toml(study_folder / "study.toml").trials == 8  # what is said last


def test_the_front_is_trained_again_on_fresh_seeds(quick: Cli) -> None:
    done = quick(*FLAGS, "--trials", "2", "--replicas", "2", "--out", "here", "--cache", "none")
    assert done.code == 0, done.err
    records = list(read_records(Path("here")).values())
    assert [record.study["replica"] for record in records[:2]] == [0, 0]
    assert {record.study["replica"] for record in records[2:]} == {1, 2}
    assert ", seed 2  [about 0 s left]" in done.err
    assert {record.provenance["cached_blocks"] for record in records} == {0}


def test_frozen_blocks_are_computed_once(quick: Cli) -> None:
    for folder in ("one", "two"):
        done = quick(*FLAGS, "--trials", "1", "--out", folder)
        assert done.code == 0, done.err
    (one,), (two,) = (read_records(Path(folder)).values() for folder in ("one", "two"))
    assert one.provenance["cached_blocks"] == two.provenance["cached_blocks"] == 4
    assert (one.accuracy, one.losses) == (two.accuracy, two.losses)


def test_the_example_studies_can_be_searched() -> None:
    paths = list((Path(__file__).parents[2] / "studies").glob("*.toml"))
    assert paths
    for path in paths:
        study = Study.from_toml(path)
        space = Space(study)
        space.check_budget()
        assert 0 < space.fitting <= len(space)
        assert sum(space.fits(candidate) for candidate in space.known) >= 2


# --- little or nothing found ----------------------------------------------------------------------------


def test_the_end_of_the_time_is_told(quick: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def expected(self: speed.Clock, config: Any, proxy: int = 0) -> float:
        return 1e9 if str(config.how).startswith("last") else 0.1

    monkeypatch.setattr(speed.Clock, "expected", expected)
    done = quick(*FLAGS, "--out", "here", "--time-limit", "1h")
    assert done.code == 0, done.err
    assert "The time limit was reached after 2 of 12 trials; the same command trains more." in done.out
    assert len(read_records(Path("here"))) == 2


def test_the_first_trial_always_begins(quick: Cli) -> None:
    """What is expected of it is a guess: on a machine that was busy for a moment, one that is far too long."""
    done = quick(*FLAGS, "--out", "here", "--time-limit", "1s")
    assert done.code == 0
    trained = len(read_records(Path("here")))
    assert 1 <= trained < 12
    assert (
        f"The time limit was reached after {trained} of 12 trials; the same command trains more." in done.out
    )


def test_a_search_in_which_everything_fails_says_why(
    quick: Cli, monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy, tmp_path: Path
) -> None:
    def fail(*_: Any) -> Record:
        raise RuntimeError("no such\nkernel")

    monkeypatch.setattr("bsr_explorer.finetune.attempt.run", fail)
    study = make_study(space=SpaceSpec(("linear",), max_blocks=1, drop_at=()))
    done = quick("search", study_file(study, tmp_path / "a.toml"), "--out", "here", "--jobs", "0")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("error: no trial finished: RuntimeError at test_search.py:")
    assert "no such kernel; the records are in here" in done.err.splitlines()[-1]
    assert {record.status for record in read_records(Path("here")).values()} == {"failed"}


def test_a_search_in_which_everything_fails_ends_early(
    quick: Cli, monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy, tmp_path: Path
) -> None:
    def fail(*_: Any) -> Record:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("bsr_explorer.finetune.attempt.run", fail)
    study = make_study(space=SpaceSpec(("linear",), max_blocks=3, drop_at=()), trials=2)
    quick("search", study_file(study, tmp_path / "a.toml"), "--out", "here", "--jobs", "0")
    assert len(read_records(Path("here"))) < 10


def test_failed_trials_are_told_beside_the_front(quick: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def sometimes(config: Any, *arguments: Any) -> Record:
        record = run(config, *arguments)
        lost = replace(record, status="diverged", reason="the loss was nan", accuracy=None)
        return lost if str(config.how) == "linear" else record

    monkeypatch.setattr("bsr_explorer.finetune.attempt.run", sometimes)
    done = quick(*FLAGS, "--out", "here", "--trials", "2")
    assert done.code == 0
    assert "trial 0: diverged: the loss was nan" in done.err
    assert "- trial 0, `linear`: diverged, the loss was nan" in Path("here/report.md").read_text()


# --- damaged images -------------------------------------------------------------------------------------


def of_pictures(pictures: Pictures, *sizes: str) -> tuple[str, ...]:
    flags = list(FLAGS)
    for flag in ("--train-size", "--val-size"):
        place = flags.index(flag)
        del flags[place : place + 2]
    return (*flags, "--data", str(pictures.root), "--out", "here", "--trials", "1", *sizes)


@pytest.mark.thorough
@pytest.mark.parametrize("remove", [True, False])
@pytest.mark.parametrize("sizes", [(), ("--train-size", "18", "--val-size", "2")])
def test_all_damaged_images_are_named_before_anything_is_written(
    quick: Cli, pictures: Pictures, sizes: tuple[str, ...], remove: bool
) -> None:
    flags = of_pictures(pictures, *sizes)
    done = quick(*flags)
    assert (done.code, done.out) == (2, "")
    line = done.err.splitlines()[-1]
    assert "3 images cannot be read: a/01.png (" in line
    assert all(name in line for name in pictures.bad)
    assert not Path("here").exists()
    pictures.repair(remove=remove)
    done = quick(*flags)
    assert done.code == 0, done.err
    (record,) = read_records(Path("here")).values()
    assert record.status == "finished"
    assert record.left_out == {}


@pytest.mark.thorough
def test_a_data_set_of_the_hub_is_searched(
    quick: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    cache = tmp_path / "hub"
    images = [None if row == 5 else png(row)[:300] if row == 12 else png(row) for row in range(60)]
    put(cache, "acme/birds", {TRAIN: table(images, [row % 2 for row in range(60)]), TEST: birds(8)})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    flags = (*FLAGS, "--data", "hub:acme/birds", "--out", "here", "--trials", "2")
    done = quick(*flags)
    assert (done.code, done.out) == (2, "")
    line = done.err.splitlines()[-1]
    assert line.startswith("error: --data: 'hub:acme/birds': 2 images cannot be read: ")
    assert f"{TRAIN}:5 (an empty cell), {TRAIN}:12 (" in line
    assert not Path("here").exists()
    done = quick(*flags, "--skip-bad")
    assert done.code == 0, done.err
    records = read_records(Path("here"))
    assert [record.status for record in records.values()] == ["finished"] * 2
    for record in records.values():
        assert (record.data, record.left_out) == ("hub:acme/birds", {"damaged": 2})
        assert record.split == (
            "acme/birds@1a2b3c4: train 20 of 38 / validation 20 / test 8, validation cut from train, stratified, "
            "split seed 0"
        )
    assert Study.from_toml(Path("here/study.toml")).name == "toy-birds-1400KB"


@pytest.mark.parametrize("sizes", [(), ("--train-size", "30")])
def test_a_search_that_trained_nothing_adopts_what_has_changed(
    quick: Cli, pictures: Pictures, sizes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was when a decoder failed in the first trial: planned for images that are no longer there."""
    pictures.repair(remove=False)

    def cannot_be_read(*_: Any) -> Record:
        raise UserError("--data: cannot read b/17.png")

    with monkeypatch.context() as patch:
        patch.setattr("bsr_explorer.finetune.attempt.run", cannot_be_read)
        done = quick(*of_pictures(pictures, "--train-size", "32"))
    assert done.code == 2
    assert Study.from_toml(Path("here/study.toml")).fidelity.train_size == 32
    pictures.repair(remove=True)
    done = quick(*of_pictures(pictures, *sizes))
    assert done.code == 0, done.err
    assert Study.from_toml(Path("here/study.toml")).fidelity.train_size == 30
    assert Study.from_toml(Path("here/before-1/study.toml")).fidelity.train_size == 32
    assert [record.status for record in read_records(Path("here")).values()] == ["finished"]


def test_damaged_images_are_left_out_and_recorded(quick: Cli, pictures: Pictures) -> None:
    flags = of_pictures(pictures)
    done = quick(*flags, "--skip-bad")
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "2 classes, with their training images: a 15, b 15; left out: 3 damaged" in said
    assert Study.from_toml(Path("here/study.toml")).fidelity.skip == pictures.bad
    (record,) = read_records(Path("here")).values()
    assert record.fidelity["skip"] == list(pictures.bad)
    assert record.left_out == {"damaged": 3}
    assert record.classes == {
        "train": {"a": 15, "b": 15},
        "validation": {"a": 2, "b": 1},
        "test": {"a": 2, "b": 2},
    }
    shown = quick("show", "here", "0").out
    assert "3 damaged" in shown and "a/01.png, b/00.png, b/17.png" in shown
    pictures.repair(remove=False)
    more = quick(*flags, "--trials", "2")  # leaves the same ones out, or trials could not be compared
    assert more.code == 0, more.err
    assert [record.left_out for record in read_records(Path("here")).values()] == [{"damaged": 3}] * 2


def test_what_is_left_out_is_said_before_anything_is_trained(quick: Cli, pictures: Pictures) -> None:
    pictures.repair(remove=False)
    (pictures.root / ".ipynb_checkpoints").mkdir()
    (pictures.root / ".ipynb_checkpoints" / "1.png").touch()
    for number in range(12):
        (pictures.root / "a" / f"{number}.xyz").touch()
    done = quick(*of_pictures(pictures), "--dry-run")
    assert done.code == 0, done.err
    assert "left out: 1 in .ipynb_checkpoints/, 12 .xyz" in " ".join(done.out.split())
    done = quick(*of_pictures(pictures), "--dry-run", "--json")
    answer = json.loads(done.out)
    assert answer["left_out"] == {".ipynb_checkpoints/": 1, ".xyz": 12}
    assert answer["classes"]["train"] == {"a": 16, "b": 16}
    assert not Path("here").exists()


@pytest.mark.thorough
def test_a_search_may_begin_with_an_earlier_one(quick: Cli, study_folder: Path) -> None:
    words = [*FLAGS, "--sampler", "exact", "--trials", "3", "--out", "guided"]
    done = quick(*words, "--prior", study_folder)
    assert done.code == 0, done.err
    assert f"sampler exact, guided by {study_folder}" in " ".join(done.out.split())
    assert Study.from_toml(Path("guided") / "study.toml").prior == str(study_folder)
    assert quick(*words, "--trials", "4").code == 0  # the same study goes on


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--prior", "nowhere"), "nowhere"),
        (("--prior", "nowhere", "--sampler", "tpe"), "--prior: only the sampler exact takes one, not tpe"),
    ],
)
def test_a_prior_that_is_none_is_refused_and_nothing_written(
    quick: Cli, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = quick(*FLAGS, "--sampler", "exact", *words)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert said in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
def test_what_was_planned_goes_on_by_the_same_command_and_by_more_trials(quick: Cli) -> None:
    left_open = FLAGS.index("--replicas")
    assert FLAGS[left_open:] == ("--replicas", "0", "--trials", "12", "--jobs", "0", "--family", "bsr")
    words = [*FLAGS[:left_open], "--jobs", "0", "--family", "bsr", "--time-limit", "1s", "--out", "here"]
    assert quick(*words).code == 0
    planned = Study.from_toml(Path("here") / "study.toml")
    assert (planned.trials, planned.replicas, planned.first) == (8, 0, 4)
    for more, trials in (((), 8), (("--trials", "20"), 20)):
        done = quick(*words, *more)
        assert done.code == 0, done.err
        again = Study.from_toml(Path("here") / "study.toml")
        assert (again.trials, again.replicas, again.first, again.fidelity) == (trials, 0, 4, planned.fidelity)


# --- several fidelities ---------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_search_of_several_fidelities_says_which_number_is_of_which(quick: Cli, tmp_path: Path) -> None:
    words = [*FLAGS, "--sampler", "exact", "--trials", "8", "--replicas", "1", "--out", "several"]
    done = quick(*words, "--fidelity", "multi")
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "to learn where to look, up to 24 cheaper trainings with 20 images at 16 px" in said
    study = Study.from_toml(Path("several") / "study.toml")
    assert (study.trials, study.proxies) == (8, ("16x20",))
    page = (Path("several") / "report.md").read_text()
    section = page[page.index("## Trained at a proxy") :]
    records = read_records(Path("several"))
    proxies = {number for number, record in records.items() if record.status == "proxy"}
    assert proxies
    assert section.count("with 20 images at 16 px") == len(proxies)
    assert f"{len(proxies)} at a proxy" in quick("status", "several").out
    html = (Path("several") / "report.html").read_text()
    assert html.count("<td>20 images at 16 px</td>") == len(proxies)
    with (Path("several") / "front.csv").open() as front:
        assert not proxies & {int(row["trial"]) for row in csv.DictReader(front)}
    goes_on = quick(*words, "--trials", "9")  # and need not say it again
    assert goes_on.code == 0, goes_on.err
    assert Study.from_toml(Path("several") / "study.toml").proxies == ("16x20",)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--sampler", "tpe"), "--fidelity: only the sampler exact trains at several, not tpe"),
        (("--proxy-size", "16"), "--fidelity: multi needs a smaller image than 16 px, and there is none"),
    ],
)
def test_several_fidelities_that_cannot_be_are_refused_and_nothing_written(
    quick: Cli, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = quick(*FLAGS, "--sampler", "exact", *words, "--fidelity", "multi")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert said in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_study_of_a_single_fidelity_goes_on_in_it_alone(quick: Cli, study_folder: Path) -> None:
    before = {path: path.read_bytes() for path in study_folder.rglob("*") if path.is_file()}
    done = quick(*FLAGS, "--sampler", "exact", "--out", study_folder, "--fidelity", "multi")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"--fidelity: the study in {study_folder} trains at a single fidelity" in done.err
    assert {path: path.read_bytes() for path in study_folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("proxy", "said"),
    [("17x10", "'17x10': 17 is not a positive multiple"), ("48x20", "not cheaper"), ("x", "such as 112x256")],
)
def test_a_study_file_with_a_proxy_that_is_none_is_refused(
    quick: Cli, make_study: MakeStudy, tmp_path: Path, proxy: str, said: str
) -> None:
    tables = make_study(sampler="exact").to_toml()
    tables["search"]["proxies"] = [proxy]
    (tmp_path / "one.toml").write_text(tomli_w.dumps(tables))
    done = quick("search", "one.toml", "--out", "there")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert said in done.err
    assert not Path("there").exists()


LLAMA = "llama_tiny(width=32, depth=2, heads=2, groups=1, hidden=48)"


@pytest.mark.thorough
def test_a_language_model_is_searched_by_its_perplexity(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    done = cli("search", "--model", LLAMA, "--data", "text", "--sequence-length", "32", "--batch-size", "8",
               "--budget", "200MB", "--trials", "3", "--replicas", "2", "--proxy-size", "32", "--train-size", "32",
               "--val-size", "16", "--epochs", "1", "--weights", "random", "--jobs", "0", "--out", folder)  # fmt: skip
    assert done.code == 0
    assert "Front: perplexity against memory" in done.out and "accuracy" not in done.out
    records = read_records(folder)
    assert all(record.quality == "perplexity" and record.accuracy is None for record in records.values())
    for record in records.values():
        assert record.measured is not None
        assert record.measured["peak_bytes"] == record.measured["predicted_peak_bytes"]
    front = json.loads(cli("status", folder, "--json").out)["front"]
    perplexities = [point["perplexity"] for point in front]  # less of it for more memory
    assert perplexities == sorted(perplexities, reverse=True)
    chosen = json.loads(cli("select", folder, "reaching", str(perplexities[0]), "--json").out)
    assert chosen["trial"] == front[0]["trial"]
    assert cli("select", folder, "reaching", "85%").err.startswith(
        "error: WHICH: cannot read the perplexity '85%'"
    )
    page = (folder / "report.md").read_text()
    assert "![perplexity against memory](figures/front.png)" in page and "accuracy" not in page
    script = (folder / "report.html").read_text()
    assert '"column": "perplexity"' in script or '"column":"perplexity"' in script
    assert "perplexity" in cli("show", folder, "0").out
