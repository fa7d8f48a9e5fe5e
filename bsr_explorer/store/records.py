"""Records: everything known about one fine-tune, one JSON file each, written once and whole."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from bsr_explorer.config import HELD_OUT, PROTOCOLS, Protocol
from bsr_explorer.errors import UserError
from bsr_explorer.files import whole
from bsr_explorer.quality import ACCURACY, QUALITIES, Quality


def judged(quality: Quality, score: float | None, test: float | None = None) -> dict[str, Any]:
    """The fields of a record that say a score, and one on the test set, in a quality's own numbers."""
    value, on_test = (None if each is None else quality.value(each) for each in (score, test))
    name = "accuracy" if quality.higher else "perplexity"
    return {"quality": quality.name, name: value, f"test_{name}": on_test}


FORMAT = 1
"""Version of the record's layout."""


@dataclass(frozen=True)
class Record:
    """Configuration, prediction, measurement, accuracy and provenance of one fine-tune.

    Attributes:
        status: ``finished``; ``proxy`` (finished, at a cheaper fidelity than the study's own); or, with the ``reason``:
            ``stopped`` (below the accuracy that was asked of it on the way), ``diverged`` (the loss was not finite),
            ``out_of_memory`` or ``failed``.
        config: the configuration, memory and FLOPs of which are ``predicted`` (see ``Ledger.summary``).
        key: hash of the canonical configuration: equal for equal experiments.
        fidelity: how it was trained; its image size may be a smaller proxy.
        split: sizes of the training, validation and test sets.
        classes, left_out: the images of each class in each of these, and the files that are in none; see ``Contents``.
        weights: where the pretrained weights came from.
        quality: key of ``QUALITIES``: what the training was judged by. Records of before there were
            several mean accuracy.
        accuracy: top-1 in [0, 1], of what the protocol says: on validation after the last epoch that was trained; None
            where the quality is another.
        perplexity: the same of a language model, of a token.
        accuracy_is: which accuracy, or perplexity, that is, in words.
        test_accuracy, test_perplexity: on the test set.
        accuracy_by_task: of several tasks, that of each, by its name; ``accuracy`` is their mean. So on test.
        history: accuracies, or perplexities, on the part of the data that the protocol judges by, and
            ``history_epochs``: after how many epochs each.
        measured: what the run held at the image size that it trained at, beside what was predicted for it;
            ``fault`` says so where its peak was more than 2% above its prediction.
        provenance: versions, machine, commit, time.
        study: what the search knew of it (trial number, budget, accounting), or nothing.
    """

    status: Literal["finished", "proxy", "stopped", "diverged", "out_of_memory", "failed"]
    config: dict[str, Any]
    key: str
    fidelity: dict[str, Any]
    data: str
    seed: int
    split: str = ""
    weights: str = ""
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    predicted: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] | None = None
    accuracy: float | None = None
    accuracy_is: str = HELD_OUT.accuracy_is
    test_accuracy: float | None = None
    accuracy_by_task: dict[str, float] = field(default_factory=dict)
    test_accuracy_by_task: dict[str, float] = field(default_factory=dict)
    quality: str = ACCURACY.name
    perplexity: float | None = None
    test_perplexity: float | None = None
    history: list[float] = field(default_factory=list)
    history_epochs: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    step_seconds: float = 0.0
    images_trained: int = 0
    reason: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    study: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def method(self) -> str:
        """The method's expression."""
        return str(self.config["method"])

    @property
    def judged(self) -> Quality:
        """What the training was judged by."""
        return QUALITIES[self.quality]

    @property
    def score(self) -> float | None:
        """By its quality, in [0, 1]: higher is better."""
        return self._score(self.accuracy, self.perplexity)

    @property
    def test_score(self) -> float | None:
        """The same on the test set."""
        return self._score(self.test_accuracy, self.test_perplexity)

    @property
    def scores(self) -> list[float]:
        """Those of the history."""
        return [self.judged.score(value) for value in self.history]

    def _score(self, accuracy: float | None, perplexity: float | None) -> float | None:
        value = accuracy if self.judged.higher else perplexity
        return None if value is None else self.judged.score(value)

    @property
    def failed(self) -> bool:
        """Whether it was not trained as far as it was worth."""
        return self.status not in ("finished", "proxy", "stopped")

    @property
    def protocol(self) -> Protocol:
        """How the quality came about; records of before there were several have the usual one."""
        return PROTOCOLS[self.fidelity.get("protocol", HELD_OUT.name)]

    @property
    def by_task(self) -> str:
        """The accuracy of each task, in words; nothing, if there is one task."""
        on_test = self.test_accuracy_by_task
        said = (
            f"{task} {100 * accuracy:.1f}%"
            + (f" ({100 * on_test[task]:.1f}% on test)" if task in on_test else "")
            for task, accuracy in self.accuracy_by_task.items()
        )
        return ", ".join(said)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Record:
        """A record of plain values; keys of a later version are ignored."""
        names = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in names})


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with whole(path) as file:
        file.write(text.encode())


def write_record(folder: Path, number: int, record: Record) -> Path:
    """Write a study's record of one trial; returns its path."""
    path = folder / "records" / f"{number:04d}.json"
    write_text(path, json.dumps(record.to_dict(), indent=1) + "\n")
    return path


def read_records(folder: Path) -> dict[int, Record]:
    """A study's records by trial number.

    Raises:
        UserError: a file that is no record.
    """
    records = {}
    for path in sorted((folder / "records").glob("*.json")):
        try:
            records[int(path.stem)] = Record.from_dict(json.loads(path.read_text()))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}: not a record of a trial ({error}); move it away to go on") from None
    return records
