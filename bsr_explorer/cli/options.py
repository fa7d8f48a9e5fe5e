"""Options that several commands share, each defined once."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from bsr_explorer.cli.console import found_gpu, resolved
from bsr_explorer.config import COUNTS_FLAG, PROTOCOLS, Config, Fidelity
from bsr_explorer.devices import gpu_of
from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods import Method as Method_
from bsr_explorer.methods import parse_methods
from bsr_explorer.methods.composed import parts_of
from bsr_explorer.store.study import COUNTS, check_quantile
from bsr_explorer.train.recipes import RECIPES

if TYPE_CHECKING:
    from bsr_explorer.models.base import Geometry

Model = Annotated[
    str,
    typer.Option(
        help="An alias (see `list models`), the name of a model of timm, hf-hub:owner/name, a function of your own as "
        "package.module:function, or a TOML file that describes a model (see `blocks`)."
    ),
]
Method = Annotated[
    str, typer.Option(help="A method expression, such as 'bsr' or 'last(k=3)' (see `list methods`).")
]
Data = Annotated[
    str,
    typer.Option(
        help="A dataset (see `list datasets`), the path of an image folder, hub:OWNER/NAME of the Hugging Face Hub, or "
        "several as tasks(NAME, NAME, …)."
    ),
]
RecipeName = Annotated[str, typer.Option("--recipe", help=f"How to fine-tune: {', '.join(RECIPES)}.")]
_PROTOCOLS = "; ".join(f"{name}: {protocol.summary}" for name, protocol in PROTOCOLS.items())
ProtocolName = Annotated[
    str,
    typer.Option(
        "--protocol", help=f"Which images are trained on, and which accuracy is reported. {_PROTOCOLS}."
    ),
]
ImageSize = Annotated[
    int,
    typer.Option(
        "--image-size",
        "--sequence-length",
        help="Side of the images in pixels, or of a language model the tokens of a sequence. Memory is counted at this "
        "size.",
    ),
]
BatchSize = Annotated[int, typer.Option(help="Images in a training step.")]
Classes = Annotated[int, typer.Option("--num-classes", help="Outputs of the head.")]
Tasks = Annotated[
    str | None,
    typer.Option(
        "--tasks",
        help="Classes of each of several tasks, such as 10,10,5: heads side by side. Their sum is "
        "--num-classes.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(help="fp32, amp_bf16 or amp_fp16 (autocast), or bf16 (weights and optimiser state too)."),
]
Optimizer = Annotated[str, typer.Option(help="adamw, adamw_8bit, sgd or sgd_momentum.")]
Implementation = Annotated[
    str,
    typer.Option(help="How torch runs the optimiser: loop, foreach, fused, or auto (torch's own choice)."),
]
MicroBatches = Annotated[int, typer.Option(help="Micro-batches in a step (gradient accumulation).")]
SetToNone = Annotated[
    bool,
    typer.Option("--set-to-none/--keep-gradients", help="Free gradients after a step, or set them to zero."),
]
Attention = Annotated[
    str,
    typer.Option(help="fused (one kernel), math (explicit softmax), or on CUDA flash, efficient or cudnn."),
]
Unknown = Annotated[
    str,
    typer.Option(
        help="Where a traced model calls something that cannot be counted: refuse (name it), or bound (say what is at "
        "least needed)."
    ),
]
Weights = Annotated[
    str, typer.Option(help="auto (hub, else offline), hub, offline, random, or a .safetensors or .pth file.")
]
Seed = Annotated[int, typer.Option(help="Seed of all random numbers.")]
Device = Annotated[
    str, typer.Option(help="Device of the training steps: cpu, cuda or auto. Memory depends on it.")
]
Gpu = Annotated[
    str | None,
    typer.Option(
        help="Card that memory is predicted for: h100, a100, l4, t4, orin, …, or sm_90x132 for any; it need not be "
        "here. The one found here, if left out. Implies --device cuda."
    ),
]
BudgetCounts = Annotated[
    str | None,
    typer.Option(
        help="What the budget counts: peak, reserved or device (of CUDA), saved or published. If left out: on CUDA "
        "reserved, else peak."
    ),
]
BudgetQuantile = Annotated[
    float,
    typer.Option(
        "--budget-quantile",
        help="Where the steps of a method differ: the share of them that the budget holds, such as 0.95. 1: the "
        "fullest step that may occur.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad", help="Leave damaged images out, and record that. Without it they are an error."
    ),
]
DataDir = Annotated[Path | None, typer.Option(help="Where datasets lie, or are downloaded to.")]
StudyFolder = Annotated[
    Path, typer.Argument(metavar="STUDY", help="Folder of a study, such as reports/<study>.")
]
Trial = Annotated[int, typer.Argument(metavar="TRIAL", help="Number of the trial, as in the tables.")]

Jobs = Annotated[
    int | None,
    typer.Option(
        help="Trials at once, each in its own process. 0: one after another, in this process.",
        show_default="1; on a cluster, as many as it has room for",
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS|local", help="Run the trials on a Ray cluster, or (local) on Ray on this machine."
    ),
]
Cache = Annotated[
    str,
    typer.Option(
        metavar="SIZE|none",
        help="Disk space for the cached output of frozen blocks, which trials share: 4GB, 500MB, … or none.",
    ),
]
TrialTimeout = Annotated[
    str | None,
    typer.Option(help="Time limit of a trial, such as 1h.", show_default="10 times what is expected"),
]


def given(context: typer.Context, parameter: str) -> bool:
    """Whether a parameter was typed, and is not its default."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


class Head(TypedDict):
    """What a configuration's model tells apart."""

    num_classes: int
    tasks: tuple[int, ...]


def head(context: typer.Context, num_classes: int, tasks: str | None) -> Head:
    """``num_classes`` and ``tasks`` of a configuration: classes that are not typed are those of the tasks.

    Raises:
        UserError: the tasks are no whole numbers.
    """
    if tasks is None:
        return {"num_classes": num_classes, "tasks": ()}
    try:
        classes = tuple(int(part) for part in tasks.split(","))
    except ValueError:
        raise UserError(
            f"--tasks: cannot read {tasks!r}; write the classes of each task, such as 10,10,5"
        ) from None
    return {"num_classes": num_classes if given(context, "num_classes") else sum(classes), "tasks": classes}


class Place(TypedDict):
    """Where a configuration's steps run."""

    device: str
    gpu: str | None


def place(context: typer.Context, device: str, gpu: str | None = None) -> Place:
    """``device`` and ``gpu`` of a configuration: a card is CUDA, unless another device is asked for; CUDA without a
    card is the one found here."""
    kind = "cuda" if gpu is not None and not given(context, "device") else resolved(device)
    return {"device": kind, "gpu": found_gpu(kind) if gpu is None else gpu_of(gpu).name}


def counts(asked: str | None, config: Config, flag: str = COUNTS_FLAG) -> str:
    """What a budget counts.

    Args:
        flag: by which it is asked for.

    Raises:
        UserError: no such accounting, or the device has none.
    """
    counted = asked or config.counts_by_default
    if counted not in COUNTS:
        raise unknown(flag, counted, COUNTS)
    config.check_counts(counted, flag)
    return counted


def quantile(asked: float, counts: str, configs: Iterable[Config]) -> float:
    """The share of steps that a budget holds; of configurations whose steps are all alike, it is said on the error
    console that it changes nothing.

    Raises:
        UserError: see ``store.study.check_quantile``.
    """
    from bsr_explorer.cli.console import err
    from bsr_explorer.prediction import differs

    checked = check_quantile(asked, counts)
    alike = [str(config.method) for config in configs if checked < 1 and not differs(config)]
    if alike:
        err.print(
            f"--budget-quantile changes nothing where steps are all alike: {', '.join(alike)}",
            markup=False,
            soft_wrap=True,
        )
    return checked


def refuse_flags(context: typer.Context, beside: Collection[str]) -> None:
    """Beside a file that says everything, a flag would contradict it: refuse all parameters but these.

    Raises:
        UserError: it names the flag.
    """
    for option in context.command.params:
        if option.name is not None and option.name not in beside and given(context, option.name):
            raise UserError(
                f"{option.opts[0]}: cannot be given beside a file; change it in the file, or give flags only"
            )


def following(text: str, config: Config) -> list[Method_]:
    """The methods of an expression, or of a list of them: what is left out follows the model, and that is said in a
    line on the error console.

    Raises:
        UserError: see ``methods.parse_methods``, or no such model.
    """
    from bsr_explorer.cli.console import err
    from bsr_explorer.prediction import geometry_of

    general, geometry = parse_methods(text), geometry_of(config)
    made = parse_methods(text, geometry)
    follow = {
        str(mine): other.name
        for one, another in zip(general, made, strict=True)
        for other, mine in zip(parts_of(one), parts_of(another), strict=True)
        if other != mine
    }
    without = "" if geometry.class_token else " and no class token"
    for mine, name in follow.items():
        err.print(
            f"{name} follows the model, which has {geometry.depth} blocks{without}: {mine}",
            markup=False,
            soft_wrap=True,
        )
    return made


def checked_geometry(config: Config, fidelity: Fidelity) -> Geometry:
    """The geometry of a configuration's model, if it also takes the images that it is trained at.

    Raises:
        UserError: of ``--image-size``, or of ``--proxy-size``.
    """
    from bsr_explorer.prediction import geometry_of

    geometry = geometry_of(config)
    try:
        geometry_of(fidelity.at(config))
    except UserError as error:
        raise UserError(str(error).replace("--image-size", "--proxy-size", 1)) from None
    return geometry


def check_model_data(data: str, data_dir: Path, model: str) -> None:
    """Check a data set, and that it is of what a model takes, before any work is done.

    Raises:
        UserError: see ``data.places.check_data`` and ``check_kind``.
    """
    from bsr_explorer.data.places import check_data, check_kind
    from bsr_explorer.models.architecture import architecture_of
    from bsr_explorer.models.inputs import TOKENS

    check_kind(data, model, architecture_of(model).takes is TOKENS)
    check_data(data, data_dir)


def batch_sizes(text: str) -> tuple[int, ...]:
    """The numbers of a list such as ``16,32,64``."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(
            f"--batch-size: {text!r} must be a whole number of at least 1, or several, such as 16,32,64"
        )
    return tuple(int(part) for part in parts)


def rungs(text: str) -> tuple[int, ...]:
    """The epochs of a list such as ``1,3``, or none."""
    parts = [] if text.strip() == "none" else [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--rungs: {text!r} must be whole numbers of epochs, such as 1,3, or none")
    return tuple(map(int, parts))
