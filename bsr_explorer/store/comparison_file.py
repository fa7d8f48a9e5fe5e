"""A comparison's file: everything that says how to make a comparison again, as TOML.

::

    [comparison]  name, methods (a list of expressions), seeds, rounds (steps to time of each method)
    [config]      as in a study file, without method and num_classes
    [budget]      bytes ("2GB"), counts (peak, reserved, device, saved or published), quantile (0.95); may be left out
    [data]        name (or a list of names: one comparison each), weights
    [fidelity]    as in a study file; what is left out is everything: all images at the configuration's own
                  size, for the recipe's epochs

Only ``auto`` weights are left to the machine that it runs on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods import Method, parse_method
from bsr_explorer.store.study import COUNTS, TABLES, check_quantile
from bsr_explorer.store.tables import TEXT, WHOLE, Kind, list_of, read_tables
from bsr_explorer.units import parse_bytes

NAMES: Kind = (
    "text, or a list of texts",
    lambda value: (
        isinstance(value, str)
        or (isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value))
    ),
)

ALLOWED: dict[str, dict[str, Kind]] = {
    "comparison": {"name": TEXT, "methods": list_of(TEXT), "seeds": WHOLE, "rounds": WHOLE},
    "config": {
        key: kind for key, kind in TABLES["config"].items() if key not in ("method", "num_classes", "tasks")
    },
    "budget": TABLES["budget"],
    "data": {"name": NAMES, "weights": TEXT},
    "fidelity": TABLES["fidelity"],
}
"""What may stand in a comparison's file. The data says how many classes there are."""


@dataclass(frozen=True)
class ComparisonFile:
    """Methods to compare on one model, and on one data set or several.

    Attributes:
        config: of all methods (its own, and its classes, are of no account).
        data: names of data sets, paths of image folders, or ``hub:OWNER/NAME``.
        rounds: steps to time of each method; 0: none.
        budget: memory as its user wrote it, with a unit, or None.
        counts: key of ``study.COUNTS``.
        quantile: as of a study.
    """

    name: str
    methods: tuple[Method, ...]
    config: Config
    data: tuple[str, ...]
    weights: str = "auto"
    fidelity: Fidelity = field(default_factory=Fidelity)
    seeds: int = 3
    rounds: int = 5
    budget: str | None = None
    counts: str = "peak"
    quantile: float = 1.0

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UserError(f"[comparison] seeds: {self.seeds} must be a whole number of at least 1")
        if self.rounds < 0:
            raise UserError(f"[comparison] rounds: {self.rounds} must be a whole number of at least 0")
        if self.budget is not None:
            parse_bytes(self.budget, "[budget] bytes")
        if self.counts not in COUNTS:
            raise unknown("[budget] counts", self.counts, COUNTS)
        object.__setattr__(self, "quantile", check_quantile(self.quantile, self.counts))
        for key, given in (("[comparison] methods", self.methods), ("[data] name", self.data)):
            twice = [str(one) for place, one in enumerate(given) if one in given[:place]]
            if twice:
                raise UserError(f"{key}: {twice[0]} stands twice; name each once")

    def on(self, device: str, gpu: str | None = None) -> ComparisonFile:
        """The same on another device."""
        return replace(self, config=replace(self.config, device=device, gpu=gpu))

    @classmethod
    def from_toml(cls, path: Path) -> ComparisonFile:
        """Read a file.

        Raises:
            UserError: not there, not TOML, a table, key or value that is not allowed, or no methods.
        """
        tables = read_tables(path, ALLOWED)
        about, budget, data = (tables.get(table, {}) for table in ("comparison", "budget", "data"))
        for table, key in (("comparison", "methods"), ("config", "model"), ("data", "name")):
            if not tables.get(table, {}).get(key):
                raise UserError(
                    f"{path}: [{table}] {key} is missing; a comparison needs [comparison] methods, [config] "
                    "model and [data] name"
                )
        if budget and "bytes" not in budget:
            raise UserError(f'{path}: [budget] has no bytes; add them, such as bytes = "2GB"')
        try:
            return cls(
                name=about.get("name", path.stem),
                methods=tuple(parse_method(text) for text in about["methods"]),
                config=Config(**tables["config"]),
                data=_listed(data["name"]),
                weights=data.get("weights", "auto"),
                fidelity=Fidelity(**tables.get("fidelity", {})),
                budget=budget.get("bytes"),
                counts=budget.get("counts", "peak"),
                quantile=budget.get("quantile", 1.0),
                **{key: about[key] for key in ("seeds", "rounds") if key in about},
            )
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


def _listed(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
