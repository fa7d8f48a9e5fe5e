"""The names that timm knows, read from its source: a typo is answered without importing timm, which takes seconds.

Once timm is imported it is asked itself, for models may have been registered with it since.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from fnmatch import fnmatch
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_MODEL = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)

_NAMED = re.compile(r"^\s*['\"](\w+)(?:\.(\w+))?['\"]\s*:", re.MULTILINE)
"""A key such as ``'name.tag':`` of the pretrained weights, or ``'name':`` of the names that timm had before."""


def is_model(name: str) -> bool:
    """Whether timm has a model of this name (without a tag), a deprecated one among them."""
    models, named = _source()
    if "timm" not in sys.modules and (name in models or name not in named):
        return name in models
    import timm  # for what is named there may be something else

    return bool(timm.is_model(name))


def vision_transformers() -> list[str]:
    """The names of timm's models that look like vision transformers, for suggestions."""
    models: Collection[str] = _source()[0]
    if "timm" in sys.modules:
        import timm

        models = timm.list_models()
    others = ("swin", "levit", "mobilevit")
    wanted = (name for name in models if fnmatch(name, "*vit*") or fnmatch(name, "*deit*"))
    return sorted(name for name in wanted if not any(other in name for other in others))


def tags(name: str) -> list[str]:
    """The pretrained weights that timm has for a model, as ``name.tag``."""
    found = sorted(f"{name}.{tag}" for tag in _source()[1].get(name, ()))
    if found:
        return found
    import timm  # which makes some of its names as it is imported

    return list(timm.list_pretrained(f"{name}.*"))


@cache
def _source() -> tuple[frozenset[str], dict[str, set[str]]]:
    """What stands in the files of timm's models: their names, and everything that is named, with its tags."""
    spec = find_spec("timm")
    assert spec is not None and spec.origin is not None
    models: set[str] = set()
    named: dict[str, set[str]] = {}
    for path in (Path(spec.origin).parent / "models").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        models.update(_MODEL.findall(text))
        for name, tag in _NAMED.findall(text):
            named.setdefault(name, set()).update({tag} if tag else ())
    return frozenset(models), named
