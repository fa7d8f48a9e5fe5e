"""What a search tells whoever watches it."""

from __future__ import annotations

from typing import Protocol

from bsr_explorer.search.choices import Candidate
from bsr_explorer.store.records import Record


class Watcher(Protocol):
    """What a user is shown while a search runs."""

    def trial_starts(self, number: int, candidate: Candidate, replica: int) -> None:
        """A trial begins; ``replica`` is 0, or counts the fresh seeds of a configuration of the front."""

    def step(self, number: int, done: int, total: int, loss: float) -> None:
        """A running trial has done so many of its training steps."""

    def trial_crashed(self, number: int, reason: str) -> None:
        """A trial ended without a record, and runs again."""

    def trial_ends(self, number: int, record: Record) -> None:
        """A trial has its record."""
