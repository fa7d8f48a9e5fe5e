"""Methods side by side: predicted, timed, and each trained once a seed. It survives being killed at any moment.

Each run leaves its record, written whole; the same comparison trains only what has none.
"""

from __future__ import annotations

from pathlib import Path

from bsr_explorer import interrupt
from bsr_explorer.compare.folder import LOCK, number_of
from bsr_explorer.compare.plan import config_of
from bsr_explorer.compare.task import Watcher, job_of, tasks
from bsr_explorer.errors import UserError
from bsr_explorer.store.comparison_folder import Comparison, Entry, StepTimes
from bsr_explorer.store.folder import alone
from bsr_explorer.store.provenance import provenance
from bsr_explorer.store.records import Record, write_record


def compare(comparison: Comparison, folder: Path, data_dir: Path, rounds: int, watcher: Watcher) -> None:
    """Do what is left to do, and write it into the folder.

    Args:
        comparison: with nothing left open; see ``settle``.
        rounds: steps to time of each method, at the configuration's own image size; 0: none.

    Raises:
        UserError: another process is at work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with interrupt.held(), alone(folder, LOCK, "comparison"):
        comparison.write(folder)
        left = tasks(comparison, folder, rounds)
        watcher.begins(left)
        for task in left:
            interrupt.check()
            watcher.starts(task)
            record = None
            if task.entry is None:
                _time(comparison, rounds, watcher).write(folder)
            else:
                record = _train(comparison, task.entry, task.seed, data_dir, watcher)
                write_record(folder, number_of(folder, record), record)
            watcher.ends(task, record)


def _time(comparison: Comparison, rounds: int, watcher: Watcher) -> StepTimes:
    """Steps of all methods that fit, in turn. (All of them stay in memory for it.)"""
    from bsr_explorer.finetune.step_times import Stepper, in_turn

    steppers: dict[str, Stepper] = {}
    wrong: dict[str, str] = {}
    for entry in comparison.fitting:
        try:
            stepper = Stepper(config_of(comparison, entry))
            stepper.seconds()  # makes the optimiser's state
            steppers[entry.key] = stepper
        except UserError:
            raise
        except Exception as error:  # not enough memory, say: the others can still be timed
            wrong[entry.key] = f"{type(error).__name__}: {error}"
        watcher.step(len(steppers) + len(wrong), (1 + rounds) * len(comparison.fitting))
    first = len(comparison.fitting)
    taken = in_turn(
        list(steppers.values()), rounds, lambda done, total: watcher.step(first + done, first + total)
    )
    seconds = dict(zip(steppers, taken, strict=True))
    return StepTimes(seconds, wrong, provenance(comparison.config["device"]))


def _train(comparison: Comparison, entry: Entry, seed: int, data_dir: Path, watcher: Watcher) -> Record:
    from bsr_explorer.finetune.attempt import attempt

    job = job_of(comparison, data_dir, seed)
    return attempt(config_of(comparison, entry), entry.key, job, watcher.step)
