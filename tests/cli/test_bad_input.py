"""What a user can get wrong: one line that names it, exit code 2, and nothing written."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import tomli_w
import torch

from bsr_explorer.data import hub, places
from bsr_explorer.models import weights as weights_module
from bsr_explorer.store.study import Study

pytestmark = pytest.mark.usefixtures("toy")

Cli = Callable[..., Any]
MakeStudy = Callable[..., Study]

PROFILE = ("profile", "--model", "toy", "--image-size", "48", "--batch-size", "4", "--method", "linear")
SEARCH = (
    *("search", "--model", "toy", "--budget", "1400KB", "--batch-size", "4", "--image-size", "48"),
    *("--proxy-size", "32", "--train-size", "20", "--val-size", "20", "--epochs", "1"),
    *("--weights", "random", "--device", "cpu", "--trials", "2"),
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No host answers, and no data or weights of this machine's are found."""
    from huggingface_hub import constants

    monkeypatch.setattr(weights_module.hub, "answers", lambda: False)
    for module in (places, hub):
        monkeypatch.setattr(module, "answers", lambda url: False)
    monkeypatch.setattr(places, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every path below a folder, with its mode and content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, b"" if path.is_dir() else path.read_bytes())
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def refused(cli: Cli, tmp_path: Path) -> Callable[..., str]:
    """Runs a command that must be refused; returns its one line."""

    def run(*arguments: str | Path) -> str:
        before = tree(tmp_path)
        done = cli(*arguments)
        assert done.code == 2, done
        assert done.out == ""
        assert done.err.startswith("error: ")
        assert done.err.endswith("\n")
        assert done.err.count("\n") == 1, done.err
        assert "Traceback" not in done.err
        assert tree(tmp_path) == before
        return str(done.err)

    return run


Refused = Callable[..., str]


# --- what a configuration cannot be ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--model", "deit_x", "unknown model 'deit_x' (nearest: deit_t, deit_s, deit_b)"),
        ("--model", "vit_bse_patch16_224", "nearest: vit_base_patch16_224"),
        ("--model", "no_such_package:build", "cannot be imported: No module named 'no_such_package'"),
        ("--model", "mine.toml", "mine.toml cannot be read: No such file"),
        (
            "--image-size",
            "50",
            "50 is not a positive multiple of the patch of toy, 16 pixels; the nearest is 48 or 64",
        ),
        ("--image-size", "0", "0 must be a whole number of at least 1"),
        ("--image-size", "-16", "-16 must be"),
        ("--batch-size", "0", "0 must be"),
        ("--num-classes", "-1", "-1 must be"),
        ("--precision", "bf61", "unknown value 'bf61' (did you mean 'bf16'?); choose from fp32, amp_bf16, "),
        (
            "--implementation",
            "for",
            "unknown value 'for' (did you mean 'foreach'?); choose from auto, loop, ",
        ),
        ("--micro-batches", "3", "4 images do not fall into 3 equal parts; choose a divisor of --batch-size"),
        ("--micro-batches", "0", "0 must be a whole number of at least 1"),
        ("--device", "tpu", "unknown device 'tpu'; choose auto, cpu or cuda"),
        ("--method", "checkpoint(blocks=(4,))", "checkpoint(blocks=…): block 4 is out of range"),
        ("--method", "checkpoint+bsr+checkpoint", "checkpoint stands twice in bsr("),
        ("--optimizer", "adam", "unknown value 'adam' (did you mean 'adamw'?)"),
        ("--attention", "flsh", "unknown value 'flsh' (did you mean 'flash'?)"),
        ("--attention", "flash", "the kernel 'flash' exists on CUDA only; choose fused or math, or --device"),
        ("--accounting", "peek", "unknown value 'peek' (did you mean 'peak'?)"),
        ("--method", "brs", "unknown value 'brs' (did you mean 'bsr'?)"),
        ("--method", "bsr(blocks=(4,), keep={})", "block 4 is out of range; the model has 4 blocks, 0 to 3"),
        ("--method", "bsr(blocks=(0,), keep={9: 0.5})", "block 9 is out of range"),
        ("--method", "bsr(blocks=(-1,))", "-1 is no block index"),
        ("--method", "bsr(blocks=(1, 1))", "block 1 is named twice"),
        ("--method", "bsr(keep={1: 0})", "1: 0}): a keep rate must be above 0 and at most 1"),
        ("--method", "bsr(keep={1: 1.5})", "1: 1.5}): a keep rate must be"),
        ("--method", "bsr(keep={1: -1})", "1: -1}): a keep rate must be"),
        ("--method", "bsr(keep={1: 0.5, 1: 0.7})", "names 1 twice"),
        ("--method", "last(k=0)", "last(k=0): k must be"),
        ("--method", "last(k=5)", "last(k=5): the model has 4 blocks"),
        ("--method", "last(n=1)", "'last(n=1)': last has no argument 'n'"),
        ("--method", "bsr(blocks=(1", "cannot read 'bsr(blocks=(1' at column 12"),
        ("--method", "bsr)", "cannot read 'bsr)' at column 4"),
        ("--method", "bsr(blocks=depth)", "at column 12: blocks must be a literal"),
        ("--method", "", "cannot read ''"),
        pytest.param(
            *("--method", "bsr+", "at column"),
        ),
        ("--method", "bsr(blocks=(), head=False, norm=False, keep={})", "trains nothing"),
        ("--method", "linear+full", "linear and full both choose"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    refused: Refused, flag: str, value: str, words: str
) -> None:
    line = refused(*PROFILE, flag, value)
    assert flag in line
    assert words in line


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_cuda")
def test_measuring_on_what_is_not_here_is_refused(refused: Refused) -> None:
    assert "--device: unknown device 'tpu'; choose auto, cpu or cuda" in refused(
        *PROFILE, "--measure", "--device", "tpu"
    )
    assert "--device: no CUDA device is available here; choose cpu or auto" in refused(
        *PROFILE, "--measure", "--device", "cuda"
    )


# --- what has no largest batch --------------------------------------------------------------------------

MAX_BATCH = (
    "max-batch",
    "--model",
    "toy",
    "--image-size",
    "48",
    "--budget",
    "2MB",
    "--method",
    "full, linear",
)


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--model", "deit_x", "unknown model 'deit_x'"),
        ("--budget", "2G", "'2G' has no unit that says its size: 'G'; write one of B, KB, MB, GB"),
        ("--budget", "0MB", "'0MB' is no memory at all"),
        (
            "--budget-counts",
            "held",
            "unknown value 'held' (did you mean 'published'?); choose from peak, reserved, device, ",
        ),
        ("--image-size", "50", "50 is not a positive multiple of the patch of toy, 16 pixels"),
        ("--num-classes", "0", "0 must be a whole number of at least 1"),
        ("--micro-batches", "0", "0 must be a whole number of at least 1"),
        ("--precision", "fp61", "unknown value 'fp61'"),
        ("--optimizer", "adam", "unknown value 'adam' (did you mean 'adamw'?)"),
        ("--attention", "cudnn", "the kernel 'cudnn' exists on CUDA only"),
        ("--implementation", "for", "unknown value 'for' (did you mean 'foreach'?)"),
        ("--device", "tpu", "unknown device 'tpu'"),
        ("--method", "full, brs", "unknown value 'brs' (did you mean 'bsr'?)"),
        ("--method", "full, last(k=5)", "last(k=5): the model has 4 blocks"),
        ("--method", "full, bsr(", "cannot read 'full, bsr('"),
        ("--method", "", "cannot read ''"),
        ("--method", "full, linear, full", "full stands twice; name each method once"),
    ],
)
def test_what_has_no_largest_batch_is_refused(refused: Refused, flag: str, value: str, words: str) -> None:
    line = refused(*MAX_BATCH, flag, value)
    assert flag in line
    assert words in line


# --- what a search cannot be ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--model", "toyy", "unknown model 'toyy'"),
        ("--budget", "2G", "'2G' has no unit that says its size: 'G'; write one of B, KB, MB, GB"),
        ("--budget", "2", "'2' has no unit; write one of"),
        ("--budget", "lots", "cannot read 'lots'"),
        ("--budget", "0GB", "'0GB' is no memory at all"),
        ("--budget", "-2GB", "cannot read '-2GB'"),
        (
            "--budget",
            "400KB",
            "400KB is less than the smallest configuration needs, 0.47 MB (0.45 MiB) at batch 4 counting peak",
        ),
        ("--budget-counts", "held", "unknown value 'held' (did you mean 'published'?); choose from peak"),
        ("--data", "didgits", "'didgits' is neither a data set nor a folder (did you mean 'digits'?)"),
        ("--data", "./none", "'./none' is neither a data set nor a folder"),
        ("--data", "a_file", "'a_file' is a file, not an image folder"),
        ("--data", "empty", "'empty' has no folders of classes"),
        ("--data", "cifar10", "cifar10 is not in"),
        ("--data", "hub:birds", "'hub:birds' names no data set of the Hub; write hub:OWNER/NAME or"),
        ("--data", "hub:acme/birds", "hub:acme/birds is not in the Hub's cache"),
        ("--image-size", "50", "50 is not a positive multiple"),
        ("--batch-size", "0", "'0' must be a whole number of at least 1, or several, such as 16,32,64"),
        ("--batch-size", "-4", "'-4' must be a whole number of at least 1, or several"),
        ("--batch-size", "4,,8", "'4,,8' must be a whole number of at least 1, or several"),
        ("--batch-size", "4,0", "'4,0' must be a whole number of at least 1, or several"),
        ("--batch-size", "4;8", "'4;8' must be a whole number of at least 1, or several"),
        ("--batch-size", "4, 8, 4", "(4, 8, 4) names a size twice; name each once"),
        ("--micro-batches", "3", "4 images do not fall into 3 equal parts"),
        ("--precision", "bf61", "unknown value 'bf61' (did you mean 'bf16'?)"),
        ("--optimizer", "sgd", "'sgd' does not go with --recipe short, which uses 'adamw'"),
        ("--attention", "flsh", "unknown value 'flsh' (did you mean 'flash'?)"),
        ("--attention", "flash", "the kernel 'flash' exists on CUDA only"),
        ("--recipe", "shrot", "unknown value 'shrot' (did you mean 'short'?)"),
        ("--weights", "hbu", "unknown value 'hbu' (did you mean 'hub'?)"),
        ("--weights", "none.pth", "there is no file 'none.pth'"),
        ("--weights", "a_file", "'a_file' is not a file of weights"),
        ("--weights", "junk.pth", "junk.pth cannot be read as a checkpoint"),
        ("--weights", "other.pth", "other.pth does not fit toy"),
        ("--weights", "hub", "the model hub has no weights for toy; choose a checkpoint file"),
        ("--weights", "auto", "the model hub has no weights for toy"),
        ("--trials", "0", "0 must be"),
        ("--trials", "-3", "-3 must be"),
        ("--time-limit", "0", "cannot read '0'; write a time such as 90s, 10m or 1h"),
        ("--time-limit", "soon", "cannot read 'soon'"),
        ("--time-limit", "-5m", "cannot read '-5m'"),
        ("--train-size", "0", "0 must be"),
        ("--train-size", "9", "9 images of digits is out of range; choose from 10"),
        ("--train-size", "99999", "99999 images of digits is out of range"),
        ("--val-size", "9", "9 images of digits is out of range"),
        ("--epochs", "0", "0 must be"),
        ("--device", "tpu", "unknown device 'tpu'"),
        ("--out", "a_file", "a_file cannot be a folder: a_file is a file"),
        ("--out", "a_file/below", "a_file/below cannot be a folder: a_file is a file"),
        ("--fidelity", "both", "unknown value 'both'; choose from single, multi"),
        pytest.param("--proxy-size", "33", "33 is not a positive multiple"),
        pytest.param("--proxy-size", "0", "0 must be"),
    ],
)
def test_a_search_that_cannot_be_is_refused(
    refused: Refused, tmp_path: Path, flag: str, value: str, words: str
) -> None:
    (tmp_path / "a_file").write_text("a file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.pth").write_text("no checkpoint")
    if value == "other.pth":
        torch.save(timm.create_model("toy_2", img_size=48, num_classes=10).state_dict(), tmp_path / value)
    line = refused(*SEARCH, flag, value)
    assert flag in line
    assert words in line


@pytest.mark.parametrize("weights", ["hub", "auto"])
@pytest.mark.parametrize("offline", [False, True])
def test_without_a_hub_the_choices_are_listed(
    monkeypatch: pytest.MonkeyPatch, refused: Refused, weights: str, offline: bool
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    line = refused(*SEARCH, "--model", "deit_t", "--budget", "1GB", "--weights", weights)
    assert f"--weights {weights}: " in line
    assert ("HF_HUB_OFFLINE is set" if offline else "the model hub cannot be reached") in line
    assert re.search(r"choose a checkpoint file \(\.safetensors, .*\bor random$", line.strip())


@pytest.mark.usefixtures("no_cuda")
def test_searching_on_what_is_not_here_is_refused(
    refused: Refused, make_study: MakeStudy, tmp_path: Path
) -> None:
    says = "--device: no CUDA device is available here; choose cpu or auto"
    assert says in refused(*SEARCH, "--budget", "1GB", "--device", "cuda")
    path = write(make_study(budget="1GB"), tmp_path / "study.toml", "config", "device", "cuda")
    assert says in refused("search", path)


def test_batch_sizes_that_do_not_all_fall_into_micro_batches_are_refused(refused: Refused) -> None:
    line = refused(*SEARCH, "--batch-size", "4,6", "--micro-batches", "4")
    assert "--micro-batches: 6 images do not fall into 4 equal parts" in line


def test_the_least_that_is_needed_is_that_of_the_smallest_batch(refused: Refused) -> None:
    line = refused(*SEARCH, "--batch-size", "64,1", "--budget", "200KB")
    assert re.search(r"needs, 0\.\d\d MB .* at batch 1 counting peak", line)


def test_what_is_cheap_to_check_is_checked_first(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "junk.pth").write_text("no checkpoint")
    assert "--budget" in refused(*SEARCH, "--weights", "junk.pth", "--budget", "1KB")


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that cannot be written."""
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    yield folder
    folder.chmod(stat.S_IRWXU)


def test_a_folder_that_cannot_be_written_is_refused(
    monkeypatch: pytest.MonkeyPatch, refused: Refused, locked: Path
) -> None:
    if os.geteuid() == 0:  # who may write everywhere
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked)
    line = refused(*SEARCH, "--out", locked / "study")
    assert f"--out: {locked / 'study'} cannot be written (no permission for {locked})" in line


# --- what cannot be compared ----------------------------------------------------------------------------

COMPARE = (
    *("compare", "--model", "toy", "--methods", "full, linear", "--batch-size", "4", "--image-size", "48"),
    *("--proxy-size", "32", "--train-size", "20", "--val-size", "20", "--epochs", "1", "--seeds", "1"),
    *("--weights", "random", "--device", "cpu"),
)


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--model", "toyy", "unknown model 'toyy'"),
        ("--methods", "full, brs", "unknown value 'brs' (did you mean 'bsr'?)"),
        ("--methods", "full, linear, full", "full stands twice; name each method once"),
        ("--methods", "last(k=1), bsr(blocks=(3,), keep={})", "is the same as last(k=1) in this model"),
        ("--methods", "full, last(k=5)", "last(k=5): the model has 4 blocks"),
        ("--methods", "full, bsr(", "cannot read 'full, bsr('"),
        ("--methods", "", "cannot read ''"),
        ("--seeds", "0", "0 must be a whole number of at least 1"),
        ("--seeds", "three", "Invalid value"),
        ("--rounds", "-1", "-1 must be a whole number of at least 0"),
        ("--budget", "2G", "'2G' has no unit that says its size"),
        ("--budget", "0GB", "'0GB' is no memory at all"),
        (
            "--budget",
            "400KB",
            "400KB holds none of the methods at batch 4; linear needs least, 0.48 MB (0.46 MiB)",
        ),
        ("--budget-counts", "held", "unknown value 'held' (did you mean 'published'?); choose from peak"),
        ("--data", "didgits", "'didgits' is neither a data set nor a folder (did you mean 'digits'?)"),
        ("--data", "cifar10", "cifar10 is not in"),
        ("--data", "hub:birds", "'hub:birds' names no data set of the Hub; write hub:OWNER/NAME or"),
        ("--data", "hub:acme/birds", "hub:acme/birds is not in the Hub's cache"),
        ("--image-size", "50", "50 is not a positive multiple of the patch of toy"),
        ("--proxy-size", "33", "33 is not a positive multiple of the patch of toy"),
        ("--proxy-size", "0", "0 must be a whole number of at least 1"),
        ("--batch-size", "0", "0 must be a whole number of at least 1"),
        ("--micro-batches", "3", "4 images do not fall into 3 equal parts"),
        ("--precision", "bf61", "unknown value 'bf61' (did you mean 'bf16'?)"),
        ("--optimizer", "sgd", "'sgd' does not go with --recipe short, which uses 'adamw'"),
        ("--attention", "flash", "the kernel 'flash' exists on CUDA only"),
        ("--recipe", "shrot", "unknown value 'shrot' (did you mean 'short'?)"),
        ("--weights", "hbu", "unknown value 'hbu' (did you mean 'hub'?)"),
        ("--weights", "junk.pth", "junk.pth cannot be read as a checkpoint"),
        ("--weights", "hub", "the model hub has no weights for toy; choose a checkpoint file"),
        ("--train-size", "9", "9 images of digits is out of range; choose from 10"),
        ("--val-size", "9", "9 images of digits is out of range; choose from 10"),
        ("--epochs", "0", "0 must be a whole number of at least 1"),
        ("--device", "tpu", "unknown device 'tpu'; choose auto, cpu or cuda"),
        ("--out", "a_file/below", "a_file/below cannot be a folder: a_file is a file"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    refused: Refused, tmp_path: Path, flag: str, value: str, words: str
) -> None:
    (tmp_path / "a_file").write_text("a file")
    (tmp_path / "junk.pth").write_text("no checkpoint")
    line = refused(*COMPARE, flag, value)
    assert flag in line
    assert words in line


@pytest.mark.usefixtures("no_cuda")
def test_comparing_on_what_is_not_here_is_refused(refused: Refused) -> None:
    assert "--device: no CUDA device is available here" in refused(*COMPARE, "--device", "cuda")
    elsewhere = [flag for flag in COMPARE if flag not in ("--device", "cpu")]
    assert "--device: no CUDA device is available here" in refused(*elsewhere, "--gpu", "t4")


def test_another_comparison_in_the_folder_is_refused(refused: Refused, compared_folder: Path) -> None:
    line = refused(*COMPARE, "--out", compared_folder, "--epochs", "2", "--batch-size", "2")
    assert (
        f"--out: {compared_folder} holds another comparison (batch_size: 4 → 2; fidelity.epochs: 1 → 2)"
        in line
    )


def test_a_search_in_the_folder_is_refused(refused: Refused, study_folder: Path) -> None:
    line = refused(*COMPARE, "--out", study_folder)
    assert f"--out: {study_folder} is the folder of a study, not of a comparison" in line


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("comparison.json", "not a comparison"),
        ("records/0002.json", "not a record of a trial"),
        ("step_seconds.json", "not the times of steps"),
    ],
)
def test_a_broken_file_of_a_comparison_is_named(
    refused: Refused, compared_folder: Path, name: str, words: str
) -> None:
    (compared_folder / name).write_text("{")
    assert f"{compared_folder / name}: {words}" in refused("report", compared_folder)
    assert f"{compared_folder / name}: {words}" in refused(*COMPARE, "--out", compared_folder)


# --- what a study cannot be -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (("--budget", "1300KB"), "budget.bytes: '1400KB' → '1300KB'"),
        (("--batch-size", "8"), "config.batch_size: 4 → 8"),
        (("--batch-size", "4,8"), "space.batch_sizes: [] → [4, 8]"),
        (("--precision", "amp_bf16"), "config.precision: 'fp32' → 'amp_bf16'"),
        (("--micro-batches", "2"), "config.micro_batches: 1 → 2"),
        (("--seed", "1"), "study.seed: 0 → 1"),
        (("--epochs", "2", "--train-size", "30"), "fidelity.train_size: 20 → 30; fidelity.epochs: 1 → 2"),
    ],
)
def test_a_study_of_another_space_is_refused_with_the_difference(
    refused: Refused, study_folder: Path, flags: tuple[str, ...], difference: str
) -> None:
    line = refused(*SEARCH, "--out", study_folder, *flags)
    assert f"--out: {study_folder} holds a study of another space ({difference})" in line


def test_a_broken_study_in_the_folder_is_named(refused: Refused, study_folder: Path) -> None:
    (study_folder / "study.toml").write_text("[study")
    assert f"{study_folder / 'study.toml'}: not valid TOML" in refused(*SEARCH, "--out", study_folder)


def test_a_broken_record_in_the_folder_is_named(refused: Refused, study_folder: Path) -> None:
    record = study_folder / "records" / "0003.json"
    record.write_text("{")
    assert f"{record}: not a record of a trial" in refused(*SEARCH, "--out", study_folder)
    assert f"{record}: not a record of a trial" in refused("report", study_folder)


def test_a_broken_database_in_the_folder_is_named(refused: Refused, study_folder: Path) -> None:
    (study_folder / "study.db").write_text("no database, but long enough to be taken for one" * 99)
    assert "study.db" in refused(*SEARCH, "--out", study_folder)


def test_a_study_file_that_is_not_there_is_refused(refused: Refused, tmp_path: Path) -> None:
    assert "none.toml: cannot be read: No such file" in refused("search", "none.toml")
    assert f"{tmp_path}: cannot be read: Is a directory" in refused("search", tmp_path)


def test_a_study_file_that_is_broken_is_refused(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text("[study]\nname = 'x\n")
    assert "study.toml: not valid TOML: " in refused("search", path)


def write(study: Study, path: Path, table: str, key: str, value: Any) -> Path:
    tables = study.to_toml()
    tables.setdefault(table, {})[key] = value
    path.write_text(tomli_w.dumps(tables))
    return path


@pytest.mark.parametrize(
    ("table", "key", "value", "words"),
    [
        ("study", "trails", 3, "key of [study]: unknown value 'trails' (did you mean 'trials'?)"),
        ("budget", "bytes", "2G", "--budget: '2G' has no unit that says its size"),
        ("budget", "bytes", "1KB", "--budget: 1KB is less than the smallest"),
        ("config", "num_classes", 7, "--num-classes: the configuration has 7 classes and digits has 10"),
        ("config", "model", "toyy", "--model: unknown model 'toyy'"),
        ("config", "optimizer", "sgd", "--optimizer: 'sgd' does not go with --recipe short"),
        ("config", "micro_batches", 3, "--micro-batches: 4 images do not fall into 3 equal parts"),
        ("config", "device", "auto", "--device: unknown value 'auto'; choose from cpu, cuda"),
        ("space", "batch_sizes", [4, 0], "--batch-size: 0 is no number of images"),
        ("space", "batch_sizes", [4, 4], "--batch-size: (4, 4) names a size twice"),
        ("data", "name", "none", "--data: 'none' is neither"),
        ("data", "weights", "none.pth", "--weights: there is no file 'none.pth'"),
        ("fidelity", "recipe", "shrot", "--recipe: unknown value 'shrot'"),
        ("space", "start", ["bsr(blocks=(9,))"], "--method: bsr(blocks=…): block 9 is out of range"),
        ("space", "drop_at", [1, 7], "[space] drop_at: block 7 is out of range"),
        ("space", "max_blocks", 5, "[space] max_blocks: 5 must be 0 to 4"),
        ("space", "keep", [2.0], "[space] keep: 2.0 is no keep rate"),
    ],
)
def test_a_study_that_cannot_be_is_refused(
    refused: Refused, make_study: MakeStudy, tmp_path: Path, table: str, key: str, value: Any, words: str
) -> None:
    assert words in refused("search", write(make_study(), tmp_path / "study.toml", table, key, value))


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("study", "time_limit", "8m"),
        ("study", "seed", "one"),
        ("study", "name", 5),
        ("config", "model", 5),
        ("budget", "bytes", 1_400_000),
        ("data", "name", 5),
        ("data", "weights", 5),
        ("space", "max_blocks", "all"),
        ("space", "max_blocks", 2.5),
        ("space", "drop_at", 3),
        ("space", "drop_at", ["3"]),
        ("space", "batch_sizes", 4),
        ("space", "batch_sizes", ["4"]),
        ("config", "micro_batches", "1"),
        ("config", "set_to_none", "yes"),
        ("space", "keep", 0.5),
        ("space", "start", "full"),
        ("space", "start", [3]),
        ("space", "fuse", True),
        ("space", "fuse", ["yes"]),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_key(
    refused: Refused, make_study: MakeStudy, tmp_path: Path, table: str, key: str, value: Any
) -> None:
    line = refused("search", write(make_study(), tmp_path / "study.toml", table, key, value), "--dry-run")
    named = key.replace("_", "-") if key not in ("name", "bytes") else table
    assert re.search(rf"--{named}\b|\[{table}\] {key}\b", line), line


# --- one trial of a study -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["show", "select", "export", "reproduce"])
def test_what_is_no_study_has_no_trials(refused: Refused, tmp_path: Path, command: str) -> None:
    (tmp_path / "a_file").write_text("a file")
    trial = ("0",) if command in ("show", "reproduce") else ()
    for name in ("none", "a_file", str(tmp_path)):
        assert f"STUDY: {name} is not the folder of a study" in refused(command, name, *trial)


@pytest.mark.parametrize("command", ["show", "select", "export", "reproduce"])
def test_a_broken_record_is_named(refused: Refused, study_folder: Path, command: str) -> None:
    record = study_folder / "records" / "0003.json"
    record.write_text("{")
    trial = ("0",) if command in ("show", "reproduce") else ()
    assert f"{record}: not a record of a trial" in refused(command, study_folder, *trial)


@pytest.mark.parametrize("command", [("show", "--"), ("reproduce", "--")])
@pytest.mark.parametrize("trial", ["7", "-1", "two", "1.5"])
def test_a_trial_that_is_not_there_is_refused(
    refused: Refused, study_folder: Path, command: tuple[str, ...], trial: str
) -> None:
    line = refused(command[0], study_folder, *command[1:], trial)
    if trial in ("7", "-1"):
        assert f"TRIAL: {trial} has no record; choose from 0–6" in line
    assert "TRIAL" in line.upper()


def test_the_trials_that_are_there_are_named(refused: Refused, study_folder: Path) -> None:
    for number in (1, 3, 4):
        (study_folder / "records" / f"{number:04d}.json").unlink()
    assert "choose from 0, 2, 5–6" in refused("show", study_folder, "3")
    for path in (study_folder / "records").iterdir():
        path.unlink()
    assert "TRIAL: 3 has no record; there is none yet" in refused("show", study_folder, "3")


@pytest.mark.parametrize("command", ["select", "export"])
def test_nothing_finished_is_nothing_to_choose(refused: Refused, study_folder: Path, command: str) -> None:
    for path in (study_folder / "records").iterdir():
        path.write_text(path.read_text().replace('"status": "finished"', '"status": "failed"'))
    assert "has no finished trial yet; run its search first" in refused(command, study_folder)


@pytest.mark.parametrize("command", ["select", "export"])
def test_a_comparison_has_no_front(refused: Refused, compared_folder: Path, command: str) -> None:
    (compared_folder / "comparison.json").unlink()  # with it, the folder is known for what it is
    assert "records/0000.json is not of a search" in refused(command, compared_folder)


COMPARISON = (
    "STUDY: {} is the folder of a comparison, not of a study; use `bsr-explore report {}` for all of it, or"
)


@pytest.mark.parametrize(
    "command",
    [
        *(
            ("select",),
            ("export",),
            ("status",),
            ("train",),
            ("retry", "--failed"),
            ("compare-studies", "study"),
        )
    ],
    ids=lambda command: command[0],
)
def test_the_folder_of_a_comparison_is_known(
    refused: Refused, compared_folder: Path, study_folder: Path, command: tuple[str, ...]
) -> None:
    words = [str(study_folder) if word == "study" else word for word in command]
    assert COMPARISON.format(compared_folder, compared_folder) in refused(*words, compared_folder)


def test_what_is_of_the_other_kind_is_not_written_into(
    refused: Refused, compared_folder: Path, study_folder: Path
) -> None:
    toy = ("--model", "toy", "--image-size", "48", "--batch-size", "4")
    compare = refused("compare", *toy, "--methods", "full", "--costs-only", "--out", study_folder)
    assert (
        f"--out: {study_folder} is the folder of a study, not of a comparison; give another --out" in compare
    )
    search = refused(
        "search", *toy, "--budget", "2MB", "--weights", "random", "--dry-run", "--out", compared_folder
    )
    assert f"--out: {compared_folder} is the folder of a comparison, not of a study; give another" in search


def test_an_export_that_cannot_be_is_refused(refused: Refused, study_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "there.toml").write_text("mine")
    export = ("export", study_folder, "--select", "trial 3")
    assert "--out: there.toml is there already, with other content" in refused(*export, "--out", "there.toml")
    assert "--out: there.toml/x cannot be written" in refused(*export, "--out", "there.toml/x")
    assert f"--out: {tmp_path} cannot be written" in refused(*export, "--out", tmp_path)
    (study_folder / "study.toml").unlink()
    assert f"STUDY: {study_folder} is not the folder of a study (it has no study.toml)" in refused(*export)


def test_what_has_no_accuracy_cannot_be_reproduced(refused: Refused, study_folder: Path) -> None:
    path = study_folder / "records" / "0003.json"
    path.write_text(path.read_text().replace('"status": "finished"', '"status": "out_of_memory"'))
    assert "TRIAL: it ended as out_of_memory" in refused("reproduce", study_folder, "3")


@pytest.mark.parametrize("tolerance", ["-0.1", "1.5", "nan", "wide"])
def test_a_tolerance_that_cannot_be_is_refused(refused: Refused, study_folder: Path, tolerance: str) -> None:
    assert "--tolerance" in refused("reproduce", study_folder, "3", "--tolerance", tolerance)


@pytest.mark.usefixtures("no_cuda")
def test_a_trial_of_a_device_that_is_not_here_is_refused(refused: Refused, study_folder: Path) -> None:
    path = study_folder / "records" / "0003.json"
    path.write_text(path.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    line = refused("reproduce", study_folder, "3")
    assert "TRIAL: 3 was trained on cuda, and there is none here" in line


def test_data_and_weights_that_are_gone_are_named(refused: Refused, study_folder: Path) -> None:
    path = study_folder / "records" / "0003.json"
    text = path.read_text()
    path.write_text(text.replace('"data": "digits"', '"data": "gone"'))
    assert "--data: 'gone' is neither" in refused("reproduce", study_folder, "3")
    path.write_text(text.replace('"weights": "random: ', '"weights": "file: gone.pth (sha256 00…) '))
    assert "--weights: " in refused("reproduce", study_folder, "3")


# --- files of a configuration ---------------------------------------------------------------------------

FLAT = 'model = "toy"\nimage_size = 48\nbatch_size = 4\nmethod = "linear"\n'


@pytest.mark.parametrize("command", ["profile", "train"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model = ", "c.toml: not valid TOML"),
        ("", "c.toml: [config] has no method"),
        ('model = "toy"', "c.toml: [config] has no method; add one, such as"),
        (FLAT + "batch = 4", "c.toml: key of [config]: unknown value 'batch'"),
        (FLAT + "num_classes = 'ten'", "c.toml: [config] num_classes must be a whole number, and is 'ten'"),
        (FLAT.replace("linear", "lnear"), "--method: unknown value 'lnear' (did you mean 'linear'?)"),
        (FLAT.replace("48", "50"), "--image-size: 50 is not a positive multiple of the patch of toy"),
        (FLAT.replace("toy", "toyy"), "--model: unknown model 'toyy'"),
        ("[config]\nmethod = 'full'\n[bugdet]\nbytes = '1GB'", "c.toml: table: unknown value 'bugdet'"),
        ("[config]\nmethod = 'full'\n[fidelity]\nepochs = 0", "--epochs: 0 must be a whole number"),
    ],
)
def test_a_file_that_cannot_be_is_refused(
    refused: Refused, tmp_path: Path, command: str, text: str, words: str
) -> None:
    (tmp_path / "c.toml").write_text(text)
    assert words in refused(command, "c.toml")


@pytest.mark.parametrize("command", ["profile", "train"])
def test_a_file_that_is_not_there_is_refused(refused: Refused, tmp_path: Path, command: str) -> None:
    assert "none.toml: cannot be read: No such file" in refused(command, "none.toml")
    folder = "is not the folder of a study (it has no study.toml)" if command == "train" else "cannot be read"
    assert folder in refused(command, tmp_path)


@pytest.mark.parametrize(
    "flags", [("--method", "bsr"), ("--batch-size", "4"), ("--keep-gradients",), ("--precision", "bf16")]
)
def test_a_flag_beside_a_configurations_file_is_refused(
    refused: Refused, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    (tmp_path / "c.toml").write_text(FLAT)
    flag = "--set-to-none" if flags == ("--keep-gradients",) else flags[0]
    assert f"{flag}: cannot be given beside a file; change it in the file" in refused(
        "profile", "c.toml", *flags
    )


TRAIN = """
[config]
model = "toy"
image_size = 48
batch_size = 4
method = "linear"
[data]
weights = "random"
[fidelity]
image_size = 32
train_size = 20
val_size = 20
epochs = 1
"""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--epochs", "0"), "--epochs: 0 must be a whole number of at least 1"),
        (("--train-size", "9"), "--train-size: 9 images of digits is out of range; choose from 10"),
        (("--train-size", "many"), "--train-size"),
        (("--device", "tpu"), "--device: unknown device 'tpu'; choose auto, cpu or cuda"),
        (("--gpu", "h101"), "--gpu: unknown value 'h101' (did you mean 'h100'?)"),
        (("--device", "cpu", "--gpu", "t4"), "--gpu: t4 is a card for --device cuda, and the device is cpu"),
        (("--out", "a_file/below"), "--out: a_file/below cannot be a folder: a_file is a file"),
        (("--seed", "one"), "--seed"),
        (("--val-size", "0"), "--val-size: 0 must be a whole number of at least 1"),
        (("--proxy-size", "33"), "--proxy-size: 33 is not a positive multiple"),
        (("--recipe", "shrot"), "--recipe: unknown value 'shrot' (did you mean 'short'?)"),
        (("--weights", "hbu"), "--weights: unknown value 'hbu'"),
        (("--export", "onxx"), "--export: unknown value 'onxx' (did you mean 'onnx'?); choose from onnx"),
        (
            ("--checkpoint-every", "often"),
            "--checkpoint-every: cannot read 'often'; write a time such as 90s",
        ),
        (
            ("--select", "knee"),
            "--select: c.toml is not the folder of a study; give one, or leave --select out",
        ),
        (("--as-searched",), "--as-searched: c.toml is not the folder of a study"),
    ],
)
def test_a_training_that_cannot_be_is_refused(
    refused: Refused, tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    (tmp_path / "a_file").write_text("a file")
    (tmp_path / "c.toml").write_text(TRAIN)
    assert words in refused("train", "c.toml", *flags)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('weights = "random"', 'weights = "none.pth"', "--weights: there is no file 'none.pth'"),
        ('weights = "random"', 'weights = "hbu"', "--weights: unknown value 'hbu'"),
        ("[data]", '[data]\nname = "didgits"', "--data: 'didgits' is neither"),
        ("[fidelity]", '[fidelity]\nrecipe = "shrot"', "--recipe: unknown value 'shrot'"),
        ("image_size = 32", "image_size = 33", "--proxy-size: 33 is not a positive multiple"),
        ("batch_size = 4", "batch_size = 4\nnum_classes = 7", "--num-classes: the configuration has 7"),
        ("batch_size = 4", 'batch_size = 4\noptimizer = "sgd"', "--optimizer: 'sgd' does not go with"),
    ],
)
def test_a_file_that_cannot_be_trained_is_refused(
    refused: Refused, tmp_path: Path, old: str, new: str, words: str
) -> None:
    (tmp_path / "c.toml").write_text(TRAIN.replace(old, new))
    assert words in refused("train", "c.toml")


@pytest.mark.parametrize(
    ("select", "words"),
    [
        (
            "best",
            '{}: cannot read \'best\'; write recommended, knee, "under 1.5GB", "reaching 85%" or "trial 5"',
        ),
        ("knee 3", "{}: cannot read 'knee 3'"),
        ("under", "{}: cannot read 'under'"),
        ("trial one", "{}: cannot read 'trial one'"),
        ("trial 99", "{}: trial 99 has no record; choose from 0–6"),
        (
            "under 1KB",
            "{}: nothing that was trained takes at most 0.0010 MB (0.00095 MiB); the nearest is trial",
        ),
        ("under 1.5", "{}: '1.5' has no unit"),
        ("reaching 100%", "{}: nothing that was trained reaches 100.0%; the nearest is trial"),
        ("reaching 85", "{}: cannot read the accuracy '85'; write a part of 1"),
    ],
)
def test_a_selection_that_cannot_be_is_refused(
    refused: Refused, study_folder: Path, select: str, words: str
) -> None:
    """By the same words, of all that take them."""
    for command in ("train", "export"):
        assert words.format("--select") in refused(command, study_folder, "--select", select)
    assert words.format("WHICH") in refused("select", study_folder, *select.split())


def test_the_folder_of_a_training_is_no_study(cli: Cli, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(TRAIN)
    assert cli("train", "c.toml").code == 0
    said = (
        "STUDY: runs/c is the folder of a training, not of a study; use `bsr-explore train runs/c/train.toml`"
    )
    for command in ("train", "select", "status"):
        assert said in refused(command, "runs/c")


def test_another_training_in_the_folder_is_refused(
    cli: Cli, refused: Refused, study_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text(TRAIN)
    assert cli("train", "c.toml").code == 0
    line = refused("train", "c.toml", "--epochs", "2", "--seed", "3")
    assert (
        "--out: runs/c holds another training (study.seed: 0 → 3; fidelity.epochs: 1 → 2); give the same "
        in line
    )
    assert f"--out: {study_folder} holds records and no train.toml" in refused(
        "train", "c.toml", "--out", study_folder
    )
    (tmp_path / "runs" / "c" / "train.toml").write_text("[config")
    assert "runs/c/train.toml: not valid TOML" in refused("train", "c.toml")


# --- the rest -------------------------------------------------------------------------------------------


def test_a_report_of_nothing_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "a_file").write_text("a file")
    assert "STUDY: none is not the folder of a study" in refused("report", "none")
    assert "STUDY: a_file is not the folder of a study" in refused("report", "a_file")
    assert f"STUDY: {tmp_path} is not the folder of a study" in refused("report", tmp_path)


def test_a_kind_that_cannot_be_listed_is_refused(refused: Refused) -> None:
    assert "list: unknown value 'modles' (did you mean 'models'?)" in refused("list", "modles")


# --- several tasks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("tasks(digits)", "'tasks(digits)' has one task; name it directly: digits"),
        ("tasks(digits, digits)", "digits stands twice"),
        ("tasks(digits, letters)", "'letters' is neither a data set nor a folder"),
        ("tasks(digits, turnd(digits))", "unknown value 'turnd' (did you mean 'turned'?)"),
        ("tasks(digits, sums(fashion_mnist))", "sums is made of digits"),
        ("tasks(digits, turned(digits)", "cannot read"),
    ],
)
def test_tasks_that_cannot_be_are_refused(refused: Refused, data: str, words: str) -> None:
    for command in (SEARCH, ("compare", "--model", "toy", "--image-size", "48", "--methods", "full")):
        line = refused(*command, "--data", data)
        assert line.startswith("error: --data: ") and words in line


def test_sizes_of_tasks_are_refused(refused: Refused) -> None:
    line = refused(*SEARCH, "--data", "tasks(digits, turned(digits))", "--train-size", "13")
    assert line.startswith("error: --train-size: 13 images of 2 tasks is out of range; choose from 14")


@pytest.mark.parametrize(
    ("tasks", "classes", "words"),
    [
        (
            [4, 10],
            14,
            "--tasks: the configuration has tasks of 4, 10 classes and tasks(digits, turned(digits)) has tasks",
        ),
        ([10, 4], 10, "--num-classes: 10 is not the sum of --tasks 10,4, which is 14"),
        ([14], 14, "--tasks: 14 is one task"),
    ],
)
def test_a_file_whose_head_does_not_fit_its_tasks_is_refused(
    refused: Refused, tmp_path: Path, tasks: list[int], classes: int, words: str
) -> None:
    config = {"model": "toy", "image_size": 48, "num_classes": classes, "tasks": tasks, "method": "full"}
    file = tmp_path / "tasks.toml"
    data = {"name": "tasks(digits, turned(digits))", "weights": "random"}
    file.write_text(tomli_w.dumps({"config": config, "data": data}))
    assert words in refused("train", file, "--out", tmp_path / "run")
