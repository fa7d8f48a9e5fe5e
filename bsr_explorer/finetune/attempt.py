"""A fine-tune whose failure becomes a record, too."""

from __future__ import annotations

import gc
import re
import traceback
from dataclasses import asdict
from pathlib import Path

import torch

from bsr_explorer import interrupt
from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.job import Job
from bsr_explorer.finetune.run import run
from bsr_explorer.finetune.watch import NOBODY, Progress, Watch
from bsr_explorer.models.architecture import quality_of
from bsr_explorer.prediction import predict
from bsr_explorer.store.provenance import provenance
from bsr_explorer.store.records import Record
from bsr_explorer.units import format_bytes


def attempt(config: Config, key: str, job: Job, progress: Progress, watch: Watch = NOBODY) -> Record:
    """``run``; what goes wrong is a record too, with the reason and the place. Ctrl-C does not go wrong: it waits for
    the end of a step, where nothing makes another error of it.

    Args:
        key: of the configuration; see ``Config.key``.

    Raises:
        UserError: what its user can mend.
    """
    try:
        with interrupt.held():
            return run(config, job, progress, watch)
    except UserError:
        raise
    except Exception as error:
        asked = _asked_for(error)
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {error}"
    # The exception is gone, and with it its frames and what they held: there is memory again to write a record.
    if asked is not None:
        gc.collect()
        if config.device == "cuda":
            torch.cuda.empty_cache()
        peak = format_bytes(predict(job.fidelity.at(config)).peak_bytes)
        reason = f"out of memory: {asked} was asked for, and the predicted peak is {peak}; {reason}"
    return Record(
        status="failed" if asked is None else "out_of_memory",
        config=config.to_dict(),
        key=key,
        fidelity=asdict(job.fidelity),
        data=job.data,
        quality=quality_of(config.model).name,
        seed=job.seed,
        reason=reason,
        predicted=predict(config).summary(),
        provenance=provenance(config.device),
    )


_NO_MEMORY = re.compile(
    r"out of memory|not enough memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE
)
_ASKED = re.compile(
    r"(?:tried to allocate|unable to allocate)\s+([\d.]+)\s*(bytes|[KMGTP]i?B)?", re.IGNORECASE
)


def _asked_for(error: Exception) -> str | None:
    """What was asked for when there was no memory for it; None if the error is another one."""
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if not memory and not (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        return None
    said = _ASKED.search(str(error))
    if said is None:
        return "more memory than there is"
    number, unit = said.groups()
    return format_bytes(int(number)) if unit in (None, "bytes") else f"{number} {unit}"
