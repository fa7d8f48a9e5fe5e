"""An earlier study of the same model, as a first guess at the accuracies of a new one.

Accuracies of other images, of another image size or of fewer epochs are not those of the new study, and may lie
elsewhere altogether; but what did well there often does well here. So the guess is the earlier study's own surrogate,
up to a factor and a level that the new study's trials decide. It is one more part of the mean of the new surrogate: the
more new trials there are near a configuration, the less it counts.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.search.choices import Candidate, Choices
from bsr_explorer.search.features import Floats
from bsr_explorer.search.surrogate import Surrogate
from bsr_explorer.store.records import Record, write_text
from bsr_explorer.store.study import FILE, Study
from bsr_explorer.store.tables import differences
from bsr_explorer.store.trials import read_trials

LEAST = 6
"""Configurations of an earlier study, without which it says too little to guess from."""

KEPT = "prior.json"
"""Where a study keeps what it began with, so that it goes on alike whatever becomes of the earlier one."""


@dataclass(frozen=True)
class Prior:
    """What an earlier study found.

    Attributes:
        found: its configurations, as the new study would run them, with their mean scores in [0, 1] (see ``quality``).
    """

    found: tuple[tuple[Config, float], ...]

    def fitted(self, choices: Choices) -> Surrogate:
        """The earlier study's surrogate, of rows of the new one's choices."""
        rows = choices.rows([Candidate(config, "", 0, 0) for config, _ in self.found])
        accuracy: Floats = np.array([value for _, value in self.found])
        return Surrogate.fit(rows, accuracy, np.zeros(len(accuracy)), choices.depth)

    # --- read and kept ----------------------------------------------------------------------------------

    @classmethod
    def read(cls, study: Study) -> Prior:
        """Of the folder that a study names.

        Raises:
            UserError: no study there, one of another model or space, or one of too few trials.
        """
        assert study.prior is not None
        folder = Path(study.prior)
        records = read_trials(folder)
        if not (folder / FILE).exists():
            raise UserError(f"--prior: {folder} has no {FILE}; it is not the folder of a search")
        other = differences(_space_of(Study.from_toml(folder / FILE)), _space_of(study))
        if other:
            raise UserError(
                f"--prior: {folder} is of another model or space ({'; '.join(other)}); give a study of the same"
            )
        found = _accuracies(study, records.values())
        if len(found) < LEAST:
            raise UserError(
                f"--prior: {len(found)} configurations of {folder} finished, and {LEAST} are needed; let that search "
                "go on first"
            )
        return cls(tuple(found.items()))

    @classmethod
    def of(cls, study: Study, folder: Path) -> Prior | None:
        """What a study began with, kept in its folder from then on; None where it has no prior.

        Raises:
            UserError: see ``read``, or a file that is damaged.
        """
        if study.prior is None:
            return None
        path = folder / KEPT
        if not path.exists():
            made = cls.read(study)
            write_text(
                path,
                json.dumps([{**_said(config), "score": value} for config, value in made.found], indent=1),
            )
        try:
            entries = json.loads(path.read_text())
            return cls(tuple((_config(study, entry), _score(entry)) for entry in entries))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"--out: {path} cannot be read ({error}); remove it to read {study.prior} again"
            ) from None


def _accuracies(study: Study, records: Any) -> dict[Config, float]:
    reached: dict[Config, list[float]] = defaultdict(list)
    record: Record
    for record in records:
        if record.status == "finished" and record.score is not None:
            reached[_config(study, _said(Config.from_dict(record.config)))].append(record.score)
    return {config: fmean(values) for config, values in reached.items()}


def _score(entry: dict[str, Any]) -> float:
    """Of an entry that was kept; before there were other qualities it was called an accuracy."""
    return float(entry["score"] if "score" in entry else entry["accuracy"])


def _said(config: Config) -> dict[str, Any]:
    return {"method": str(config.how), "batch_size": config.batch_size, "lr": config.lr}


def _config(study: Study, entry: dict[str, Any]) -> Config:
    """A configuration as a study would run it."""
    return replace(study.config.with_method(entry["method"]), batch_size=entry["batch_size"], lr=entry["lr"])


def _space_of(study: Study) -> dict[str, Any]:
    """The model and what may be chosen; not what is tried first."""
    settings = study.settings()
    chosen = {key for key in settings if key.startswith("space.")} - {"space.start"}
    return {key: settings[key] for key in ("config.model", *sorted(chosen))}
