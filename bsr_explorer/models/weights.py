"""Which weights a model starts from: the hub's, a file's, the offline backbone's, or random ones.

Weights load completely or not at all, and what was loaded is said in ``WeightsUsed``, which a record
keeps. Only the classification head is always fresh (unless a file brings one of the same shape).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsr_explorer.errors import UserError, unknown
from bsr_explorer.models import hub, offline
from bsr_explorer.models.architecture import architecture_of, build_model
from bsr_explorer.models.check import check_model
from bsr_explorer.models.loading import WeightsUsed, head_prefixes, is_file_of, load_backbone, load_file

if TYPE_CHECKING:
    from torch import nn

WORDS = ("auto", "hub", "offline", "random")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

_FILE = f"a checkpoint file ({', '.join(SUFFIXES)})"
_OFFLINE = f"offline ({offline.INSTALL}; for {', '.join(offline.FITS)})"


class _NoHubWeights(Exception):
    """The hub cannot be reached, or has no weights for a model; the text says which."""


def check_weights(weights: str) -> None:
    """Check a value of ``--weights`` before any work is done.

    Raises:
        UserError: neither a known word nor a checkpoint file that exists.
    """
    if weights in WORDS:
        return
    path = Path(weights).expanduser()
    choices = f"choose {', '.join(WORDS)} or {_FILE}"
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise UserError(f"--weights: there is no file {weights!r}; {choices}")
    elif path.exists() or path.suffix or len(path.parts) > 1:
        raise UserError(f"--weights: {weights!r} is not a file of weights; {choices}")
    else:
        raise unknown("--weights", weights, [*WORDS, _FILE])


def licence_of(source: str, timm_name: str) -> str | None:
    """The licence of weights by their source, where it is known: the hub's, as timm says it, and the offline ones'."""
    if source == "offline":
        return offline.LICENCE
    if source != "hub":
        return None
    config = hub.pretrained_cfg(timm_name)
    return config.license if config is not None else None


def create_model(
    timm_name: str,
    *,
    image_size: int,
    num_classes: int,
    weights: str = "auto",
    seed: int = 0,
    tag: str | None = None,
    head_std: float | None = None,
) -> tuple[nn.Module, WeightsUsed]:
    """Build a model, without dropout, and load its weights.

    Args:
        timm_name: name in timm, with or without a tag (``deit_small_patch16_224.fb_in1k``).
        image_size: side of the square images; position embeddings are resampled to it.
        num_classes: outputs of the head, which is freshly initialised. Only a file's head of the same
            shape is loaded.
        weights: ``hub``, ``offline``, ``random``, the path of a checkpoint, or ``auto``: the hub; if it
            cannot be reached or has none for this model, the offline weights if they are installed and
            fit. ``auto`` never means random weights.
        seed: of everything that is initialised at random. The global generator is left alone.
        tag: of the hub's weights, where the name has none and the hub has such weights of the model; None: timm's own
            choice.
        head_std: standard deviation of the fresh head's weights (0: zeros), beside which its biases are zeros; None:
            the model's own start.

    Returns:
        The model, on the CPU in fp32, and where its weights came from.

    Raises:
        UserError: the model or the weights are unknown, are not to be had, or do not fit each other.
    """
    check_weights(weights)
    architecture = architecture_of(timm_name)
    other = None if weights == "random" else architecture.begins_as(timm_name)
    if other is not None:
        model = _build(timm_name, image_size, seed, num_classes=num_classes)
        if weights not in WORDS and is_file_of(model, weights):
            return model, load_file(model, timm_name, weights)
        begun, used = create_model(
            other, image_size=image_size, num_classes=num_classes, weights=weights, seed=seed, tag=tag
        )
        done = architecture.begin(model, begun)
        if head_std is not None:
            _start_head(model, head_std, seed)
        return model, WeightsUsed(used.source, f"{used.detail}; {done}")
    if architecture.on_hub:
        check_model(timm_name)
    elif weights in ("auto", "hub", "offline"):
        raise UserError(
            f"--weights: there are no weights of {timm_name}, of the architecture {architecture.name}; choose {_FILE} "
            "or random"
        )
    model = _build(timm_name, image_size, seed, num_classes=num_classes)
    if head_std is not None:
        _start_head(model, head_std, seed)
    on_hub = tagged(timm_name, tag)
    if weights == "random":
        return model, WeightsUsed("random", f"seed {seed}")
    if weights == "auto":
        return model, _load_auto(model, on_hub, image_size)
    if weights == "offline":
        return model, _load_offline(model, timm_name)
    if weights == "hub":
        try:
            return model, _load_hub(model, on_hub, image_size)
        except _NoHubWeights as why:
            raise UserError(f"--weights hub: {why}; choose {_FILE}, {_OFFLINE} or random") from why
    return model, load_file(model, timm_name, weights)


def tagged(timm_name: str, tag: str | None) -> str:
    """The name with a tag, where it has none of its own and the hub has such weights of the model."""
    import timm

    if tag is None or "." in timm_name or not timm.models.is_model_pretrained(f"{timm_name}.{tag}"):
        return timm_name
    return f"{timm_name}.{tag}"


def _start_head(model: nn.Module, std: float, seed: int) -> None:
    """Draw the head's weights (within 2 of zero, as timm does), and set its biases to zero."""
    import torch

    random = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if name.startswith(head_prefixes(model)):
            torch.nn.init.zeros_(p)
            if std and p.ndim > 1:
                torch.nn.init.trunc_normal_(p, std=std, generator=random)


def _build(timm_name: str, image_size: int, seed: int, **options: Any) -> nn.Module:
    """Build a model on the CPU; neither it nor its seed touches the global generators."""
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the GPUs' generators too, which fork_rng does not restore here.
        torch.default_generator.manual_seed(seed)
        model: nn.Module = (
            timm.create_model(timm_name, img_size=image_size, **options)
            if options.get("pretrained")
            else build_model(timm_name, image_size, **options)
        )
    return model


def _load_auto(model: nn.Module, timm_name: str, image_size: int) -> WeightsUsed:
    try:
        return _load_hub(model, timm_name, image_size)
    except _NoHubWeights as why:
        obstacle = offline.obstacle(model, timm_name)
        if obstacle is None:
            return _load_offline(model, timm_name)
        raise UserError(f"--weights auto: {why}, and {obstacle}; choose {_FILE} or random") from why


def _load_offline(model: nn.Module, timm_name: str) -> WeightsUsed:
    obstacle = offline.obstacle(model, timm_name)
    if obstacle is not None:
        raise UserError(f"--weights offline: {obstacle}; choose hub, {_FILE} or random")
    load_backbone(model, offline.state_for(model, timm_name))
    return WeightsUsed("offline", offline.SOURCE)


def _load_hub(model: nn.Module, timm_name: str, image_size: int) -> WeightsUsed:
    """Load what timm's ``pretrained=True`` loads, from the cached file where there is one.

    The pretrained model is built whole, with its own head, because timm checks the file strictly only
    then; the backbone moves over.
    """
    repository, path = _hub_file(timm_name)
    # custom_load would read the file as the authors' own .npz, which it is not on the hub.
    overlay = {"file": str(path), "custom_load": False}
    pretrained = _build(timm_name, image_size, 0, pretrained=True, pretrained_cfg_overlay=overlay)
    load_backbone(model, pretrained.state_dict())
    return WeightsUsed("hub", repository)


def _hub_file(timm_name: str) -> tuple[str, Path]:
    """The hub repository of a model's weights, and the file: cached, or downloaded now.

    Raises:
        _NoHubWeights: the hub has no weights for the model, or cannot be reached.
        UserError: the hub answers but the download fails.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    config = hub.pretrained_cfg(timm_name)
    if config is None or not config.hf_hub_id:
        raise _NoHubWeights(f"the model hub has no weights for {timm_name}")
    repository, _, revision = config.hf_hub_id.partition("@")
    named = config.hf_hub_filename
    filenames = [named] if named else ["model.safetensors", "pytorch_model.bin"]
    for filename in filenames:
        cached = try_to_load_from_cache(repository, filename, revision=revision or None)
        if isinstance(cached, str):
            return config.hf_hub_id, Path(cached)
    if constants.HF_HUB_OFFLINE:
        raise _NoHubWeights(f"HF_HUB_OFFLINE is set, and {repository} is not in the hub's cache")
    if not hub.answers():
        raise _NoHubWeights(f"the model hub cannot be reached ({constants.ENDPOINT})")
    return config.hf_hub_id, _download(repository, filenames, revision or None)


def _download(repository: str, filenames: list[str], revision: str | None) -> Path:
    """The first of ``filenames`` that the hub's repository holds, through the hub's cache."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for filename in filenames:
        try:
            return Path(hf_hub_download(repository, filename, revision=revision))
        except LocalEntryNotFoundError as error:
            raise _NoHubWeights(f"the model hub cannot be reached ({constants.ENDPOINT})") from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # which errors the client raises depends on its release
            raise UserError(
                f"--weights: the model hub answers, but {repository} cannot be downloaded "
                f"({type(error).__name__}); try again, or choose {_FILE}, {_OFFLINE} or random"
            ) from error
    raise _NoHubWeights(f"the model hub has no weights in {repository}")
