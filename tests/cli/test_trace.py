"""``bsr-explore trace``: a recorded step beside its prediction."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bsr_explorer.devices import cuda
from bsr_explorer.trace import Trace
from tests.cost.recorded import config_of, recorded

Cli = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What an H200 did in a step of linear probing."""
    monkeypatch.setattr(cuda, "_installed", lambda: (2, 11))
    step = recorded()[1]
    provenance = {"processor": "NVIDIA H200", "torch": "2.11.0+cu130"}
    replace(step, config=config_of(step).to_dict(), provenance=provenance).write(tmp_path / "trace.json")
    return tmp_path / "trace.json"


def test_what_agrees(cli: Cli, file: Path) -> None:
    done = cli("trace", "--read", str(file))
    assert done.code == 0
    assert "recorded on NVIDIA H200, torch 2.11.0+cu130" in done.out
    assert "290,658,816" in done.out
    assert "339,738,624" in done.out
    assert f"all {len(recorded()[1].events)} events of more than 1 MiB are as predicted" in done.out
    assert (
        "predictions for cuda (H200) are compared with the allocator's record of 38 real steps on an H200"
        in (" ".join(done.out.split()))
    )


def test_what_does_not_is_named(cli: Cli, file: Path) -> None:
    found = Trace.read(file)
    replace(found, events=(found.events[0] + 1, *found.events[1:])).write(file)
    done = cli("trace", "--read", str(file))
    words = " ".join(done.out.split())
    assert done.code == 0
    assert (
        "the first 0 agree then there is recorded: takes 9,634,304 bytes; predicted: takes 9,633,792 bytes"
        in words
    )
    assert "(patch_embed.out; forward, patch_embed.proj)" in words


def test_as_json(cli: Cli, file: Path) -> None:
    said = json.loads(cli("trace", "--read", str(file), "--json").out)
    assert said["first"] is None
    assert said["peak"] == said["recorded"]["peak"]
    another = json.loads(cli("trace", "--read", str(file), "--gpu", "a100", "--json").out)
    assert another["config"]["gpu"] == "a100"
    assert another["peak"] < said["peak"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "trace: give CONFIG.toml to record a step, or --read FILE to compare one"),
        (("config.toml", "--read", "trace.json"), "trace: give CONFIG.toml to record a step, or --read FILE"),
        (
            ("--read", "trace.json", "--out", "other.json"),
            "--out: --read compares a step that is recorded already",
        ),
        (("--read", "nowhere.json"), "nowhere.json: cannot be read"),
        (("nowhere.toml",), "nowhere.toml"),
        (("--read", "trace.json", "--gpu", "h101"), "--gpu: unknown value 'h101' (did you mean 'h100'?)"),
    ],
)
@pytest.mark.usefixtures("file")
def test_bad_input_is_a_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("trace", *arguments)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_nothing_is_recorded(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[config]\nmodel = "deit_t"\nmethod = "linear"\n')
    done = cli("trace", str(tmp_path / "config.toml"), "--out", str(tmp_path / "trace.json"))
    assert done.code == 2
    assert "none is available here" in done.err
    assert not (tmp_path / "trace.json").exists()
