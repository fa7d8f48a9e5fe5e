"""What a user brings trains, is interrupted, cached, compared, searched, saved, loaded and exported like the rest."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

import bsr_explorer as bx
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.job import Job
from bsr_explorer.finetune.run import run
from bsr_explorer.finetune.watch import Nobody
from bsr_explorer.prefix.cache import Cache
from bsr_explorer.prefix.stages import stages_of
from bsr_explorer.report import style
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.records import Record, read_records
from bsr_explorer.trained import onnx
from bsr_explorer.trained.training import Training, train
from bsr_explorer.trained.weights import check

pytestmark = pytest.mark.thorough  # each method is trained, saved, exported and searched

FIDELITY = Fidelity(image_size=32, train_size=20, val_size=20, epochs=3, recipe="standard", views=1)


def config(method: str, model: str = "toy", **changes: Any) -> Config:
    return replace(Config(model, 48, batch_size=4, method=method), **changes)


def tune(method: str, **job: Any) -> Record:
    return run(config(method), Job(weights="random", fidelity=FIDELITY, seed=3, every_epoch=True, **job))


@lru_cache
def tuned(method: str) -> Record:
    """In one go, with nothing cached."""
    return tune(method)


def learned(record: Record) -> Any:
    return (record.status, record.losses, record.history)


# --- frozen blocks --------------------------------------------------------------------------------------

FROZEN = {
    "last(k=1)+eighth": 3,
    "low_rank": 0,
    "prompt": 0,
    "side": 0,
    "rotating": 0,
    "thawing": 0,
}
"""How many of the 4 blocks of the toy model are frozen for sure: nothing below trains, changes or is read beside."""


@pytest.mark.parametrize(("method", "blocks"), FROZEN.items())
def test_what_is_kept_of_frozen_blocks_changes_no_training(method: str, blocks: int, tmp_path: Path) -> None:
    cached = tune(method, cache=Cache(tmp_path / "cache"))
    assert cached.provenance["cached_blocks"] == blocks
    assert learned(cached) == learned(tuned(method))


def test_an_operation_that_draws_or_remembers_is_not_frozen() -> None:
    from bsr_explorer.methods import METHODS

    class Noisy(METHODS["last"]):  # type: ignore[misc]
        def rewrite(self, tape: Any) -> Any:
            tape = super().rewrite(tape)
            ops = tuple(replace(op, steady=op.name != "blocks.1.mlp.act") for op in tape)
            return replace(tape, ops=ops)

    frozen = [stage.frozen for stage in stages_of(config("full", batch_size=4).with_method(Noisy(1)))]
    assert frozen == [True, True, False, True, False]


# --- training -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["low_rank", "prompt", "side", "rotating", "thawing", "thawing(share=0.2)", "full+eighth"]
)
def test_an_interrupted_training_goes_on_to_the_same_end(method: str, tmp_path: Path) -> None:
    whole, stops = tuned(method), {5, 9}

    def stop(done: int, total: int, loss: float) -> None:
        if done in stops:
            stops.discard(done)
            raise KeyboardInterrupt

    job = Job(
        weights="random",
        fidelity=FIDELITY,
        seed=3,
        every_epoch=True,
        checkpoint=tmp_path / "checkpoint.pt",
        checkpoint_every=0.0,
    )
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(config(method), job, stop)
    assert learned(run(config(method), job)) == learned(whole)


def test_phases_train_what_they_say() -> None:
    seen: list[tuple[int, set[str]]] = []

    class Watch(Nobody):
        def trained(self, model: torch.nn.Module, splits: Any) -> None:
            seen.append((0, {name for name, p in model.named_parameters() if p.requires_grad}))

    record = run(
        config("thawing(share=0.5, k=1)"), Job(weights="random", fidelity=FIDELITY, seed=3), watch=Watch()
    )
    assert record.status == "finished"
    assert {name.split(".")[0] for name in seen[0][1]} == {"blocks", "head", "norm"}
    assert all(name.startswith(("blocks.3.", "head.", "norm.")) for name in seen[0][1])
    assert record.measured is not None
    assert record.measured["peak_bytes"] == record.measured["predicted_peak_bytes"]
    assert "fault" not in record.measured


def test_before_each_step_another_block_trains() -> None:
    turns: list[list[int]] = []

    class Watch(Nobody):
        def trained(self, model: torch.nn.Module, splits: Any) -> None:
            turns.append(model.turns_taken)  # type: ignore[arg-type]

    run(config("rotating"), Job(weights="random", fidelity=FIDELITY, seed=3), watch=Watch())
    assert turns == [[4, 4, 4, 3]]  # 5 steps an epoch, 3 epochs


# --- what is left ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "method", "plain", "exports"),
    [  # of those that are plain in the end, one exports: it is the same model
        ("toy_2", "low_rank+mesa", True, False),
        ("toy_2", "low_rank+drop({1: 0.5})", False, False),
        ("toy_2", "prompt+drop({1: 0.5})", False, True),
        ("toy_2", "side", False, True),
        ("toy_2", "thawing", True, False),
        ("toy_2", "rotating", True, False),
        ("toy_2", "last(k=1)+eighth", True, False),
        ("stack_mini", "blocks(2)", True, True),
    ],
)
def test_a_training_ends_as_weights_that_load_and_export(
    model: str, method: str, plain: bool, exports: bool, tmp_path: Path
) -> None:
    final: list[torch.nn.Module] = []

    class Watch(Nobody):
        def trained(self, model: torch.nn.Module, splits: Any) -> None:
            final.append(model)

    experiment = Experiment("mine", config(method, model), weights="random", fidelity=FIDELITY, seed=5)
    asked = Training(experiment, tmp_path / "mine", tmp_path / "data", onnx=exports)
    check(experiment.config)
    record, files = train(asked, lambda *said: None, Watch())
    assert record.status == "finished", record.reason
    assert {"model.safetensors", "model_card.md"} <= {file.name for file in files}
    assert (onnx.FILE in {file.name for file in files}) == exports
    loaded, trained = bx.load(tmp_path / "mine"), final[0].eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), trained(images), rtol=1e-4, atol=1e-5)
    assert (experiment.config.how.at_inference is None) == plain
    card = (tmp_path / "mine" / "model_card.md").read_text()
    assert all(part in card for part in method.replace("({1: 0.5})", "").replace("(k=1)", "").split("+"))


# --- side by side, searched, shown ----------------------------------------------------------------------


@pytest.fixture
def one_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn, and written once."""
    monkeypatch.setattr(style, "UNDATED", {"svg": style.UNDATED["svg"]})


@pytest.mark.usefixtures("one_format")
def test_it_is_compared_beside_the_rest(
    make_comparison: Callable[..., Any], still: Any, tmp_path: Path
) -> None:
    from bsr_explorer.compare.run import compare
    from bsr_explorer.report.comparison.write import report
    from bsr_explorer.store.records import read_records as read

    made = make_comparison("full, low_rank(rank=2), prompt, side, thawing, low_rank(rank=2)+eighth", seeds=1)
    compare(made, tmp_path / "compared", tmp_path / "data", 1, still)
    assert {record.status for record in read(tmp_path / "compared").values()} == {"finished"}
    written = report(tmp_path / "compared")
    assert [row["method"] for row in written.rows].count("low_rank(rank=2)") == 1


@pytest.mark.usefixtures("one_format")
def test_it_is_searched_and_stands_on_the_page(
    make_study: Callable[..., Any], open_search: Callable[..., Any], quiet: Any, tmp_path: Path
) -> None:
    from bsr_explorer.cli.study_report import write_report
    from bsr_explorer.store.study import SpaceSpec

    space = SpaceSpec(
        start=("linear", "low_rank", "prompt", "side+checkpoint", "thawing"), max_blocks=1, drop_at=()
    )
    folder = tmp_path / "study"
    ended = open_search(make_study(space=space, budget="4MB", trials=5), folder).run(quiet)
    assert ended.finished == 5
    tried = {str(record.config["method"]) for record in read_records(folder).values()}
    assert {
        "low_rank(rank=4)",
        "prompt(tokens=5)",
        "side(width=8)+checkpoint",
        "thawing(share=0.5, k=1)",
    } <= tried
    write_report(folder)
    page = (folder / "report.html").read_text()
    assert "low_rank(rank=4)" in page and "side(width=8)+checkpoint" in page


def test_it_is_a_family_of_the_search(
    make_study: Callable[..., Any], open_search: Callable[..., Any], quiet: Any, tmp_path: Path
) -> None:
    from bsr_explorer.search.space import Space
    from bsr_explorer.store.space import SpaceSpec

    space = SpaceSpec(start=("linear",), families=("low_rank", "low_rank+eighth", "prompt"))
    study = make_study(space=space, budget="4MB", trials=6)
    assert len(Space(study)) == 4 + 4 + 1 + 1
    folder = tmp_path / "study"
    ended = open_search(study, folder).run(quiet)
    assert ended.finished == 6
    tried = {str(record.config["method"]) for record in read_records(folder).values()}
    assert len(tried) == 6 and len([method for method in tried if method.startswith("low_rank")]) >= 4


# --- as a stranger's package ------------------------------------------------------------------------------

ASKED = """
import sys
import bsr_explorer as bx
from bsr_explorer.cli import main
print(bx.predict(bx.Config("stack_mini", 32, 5, 2, method="last(k=1)")).peak_bytes > 0)
sys.argv = ["bsr-explore", "list", "methods"]
main()
"""


def _run(folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", ASKED],
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_installed_package_is_found_by_its_entry_points(plugin: Path) -> None:
    done = _run(plugin)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True\n")
    assert all(
        f"\n{name} " in done.stdout or f" {name} " in done.stdout for name in ("low_rank", "prompt", "side")
    )


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ("[bsr_explorer.methods]\nmine = mine:Mine", "is called 'mesa', and there is one of that name"),
        (
            "[bsr_explorer.architectures]\nmine = json:dumps",
            "must be an instance or a subclass of Architecture",
        ),
    ],
)
def test_a_package_that_cannot_be_used_is_said_by_name(point: str, said: str, tmp_path: Path) -> None:
    about = tmp_path / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(point + "\n")
    (tmp_path / "mine.py").write_text(
        "from bsr_explorer.methods.full import Full\n\n\nclass Mine(Full):\n    name = 'mesa'\n"
    )
    done = _run(tmp_path)
    assert done.returncode != 0
    assert said in done.stderr, done.stderr[-500:]


@pytest.mark.parametrize("method", ["low_rank", "prompt", "side"])
def test_what_a_method_adds_follows_from_the_seed_alone(method: str) -> None:
    def added(seed: int) -> dict[str, torch.Tensor]:
        torch.rand(3)  # whatever a process has drawn before
        before = torch.get_rng_state()
        made = build(config(method, batch_size=4), seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        return made.state_dict()

    first, again, other = added(1), added(1), added(2)
    own = first.keys() - build(config("full", batch_size=4)).state_dict().keys()
    assert own
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in own)
