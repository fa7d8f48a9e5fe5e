"""What a comparison's folder says of it: what is compared, what is predicted, how long steps took."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bsr_explorer.config import PROTOCOLS, Fidelity, Protocol
from bsr_explorer.errors import UserError
from bsr_explorer.models.architecture import quality_of
from bsr_explorer.quality import Quality
from bsr_explorer.store.records import Record, read_records, write_text
from bsr_explorer.store.tables import differences

FILE = "comparison.json"
STEPS = "step_seconds.json"

SETTLED = ("image_size", "train_size", "val_size", "epochs")
"""What of a fidelity is decided before anything runs."""


@dataclass(frozen=True)
class Entry:
    """A method of a comparison, and what is predicted of one step at the configuration's own image size.

    Attributes:
        method: its expression.
        label: the same, if it is long, without the arguments that have their defaults.
        key: of its configuration; see ``Config.key``.
        counted_bytes: what the budget counts.
        fits: whether that is within the budget (without one, it is).
        largest_batch: images a step that the budget holds; None without a budget.
        published_bytes: the BSR paper's own accounting, for the methods that it has a rule for; else None.
        at_least: figures of these that are bounds, for something that they count is unknown.
        unknown: what that is, a sentence each.
    """

    method: str
    label: str
    key: str
    peak_bytes: int
    saved_bytes: int
    counted_bytes: int
    train_flops: int
    fits: bool
    largest_batch: int | None
    published_bytes: int | None = None
    at_least: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Entry:
        """An entry of plain values."""
        read: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**read)


@dataclass(frozen=True)
class Comparison:
    """Methods on one model, one data set, at one fidelity: each trained once a seed.

    Attributes:
        config: of all methods, as plain values; the method is left out.
        fidelity: how each is trained, as plain values.
        seeds: runs a method; their seeds are 0, 1, ….
        budget: memory as its user wrote it, with a unit, or None.
        budget_bytes: the same in bytes.
        counts: key of ``study.COUNTS``.
        quantile: as of a study.
        full: full fine-tuning, which ratios refer to, whether it is among ``entries`` or not.
        entries: the methods, in their user's order.
    """

    config: dict[str, Any]
    data: str
    weights: str
    fidelity: dict[str, Any]
    seeds: int
    budget: str | None
    budget_bytes: int | None
    counts: str
    full: Entry
    entries: tuple[Entry, ...]
    quantile: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.seeds, bool) or not isinstance(self.seeds, int) or self.seeds < 1:
            raise UserError(f"--seeds: {self.seeds!r} must be a whole number of at least 1")

    @property
    def fitting(self) -> list[Entry]:
        """The methods that are trained."""
        return [entry for entry in self.entries if entry.fits]

    @property
    def trained_at(self) -> int:
        """Side of the training images, pixels."""
        return int(self.fidelity["image_size"] or self.config["image_size"])

    @property
    def quality(self) -> Quality:
        """What its trainings are judged by."""
        return quality_of(self.config["model"])

    @property
    def protocol(self) -> Protocol:
        """How its accuracies come about."""
        return PROTOCOLS[self.fidelity["protocol"]]

    @property
    def settled(self) -> bool:
        """Whether all is decided that its runs need; see ``compare.folder.settle``."""
        return all(self.fidelity.get(key) is not None for key in SETTLED)

    def completed_by(self, stored: Comparison) -> Comparison:
        """This comparison with what it leaves open (fidelity, ``auto`` weights) as ``stored`` has decided it."""
        fidelity = {
            key: stored.fidelity.get(key) if value is None else value for key, value in self.fidelity.items()
        }
        return replace(
            self, fidelity=fidelity, weights=stored.weights if self.weights == "auto" else self.weights
        )

    def differences(self, other: Comparison) -> list[str]:
        """What makes the runs of two comparisons incomparable, a line each: ``key: mine → other's``."""
        return differences(self._settings(), other._settings())

    def _settings(self) -> dict[str, Any]:
        return {**self.config, "data": self.data, "weights": self.weights} | {
            f"fidelity.{key}": value for key, value in self.fidelity.items()
        }

    def owns(self, record: Record) -> bool:
        """Whether a record is of a run of this comparison, of a method that may no longer be asked for."""
        config = {key: value for key, value in record.config.items() if key != "method"}
        return (config, record.data) == (self.config, self.data)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Comparison:
        """A comparison of plain values."""
        read = {
            "full": Entry.from_dict(values["full"]),
            "entries": tuple(map(Entry.from_dict, values["entries"])),
            "fidelity": asdict(Fidelity(**values["fidelity"])),
        }
        return cls(**{**values, **read})

    def write(self, folder: Path) -> None:
        """Write the file into the comparison's folder, whole or not at all."""
        write_text(folder / FILE, json.dumps(self.to_dict(), indent=1) + "\n")


def read_comparison(folder: Path) -> Comparison | None:
    """The comparison of a folder; None where there is none.

    Raises:
        UserError: a file that is no comparison.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return Comparison.from_dict(json.loads(path.read_text()))
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not a comparison ({error}); move it away to go on") from None


def read_runs(comparison: Comparison, folder: Path) -> dict[int, Record]:
    """The records of a comparison's folder, by number.

    Raises:
        UserError: a file that is no record, or a record of something else.
    """
    records = read_records(folder)
    for number, record in records.items():
        if not comparison.owns(record):
            raise UserError(
                f"--out: {folder}/records/{number:04d}.json is not of this comparison; move it away, or give "
                "another --out"
            )
    return records


@dataclass(frozen=True)
class StepTimes:
    """Measured durations of single steps, at the configuration's own image size and batch.

    Attributes:
        seconds: of each round, by the key of a method's configuration; all methods in turn in each round.
        failed: why a method could not be timed, by key.
        provenance: versions, machine, commit, time.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """Steps that were timed of each method."""
        return min(map(len, self.seconds.values()), default=0)

    def covers(self, entries: list[Entry], rounds: int) -> bool:
        """Whether so many rounds of all these methods are known."""
        known = self.seconds.keys() | self.failed.keys()
        return {entry.key for entry in entries} <= known and (self.rounds >= rounds or not self.seconds)

    def write(self, folder: Path) -> None:
        """Write the file into the comparison's folder, whole or not at all."""
        write_text(folder / STEPS, json.dumps(asdict(self), indent=1) + "\n")


def read_step_times(folder: Path) -> StepTimes:
    """The step times of a comparison's folder, or none.

    Raises:
        UserError: a file that holds something else.
    """
    path = folder / STEPS
    if not path.exists():
        return StepTimes()
    try:
        return StepTimes(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not the times of steps ({error}); move it away to go on") from None
