"""``bsr-explore max-batch``: the largest batch by method, as JSON and as a table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bsr_explorer.config import ONLY_GPUS, Config
from bsr_explorer.devices.gpus import CONTEXT
from bsr_explorer.prediction import counted_bytes, predict
from bsr_explorer.store.study import COUNTS
from bsr_explorer.units import format_gflops, format_mb, format_mib

pytestmark = pytest.mark.usefixtures("toy")

Cli = Callable[..., Any]

BSR = "bsr(blocks=(0, 2), keep={1: 0.5}, fuse=True)"
TOY = ("max-batch", "--model", "toy", "--image-size", "48", "--budget", "3MB")


def answer(cli: Cli, *arguments: str) -> dict[str, Any]:
    done = cli(*TOY, "--json", *arguments)
    assert (done.code, done.err) == (0, "")
    assert done.out.count("\n") == 1
    parsed: dict[str, Any] = json.loads(done.out)
    return parsed


def check(said: dict[str, Any], budget: int) -> None:
    """Each batch fits, and the next one does not."""
    for row in said["methods"]:
        config = Config.from_dict({**said["config"], "batch_size": row["next_batch_size"]})
        config = config.with_method(row["method"])
        parts = config.micro_batches
        assert row["next_batch_size"] == row["batch_size"] + parts
        assert row["next_bytes"] == counted_bytes(config, said["counts"]) > budget
        if row["batch_size"]:
            config = replace(config, batch_size=row["batch_size"])
            assert row["counted_bytes"] == counted_bytes(config, said["counts"]) <= budget
        else:
            assert row["counted_bytes"] is None
        assert row["train_flops_per_image"] == predict(config).train_flops / config.batch_size


# --- JSON -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [counts for counts in COUNTS if counts not in ONLY_GPUS])
def test_each_batch_fits_and_the_next_does_not(cli: Cli, counts: str) -> None:
    methods = ["full", BSR, "linear", "last(k=2)" if counts == "published" else f"{BSR}+checkpoint"]
    said = answer(cli, "--budget-counts", counts, "--method", ", ".join(methods))
    assert (said["budget_bytes"], said["counts"]) == (3_000_000, counts)
    assert [row["method"] for row in said["methods"]] == methods
    assert all(row["batch_size"] > 0 for row in said["methods"])
    check(said, 3_000_000)


def test_it_is_so_of_a_mixture_that_drops_tokens(cli: Cli) -> None:
    mixture = ("--model", "moe_vit(toy, blocks=(2,), experts=4, top=2, capacity=1.25)", "--budget", "9MB")
    said = answer(cli, *mixture, "--method", f"full, {BSR}, {BSR}+freeze('experts')")
    check(said, 9_000_000)
    full, trained, frozen = (row["batch_size"] for row in said["methods"])
    assert 0 < full < trained < frozen


@pytest.mark.parametrize(
    "flags",
    [
        {"precision": "amp_bf16"},
        {"precision": "bf16", "optimizer": "adamw_8bit"},
        {"micro_batches": 4},
        {"micro_batches": 3, "precision": "amp_fp16", "implementation": "foreach"},
        {"attention": "math", "optimizer": "sgd", "num_classes": 100},
        {"device": "cuda", "attention": "flash", "precision": "bf16"},
    ],
    ids=str,
)
def test_the_configuration_is_that_of_the_flags(cli: Cli, flags: dict[str, Any]) -> None:
    given = [word for key, value in flags.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    budget = 12_000_000 if "device" not in flags else 120_000_000  # of which cuBLAS takes 68 on a Hopper
    said = answer(cli, "--method", f"full, {BSR}", "--budget", f"{budget}B", *given)
    expected = Config(model="toy", image_size=48, batch_size=flags.get("micro_batches", 1), **flags).to_dict()
    assert said["config"] == {key: v for key, v in expected.items() if key not in ("method", "batch_size")}
    assert all(row["batch_size"] > 0 for row in said["methods"])
    check(said, budget)


@pytest.mark.parametrize("micro_batches", [2, 3, 8])
def test_a_batch_is_a_multiple_of_its_micro_batches(cli: Cli, micro_batches: int) -> None:
    rows = answer(cli, "--method", f"full, {BSR}", "--micro-batches", str(micro_batches))["methods"]
    whole = answer(cli, "--method", f"full, {BSR}")["methods"]
    for row, one in zip(rows, whole, strict=True):
        assert row["batch_size"] % micro_batches == 0
        assert row["batch_size"] > one["batch_size"]


def test_gradients_that_are_kept_take_their_room(cli: Cli) -> None:
    def batch(*flags: str) -> int:
        said = answer(cli, "--method", "full", "--budget", "8MB", *flags)
        check(said, 8_000_000)
        assert said["config"]["set_to_none"] == (flags != ("--keep-gradients",))
        found: int = said["methods"][0]["batch_size"]
        return found

    assert batch() == batch("--set-to-none") > batch("--keep-gradients")


def test_a_method_without_a_published_rule_is_refused(cli: Cli) -> None:
    done = cli(*TOY, "--method", "full, mesa", "--budget-counts", "published")
    assert done.code == 2
    assert "published has no rule for mesa" in done.err


def test_errors_name_the_flag_that_was_given(cli: Cli) -> None:
    done = cli(*TOY, "--method", "full", "--budget-counts", "device")
    assert done.code == 2
    assert "--budget-counts: device is" in done.err
    assert "--accounting" not in done.err


def test_a_share_of_the_steps_holds_more_images(cli: Cli) -> None:
    whole, share = (
        answer(cli, "--budget", "3MB", "--method", "full+dropbp(rate=0.75)", *more)
        for more in ((), ("--budget-quantile", "0.5"))
    )
    assert (whole["quantile"], share["quantile"]) == (1.0, 0.5)
    assert share["methods"][0]["batch_size"] > whole["methods"][0]["batch_size"] > 0
    said = cli(*TOY, "--method", "full+dropbp, linear", "--budget-quantile", "0.5")
    assert "which 50% of the steps do not exceed" in " ".join(said.out.split())
    assert "--budget-quantile changes nothing where steps are all alike: linear" in said.err
    assert "--budget-quantile: 2.0 must be a share" in cli(*TOY, "--budget-quantile", "2").err


def test_what_does_not_fit_at_all_says_what_it_needs(cli: Cli) -> None:
    said = answer(cli, "--budget", "600KB", "--method", "full, linear", "--micro-batches", "2")
    full, linear = said["methods"]
    assert (full["batch_size"], full["counted_bytes"], full["next_batch_size"]) == (0, None, 2)
    assert full["next_bytes"] > 600_000
    assert linear["batch_size"] > 0
    check(said, 600_000)


def test_how_far_it_was_compared_is_said_by_device(cli: Cli) -> None:
    assert "real steps on CPUs" in answer(cli, "--method", "full")["compared"]
    there = ("--method", "full", "--budget", "1GB")
    assert answer(cli, *there, "--device", "cuda")["compared"].endswith("real steps on an H200")
    assert answer(cli, *there, "--gpu", "l4")["compared"].endswith("on an H200, not on L4")


def test_without_a_method_several_are_compared(cli: Cli) -> None:
    done = cli("max-batch", "--model", "deit_t", "--budget", "500MB", "--image-size", "64", "--json")
    rows = {row["method"]: row["batch_size"] for row in json.loads(done.out)["methods"]}
    assert len(rows) >= 5
    assert max(rows, key=rows.__getitem__) == "linear"
    assert min(rows, key=rows.__getitem__) == "full"


# --- the table ------------------------------------------------------------------------------------------


def lines(out: str) -> dict[str, list[str]]:
    """The columns of each row, by its method."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines() if line.strip()]
    return {row[0]: row[1:] for row in rows}


def test_a_row_a_method(cli: Cli) -> None:
    flags = ("--method", "full, last(k=2)", "--budget", "20MB")
    said, done = answer(cli, *flags)["methods"], cli(*TOY, *flags)
    assert (done.code, done.err) == (0, "")
    shown = lines(done.out)
    assert shown["method"] == ["largest batch", "MB", "MiB", "a larger one needs MB", "train GFLOPs an image"]
    for row in said:
        size, larger = row["counted_bytes"], row["next_bytes"]
        assert shown[row["method"]] == [
            f"{row['batch_size']:,}",
            format_mb(size),
            format_mib(size),
            format_mb(larger),
            format_gflops(row["train_flops_per_image"]),
        ]


def test_the_table_says_what_is_counted(cli: Cli) -> None:
    done = cli(*TOY, "--method", "full", "--precision", "amp_bf16", "--budget-counts", "saved")
    said = " ".join(done.out.split())
    assert "toy, 48 px, adamw, amp_bf16, fused attention, cpu" in said
    assert "budget 3MB = 3.0 MB (2.9 MiB), counting saved (saved activations only)" in said
    assert "not yet measured" not in said


def test_a_method_that_does_not_fit_is_shown(cli: Cli) -> None:
    done = cli(*TOY, "--budget", "600KB", "--method", "full, linear")
    assert done.code == 0
    needed = predict(Config(model="toy", image_size=48, batch_size=1, method="full")).peak_bytes
    assert lines(done.out)["full"][:2] == ["none fits", format_mb(needed)]


def test_for_which_card_it_is_and_with_what_it_was_compared_is_said(cli: Cli) -> None:
    done = cli(*TOY, "--budget", "120MB", "--method", "full", "--gpu", "t4")
    words = " ".join(done.out.split())
    assert done.code == 0
    assert "counting reserved (all that torch's allocator takes from a GPU)" in words
    assert (
        "predictions for cuda (T4) are compared with the allocator's record of 38 real steps on an H200, not on T4"
        in (words)
    )


def test_on_a_gpu_the_largest_batch_is_what_can_be_reserved(cli: Cli) -> None:
    flags = ("--gpu", "a100", "--method", "full", "--budget", "120MB")
    reserved, peak = (answer(cli, *flags, *more) for more in ((), ("--budget-counts", "peak")))
    assert (reserved["counts"], peak["counts"]) == ("reserved", "peak")
    assert 0 < reserved["methods"][0]["batch_size"] < peak["methods"][0]["batch_size"]
    check(reserved, 120_000_000)


def test_of_a_device_the_context_is_kept_free(cli: Cli) -> None:
    flags = ("--gpu", "a100", "--method", "full")
    whole = answer(cli, *flags, "--budget", f"{120_000_000 + CONTEXT}B", "--budget-counts", "device")
    reserved = answer(cli, *flags, "--budget", "120MB")
    assert whole["methods"][0]["batch_size"] == reserved["methods"][0]["batch_size"]
    check(whole, 120_000_000 + CONTEXT)
    said = cli(*TOY, *flags, "--budget", "1GB", "--budget-counts", "device").out
    assert "its CUDA context estimated at 512 MiB" in " ".join(said.split())


def test_where_memory_is_a_bound_so_is_the_batch(cli: Cli) -> None:
    flags = (
        "max-batch",
        "--model",
        "tests.models.traced.small:turned",
        "--image-size",
        "16",
        "--budget",
        "1MB",
    )
    done = cli(*flags, "--method", "full", "--unknown", "bound")
    assert done.code == 0, done.err
    assert re.search(r"full +≤ \d+ +≥ ", done.out) and "Turning (1 call" in done.out
    (row,) = json.loads(cli(*flags, "--method", "full", "--unknown", "bound", "--json").out)["methods"]
    assert "peak_bytes" in row["at_least"] and len(row["unknown"]) == 1
    assert cli(*flags, "--method", "full").code == 2


def test_where_flops_alone_are_a_bound_the_batch_is_not(cli: Cli) -> None:
    flags = ("--model", "tests.models.traced.small:dotted", "--image-size", "8", "--budget", "1MB")
    done = cli("max-batch", *flags, "--method", "full", "--unknown", "bound")
    assert "≤" not in done.out and re.search(r"≥ \d", done.out)
