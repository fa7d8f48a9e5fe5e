"""Whether timm knows a model by this name."""

from __future__ import annotations

from bsr_explorer.errors import UserError, nearest
from bsr_explorer.models import timm_names
from bsr_explorer.models.hub import check_on_hub
from bsr_explorer.models.names import ALIASES, HUB, timm_name


def check_model(model: str) -> None:
    """Refuse a name that timm does not know, with the nearest that it does.

    Raises:
        UserError: the name is neither an alias nor a timm model.
    """
    if model in ALIASES:
        return
    model = timm_name(model)
    if model.startswith(HUB):
        check_on_hub(model)
        return
    base = model.split(".")[0]
    if not timm_names.is_model(base):
        close = nearest(model, [*ALIASES, *timm_names.vision_transformers()])
        hint = f" (nearest: {', '.join(close)})" if close else ""
        raise UserError(
            f"--model: unknown model {model!r}{hint}; choose an alias ({', '.join(ALIASES)}) "
            "or the timm name of a vision transformer"
        )
    if model != base and model not in (tags := timm_names.tags(base)):
        raise UserError(
            f"--model: {base} has no pretrained tag {model[len(base) + 1 :]!r}; choose from {', '.join(tags)}"
        )
