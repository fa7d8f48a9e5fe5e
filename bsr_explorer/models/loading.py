"""Weights of a file, put into a model where they fit."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bsr_explorer.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class WeightsUsed:
    """Where a model's weights came from.

    Attributes:
        source: the kind.
        detail: which exactly: the hub's repository, the file and its hash, the package, or the seed.
    """

    source: Literal["hub", "file", "offline", "random"]
    detail: str


def load_file(model: nn.Module, timm_name: str, weights: str) -> WeightsUsed:
    path = Path(weights).expanduser()
    state = _read_checkpoint(path)
    try:
        state = _timm_filter(model, state)
    except Exception as error:  # the filter takes a file of the model's family for granted
        raise _not_this_model(path, timm_name, f"timm cannot convert it ({_first_line(error)})") from error
    with_head = _head_fits(model, state)
    if not with_head:
        state = _without_head(model, state)
    why = _load_if_it_fits(model, state)
    if why is not None:
        raise _not_this_model(path, timm_name, why)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return WeightsUsed("file", f"{path} (sha256 {digest}…{', with its head' if with_head else ''})")


def is_file_of(model: nn.Module, weights: str) -> bool:
    """Whether ``weights`` is a file that has all that the model has, but for a head."""
    state, head = _read_checkpoint(Path(weights).expanduser()), head_prefixes(model)
    return all(name in state for name in model.state_dict() if not name.startswith(head))


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, out of the usual wrappers; nothing but tensors is unpickled.

    timm's reader unwraps what training scripts write (``model``, ``state_dict``, ``state_dict_ema``,
    ``model_ema``) and strips the prefixes of DistributedDataParallel and torch.compile.
    """
    import timm
    import torch

    try:
        state = timm.models.load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors each have their own
        raise UserError(
            f"--weights: {path} cannot be read as a checkpoint ({_first_line(error)}); save a plain state "
            "dict of tensors, as torch.save(model.state_dict(), …) or safetensors do"
        ) from error
    strange = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if strange or not state:
        held = f"entries that are not tensors ({_few(strange)})" if strange else "nothing"
        raise UserError(f"--weights: {path} holds {held}; give a file that holds a model's state dict")
    return dict(state)


def _timm_filter(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert a checkpoint as timm does on loading: the authors' names, other grids and patch sizes."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return state if convert is None else dict(convert(state, model))


def load_backbone(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict that is known to fit, all but its head."""
    why = _load_if_it_fits(model, _without_head(model, state))
    assert why is None, why


def _load_if_it_fits(model: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """Load ``state`` if all of it fits all of ``model``, which may keep its head; else say what does not."""
    own = model.state_dict()
    head = head_prefixes(model)
    wrong = {
        "missing": [name for name in own if name not in state and not name.startswith(head)],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [name for name in own if name in state and own[name].shape != state[name].shape],
    }
    if any(wrong.values()):
        return "keys " + ", ".join(
            f"{how}: {len(names)} ({_few(names)})" for how, names in wrong.items() if names
        )
    model.load_state_dict(state, strict=False)
    return None


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """What the names of the head's parameters start with (a distilled model has two heads)."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    names = config.get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def _head_fits(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether ``state`` brings the whole head, in the model's shapes."""
    prefixes = head_prefixes(model)
    head = {name: own.shape for name, own in model.state_dict().items() if name.startswith(prefixes)}
    return bool(head) and all(name in state and state[name].shape == shape for name, shape in head.items())


def _without_head(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefixes = head_prefixes(model)
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def _not_this_model(path: Path, timm_name: str, why: str) -> UserError:
    return UserError(
        f"--weights: {path} does not fit {timm_name}: {why}; nothing was loaded: choose a checkpoint of "
        "this model, or hub, offline or random"
    )


def _few(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def _first_line(error: Exception) -> str:
    """An error from elsewhere, in a form that fits into one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]
