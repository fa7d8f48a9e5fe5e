"""The page: what stands in it, and what it does in a browser that has no network."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bsr_explorer.cli.study_report import layout_of
from bsr_explorer.report.choice import recommend
from bsr_explorer.report.front import Point, front
from bsr_explorer.report.page import page as pages
from bsr_explorer.report.page.layout import Layout
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.search.space import Space
from bsr_explorer.store.records import read_records, write_record
from bsr_explorer.store.study import FILE, Study
from bsr_explorer.units import format_bytes, format_mb

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.thorough]  # a browser opens the page

Open = Callable[..., Any]

COMMITTED = Path(__file__).parents[3] / "reports" / "examples" / "deit_s-digits-2GB"


def embedded(text: str) -> Any:
    """The values in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


# --- as it is written -----------------------------------------------------------------------------------


def test_it_is_the_same_to_the_byte_when_written_again(troubled: Path, written: Path) -> None:
    first = written.read_bytes()
    assert pages.write(Findings.read(troubled), troubled, layout_of(troubled)) == written
    assert written.read_bytes() == first


def test_what_would_break_a_page_is_text_in_it(troubled: Path, hostile: str, tmp_path: Path) -> None:
    """Names and reasons with tags in them are shown and never obeyed, by the page's parser and by its script."""
    folder = Path(shutil.copytree(troubled, tmp_path / "study"))
    for number, record in read_records(folder).items():
        study = {**record.study, "name": hostile}
        config = {**record.config, "method": hostile} if number == 1 else record.config
        write_record(
            folder, number, replace(record, study=study, config=config, weights=hostile, split=hostile)
        )
    text = pages.html(Findings.read(folder), folder, "none")
    assert text.count("</script>") == 2
    assert "<img" not in text
    assert "&lt;/script&gt;" in text
    assert hostile in [trial["method"] for trial in embedded(text)["trials"]]


def test_nothing_in_it_points_elsewhere(written: Path) -> None:
    text = written.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy.group(1).startswith("default-src &#39;none&#39;; img-src data:; style-src &#39;sha256-")
    assert set(re.findall(r'(?:src|href)="([^"#]+)"', text)) == {"data:,"}
    assert not re.findall(
        r"(?:url\(|@import|https?://)",
        text.replace("http://www.w3.org/2000/svg", "").replace("http://example.org", ""),
    )


def test_every_file_of_the_script_is_in_it(written: Path) -> None:
    """And of d3-scale its licence, which goes with each copy."""
    text, files = written.read_text(), sorted((Path(pages.__file__).parent / "script").iterdir())
    assert [file.stem for file in files] == sorted(pages.SCRIPTS)
    assert all(file.read_text() in text for file in files)
    assert "Copyright 2010-2026 Mike Bostock" in text


def test_the_front_is_the_studys(troubled: Path, written: Path) -> None:
    assert embedded(written.read_text())["front"] == [p.number for p in Findings.read(troubled).front]


def test_without_its_file_a_study_says_why_there_is_no_grid(troubled: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(troubled, tmp_path / "study"))
    (folder / FILE).unlink()
    why = layout_of(folder)
    assert why == "There is no study.toml in this folder, which would say what else could have been chosen."
    text = pages.html(Findings.read(folder), folder, why)
    assert why in text
    assert embedded(text)["grid"] is None
    assert "fits-body" not in text.split("<script")[0]


def test_a_file_that_cannot_be_read_is_said_too(troubled: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(troubled, tmp_path / "study"))
    (folder / FILE).write_text("[space]\ncolour = 3\n")
    why = layout_of(folder)
    assert isinstance(why, str)
    assert why.startswith("What else could have been chosen cannot be said: ")
    assert "colour" in why


def test_what_stopped_and_failed_has_its_reason(written: Path) -> None:
    text = written.read_text().split("Stopped and not finished")[1]
    assert "<strong>diverged</strong>: the loss was nan" in text
    assert "behind by epoch 1" in text
    assert (
        text.index("Stopped early at a rung") < text.index("behind by epoch 1") < text.index("Not finished")
    )


def test_a_model_that_is_not_known_here_has_no_tokens(troubled: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(troubled, tmp_path / "study"))
    for number, record in read_records(folder).items():
        write_record(folder, number, replace(record, config={**record.config, "model": "one_of_mine"}))
    trials = embedded(pages.html(Findings.read(folder), folder, "none"))["trials"]
    assert trials
    assert all(block["tokens"] is None for trial in trials for block in trial["blocks"])


def test_the_environment_names_the_trials_that_differ(troubled: Path) -> None:
    records = read_records(troubled)
    other = replace(
        records[3], provenance={**records[3].provenance, "torch": "9.9", "time": "2099-01-01T00:00:00"}
    )
    said = pages.environment(Findings({**records, 3: other}))
    mine, theirs = said["torch"]
    last = max(records)
    assert mine == (records[0].provenance["torch"], f"trials 0–2, 4–{last}")
    assert theirs == ("9.9", "trial 3")
    assert said["data"] == [("digits", "")]
    assert said["made"][0][0].endswith(" to 2099-01-01T00:00:00")


# --- in a browser ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_and_can_be_read(look: Open, written: Path, width: int, scheme: str) -> None:
    """No sideways scrolling; and every text stands out from its ground, by WCAG's measure."""
    page = look(written, width, color_scheme=scheme).page
    page.wait_for_selector("#strata")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.title") == "toy-study · bsr-explorer"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(channels(background)) > 384) == (scheme == "light")
    pale = page.evaluate(TEXTS)
    assert len(pale) > 3
    for text, ink, ground in pale:
        assert contrast(channels(ink), channels(ground)) >= 4.5, (text, ink, ground)


TEXTS = """() => {
    const seen = new Map();
    for (const one of document.querySelectorAll("body *")) {
        const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!own || one.closest("script, style") || !one.getClientRects().length) continue;
        const style = getComputedStyle(one);
        let ground = one;
        const clear = (it) => getComputedStyle(it).backgroundColor === "rgba(0, 0, 0, 0)";
        while (ground && clear(ground)) ground = ground.parentElement;
        const ink = one instanceof SVGElement ? style.fill : style.color;
        const colours = [ink, getComputedStyle(ground ?? document.body).backgroundColor];
        seen.set(colours.join(), [one.textContent.slice(0, 40), ...colours]);
    }
    return [...seen.values()];
}"""
"""Every pair of a text's colour and what it stands on."""


def channels(colour: str) -> list[float]:
    """Red, green and blue of a computed colour."""
    return [float(part) for part in re.findall(r"[\d.]+", colour)[:3]]


def contrast(ink: list[float], ground: list[float]) -> float:
    """WCAG's ratio of two colours."""

    def luminance(colour: list[float]) -> float:
        shares = [c / 255 for c in colour]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(ink), luminance(ground)))
    return (high + 0.05) / (low + 0.05)


def test_a_click_opens_a_configuration(look: Open, troubled: Path, written: Path) -> None:
    page = look(written).page
    found = Findings.read(troubled)
    assert page.get_attribute("#details-body", "data-trial") == str(found.recommendation.point.number)
    point = next(
        p for p in found.points if p is not found.recommendation.point and p.record.predicted["saved_bytes"]
    )
    mark = page.locator(f"#trial-{point.number}")
    mark.hover()
    tip = page.inner_text(".tip")
    assert point.method in tip
    assert format_bytes(point.bytes) in tip
    mark.click()
    shown = page.inner_text("#details-body")
    assert page.inner_text("#details-title") == f"Trial {point.number}"
    assert mark.get_attribute("aria-selected") == "true"
    for words in (
        point.method,
        f"Peak of a step\n{format_bytes(point.record.predicted['peak_bytes'])}",
        f"Saved activations\n{format_bytes(point.record.predicted['saved_bytes'])}",
        f"bsr-explore reproduce {troubled} {point.number}",
        f"bsr-explore train {troubled} --select 'trial {point.number}'",
        f"bsr-explore export {troubled} --select 'trial {point.number}' --out trial-{point.number}.toml",
    ):
        assert words in shown, words
    rows = page.locator("#details .blocks tbody tr")
    by_block = point.record.predicted["by_block"]
    assert rows.count() == len(by_block)
    held = [sum(size for kind, size in entry.items() if kind != "train_flops") for entry in by_block.values()]
    assert [row.split("\t")[-1] for row in rows.all_inner_texts()] == [format_mb(size) for size in held]


def test_tokens_and_bars_of_each_block(look: Open, troubled: Path, written: Path) -> None:
    """A block that drops tokens has fewer going out than in; a bar's parts are as long as what they stand for."""
    page = look(written).page
    trials = {trial["number"]: trial for trial in embedded(written.read_text())["trials"]}
    number, block = next(
        (n, block)
        for n, t in trials.items()
        for block in t["blocks"]
        if block["tokens"] and len(set(block["tokens"])) > 1
    )
    page.click(f"#trials button[data-trial='{number}']")
    place = [each["name"] for each in trials[number]["blocks"]].index(block["name"])
    row = page.locator("#details .blocks tbody tr").nth(place)
    before, after = block["tokens"]
    assert after < before == 10
    assert row.inner_text().split("\t")[1] == f"{before}→{after}"
    widths = row.locator("rect").evaluate_all("all => all.map((one) => one.getBoundingClientRect().width)")
    whole = row.locator("svg").evaluate("one => one.getBoundingClientRect().width")
    fullest = max(sum(each["held"].values()) for each in trials[number]["blocks"])
    kinds = [
        kind for kind in ("parameter", "gradient", "optimizer", "saved", "input") if kind in block["held"]
    ]
    assert widths == pytest.approx([whole * block["held"][kind] / fullest for kind in kinds], abs=0.1)


def test_all_can_be_done_with_a_keyboard(look: Open, troubled: Path, written: Path) -> None:
    page = look(written).page
    found = Findings.read(troubled)
    by_bytes = sorted(found.points, key=lambda p: (p.bytes, p.score, p.number))

    def here() -> str | None:
        answer = page.evaluate("document.activeElement.dataset.trial ?? document.activeElement.id")
        return str(answer) if answer else None

    for _ in range(10):
        page.keyboard.press("Tab")
        if here() == str(found.recommendation.point.number):
            break
    else:
        pytest.fail("Tab does not come to the points")
    page.keyboard.press("Home")
    assert here() == str(by_bytes[0].number)
    page.keyboard.press("ArrowRight")
    assert here() == str(by_bytes[1].number)
    assert by_bytes[1].method in page.inner_text(".tip")
    ring = page.locator(f"#trial-{by_bytes[1].number} .ring")
    assert ring.evaluate("one => getComputedStyle(one).stroke") != "none"
    page.keyboard.press("Enter")
    assert page.get_attribute("#details-body", "data-trial") == str(by_bytes[1].number)
    assert f"Trial {by_bytes[1].number} is open" in page.inner_text("#heard")
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    assert here() == str(by_bytes[-1].number)
    page.keyboard.press("ArrowLeft")
    assert here() == str(by_bytes[-2].number)
    page.keyboard.press("Tab")
    assert here() == "budget-text"
    for _ in range(2):
        page.keyboard.press("Tab")
    assert here() == "budget"
    before = page.get_attribute("#budget", "aria-valuetext")
    page.keyboard.press("PageDown")
    assert page.get_attribute("#budget", "aria-valuetext") != before


def fitting(space: Space, budget: int) -> tuple[int, dict[tuple[int, bool], int]]:
    """How many configurations of a space fit a budget: all; and by trained blocks and whether tokens are dropped."""
    sizes = space.grids[0].bytes(space.study.counts)
    trained = space.grids[0].masks.sum(axis=1)
    drops = np.array([bool(keeps) for keeps, _ in space.grids[0].schedules])
    fits, rates = sizes <= budget, len(space.rates)
    counts = {
        (int(blocks), bool(dropping)): rates * int(fits[:, drops == dropping][:, :, trained == blocks].sum())
        for blocks in np.unique(trained)
        for dropping in (False, True)
    }
    beside = sum(candidate.counted_bytes <= budget for candidate in space.beside)
    return sum(counts.values()) + beside, counts


def shown(page: Any, budget: str) -> tuple[int, dict[tuple[int, bool], int]]:
    """The same of a page, once its budget is set."""
    page.wait_for_selector("#strata")
    page.fill("#budget-text", budget)
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    rows = page.eval_on_selector_all(
        "#strata tbody tr",
        "rows => rows.map((row) => [...row.cells].map((cell) => cell.dataset.fit ?? cell.innerText))",
    )
    counts = {(int(row[0]), bool(side)): int(row[1 + side]) for row in rows for side in range(len(row) - 1)}
    return int(page.get_attribute("#fits-body", "data-fitting")), counts


def test_the_budget_counts_all_that_fits(look: Open, troubled: Path, written: Path) -> None:
    """Counted once by the page and once by numpy, at the byte where one more fits, and in both kinds of unit."""
    page, space = look(written).page, Space(Study.from_toml(troubled / FILE))
    sizes = np.unique(space.grids[0].bytes("peak"))
    edge = int(sizes[len(sizes) // 3])
    for text, budget in (
        ("1.2MB", 1_200_000),
        ("900KiB", 900 * 1024),
        (f"{edge}B", edge),
        (f"{edge - 1}B", edge - 1),
    ):
        assert shown(page, text) == fitting(space, budget), text
    assert fitting(space, edge)[0] > fitting(space, edge - 1)[0]
    shown(page, f"{edge}B")
    last = page.locator(".near code").first.inner_text()
    assert space.candidate(parsed(last)).counted_bytes == edge
    everything = fitting(space, 10**12)
    assert shown(page, "1TB") == everything
    assert everything[0] == len(space)
    assert shown(page, "1KB")[0] == 0
    assert "Nothing that was trained fits this budget." in page.inner_text("#advice")


def parsed(text: str) -> Any:
    """The method of an expression."""
    from bsr_explorer.methods import parse_method

    return parse_method(text)


def test_rates_and_batch_sizes_are_counted(
    look: Open, make_study: Callable[..., Study], troubled: Path, tmp_path: Path
) -> None:
    """Each learning rate is a configuration of its own, and of each batch size the nearest is named."""
    from bsr_explorer.store.study import SpaceSpec

    spec = SpaceSpec(("linear", "full"), 2, (1, 3), (1.0, 0.5), (True,), (4, 6), (1e-3, 1e-4))
    folder = Path(shutil.copytree(troubled, tmp_path / "study"))
    study = make_study(space=spec)
    study.write(folder, "a test")
    space = Space(study)
    layout = layout_of(folder)
    assert isinstance(layout, Layout)
    assert len(layout) == len(space)
    page = look(pages.write(Findings.read(folder), folder, layout)).page
    for text, budget in (("1.2MB", 1_200_000), ("1TB", 10**12)):
        assert shown(page, text) == fitting(space, budget)
    assert "batch 6" in page.locator(".near li").first.inner_text()


def test_a_grid_that_is_too_large_is_told_by_steps(look: Open, troubled: Path, tmp_path: Path) -> None:
    """The counts are those of the step below; at the study's own budget they are exact."""
    layout, space = layout_of(troubled), Space(Study.from_toml(troubled / FILE))
    assert isinstance(layout, Layout)
    packed = layout.to_dict(most=0)
    assert "bytes" not in packed
    found = Findings.read(troubled)
    text = pages.html(found, troubled, layout)
    (tmp_path / "report.html").write_text(
        text.replace(str(pages.embedded(layout.to_dict()))[1:-1], str(pages.embedded(packed))[1:-1])
    )
    page = look(tmp_path / "report.html").page
    assert shown(page, f"{found.budget}B") == fitting(space, found.budget)
    below = max(step for step in packed["steps"]["budgets"] if step <= 1_000_000)
    counts = shown(page, "1MB")
    assert counts[1] == fitting(space, below)[1]
    assert f"what stands here is for {format_bytes(below)}" in page.inner_text("#fits-body")


def test_the_budget_moves_the_front_and_the_advice(look: Open, troubled: Path, written: Path) -> None:
    page, points = look(written).page, Findings.read(troubled).points
    page.wait_for_selector("#strata")
    whole = page.get_attribute("#step", "d")
    least = min(points, key=lambda p: p.bytes).bytes
    for budget in (max(p.bytes for p in points) - 1, (least + points[0].bytes) // 2 + 10_000, least):
        page.fill("#budget-text", f"{budget}B")
        within = [p for p in points if p.bytes <= budget]
        assert page.get_attribute("#advice", "data-trial") == str(advised(within).number)
        assert page.get_attribute("#details-body", "data-trial") == str(advised(within).number)
        beyond = page.eval_on_selector_all(
            ".point.beyond", "all => all.map((one) => Number(one.dataset.trial))"
        )
        assert set(beyond) == {p.number for p in points} - {p.number for p in within}
        assert page.get_attribute("#step", "d") != whole
    page.click("#budget-reset")
    assert page.get_attribute("#step", "d") == whole
    assert page.input_value("#budget-text") == "1400KB"


def advised(within: list[Point]) -> Point:
    return recommend(front(within)).point


def test_the_slider_and_the_words_are_one(look: Open, written: Path) -> None:
    page = look(written).page
    page.wait_for_selector("#strata")
    page.locator("#budget").evaluate("one => { one.value = 400; one.dispatchEvent(new Event('input')); }")
    said = page.input_value("#budget-text")
    bytes_there = round(float(said.removesuffix("MB")) * 1e6)
    assert page.inner_text("#budget-said") == f"= {format_bytes(bytes_there)}"
    for wrong in ("much", "12", "3 parsecs", "-1GB", "0MB", "constructorMB", "1toString"):
        page.fill("#budget-text", wrong)
        assert page.get_attribute("#budget-text", "aria-invalid") == "true"
        assert "such as 1.5GB or 800MiB" in page.inner_text("#budget-wrong")
        assert page.inner_text("#budget-said") == f"= {format_bytes(bytes_there)}"
    page.fill("#budget-text", "1MiB")
    assert page.get_attribute("#budget-text", "aria-invalid") is None
    assert page.inner_text("#budget-wrong") == ""
    assert page.inner_text("#budget-said") == f"= {format_bytes(2**20)}"


def test_memory_can_be_on_a_straight_axis(look: Open, troubled: Path, written: Path) -> None:
    """Then points are as far apart as their bytes."""
    page = look(written).page
    low, middle, high = sorted(Findings.read(troubled).points, key=lambda p: p.bytes)[::3]

    def across() -> float:
        xs = [
            float(re.findall(r"[\d.]+", page.get_attribute(f"#trial-{p.number}", "transform"))[0])
            for p in (low, middle, high)
        ]
        return (xs[1] - xs[0]) / (xs[2] - xs[0])

    logs = [float(np.log(p.bytes)) for p in (low, middle, high)]
    assert across() == pytest.approx((logs[1] - logs[0]) / (logs[2] - logs[0]), abs=1e-3)
    page.check("input[value=linear]")
    assert across() == pytest.approx((middle.bytes - low.bytes) / (high.bytes - low.bytes), abs=1e-3)


@pytest.mark.parametrize("width", [1280, 400, 150])
@pytest.mark.parametrize("most", [None, 1.05, 3, 5000])
def test_numbers_stand_where_their_axis_says(
    look: Open, troubled: Path, tmp_path: Path, width: int, most: float | None
) -> None:
    """By two points, whose bytes are known; from a study's own to what needs so many times as much, on any screen."""
    records = read_records(troubled)
    if most is not None:  # as far from one another, between 1 MB and so many times as much
        for number, record in records.items():
            size = round(1e6 * most ** (number / max(records)))
            full = {**record.study["full"], "counted_bytes": round(1e6 * most)}
            study = {**record.study, "counted_bytes": size, "full": full, "budget_bytes": round(1e6 * most)}
            records[number] = replace(record, study=study)
    found = Findings(records)
    (tmp_path / "report.html").write_text(pages.html(found, troubled, "No file says what."))
    page = look(tmp_path / "report.html", width).page
    check_numbers(page, found, np.log, width)
    page.check("input[value=linear]", force=True)  # the button's own dot is hidden behind its word
    check_numbers(page, found, np.asarray, width)


def check_numbers(page: Any, found: Findings, bend: Callable[[float], Any], width: int) -> None:
    """The numbers below the front's plot; where there is room, none runs into the next."""
    points = sorted(found.points, key=lambda p: p.bytes)
    ends = [
        float(re.findall(r"[\d.]+", page.get_attribute(f"#trial-{p.number}", "transform"))[0])
        for p in (points[0], points[-1])
    ]
    numbers = page.eval_on_selector_all(
        "#plot svg > g text[text-anchor=middle]",
        "all => all.filter((one) => /^[\\d.,]+$/.test(one.textContent)).map((one) => "
        "[one.textContent, Number(one.getAttribute('x')), one.getBoundingClientRect().left, "
        "one.getBoundingClientRect().right])",
    )
    low, high = (bend(p.bytes / 1e6) for p in (points[0], points[-1]))
    assert len(numbers) >= 3
    for text, place, _, _ in numbers:
        share = (bend(float(text.replace(",", ""))) - low) / (high - low)
        assert place == pytest.approx(ends[0] + share * (ends[1] - ends[0]), abs=0.1), text
    if width > 150:
        assert all(mine[3] < theirs[2] for mine, theirs in pairwise(numbers))


def test_two_are_compared(look: Open, troubled: Path, written: Path) -> None:
    page, found = look(written).page, Findings.read(troubled)
    assert page.get_attribute("#compare-body", "data-pair") == f"{found.recommendation.point.number},full"
    a, b = found.front[0], found.front[-1]
    page.select_option("#compare-a", str(a.number))
    page.click(f"#trials button[data-trial='{b.number}']")
    page.click("text=Compare as B")
    rows = dict(row.split("\t", 1) for row in page.locator("#differences tbody tr").all_inner_texts())
    assert rows["Method"].split("\t")[:2] == [a.method, b.method]
    sizes = [p.record.predicted["saved_bytes"] for p in (a, b)]
    said = [format_mb(size) for size in sizes]
    assert rows["Saved activations, MB"].split("\t") == [*said, f"{sizes[1] / sizes[0]:,.2f}×"]
    points = 100 * (b.score - a.score)
    assert rows["Accuracy"].split("\t")[2] == f"+{points:.1f} points"
    assert rows["Parameters, MB"].endswith("same")
    blocks = page.locator("#side-by-side tbody tr")
    assert blocks.count() == len(a.record.predicted["by_block"])


def test_a_command_is_copied(look: Open, troubled: Path, written: Path) -> None:
    seen = look(written, permissions=["clipboard-read", "clipboard-write"])
    number = Findings.read(troubled).recommendation.point.number
    seen.page.click("[aria-label='Copy: train it again']")
    seen.page.wait_for_selector("#heard:text-is('Copied')", state="attached")
    assert (
        seen.page.evaluate("navigator.clipboard.readText()") == f"bsr-explore reproduce {troubled} {number}"
    )
    seen.page.wait_for_selector(".near button")
    method = seen.page.locator(".near code").first.inner_text()
    seen.page.locator(".near button").first.click()
    command = ""
    for _ in range(100):  # the page's policy lets no string run in it, so that it cannot wait by itself
        command = seen.page.evaluate("navigator.clipboard.readText()")
        if "profile" in command:
            break
        seen.page.wait_for_timeout(50)
    assert command.startswith("bsr-explore profile --model toy --image-size 48 --batch-size 4 --method ")
    assert command.endswith(f"'{method}'")


def test_hostile_text_is_only_text(look: Open, written: Path, hostile: str) -> None:
    page = look(written).page
    assert page.title() == "toy-study · bsr-explorer"
    assert hostile in page.inner_text("#failures")
    assert page.locator("img").count() == 0


def test_a_page_without_a_grid_works(look: Open, troubled: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(pages.html(Findings.read(troubled), troubled, "No file says what."))
    page = look(tmp_path / "report.html").page
    assert "No file says what." in page.inner_text("#fits")
    page.fill("#budget-text", "1MB")
    assert page.get_attribute("#advice", "data-trial")


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="the committed study is not beside this installation")
def test_a_real_study_is_small_and_soon_there(
    look: Open, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All 217,091 configurations of the example, counted to the byte."""
    found, layout = Findings.read(COMMITTED), layout_of(COMMITTED)
    assert isinstance(layout, Layout)
    path = tmp_path / "report.html"
    path.write_text(pages.html(found, Path("reports/examples/deit_s-digits-2GB"), layout))
    assert path.stat().st_size < 5_000_000
    page = look(path).page
    budget = 700_000_000
    beside = sum(each.bytes <= budget for each in layout.beside)
    assert shown(page, "0.7GB")[0] == int((layout.bytes <= budget).sum()) + beside
    first = page.evaluate("performance.getEntriesByName('first-plot')[0].startTime")
    unpacked = page.evaluate("performance.getEntriesByName('unpacked')[0].startTime")
    with capsys.disabled():
        size = path.stat().st_size
        print(
            f"\nreport.html: {size:,} bytes; first plot after {first:.0f} ms, all unpacked after {unpacked:.0f} ms"
        )
    assert first < 5000
