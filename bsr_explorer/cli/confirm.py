"""``bsr-explore confirm``: a study's front trained at the target, and the two orders side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bsr_explorer.cli import options
from bsr_explorer.cli.confirm_shown import answer, planned, show, write
from bsr_explorer.cli.console import fail, out, resolved, say_written
from bsr_explorer.cli.progress import loading, watching_tasks
from bsr_explorer.cli.trials import cache_bytes
from bsr_explorer.config import Fidelity
from bsr_explorer.data.places import check_data, default_data_dir
from bsr_explorer.errors import UserError
from bsr_explorer.store.folder import check_free, check_writable
from bsr_explorer.store.study import FILE, Study
from bsr_explorer.train.recipes import check_optimizer, recipe

if TYPE_CHECKING:
    from bsr_explorer.report.study.findings import Findings


def confirm(
    study: options.StudyFolder,
    train_size: Annotated[
        int | None, typer.Option(help="Training images of a run. At most 1000 if left out.")
    ] = None,
    val_size: Annotated[
        int | None, typer.Option(help="Validation images of a run. At most 500 if left out.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of a run. The recipe's if left out.")] = None,
    recipe_name: Annotated[
        str | None, typer.Option("--recipe", help="See `list recipes`. The study's if left out.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each configuration, with the seeds 0, 1, …")] = 1,
    rivals: Annotated[
        int, typer.Option(help="Configurations beside the front: those that come nearest to it.")
    ] = 3,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder of the runs. <study>/confirmed if left out.")
    ] = None,
    data_dir: options.DataDir = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto. The study's if left out.")] = None,
    cache: options.Cache = "4GB",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be trained. Nothing is trained or written.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Train the front of a finished study at the target's image size, and compare the two orders.

    A search judges configurations by short trainings, often of small images. This shows whether their order holds. Stop
    with Ctrl-C; the same command continues.

    Examples:

      bsr-explore confirm reports/examples/deit_s-digits-2GB --dry-run

      bsr-explore confirm reports/examples/deit_s-digits-2GB --train-size 1000 --device cuda
    """
    for flag, number, least in (("--seeds", seeds, 1), ("--rivals", rivals, 0)):
        if number < least:
            raise UserError(f"{flag}: {number} must be a whole number of at least {least}")
    kept, on = cache_bytes(cache), None if device is None else resolved(device)
    found = _finished(study)
    first = found.points[0].record
    asked = Fidelity(None, train_size, val_size, epochs, recipe_name or first.fidelity["recipe"])
    where = data_dir or default_data_dir()
    rules = recipe(asked.recipe, first.data, first.config["optimizer"])
    check_data(first.data, where)
    check_optimizer(first.config["optimizer"])
    at = folder or study / "confirmed"
    check_writable(at)

    from bsr_explorer import damage
    from bsr_explorer.confirm import plan
    from bsr_explorer.confirm.orders import Orders
    from bsr_explorer.confirm.run import LOCK
    from bsr_explorer.confirm.run import confirm as run_all
    from bsr_explorer.finetune.build import device_of
    from bsr_explorer.finetune.job import Job
    from bsr_explorer.prefix.cache import Cache
    from bsr_explorer.store.records import read_records

    check_free(at, LOCK, "confirmation")
    points = plan.chosen(found, rivals)
    config = plan.config_of(points[0], on)
    device_of(config)
    job = Job(
        first.data,
        plan.target(first, asked),
        Study.from_toml(study / FILE).weights,
        data_dir=where,
        cache=None if kept is None else Cache(most_bytes=kept),
    )

    def filled(given: Fidelity, train: int, validation: int) -> Fidelity:
        return plan.filled(given, train, validation, rules, config.batch_size)

    with loading("loading weights and data…") as told:
        job = damage.settled(config, job, filled, told=told)
    runs = plan.left(points, seeds, job, at)
    if not as_json:
        out.print(planned(found, points, job.fidelity, seeds, runs), markup=False, soft_wrap=True)
    if dry_run:
        if as_json:
            print(json.dumps({"trials": [point.number for point in points], "left": len(runs)}))
        else:
            out.print("\nNothing was trained or written (--dry-run).")
        return
    if runs:
        with watching_tasks() as watcher:
            run_all(runs, job, on, at, watcher)
    records = read_records(at)
    orders = Orders.of(points, records.values(), found.recommendation.point.number)
    if not orders.reached:
        reasons = [record.reason for record in records.values()]
        fail(
            f"no run finished: {reasons[-1] if reasons else 'there is none'}; the records are in {at}", code=1
        )
    files = write(orders, at)
    if as_json:
        print(json.dumps(answer(orders, job.fidelity, files)))
        return
    show(orders)
    say_written([*files, at / "records"])


def _finished(folder: Path) -> Findings:
    """The findings of a study of which nothing is left to train.

    Raises:
        UserError: there is none, or something is left.
    """
    from bsr_explorer.report.study.findings import Findings
    from bsr_explorer.store.reopened import finished
    from bsr_explorer.store.trials import read_trials

    read_trials(folder)
    if not (folder / FILE).exists():
        raise UserError(f"STUDY: {folder} has no {FILE}; it is not the folder of a search")
    study = Study.from_toml(folder / FILE)
    if finished(study, folder) is None:
        from bsr_explorer.search.space import Space

        if finished(study, folder, most=Space(study).fitting) is None:
            raise UserError(f"STUDY: {folder} is not finished; run its search to the end first")
    return Findings.read(folder)
