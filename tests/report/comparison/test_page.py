"""A comparison's page of Markdown."""

from __future__ import annotations

from pathlib import Path

from bsr_explorer.report.comparison.write import Report


def test_the_page_says_how_it_was_made(written: tuple[Path, Report]) -> None:
    folder, made = written
    page = (folder / "comparison.md").read_text()
    assert page.startswith("# toy on digits\n")
    assert "Trained on 20 images of digits at 32 px, a proxy: memory, FLOPs and step times are those" in page
    assert "1 epoch, recipe short, 20 validation images, 2 seeds." in page
    assert "Budget" not in page and "largest batch" not in page and "Notes" not in page
    (linear,) = [line for line in page.splitlines() if line.startswith("| `linear`")]
    cells = [cell.strip() for cell in linear.split("|")]
    each = made.rows[1]
    assert f"{100 * each['accuracy']:.1f} ± {100 * each['accuracy_std']:.1f}" in cells
    assert f"{each['peak_full_over_this']:.2f}x less" in cells
    assert f"{each['step_seconds_over_full']:.2f}x" in cells
    assert (folder / "figures/comparison.png").is_file()
