"""What a study's report says of the tokens that its recommended configuration drops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FILE = "tokens.png"
"""The strip of a few validation images, among a study's figures."""


@dataclass(frozen=True)
class Strip:
    """A few validation images as the recommended configuration sees them, or how to get that.

    Attributes:
        said: in words, before the commands.
        commands: that draw it, where it is not drawn.
        file: the strip, if it is.
    """

    said: str
    commands: tuple[str, ...] = ()
    file: Path | None = None

    def markdown(self) -> list[str]:
        """The lines of a page."""
        lines = ["## Tokens", "", self.said, ""]
        if self.commands:
            lines += ["```bash", *self.commands, "```", ""]
        if self.file is not None:
            lines += [f"![patches that live on](figures/{self.file.name})", ""]
        return lines
