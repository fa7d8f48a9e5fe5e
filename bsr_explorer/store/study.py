"""A study file: everything that says how to make a study again, as TOML.

::

    [study]     name, seed, trials, time_limit (seconds)
    [config]    model, image_size, num_classes, batch_size, precision, optimizer, attention, implementation,
                micro_batches, set_to_none, device, lr, gpu; method, which is tried first
    [budget]    bytes ("2GB"), counts (peak, reserved, device, saved or published), quantile (of steps that differ)
    [data]      name, weights
    [fidelity]  image_size, train_size, val_size, epochs, recipe, views, skip (image files that are left out), protocol
    [search]    sampler, objectives, rungs, replicas, first, prior, proxies (["112x256", …])
    [space]     families (["bsr", "bsr+mesa", …]), start, max_blocks, drop_at, keep, fuse, batch_sizes, lr
    [space.axes.<method>]  values of other arguments, such as bits = [4, 8]
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from bsr_explorer.config import HELD_OUT, Config, Fidelity
from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods import parse_method
from bsr_explorer.store.counts import COUNTS as COUNTS
from bsr_explorer.store.counts import check_quantile as check_quantile
from bsr_explorer.store.counts import said_counts as said_counts
from bsr_explorer.store.proxies import at_proxy, check_cheaper, check_sampler
from bsr_explorer.store.records import write_text
from bsr_explorer.store.space import SpaceSpec as SpaceSpec
from bsr_explorer.store.tables import TABLES as TABLES
from bsr_explorer.store.tables import differences, flat, read_tables
from bsr_explorer.units import parse_bytes

SAMPLERS: dict[str, str] = {
    "exact": "a Gaussian process on accuracy, with memory and FLOPs known exactly",
    "tpe": "Optuna's default",
    "nsga2": "Optuna's genetic algorithm",
    "gp": "Optuna's Gaussian process, which learns memory too",
    "random": "any configuration that fits, as likely as another",
    "qmc": "a quasi-random sequence",
}
"""What may propose the next configuration, and what that is."""

OBJECTIVES = ("accuracy", "memory", "flops")
"""What a search may weigh against each other: the first two always."""

FILE = "study.toml"
LOCK = "study.lock"


@dataclass(frozen=True)
class Study:
    """One search: what to find, within which budget, on which data, how thoroughly.

    Attributes:
        config: everything but the method, which the search chooses.
        budget: memory as its user wrote it, with a unit.
        counts: key of ``COUNTS``.
        quantile: of the steps of a configuration, where they differ, the share that the budget holds; see
            ``prediction.counted_bytes``.
        time_limit: seconds after which no new trial starts, or None.
        sampler: key of ``SAMPLERS``.
        objectives: the first two or all of ``OBJECTIVES``; FLOPs are those of a training step.
        rungs: epochs after which a trial may be stopped; none at or after the last has an effect.
        replicas: fresh seeds on which the front is trained again when the trials are done.
        first: how many of the configurations that the space says to try first are; None: all that fit.
        prior: folder of an earlier study of the same model, whose accuracies are a first guess.
        proxies: cheaper fidelities that the sampler may train at, each as image size × training images ("112x256").
            What is found there tells it where to look, and is on no front.
    """

    name: str
    config: Config
    budget: str
    counts: str
    data: str
    weights: str
    fidelity: Fidelity
    space: SpaceSpec
    seed: int = 0
    trials: int = 12
    time_limit: float | None = None
    sampler: str = "exact"
    objectives: tuple[str, ...] = OBJECTIVES[:2]
    rungs: tuple[int, ...] = ()
    replicas: int = 3
    first: int | None = None
    prior: str | None = None
    proxies: tuple[str, ...] = ()
    quantile: float = 1.0

    def __post_init__(self) -> None:
        parse_bytes(self.budget)
        if self.fidelity.protocol != HELD_OUT.name:
            raise UserError(
                f"--protocol: a search by {self.fidelity.protocol!r} would choose by the test set; choose "
                f"{HELD_OUT.name}, and take the other in compare or train"
            )
        if self.counts not in COUNTS:
            raise unknown("--budget-counts", self.counts, COUNTS)
        self.config.check_counts(self.counts)
        object.__setattr__(self, "quantile", check_quantile(self.quantile, self.counts))
        if isinstance(self.trials, bool) or not isinstance(self.trials, int) or self.trials < 1:
            raise UserError(f"--trials: {self.trials!r} must be a whole number of at least 1")
        if self.time_limit is not None and self.time_limit <= 0:
            raise UserError(f"--time-limit: {self.time_limit!r} seconds must be more than 0")
        if self.sampler not in SAMPLERS:
            raise unknown("--sampler", self.sampler, SAMPLERS)
        if self.prior is not None and self.sampler != "exact":
            raise UserError(
                f"--prior: only the sampler exact takes one, not {self.sampler}; leave one of the two out"
            )
        object.__setattr__(self, "proxies", tuple(self.proxies))
        if self.proxies:
            check_sampler(self.sampler)
        for text, fidelity in zip(self.proxies, self.fidelities[1:], strict=True):
            check_cheaper(text, fidelity, self.fidelity, self.config)
        object.__setattr__(self, "rungs", tuple(self.rungs))
        object.__setattr__(self, "objectives", tuple(self.objectives))
        if self.objectives not in (OBJECTIVES[:2], OBJECTIVES):
            raise UserError(
                f"--objectives: {','.join(map(str, self.objectives))} cannot be searched for; choose "
                "accuracy,memory or accuracy,memory,flops"
            )
        whole = all(isinstance(rung, int) and not isinstance(rung, bool) for rung in self.rungs)
        if not whole or any(later <= rung for rung, later in itertools.pairwise((0, *self.rungs))):
            raise UserError(
                f"--rungs: {self.rungs} must be whole numbers of epochs, from 1 and each more than the one before"
            )
        if isinstance(self.replicas, bool) or not isinstance(self.replicas, int) or self.replicas < 0:
            raise UserError(f"--replicas: {self.replicas!r} must be a whole number of at least 0")
        if self.first is not None and self.first < 0:
            raise UserError(f"[search] first: {self.first!r} must be a whole number of at least 0")

    @property
    def budget_bytes(self) -> int:
        """The budget in bytes."""
        return parse_bytes(self.budget)

    @property
    def fidelities(self) -> tuple[Fidelity, ...]:
        """The study's own, at which its front is stated, and its proxies."""
        return (self.fidelity, *(at_proxy(text, self.fidelity) for text in self.proxies))

    @property
    def runs(self) -> int:
        """Trainings to expect: the trials, and the fresh seeds of a front that has a quarter of them."""
        return runs(self.trials, self.replicas)

    def to_toml(self) -> dict[str, dict[str, Any]]:
        """The tables of the file; what is None is left out."""
        config = {key: value for key, value in self.config.to_dict().items() if key != "method"}
        tables: dict[str, dict[str, Any]] = {
            "study": {
                "name": self.name,
                "seed": self.seed,
                "trials": self.trials,
                "time_limit": self.time_limit,
            },
            "config": config,
            "budget": {
                "bytes": self.budget,
                "counts": self.counts,
                "quantile": self.quantile if self.quantile < 1 else None,
            },
            "data": {"name": self.data, "weights": self.weights},
            "fidelity": asdict(self.fidelity),
            "search": {
                "sampler": self.sampler,
                "objectives": self.objectives,
                "rungs": self.rungs,
                "replicas": self.replicas,
                "first": self.first,
                "prior": self.prior,
                "proxies": self.proxies or None,
            },
            "space": self.space.to_toml(),
        }
        return {
            table: {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in values.items()
                if value is not None
            }
            for table, values in tables.items()
        }

    @classmethod
    def from_toml(cls, path: Path) -> Study:
        """Read a study file.

        Raises:
            UserError: not there, not TOML, a table or key that does not exist, a value not allowed.
        """
        return cls.from_tables(read_tables(path, TABLES), path)

    @classmethod
    def from_tables(cls, tables: dict[str, dict[str, Any]], source: Path) -> Study:
        """A study of the tables of a file.

        Raises:
            UserError: as ``from_toml``.
        """
        try:
            about, budget, data = tables.get("study", {}), tables["budget"], tables.get("data", {})
            config, space = dict(tables["config"]), dict(tables["space"])
            if "method" in config:
                first = str(parse_method(config.pop("method")))
                space["start"] = list(dict.fromkeys([first, *space.get("start", [])]))
            return cls(
                name=about.get("name", source.stem),
                config=Config(**config),
                budget=budget["bytes"],
                counts=budget.get("counts", "peak"),
                quantile=budget.get("quantile", 1.0),
                data=data.get("name", "digits"),
                weights=data.get("weights", "auto"),
                fidelity=Fidelity(**tables.get("fidelity", {})),
                space=SpaceSpec(**space),
                **{key: about[key] for key in ("seed", "trials", "time_limit") if key in about},
                **tables.get("search", {}),
            )
        except KeyError as error:
            raise UserError(
                f"{source}: {error} is missing; a study needs [config], [budget] bytes, [space]"
            ) from None
        except TypeError as error:
            raise UserError(f"{source}: {error}") from None

    def differences(self, other: Study) -> list[str]:
        """What makes the trials of two studies incomparable, a line each: ``key: mine → other's``.

        How a study searches is no such thing: its sampler, rungs and replicas decide what is trained and for
        how long, and not how well a finished trial does.
        """
        mine, theirs = self.settings(), other.settings()
        if self.budget_bytes == other.budget_bytes:  # 2GB and 2000MB are one budget
            theirs["budget.bytes"] = mine["budget.bytes"]
        return differences(mine, theirs)

    def settings(self) -> dict[str, Any]:
        """What makes trials comparable, by ``table.key``."""
        return {key: value for key, value in flat(self.to_toml()).items() if key not in _FREE}

    def completed_by(self, stored: Study) -> Study:
        """This study with what it leaves open (fidelity, ``auto`` weights, what is first) as ``stored`` decided it."""
        given = asdict(self.fidelity)
        merged = {
            key: asdict(stored.fidelity)[key] if value is None else value for key, value in given.items()
        }
        weights = stored.weights if self.weights == "auto" else self.weights
        first = stored.first if self.first is None else self.first
        return replace(
            self,
            fidelity=Fidelity(**merged),
            weights=weights,
            first=first,
            prior=self.prior or stored.prior,
            proxies=self.proxies or stored.proxies,
        )

    def write(self, folder: Path, command: str) -> None:
        """Write the file into the study's folder, opening with the command that made it."""
        again = f"bsr-explore search {folder / FILE} --out {folder}"
        self._write(folder, [f"# Made by: {command}", f"# Run it again with: {again}"])

    def update(self, folder: Path) -> None:
        """Write what is asked for now (trials, sampler, …) into the study's file; how that opens stays."""
        path = folder / FILE
        if path.exists() and Study.from_toml(path) != self:
            lines = path.read_text().splitlines()
            self._write(folder, list(itertools.takewhile(lambda line: line.startswith("#"), lines)))

    def _write(self, folder: Path, head: list[str]) -> None:
        write_text(folder / FILE, "\n".join([*head, "", tomli_w.dumps(self.to_toml())]))


def runs(trials: int, replicas: int) -> int:
    """See ``Study.runs``."""
    return trials + replicas * max(1, trials // 4)


_FREE = frozenset(
    {
        *("study.name", "study.trials", "study.time_limit"),
        *("search.sampler", "search.rungs", "search.replicas", "search.first"),
    }
)
"""Settings that may differ between comparable studies."""
