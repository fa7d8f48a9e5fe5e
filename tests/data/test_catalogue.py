"""The data sets that there are."""

from __future__ import annotations

import torchvision

from bsr_explorer.data.catalogue import DATASETS


def test_the_registry_names_torchvision_s_classes() -> None:
    for name, info in DATASETS.items():
        assert name == info.name
        assert not info.torchvision or hasattr(torchvision.datasets, info.torchvision)
