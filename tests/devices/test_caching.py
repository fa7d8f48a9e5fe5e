"""Settings of torch's allocator: each is followed, changes nothing, or is refused by its name."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer import prediction
from bsr_explorer.config import Config
from bsr_explorer.devices import device_of
from bsr_explorer.devices.caching import _READ, Caching, MiB, caching
from bsr_explorer.errors import UserError
from bsr_explorer.prediction import predict


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("", Caching()),
        ("expandable_segments:False", Caching()),
        ("expandable_segments:True", Caching(expandable=True)),
        ("roundup_power2_divisions:4", Caching(divisions=4)),
        (
            "max_split_size_mb:128, max_non_split_rounding_mb:32",
            Caching(max_split=128 * MiB, most_beyond=32 * MiB),
        ),
        ("backend:native,pinned_num_register_threads:8", Caching()),
        ("pinned_use_background_threads:True,expandable_segments:True", Caching(expandable=True)),
    ],
)
def test_what_is_followed(text: str, made: Caching) -> None:
    found = caching({"PYTORCH_CUDA_ALLOC_CONF": text})
    assert replace(found, said="") == made
    assert bool(found.said) == (made != Caching())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("garbage_collection_threshold:0.8", "garbage_collection_threshold:0.8 gives segments back"),
        ("large_segment_size_mb:64", "large_segment_size_mb:64 changes the size of segments"),
        ("backend:cudaMallocAsync", "backend:cudaMallocAsync is another allocator"),
        ("roundup_power2_divisions:[256:1,>:8]", "roundup_power2_divisions:[256:1,>:8] is a list"),
        ("roundup_power2_divisions:3", "roundup_power2_divisions:3 must be a power of two"),
        ("max_split_size_mb:10", "max_split_size_mb:10 must be a whole number of at least 20"),
        ("expandable_segments:true", "expandable_segments:true must be True or False"),
        ("expandable_segments:True,gc:1", "gc:1 is no setting that is known here"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    refused = caching({"PYTORCH_ALLOC_CONF": text}).refused
    assert refused.startswith(f"PYTORCH_ALLOC_CONF: {why}")
    assert refused.endswith("; take it out of the variable to predict memory on CUDA")


def test_every_setting_is_followed_or_refused_or_changes_nothing() -> None:
    values = ("True", "32", "native")
    for name in _READ:
        each = [caching({"PYTORCH_ALLOC_CONF": f"{name}:{value}"}) for value in values]
        assert any(not made.refused for made in each) or all(name in made.refused for made in each)


def test_the_first_variable_counts() -> None:
    both = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "PYTORCH_CUDA_ALLOC_CONF": ""}
    assert caching(both) == Caching()
    assert caching({"PATH": "/bin"}) == Caching()


@given(st.integers(1, 2**32), st.sampled_from([0, 1, 2, 4, 16]))
def test_rounding_is_up_by_one_part_at_most(size: int, divisions: int) -> None:
    how = Caching(divisions=divisions)
    rounded = how.rounded(size)
    assert rounded % 512 == 0
    assert size <= rounded <= max(size + 511, size + size // max(1, divisions) if divisions > 1 else 0)
    assert how.rounded(rounded) == rounded


def test_a_configuration_on_cuda_is_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config("deit_t", batch_size=16, method="full", device="cuda", gpu="a100")
    plain = predict(config)
    assert plain.reserved_bytes >= plain.peak_bytes
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    device = device_of("cuda/a100")
    assert device.compared.endswith("not on A100, not with PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True")
    prediction._predicted.cache_clear()  # torch reads the variable once a process
    there = predict(config)
    assert plain.saved_bytes == there.saved_bytes
    assert there.peak_bytes <= there.reserved_bytes < plain.reserved_bytes
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "garbage_collection_threshold:0.8")
    with pytest.raises(UserError, match="PYTORCH_CUDA_ALLOC_CONF: garbage_collection_threshold"):
        replace(config)
    assert replace(config, device="cpu", gpu=None).device == "cpu"
    prediction._predicted.cache_clear()
