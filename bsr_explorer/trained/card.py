"""The model card: what was trained, on which data, its accuracy and cost, and how to use it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from bsr_explorer.data.contents import Contents
from bsr_explorer.methods.base import TOKENS
from bsr_explorer.methods.composed import parts_of
from bsr_explorer.models.names import timm_name
from bsr_explorer.models.weights import licence_of, tagged
from bsr_explorer.prediction import predict
from bsr_explorer.quality import ACCURACY
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.records import Record
from bsr_explorer.trained import onnx
from bsr_explorer.trained import weights as trained
from bsr_explorer.units import format_bytes, format_flops, format_number, plural

FILE = "model_card.md"
"""Its name in a training's folder."""

MOST_ROWS = 100
"""Classes that the card gives a row each; of more it names the first."""


def model_card(
    experiment: Experiment,
    record: Record,
    about: trained.About,
    files: Sequence[Path],
    apart: float | None,
    origin: str,
) -> str:
    """The card in Markdown.

    Args:
        record: of the training.
        about: what stands beside the weights.
        files: what was written beside the card.
        apart: see ``onnx.difference``; None if it was not compared.
        origin: where the configuration comes from, in words, or empty.
    """
    parts = [
        _head(experiment, about, origin),
        _quality(record, origin),
        _data(record),
        _cost(record, about),
        _usage(about),
        _onnx(about, apart) if any(file.name == onnx.FILE for file in files) else "",
        _making(experiment, record, about, files),
        _limits(record, about),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(experiment: Experiment, about: trained.About, origin: str) -> str:
    config = about.config
    parts = getattr(config.how, "parts", (config.how,))
    does = "".join(f"\n- `{part.name}`: {part.summary}; {part.citation}" for part in parts)
    said = f"\n\n{origin}" if origin else ""
    size = config.image_size
    of = (
        f"images of {size} × {size} pixels and {config.num_classes} classes"
        if about.mean
        else f"sequences of {size} tokens, which are bytes"
    )
    return (
        f"# {experiment.name}\n\n`{timm_name(config.model)}` for {of}, fine-tuned on `{experiment.data}` by "
        f"`{config.method}`:\n{does}"
        f"{said}"
    )


def _quality(record: Record, origin: str) -> str:
    protocol = record.protocol
    last = f"after epoch {record.history_epochs[-1]} of {record.fidelity['epochs']}, the last"
    quality = record.judged
    head = "top-1 accuracy" if quality is ACCURACY else quality.brief
    rows = [[f"{quality.judges}s", head, "of the model"]]
    test = f"test ({_images(record, 'test')})"
    if protocol.best:
        best = record.history_epochs[record.scores.index(max(record.scores))]
        count = len(record.history)
        rows.append(
            [
                test,
                _said(record, record.score),
                f"{protocol.mark}; after epoch {best}, of {plural(count, 'evaluation')}",
            ]
        )
        rows.append([test, _said(record, record.test_score), f"{last}: these weights"])
    else:
        rows.append([f"validation ({_images(record, 'validation')})", _said(record, record.score), last])
        again = "" if record.test_score is None else "the same, once"
        rows.append([test, _said(record, record.test_score), again])
    text = f"## {quality.name.capitalize()}\n\nProtocol {protocol.name}: {protocol.summarised(quality)}."
    text += f"\n\n{_table(rows)}"
    if record.by_task:
        text += (
            "\n\nOf several tasks: an accuracy is the mean of theirs, and each is counted among the classes of its own "
            f"task alone. By task: {record.by_task}."
        )
    unit = f", {quality.unit}" if quality.unit else ""
    if len(record.history) > 1:
        way = ", ".join(
            f"{epoch}: {quality.bare(score)}"
            for epoch, score in zip(record.history_epochs, record.scores, strict=True)
        )
        text += f"\n\nOn {protocol.judged_on} after each epoch{unit}: {way}."
    if origin:
        text += (
            f"\n\nThe configuration was chosen by its {quality.name} on validation {quality.judges}s of the same data, "
            f"so that {quality.name} on them flatters it."
        )
    return text


def _data(record: Record) -> str:
    """The classes and the images of each, and what was left out; empty of a record that does not know."""
    contents = Contents(record.classes, record.left_out)
    if not record.classes:
        return ""
    names = list(record.classes["train"])
    text = f"## Data\n\n{contents.of_classes()}."
    if len(names) <= MOST_ROWS:
        parts = list(record.classes)
        rows = [[name, *(f"{record.classes[part][name]:,}" for part in parts)] for name in names]
        text = f"## Data\n\n{len(names)} classes, and the images of each:\n\n{_table([['class', *parts], *rows])}"
    if record.left_out:
        text += f"\n\nFiles that were left out: {contents.of_left_out()}."
    if damaged := record.fidelity.get("skip"):
        text += f" The damaged ones are {', '.join(f'`{name}`' for name in damaged)}."
    return text


def _cost(record: Record, about: trained.About) -> str:
    """Memory and FLOPs of a step: as trained, and as configured where that is another size."""
    config = about.config
    mine, measured = predict(config), record.measured or {}
    quality = record.judged
    size = quality.size(config.image_size)
    rows = [["", "predicted", "measured", "difference"]]
    for kind, name, bytes_ in (
        ("peak", "peak memory", mine.peak_bytes),
        ("saved", "saved activations, of it", mine.saved_bytes),
    ):
        predicted = int(measured.get(f"predicted_{kind}_bytes", bytes_))
        found = measured.get(f"{kind}_bytes")
        there = (
            [format_bytes(found), f"{found - predicted:+,} bytes"]
            if found is not None
            else ["not measured", ""]
        )
        rows.append([f"{name}, {size}", format_bytes(predicted), *there])
    rows.append([f"forward, {size}", format_flops(mine.forward_flops), "", ""])
    rows.append([f"forward, backward and update, {size}", format_flops(mine.train_flops), "", ""])
    used = predict(trained.at_inference(config)).forward_flops
    if used != mine.forward_flops and any(TOKENS in part.chooses for part in parts_of(config.how)):
        rows.append([f"forward at inference, with all tokens, {size}", format_flops(used), "", ""])
    configured = int(record.config["image_size"])
    if configured != config.image_size:
        peak, flops = record.predicted["peak_bytes"], record.predicted["train_flops"]
        rows.append([f"peak memory, {quality.size(configured)}", format_bytes(peak), "not run", ""])
        rows.append(
            [f"forward, backward and update, {quality.size(configured)}", format_flops(flops), "", ""]
        )
    text = (
        f"## Memory and compute\n\nOf one training step of {plural(config.batch_size, quality.judges)}; MB is "
        "10^6 bytes, "
        f"MiB 2^20, and a multiply-add is 2 FLOPs.\n\n{_table(rows)}"
    )
    few = measured.get("batch_size", config.batch_size)
    if few != config.batch_size:
        text += f"\n\nMeasured and predicted bytes are those of {plural(few, quality.judges)}: there were no more."
    if "fault" in measured:
        text += f"\n\n**{measured['fault']}**"
    return text


def _usage(about: trained.About) -> str:
    """Snippets that work."""
    config = about.config
    if not about.mean:
        return _usage_of_text()
    name, size = timm_name(config.model), config.image_size
    side = f"[{size}, {size}]" if about.squash else str(size)
    if about.as_timm:
        load = (
            "import timm\n\n"
            f'model = timm.create_model(\n    "{name}",\n    num_classes={config.num_classes},\n    img_size={size},\n'
            f'    checkpoint_path="{trained.FILE}",\n).eval()'
        )
        why = "It is a plain timm model:"
    else:
        load = f'import bsr_explorer as bx\n\nmodel = bx.load("{trained.FILE}")'
        why = (
            f"**Plain timm gives other logits with these weights.** They load into timm's `{name}` too, but "
            f"`{config.how.at_inference}` goes on at inference, and plain timm knows nothing of it. This computes what "
            f"was trained, and so does an ONNX file (`--export onnx`), which needs neither:"
        )
    if config.precision == "bf16":
        load += "\nmodel = model.float()  # it was trained in bf16"
    return (
        f"## Use\n\n{why}\n\n```python\n{load}\n```\n\n"
        "```python\nimport torch\nfrom PIL import Image\nfrom torchvision.transforms import InterpolationMode, v2\n\n"
        f'transform = v2.Compose(\n    [\n        v2.Resize({side}, InterpolationMode("{about.interpolation}")),\n'
        f"        v2.CenterCrop({size}),\n        v2.ToImage(),\n        v2.ToDtype(torch.float32, scale=True),\n"
        f"        v2.Normalize({_numbers(about.mean)}, {_numbers(about.std)}),\n    ]\n)\n"
        f"classes = {_names(about.classes)}\n"
        'images = transform(Image.open("image.png").convert("RGB")).unsqueeze(0)\n'
        f"with torch.no_grad():\n    logits = model(images)  # (1, {config.num_classes})\n"
        "print(classes[logits.argmax().item()])\n```\n\n"
        "An image of more than 8 bits a channel is scaled to 8 first, as `bsr_explorer.data.reading.to_rgb` does: "
        '`convert("RGB")` makes it white.'
    )


def _usage_of_text() -> str:
    return (
        "## Use\n\nTokens are bytes, and the logits of each are those of the next one:\n\n```python\nimport torch\n\n"
        f'import bsr_explorer as bx\n\nmodel = bx.load("{trained.FILE}")\n'
        'tokens = torch.tensor([list("import ".encode())])\nwith torch.no_grad():\n    logits = model(tokens)  # '
        "(1, 7, vocabulary)\nprint(bytes([logits[0, -1].argmax().item()]))\n```\n\n"
        "What another fine-tuning begins with, by `--weights`, is the same file."
    )


def _onnx(about: trained.About, apart: float | None) -> str:
    batches = " and ".join(map(str, onnx.BATCHES))
    compared = (
        "It was not compared with torch: onnxruntime is not installed."
        if apart is None
        else f"Compared with torch on random images, for batches of {batches}: logits differ by at most {apart:.1e} of "
        "the largest."
    )
    return (
        f"## ONNX\n\n`{onnx.FILE}` takes any number of images, in fp32. {compared}\n\n```python\nimport onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{onnx.FILE}")\n'
        '(logits,) = session.run(None, {"images": images.numpy()})\n```'
    )


def _making(experiment: Experiment, record: Record, about: trained.About, files: Sequence[Path]) -> str:
    from bsr_explorer.train.recipes import recipe

    config, made = record.config, record.provenance
    source = record.weights.partition(":")[0]
    name = record.fidelity["recipe"]
    rules = recipe(name, experiment.data)
    licence = licence_of(source, tagged(timm_name(about.config.model), rules.tag))
    options = " --test" if record.test_score is not None else ""
    options += " --export onnx" if any(file.name == onnx.FILE for file in files) else ""
    rows = [
        ["", ""],
        ["model", f"`{timm_name(about.config.model)}`"],
        ["method", f"`{config['method']}`"],
        ["data", f"`{experiment.data}`"],
        ["split", record.split],
        ["started from", f"{record.weights}; licence: {licence or 'not known here'}"],
        [
            f"{record.judged.judges}s",
            f"{record.judged.size(about.config.image_size)}, {config['batch_size']} a step",
        ],
        ["step", f"{config['optimizer']}, {config['precision']}, {config['attention']} attention"],
        ["recipe", f"`{name}` ({rules.source})"],
        ["protocol", record.protocol.name],
        ["learning rate", str(config["lr"]) if config.get("lr") else "the recipe’s"],
        [
            "length",
            f"{plural(record.fidelity['epochs'], 'epoch')}, {plural(record.images_trained, record.judged.judges)}, "
            f"{format_number(record.seconds)} s",
        ],
        ["seed", str(record.seed)],
        ["machine", f"{made['device']}: {made['processor']}, {plural(made['threads'], 'thread')}"],
        [
            "versions",
            ", ".join(
                f"{key} {made[key]}" for key in ("bsr_explorer", "torch", "timm", "torchvision", "numpy")
            ),
        ],
        ["commit", str(made["commit"] or "not known")],
        ["time", str(made["time"])],
    ]
    return (
        f"## How it was made\n\n{_table(rows)}\n\n```bash\n{made['command']}\n```\n\nOr, from this folder alone:\n\n"
        f"```bash\nbsr-explore train train.toml{options} --out again\n```"
    )


def _limits(record: Record, about: trained.About) -> str:
    return "## What it is not\n\n" + "\n".join(f"- {line}" for line in _known_limits(record, about))


def _known_limits(record: Record, about: trained.About) -> Iterator[str]:
    config, fidelity = about.config, record.fidelity
    configured = record.config["image_size"]
    size = record.judged.size(config.image_size)
    if configured != config.image_size:
        yield (
            f"Trained at {size}, a smaller proxy of the configuration's {record.judged.size(configured)}: it "
            "is a model "
            f"for {record.judged.judges}s of {size}."
        )
    if some := re.findall(r"train (\d+) of (\d+)", record.split):
        used, whole = (sum(map(int, each)) for each in zip(*some, strict=True))
        yield f"Trained on {used} of the {whole} training {record.judged.judges}s."
    if fidelity["recipe"] == "short":
        yield "Trained by a recipe of few epochs that is meant to rank configurations, not to make the best of one."
    if record.weights.startswith("random"):
        yield "Not fine-tuned: it started from random weights."
    if record.test_score is None:
        yield f"Not evaluated on test {record.judged.judges}s: `--test` does it."
    yield f"One training with one seed; another seed gives another {record.quality}."
    yield f"Of {record.judged.judges}s other than those of `{record.data}` nothing is known."


def _images(record: Record, part: str) -> str:
    found = re.findall(rf"\b{part} (\d+)", record.split)  # of several tasks, once each
    judges = record.judged.judges
    return plural(sum(map(int, found)), judges) if found else f"{judges}s"


def _said(record: Record, score: float | None) -> str:
    return "not evaluated" if score is None else record.judged.text(score)


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(map(repr, values))}]"


def _names(classes: Sequence[str]) -> str:
    return f"[{', '.join(map(repr, classes))}]"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
