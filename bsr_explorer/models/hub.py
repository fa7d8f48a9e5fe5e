"""The model hub: whether it answers, and what it says of a model that is named by its repository, hf-hub:owner/name."""

from __future__ import annotations

import threading
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from bsr_explorer.errors import UserError
from bsr_explorer.models.names import ALIASES, HUB


def answers(timeout: float = 3.0) -> bool:
    """Whether the hub answers within ``timeout`` seconds.

    Asked first because the hub's own client retries for most of a minute where there is no network. In
    a thread because the timeout of a connection does not cover the look-up of its address.
    """
    from huggingface_hub import constants

    answered = threading.Event()

    def ask() -> None:
        try:
            with urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=timeout):
                answered.set()
        except HTTPError as error:
            if error.code < 500:
                answered.set()
        except (OSError, HTTPException, ValueError):  # the last for a malformed HF_ENDPOINT
            pass

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout)
    return answered.is_set()


def pretrained_cfg(name: str) -> Any:
    """timm's configuration of a model's weights (repository, file, normalisation, licence); None if it has none.

    Args:
        name: of timm, or ``hf-hub:owner/name``.

    Raises:
        UserError: a repository that is not to be had, or holds no model of timm.
    """
    import timm

    if not name.startswith(HUB):
        return timm.get_pretrained_cfg(name, allow_unregistered=True)
    return timm.models.PretrainedCfg(**_on_hub(name)[0])


def check_on_hub(name: str) -> None:
    """Refuse a repository that is not to be had, or holds no model of timm.

    Raises:
        UserError: with what else there is.
    """
    _on_hub(name)


def _on_hub(name: str) -> tuple[dict[str, Any], str]:
    """What a repository says of its weights, and the model's name in timm."""
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    others = f"choose an alias ({', '.join(ALIASES)}) or the timm name of a vision transformer"
    identity = name.removeprefix(HUB)
    repository, _, revision = identity.partition("@")
    try:
        cached = try_to_load_from_cache(repository, "config.json", revision=revision or None)
    except ValueError:  # HFValidationError
        raise UserError(
            f"--model: {name!r} names no repository; write {HUB}owner/name, or {others}"
        ) from None
    if not isinstance(cached, str):
        if constants.HF_HUB_OFFLINE:
            raise UserError(
                f"--model: HF_HUB_OFFLINE is set, and {repository} is not in the hub's cache; {others}"
            )
        if not answers():
            raise UserError(
                f"--model: {name}: the model hub cannot be reached ({constants.ENDPOINT}), and {repository} is not in "
                f"its cache; {others}"
            )
    try:
        weights, model, _ = timm.models.load_model_config_from_hf(identity)
        known = timm.is_model(model)
    except Exception as error:  # which errors the client raises depends on its release
        why = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        raise UserError(f"--model: {name} cannot be read from the hub ({why}); {others}") from None
    if not known:
        raise UserError(f"--model: {name} is the model {model!r}, which timm does not know; {others}")
    return dict(weights), str(model)
