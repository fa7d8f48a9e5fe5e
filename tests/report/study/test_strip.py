"""What a page says of tokens."""

from __future__ import annotations

from pathlib import Path

from bsr_explorer.report.study.strip import FILE, Strip


def test_a_strip_is_shown_and_commands_stand_in_a_block() -> None:
    drawn = Strip("As it was trained.", file=Path("somewhere") / FILE)
    assert drawn.markdown() == [
        *("## Tokens", "", "As it was trained.", ""),
        *("![patches that live on](figures/tokens.png)", ""),
    ]
    said = Strip("It is drawn by:", ("bsr-explore train study", "bsr-explore tokens runs/it"))
    assert said.markdown() == [
        *("## Tokens", "", "It is drawn by:", ""),
        *("```bash", "bsr-explore train study", "bsr-explore tokens runs/it", "```", ""),
    ]
