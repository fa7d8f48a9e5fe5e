"""Proxies of a study's fidelity: what they are, and what is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.errors import UserError
from bsr_explorer.store.study import FILE, Study
from tests.store.test_study import STUDY

SEVERAL = replace(STUDY, sampler="exact", proxies=("32x10", "16x20"))


def test_proxies_are_fidelities_of_smaller_and_fewer_images(tmp_path: Path) -> None:
    own, fewer, smaller = SEVERAL.fidelities
    assert own == STUDY.fidelity
    assert fewer == replace(own, train_size=10)
    assert smaller == replace(own, image_size=16)
    SEVERAL.write(tmp_path, "a command")
    assert Study.from_toml(tmp_path / FILE) == SEVERAL


def test_a_study_without_them_is_another_one() -> None:
    (said,) = SEVERAL.differences(replace(SEVERAL, proxies=()))
    assert "proxies" in said


@pytest.mark.parametrize("text", ["32", "32x", "x20", "-1x20", "32x2.5", "a x b"])
def test_a_proxy_is_a_size_and_a_number(text: str) -> None:
    with pytest.raises(UserError, match="such as 112x256"):
        replace(SEVERAL, proxies=(text,))


@pytest.mark.parametrize("text", ["32x20", "48x10", "16x21"])
def test_a_proxy_is_cheaper(text: str) -> None:
    with pytest.raises(UserError, match="not cheaper than the study's own fidelity, 32 px and 20"):
        replace(SEVERAL, proxies=(text,))


@given(st.integers(1, 32), st.integers(1, 20))
def test_any_that_is_cheaper_is_taken(size: int, images: int) -> None:
    if (size, images) != (32, 20):
        assert replace(SEVERAL, proxies=(f"{size}x{images}",)).fidelities[1].image_size == size


def test_only_the_exact_sampler_takes_them() -> None:
    with pytest.raises(UserError, match="only the sampler exact"):
        replace(STUDY, proxies=("16x10",))
