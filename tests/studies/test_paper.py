"""The paper's comparisons: each file plans, says the truth at its head, and what is committed is what they say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from bsr_explorer.compare.plan import plan_file
from bsr_explorer.compare.task import tasks
from bsr_explorer.data.catalogue import DATASETS
from bsr_explorer.finetune.job import epochs_of
from bsr_explorer.methods import Bsr
from bsr_explorer.prediction import predict
from bsr_explorer.store.comparison_file import ComparisonFile
from bsr_explorer.store.comparison_folder import Comparison, read_comparison
from bsr_explorer.train.recipes import recipe
from studies.paper import claims, make

FILES = make.files()
ROOT = Path(__file__).parents[2]
KEPT = ROOT / "reports" / "examples" / "paper"


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def file(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


@pytest.fixture(scope="module")
def planned(file: Path) -> list[Comparison]:
    """What a file comes to, one for each of its data sets."""
    return plan_file(ComparisonFile.from_toml(file))


def settled(planned: Comparison) -> Comparison:
    """A comparison with what its recipe and its data set decide."""
    train, validation, _ = DATASETS[planned.data].sizes
    rules = recipe(planned.fidelity["recipe"], planned.data, planned.config["optimizer"])
    epochs = epochs_of(rules, train, planned.config["batch_size"])
    sizes = {"image_size": 224, "train_size": train, "val_size": validation, "epochs": epochs}
    return replace(planned, fidelity={**planned.fidelity, **sizes})


def test_there_are_files_of_everything() -> None:
    assert [path.stem for path in FILES] == [
        *("ablation_blocks", "ablation_keep", "figure1_vit_b_cifar10"),
        *("figure5_deit_s_cifar100", "figure5_vit_b_cifar100", "table_deit_s", "table_vit_b"),
    ]


@pytest.mark.thorough
def test_a_file_plans_and_its_head_is_true(file: Path, planned: list[Comparison]) -> None:
    asked = ComparisonFile.from_toml(file)
    assert asked.name == file.stem
    whole = [settled(each) for each in planned]
    assert all(each.settled for each in whole)
    head = "\n".join(line for line in file.read_text().splitlines() if line.startswith("#"))
    assert f"# bsr-explore compare studies/paper/{file.name} --device cuda\n" in head
    assert "Expected of the paper: " in head
    left = [task for each in whole for task in tasks(each, Path("nowhere"), asked.rounds)]
    work, peak = sum(task.flops for task in left), max(e.peak_bytes for each in whole for e in each.entries)
    runs, petaflops, hours, speed = re.findall(
        r"([\d,]+) runs, ([\d,]+) PFLOP; ([\d,]+) hours .* (\d+) TF", head
    )[0]
    assert int(runs) == sum(task.entry is not None for task in left)
    assert petaflops == f"{work / 1e15:,.0f}"
    assert hours == f"{work / (float(speed) * 1e12) / 3600:,.0f}"
    assert f"It needs {peak / 1e9:.1f} GB (predicted)" in head


def test_a_head_says_whether_the_authors_have_code_for_it(file: Path) -> None:
    asked = ComparisonFile.from_toml(file)
    head = " ".join(line.lstrip("# ") for line in file.read_text().splitlines() if line.startswith("#"))
    theirs = [data in recipe(asked.fidelity.recipe, data).data for data in asked.data]
    assert ("it is not theirs" in head) == (not all(theirs))
    assert ("They have it for" in head) == all(theirs)
    assert asked.fidelity.protocol == "held-out"


def test_the_ablations_head_warns_of_blocks_picked_by_substring() -> None:
    """The authors' code trains each parameter that has one of the numbers, or ``head``, in its name."""
    asked = ComparisonFile.from_toml(next(path for path in FILES if path.stem == "ablation_blocks"))
    with torch.device("meta"):
        names = [name for name, _ in timm.create_model(asked.config.model).named_parameters()]
    more: dict[tuple[int, ...], int] = {}
    for blocks in (method.blocks for method in asked.methods if isinstance(method, Bsr)):
        picked = [name for name in names if any(part in name for part in ("head", *map(str, blocks)))]
        others = [name.split(".")[1] for name in picked if name.startswith("blocks.")]
        more[blocks] = sum(int(block) not in blocks for block in others)
    some = {blocks: count for blocks, count in more.items() if len(blocks) < 12}
    assert len(some) == 12 and sum(count > 0 for count in some.values()) == 6
    text = (ROOT / "studies/paper/ablation_blocks.toml").read_text()
    said = dict(re.findall(r"(\([\d, ]+\)) (\d+)(?: more)?(?:,|\.| and)", text.replace("\n# ", " ")))
    assert said == {str(blocks): str(count) for blocks, count in some.items() if count}


@pytest.mark.thorough
def test_what_is_committed_is_what_the_file_says(file: Path, planned: list[Comparison]) -> None:
    asked = ComparisonFile.from_toml(file)
    folder = KEPT / asked.name
    if len(asked.data) > 1:
        table = (folder / "table.md").read_text()
        assert all(f"{data} (%)" in table for data in asked.data)
        rows = {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")}
        assert rows == {str(method) for method in asked.methods}
    else:
        assert read_comparison(folder) == planned[0]


def test_the_committed_claims_are_ours() -> None:
    times = json.loads((KEPT / make.TIMES).read_text())
    page = (KEPT / "README.md").read_text()
    for claim in claims.claims(times):
        assert f"| {claim.what} | {claim.paper} | {claim.published} | {claim.peak} | {claim.saved} | " in page
        assert claim.verdict in page
    for link in re.findall(r"\]\(([^)]+)\)", page):
        assert (KEPT / link).exists(), link


def test_the_papers_own_accounting_gives_its_own_figures() -> None:
    found = {claim.paper: claim for claim in claims.claims(None)[:4]}
    assert found["5.47x"].published.startswith("5.46x (4,592 → 841 MiB)")
    assert found["5.47x"].verdict.startswith(
        "reproduced by the paper's accounting. The peak differs by -28%, because"
    )
    assert found["up to 6x"].published.startswith("ViT-B 6.10x (133.29 → 21.84 MiB an image); DeiT-S 6.13x")
    assert found["2x"].published.startswith("forward 1.99x (17.56 → 8.82 GMACs an image)")
    assert found["up to 1.4x"].published.startswith("1.45x (1,223 MiB by its authors' count, BSR 841)")


def test_what_needs_a_gpu_is_not_run() -> None:
    speed, accuracy = claims.claims(None)[-2:]
    assert (speed.paper, speed.published, speed.peak) == ("2.43x", "", "")
    assert speed.saved.endswith("not measured")
    assert all(claim.verdict.startswith("not run here") for claim in (speed, accuracy))


def test_of_experts_a_frozen_one_counts_less() -> None:
    small = replace(claims.MOE_B, model="moe_vit(deit_t, experts=4, top=2)", image_size=64, batch_size=2)
    full, trained, frozen = (
        claims.published_of_experts(small.with_method(method))
        for method in ("full", "bsr", "bsr+freeze('experts', 'gate')")
    )
    assert full > trained > frozen
    width, tokens, rows = 192, {3: 10, 7: 7, 11: 5}, 2
    gates, experts = 2 * 4 * width, 4 * 2 * (width * width + width)
    kept = sum(n * width * (1 + 2 * rows) for n in tokens.values())
    assert trained - frozen == 2 * 4 * kept + 3 * 3 * (gates + experts)


def test_experts_as_wide_as_the_mlp_count_as_it_but_for_their_gate() -> None:
    small = replace(
        claims.MOE_B, model="moe_vit(deit_t, experts=4, top=1, ratio=4)", image_size=64, batch_size=2
    )
    dense = replace(small, model="deit_t")
    found, rule = claims.published_of_experts(small), claims.published_tape(dense)
    activations = claims.published.activation_bytes_per_image(rule) + 3 * 4 * 17 * 192
    assert found == 2 * activations + predict(small).parameter_bytes


def test_times_are_ratios_of_a_round() -> None:
    pair = {
        "model": "vit_b",
        "batch_size": 4,
        "attention": "math",
        "full": [4.0, 9.0, 2.0],
        "bsr": [2.0, 3.0, 2.0],
    }
    said = claims.speed({"device": "a toy", "pairs": [pair]}).saved
    assert "ViT-B (batch 4, math attention) 2.00x (1.00–3.00)" in said
    assert "on a toy, beside other work" in said


def test_a_ratio_near_the_papers_is_the_papers() -> None:
    assert claims._same(2.05, 2.0) == "reproduced"
    assert claims._same(1.8, 2.0) == "differs by -10%"


@pytest.mark.thorough
def test_the_script_writes_tables_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep, table = tmp_path / "ablation_keep.toml", tmp_path / "table.toml"
    text = (ROOT / "studies/paper/ablation_keep.toml").read_text()
    keep.write_text(re.sub(r'    "bsr.*0\.[73].*\n', "", text))
    text = (ROOT / "studies/paper/table_deit_s.toml").read_text()
    table.write_text(text.replace(', "flowers102", "pets", "food101"]', "]"))
    monkeypatch.setattr(make, "files", lambda: [keep, table])
    monkeypatch.setattr("sys.argv", ["make.py", "--out", str(tmp_path / "out")])
    make.main()
    made = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    figures = {
        f"ablation_keep/figures/{name}.{kind}"
        for name in ("accountings", "bars", "keep_rates")
        for kind in ("png", "pdf")
    }
    pages = {f"ablation_keep/comparison.{kind}" for kind in ("md", "csv", "tex", "json")}
    tables = {f"table_deit_s/table.{kind}" for kind in ("md", "csv", "tex")}
    assert made - {"ablation_keep/comparison.lock"} == {"README.md"} | figures | pages | tables
    assert "not run here" in (tmp_path / "out/table_deit_s/table.md").read_text()
    assert capsys.readouterr().out.startswith("# The paper, reproduced")
