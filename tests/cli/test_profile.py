"""``bsr-explore profile``: the JSON that others read, the tables, and the comparison with a real step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bsr_explorer.config import ONLY_GPUS, Config
from bsr_explorer.prediction import counted_bytes, predict
from bsr_explorer.store.study import COUNTS

pytestmark = pytest.mark.usefixtures("toy")

Cli = Callable[..., Any]

BSR = "bsr(blocks=(0, 2), keep={1: 0.5}, fuse=True)"
TOY = ("--model", "toy", "--image-size", "32", "--batch-size", "4", "--method", BSR)

PREDICTED = {
    *("saved_bytes", "peak_bytes", "parameter_bytes", "gradient_bytes", "optimizer_bytes"),
    *("forward_flops", "train_flops", "by_block", "by_kind", "total_bytes"),
}
"""The keys that are promised."""


def answer(cli: Cli, *arguments: str) -> dict[str, Any]:
    done = cli("profile", *TOY, "--json", *arguments)
    assert done.code == 0, done.err
    assert done.out.count("\n") == 1
    parsed: dict[str, Any] = json.loads(done.out)
    return parsed


# --- JSON -----------------------------------------------------------------------------------------------


def test_json_has_the_promised_keys(cli: Cli) -> None:
    said = answer(cli)
    assert set(said) >= {"config", "predicted", "measured"}
    assert set(said["predicted"]) >= PREDICTED
    assert said["measured"] is None


def test_json_is_the_prediction(cli: Cli) -> None:
    config = Config(model="toy", image_size=32, batch_size=4, method=BSR, attention="math", optimizer="sgd")
    said = answer(cli, "--attention", "math", "--optimizer", "sgd")
    assert said["config"] == config.to_dict()
    assert said["predicted"].items() >= predict(config).summary().items()
    full = config.with_method("full")
    assert said["full"]["total_bytes"] == counted_bytes(full, "peak")
    assert said["full"]["train_flops"] == predict(full).train_flops


def test_errors_of_the_accounting_name_its_flag(cli: Cli) -> None:
    for more, says in (
        (("--accounting", "device"), "--accounting: device is"),
        (("--accounting", "published", "--method", "mesa"), "--accounting: published has no rule for"),
    ):
        done = cli("profile", *TOY, *more)
        assert done.code == 2
        assert says in done.err
        assert "--budget-counts" not in done.err


@pytest.mark.parametrize("accounting", [counts for counts in COUNTS if counts not in ONLY_GPUS])
def test_the_total_is_by_the_accounting(cli: Cli, accounting: str) -> None:
    config = Config(model="toy", image_size=32, batch_size=4, method=BSR)
    said = answer(cli, "--accounting", accounting)
    assert said["predicted"]["total_bytes"] == counted_bytes(config, accounting)
    assert said["predicted"]["total_counts"] == accounting
    assert said["full"]["total_bytes"] == counted_bytes(config.with_method("full"), accounting)


def test_json_is_of_how_the_step_is_run(cli: Cli) -> None:
    changes: dict[str, Any] = {
        "precision": "amp_fp16",
        "optimizer": "adamw_8bit",
        "implementation": "loop",
        "micro_batches": 2,
        "set_to_none": False,
    }
    config = Config(model="toy", image_size=32, batch_size=4, method=BSR, **changes)
    said = answer(
        cli,
        *("--precision", "amp_fp16", "--optimizer", "adamw_8bit", "--implementation", "loop"),
        *("--micro-batches", "2", "--keep-gradients"),
    )
    assert said["config"] == config.to_dict()
    assert said["predicted"].items() >= predict(config).summary().items()


@pytest.mark.parametrize("attention", ["fused", "math", "flash", "efficient", "cudnn"])
def test_cuda_is_predicted_where_there_is_none(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, attention: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    flags = ("--device", "cuda", "--attention", attention, "--precision", "amp_bf16")
    said = answer(cli, *flags)
    assert said["config"]["device"] == "cuda"
    assert said["predicted"]["compared"] == "with the allocator's record of 38 real steps on an H200"
    assert said["predicted"]["total_counts"] == "reserved"
    assert said["predicted"]["total_bytes"] == said["predicted"]["reserved_bytes"]
    assert said["predicted"]["peak_bytes"] > answer(cli, "--precision", "amp_bf16")["predicted"]["peak_bytes"]
    shown = " ".join(cli("profile", *TOY, *flags).out.split())
    assert f"predictions for cuda (H100) are compared {said['predicted']['compared']}" in shown
    assert f"reserved {said['predicted']['reserved_bytes'] / 10**6:,.2f}" in shown


def test_the_cpu_was_compared_with_real_steps(cli: Cli) -> None:
    assert "real steps on CPUs" in answer(cli)["predicted"]["compared"]
    shown = cli("profile", *TOY).out
    assert "are compared" not in shown
    assert "reserved" not in shown


@pytest.mark.parametrize(("there", "device"), [(False, "cpu"), (True, "cuda")])
def test_auto_is_the_device_that_is_here(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, there: bool, device: str
) -> None:
    card = SimpleNamespace(name="NVIDIA L4", major=8, minor=9, multi_processor_count=58)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card)
    config = answer(cli, "--device", "auto")["config"]
    assert (config["device"], config.get("gpu")) == (device, "l4" if there else None)


def test_a_card_is_cuda(cli: Cli) -> None:
    config = answer(cli, "--gpu", "sm_87x16")["config"]
    assert (config["device"], config["gpu"]) == ("cuda", "sm_87x16")
    refused = cli("profile", *TOY, "--gpu", "t4", "--device", "cpu")
    assert (refused.code, refused.err) == (
        2,
        "error: --gpu: t4 is a card for --device cuda, and the device is cpu\n",
    )


def test_blocks_and_kinds_add_up(cli: Cli) -> None:
    said = answer(cli)["predicted"]
    assert list(said["by_block"]) == ["0", "1", "2", "3", "rest"]
    assert sum(block.get("saved", 0) for block in said["by_block"].values()) == said["saved_bytes"]
    assert sum(block.get("train_flops", 0) for block in said["by_block"].values()) == said["train_flops"]
    assert said["by_kind"]["saved"] == said["saved_bytes"]
    held = ("saved", "parameter", "gradient", "optimizer", "input")
    assert sum(said["by_kind"][kind] for kind in held) == said["held_bytes"]
    assert (
        said["total_bytes"]
        == said["peak_bytes"]
        == said["peak"]["bytes"]
        == sum(said["peak"]["alive"].values())
    )


# --- measured -------------------------------------------------------------------------------------------

HOW = ("--precision", "amp_fp16", "--optimizer", "adamw_8bit", "--micro-batches", "2")

EXACT = (
    *("saved_bytes", "parameter_bytes", "gradient_bytes", "optimizer_bytes", "input_bytes", "held_bytes"),
    *("forward_flops", "train_flops"),
)


@pytest.mark.parametrize("flags", [(), HOW, ("--precision", "bf16", "--keep-gradients")], ids=str)
@pytest.mark.parametrize("method", ["full", "linear", BSR, f"{BSR}+checkpoint"])
def test_a_real_step_agrees_with_the_prediction(cli: Cli, method: str, flags: tuple[str, ...]) -> None:
    said = answer(cli, "--method", method, *flags, "--measure")
    measured, predicted = said["measured"], said["predicted"]
    assert {key: measured[key] for key in EXACT} == {key: predicted[key] for key in EXACT}
    for block, entry in predicted["by_block"].items():  # the counter of FLOPs knows no blocks
        memory = {kind: size for kind, size in entry.items() if kind != "train_flops"}
        assert memory.items() <= measured["by_block"][block].items()
    assert measured["uncounted_operations"] == []
    assert measured["peak_bytes"] == pytest.approx(predicted["peak_bytes"], rel=1e-3)
    assert measured["peak_is"] == "live tensors"
    assert set(measured) >= PREDICTED - {"total_bytes"}


def test_what_is_measured_has_the_promised_keys(cli: Cli) -> None:
    assert set(answer(cli, "--measure")["measured"]) >= PREDICTED


# --- the paper's figures --------------------------------------------------------------------------------


def test_the_published_figures_of_vit_b(cli: Cli) -> None:
    done = cli("profile", "--model", "vit_b", "--method", "bsr", "--accounting", "published", "--json")
    said = json.loads(done.out)
    paper = said["published"]
    figures = [
        (paper[key], paper["full"][key])
        for key in ("activation_mib_per_image", "total_mib", "forward_gmacs_per_image")
    ]
    assert figures == [
        pytest.approx(both, abs=0.06) for both in ((21.84, 133.29), (841.4, 4592.5), (8.82, 17.56))
    ]
    assert paper["saving"] == pytest.approx(4592.5 / 841.4, rel=1e-3)
    assert said["predicted"]["total_bytes"] == paper["total_mib"] * 2**20
    assert said["full"]["total_bytes"] == paper["full"]["total_mib"] * 2**20


# --- tables ---------------------------------------------------------------------------------------------


def test_tables_show_each_block(cli: Cli) -> None:
    done = cli("profile", *TOY)
    assert (done.code, done.err) == (0, "")
    rows = {line.split()[0]: line for line in done.out.splitlines() if line.strip()}
    assert {"0", "1", "2", "3", "rest"} <= set(rows)
    assert [block for block in "0123" if "trains" in rows[block]] == ["0", "2"]
    assert "5→4" in rows["1"]  # class token and 4 patches; 2 are kept, and the others fused
    saved = predict(Config(model="toy", image_size=32, batch_size=4, method=BSR)).saved_bytes
    assert f"{saved / 1e6:,.2f}" in done.out
    assert f"{saved / 2**20:,.2f}" in done.out


@pytest.mark.parametrize(
    ("flags", "phase"),
    [(("--method", "full"), "optimizer"), (("--image-size", "96", "--batch-size", "64"), "backward")],
    ids=["little", "much"],
)
def test_the_peak_is_shown_with_its_moment_and_what_is_alive(
    cli: Cli, flags: tuple[str, ...], phase: str
) -> None:
    peak = answer(cli, *flags)["predicted"]["peak"]
    assert peak["phase"] == phase
    shown = " ".join(cli("profile", *TOY, *flags).out.split())
    when = {
        "optimizer": "in the optimiser's step",
        "backward": f"backward, block {peak['block']}, at {peak['operation']}",
    }
    assert f"the peak is {when[phase]}; alive then, in MB: " in shown
    names = {"parameter": "parameters", "optimizer": "optimiser state", "saved": "saved activations"}
    for kind in peak["alive"].keys() & names.keys():
        assert f"{names[kind]} {peak['alive'][kind] / 1e6:,.1f}" in shown


def test_a_measured_peak_is_shown_with_how_it_was_found(cli: Cli) -> None:
    assert "measured peak: live tensors" in " ".join(cli("profile", *TOY, "--measure").out.split())


def test_a_comparison_has_no_differences(cli: Cli) -> None:
    done = cli("profile", *TOY, "--measure")
    assert done.code == 0
    for label in ("saved activations", "gradients", "optimiser state", "forward FLOPs", "training FLOPs"):
        (line,) = [line for line in done.out.splitlines() if line.startswith(label)]
        _, predicted, measured, difference = line.rsplit(maxsplit=3)
        assert (predicted, difference) == (measured, "0")


def test_what_is_measured_is_told_apart_by_block(cli: Cli) -> None:
    """FLOPs too."""
    said = answer(cli, "--measure")
    for block, of in said["predicted"]["by_block"].items():
        assert said["measured"]["by_block"][block]["train_flops"] == of["train_flops"]


def test_a_method_without_a_published_rule_is_refused(cli: Cli) -> None:
    done = cli("profile", *TOY, "--method", "lora", "--accounting", "published")
    assert done.code == 2
    assert "published has no rule for lora" in done.err and "choose peak or saved" in done.err
    assert answer(cli, "--method", "lora")["published"] is None


def test_published_accounting_is_shown_by_image(cli: Cli) -> None:
    done = cli("profile", *TOY, "--accounting", "published")
    assert "counts published (the BSR paper's own accounting)" in done.out
    assert "GMACs forward" in done.out
    assert "GMACs" not in cli("profile", *TOY).out


# --- other inputs, and notes ------------------------------------------------------------------------------

LANGUAGE = ("--model", "llama_tiny(depth=1, positions=64)", "--batch-size", "2", "--method", "linear")


def test_a_sequence_has_a_length_in_tokens(cli: Cli) -> None:
    done = cli("profile", *LANGUAGE, "--sequence-length", "32", "--measure")
    assert done.code == 0, done.err
    assert "32 tokens, batch 2" in done.out
    saved = next(line.split() for line in done.out.splitlines() if line.startswith("saved activations"))
    assert saved[2] == saved[3] and saved[4] == "0"


def test_a_sequence_that_is_too_long_is_an_error_in_one_line(cli: Cli) -> None:
    done = cli("profile", *LANGUAGE, "--sequence-length", "65")
    assert done.code == 2 and "--sequence-length: 65 tokens are more than the 64 positions" in done.err
    assert "Traceback" not in done.err


def test_what_experts_compute_is_said(cli: Cli) -> None:
    model = (
        "--model",
        "moe_vit(toy, blocks=(1,), experts=4, top=2)",
        "--image-size",
        "32",
        "--method",
        "linear",
    )
    done = cli("profile", *model)
    assert "4 experts in blocks 1 compute all rows of 2 for each token: exact for every routing" in done.out
    said = json.loads(cli("profile", *model, "--json").out)
    assert said["predicted"]["note"].startswith("4 experts")


def test_a_mixture_with_drops_and_frozen_experts_is_measured(cli: Cli) -> None:
    model = (
        "--model",
        "moe_vit(toy, blocks=(1, 3), experts=4, top=2)",
        "--image-size",
        "48",
        "--batch-size",
        "2",
    )
    method = ("--method", "bsr(blocks=(1, 3), keep={2: 0.5})+freeze('experts')")
    said = json.loads(cli("profile", *model, *method, "--measure", "--json").out)
    for figure in ("saved_bytes", "train_flops", "held_bytes"):
        assert said["predicted"][figure] == said["measured"][figure]
    assert "10→7" in cli("profile", *model, *method).out


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("moe_vit(toy, experts=2)", "top=4 of 2 experts"),
        ("moe_vit(toy, blocks=(1,), capacity=0.001)", "an expert takes"),
    ],
)
def test_experts_that_cannot_be_are_an_error_in_one_line(cli: Cli, model: str, why: str) -> None:
    done = cli("profile", "--model", model, "--image-size", "32", "--method", "linear")
    assert done.code == 2 and why in done.err and "Traceback" not in done.err


# --- bounds ---------------------------------------------------------------------------------------------

SMALL = "tests.models.traced.small"


def test_what_cannot_be_counted_is_refused_and_the_flag_named(cli: Cli) -> None:
    flags = ("profile", "--module", f"{SMALL}:recurrent", "--image-size", "16", "--method", "full")
    done = cli(*flags)
    assert done.code == 2 and "no rule for lstm" in done.err and "--unknown bound" in done.err
    assert done.err.count("\n") == 1
    done = cli(*flags, "--unknown", "maybe")
    assert done.code == 2 and "--unknown: unknown value 'maybe'" in done.err


def test_a_bound_is_marked_wherever_it_stands(cli: Cli) -> None:
    flags = ("profile", "--module", f"{SMALL}:turned", "--image-size", "16", "--method", "full")
    done = cli(*flags, "--unknown", "bound")
    assert done.code == 0, done.err
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    marked = {line.split(" ≥")[0] for line in lines if " ≥ " in line}
    assert {"peak", "training FLOPs"} <= marked and "saved activations" not in marked
    assert any(
        line.startswith("Turning (1 call, the first in the model; up to ") and "cannot be made alone" in line
        for line in lines
    )
    total = " ".join(lines).partition("A budget that counts peak")[2]
    assert total.count("≥") == 2 and "less" not in total
    said = json.loads(cli(*flags, "--unknown", "bound", "--json").out)
    assert said["config"]["unknown"] == "bound"
    assert {"peak_bytes", "train_flops"} <= set(said["predicted"]["at_least"])
    assert [(each["operation"], each["times"]) for each in said["predicted"]["unknown"]] == [("Turning", 1)]


def test_a_bound_may_be_asked_for_beside_a_file(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "turned.toml"
    file.write_text(f'model = "{SMALL}:turned"\nimage_size = 16\nmethod = "full"\n')
    assert cli("profile", file).code == 2
    done = cli("profile", file, "--unknown", "bound", "--json")
    assert done.code == 0 and json.loads(done.out)["predicted"]["at_least"]


def test_products_without_a_formula_leave_bytes_as_they_are(cli: Cli) -> None:
    flags = ("--module", f"{SMALL}:dotted", "--image-size", "8", "--method", "full", "--unknown", "bound")
    said = json.loads(cli("profile", *flags, "--measure", "--json").out)
    assert said["predicted"]["at_least"] == ["forward_flops", "train_flops"]
    assert said["predicted"]["peak_bytes"] == said["measured"]["peak_bytes"]


# --- several tasks --------------------------------------------------------------------------------------


def test_tasks_are_asked_for_without_data(cli: Cli) -> None:
    said = answer(cli, "--tasks", "10,4", "--measure")
    config = Config(model="toy", image_size=32, batch_size=4, method=BSR).with_classes((10, 4))
    assert said["config"] == config.to_dict()
    assert said["predicted"]["saved_bytes"] == said["measured"]["saved_bytes"] == predict(config).saved_bytes
    assert said["predicted"]["peak_bytes"] == said["measured"]["peak_bytes"]
    assert answer(cli, "--tasks", "10,4", "--num-classes", "14")["config"] == config.to_dict()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--tasks", "10,4", "--num-classes", "12"),
            "--num-classes: 12 is not the sum of --tasks 10,4, which is 14",
        ),
        (("--tasks", "10"), "--tasks: 10 is one task"),
        (("--tasks", "10,many"), "--tasks: cannot read '10,many'"),
        (("--tasks", "10,4", "--model", "llama_tiny"), "--tasks: llama_tiny is a language model"),
    ],
)
def test_tasks_that_cannot_be_are_one_line(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    for command in ("profile", "max-batch"):
        done = cli(command, *arguments)
        assert done.code == 2
        assert done.err.startswith(f"error: {said}") and done.err.count("\n") == 1
