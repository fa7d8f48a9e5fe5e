"""One configuration and how it is fine-tuned, as the file that ``train`` takes and ``export`` writes.

It is a study file whose ``[config]`` names a method; ``[budget]`` and ``[space]`` matter to a search alone.
A file without tables is a configuration, fine-tuned as is usual.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.models.architecture import quality_of
from bsr_explorer.quality import ACCURACY
from bsr_explorer.store.records import Record
from bsr_explorer.store.study import TABLES, Study
from bsr_explorer.store.tables import flat, read_tables


@dataclass(frozen=True)
class Experiment:
    """One configuration, with the data, weights, fidelity and seed of its training."""

    name: str
    config: Config
    data: str = "digits"
    weights: str = "auto"
    fidelity: Fidelity = field(default_factory=Fidelity)
    seed: int = 0

    @classmethod
    def from_toml(cls, path: Path) -> Experiment:
        """Read a file.

        Raises:
            UserError: not there, not TOML, a table, key or value that is not allowed, or no method.
        """
        tables = read_tables(path, TABLES)
        about, data = tables.get("study", {}), tables.get("data", {})
        config = tables.get("config", {})
        if "method" not in config:
            raise UserError(
                f'{path}: [config] has no method; add one, such as method = "bsr", or take a file of '
                "`bsr-explore export`"
            )
        return cls(
            name=about.get("name", path.stem),
            config=Config(**config),
            data=data.get("name", "digits"),
            weights=data.get("weights", "auto"),
            fidelity=Fidelity(**tables.get("fidelity", {})),
            seed=about.get("seed", 0),
        )

    @classmethod
    def of_record(cls, name: str, record: Record, weights: str) -> Experiment:
        """The experiment that a record is of.

        Raises:
            UserError: a record of a later version, which says more than this one understands.
        """
        try:
            return cls(
                name,
                Config.from_dict(record.config),
                record.data,
                weights,
                Fidelity(**record.fidelity),
                record.seed,
            )
        except TypeError as error:
            raise UserError(f"TRIAL: its record is of a later version of bsr-explorer ({error})") from None

    def in_full(self) -> Experiment:
        """The same configuration, trained to be used and not to be ranked: on images of its own size, all of them but
        those that are left out, for as long as the recipe says. A recipe that is for ranking gives way to the one that
        is not."""
        instead = {"short": "standard" if quality_of(self.config.model) is ACCURACY else "language"}
        recipe = instead.get(self.fidelity.recipe, self.fidelity.recipe)
        return replace(self, fidelity=Fidelity(recipe=recipe, skip=self.fidelity.skip))

    def to_toml(self) -> dict[str, dict[str, Any]]:
        """The tables of the file; what is None is left out."""
        tables: dict[str, dict[str, Any]] = {
            "study": {"name": self.name, "seed": self.seed},
            "config": self.config.to_dict(),
            "data": {"name": self.data, "weights": self.weights},
            "fidelity": asdict(self.fidelity),
        }
        return {
            table: {key: value for key, value in values.items() if value is not None}
            for table, values in tables.items()
        }

    def within(self, study: Study) -> dict[str, dict[str, Any]]:
        """The tables of a study that is ``study``, but tries this experiment first and has its settings."""
        mine, tables = self.to_toml(), study.to_toml()
        space = tables["space"]
        for key, own in (("batch_sizes", self.config.batch_size), ("lr", self.config.lr)):
            if space.get(key):  # of several, the first is tried first
                space[key] = list(dict.fromkeys([own, *space[key]]))
        return {**tables, **mine, "study": {**tables["study"], **mine["study"]}}

    def differences(self, other: Experiment) -> list[str]:
        """What differs, a line each: ``key: mine → other's``. Names are no difference."""
        mine, theirs = flat(self.to_toml()), flat(other.to_toml())
        return [
            f"{key}: {mine.get(key, 'unset')!r} → {theirs.get(key, 'unset')!r}"
            for key in dict.fromkeys([*mine, *theirs])
            if key != "study.name" and mine.get(key) != theirs.get(key)
        ]
