"""The names read from timm's source are those that timm itself knows."""

from __future__ import annotations

import json
import subprocess
import sys

import timm
from timm.models import _registry

ASKED = """
import json, sys
from bsr_explorer.models import timm_names
models, named = timm_names._source()
tagged = [f"{name}.{tag}" for name in models for tag in named.get(name, ())]
asked = [timm_names.is_model(name) for name in ("deit_small_patch16_224", "deit_x")]
asked += [timm_names.tags("deit_small_patch16_224"), "vit_nano" in timm_names.vision_transformers()]
print(json.dumps([sorted(models), sorted(named), tagged, asked, "timm" in sys.modules]))
"""


def test_they_are_read_without_timm_and_are_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, check=True)
    models, named, tagged, asked, loaded = json.loads(done.stdout)
    assert not loaded
    assert asked == [True, False, ["deit_small_patch16_224.fb_in1k"], False]
    own = [n for n in timm.list_models() if _registry._model_entrypoints[n].__module__.startswith("timm.")]
    assert models == sorted(own)
    assert set(_registry._deprecated_models) <= set(named)
    # A name with tags that are not read here has none that are: timm is asked for them, then.
    missing = {name.split(".")[0] for name in set(timm.list_pretrained()) - set(tagged)}
    assert not missing & {name.split(".")[0] for name in tagged}
