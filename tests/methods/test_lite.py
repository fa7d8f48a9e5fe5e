"""Lite residual modules on a tape: which numbers go with which models."""

from __future__ import annotations

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.methods import RepNet, TinyTL, parse_method
from bsr_explorer.methods.lite import check_sizes, side_of
from bsr_explorer.models.architecture import geometry
from bsr_explorer.models.vit.step import step_tape
from bsr_explorer.prediction import tape_of

pytestmark = pytest.mark.usefixtures("toy")


@pytest.mark.parametrize(
    ("width", "side", "r", "groups", "says"),
    [
        (
            32,
            1,
            8,
            2,
            "takes patches two by two, and an image of this --image-size has one; take a larger one",
        ),
        (32, 3, 8, 3, "a width of 32 is no multiple of groups; groups must be one of 1, 2, 4, 8, 16, 32$"),
        (12, 3, 8, 2, "a width of 12 in 2 groups is no multiple of r; r must be one of 1, 2, 3, 6$"),
    ],
)
def test_what_does_not_go_is_refused_with_what_does(
    width: int, side: int, r: int, groups: int, says: str
) -> None:
    for kind in (RepNet, TinyTL):
        method = kind(r, groups)
        with pytest.raises(UserError, match=says) as refused:
            check_sizes(method, width, side, r, groups)
        assert str(refused.value).startswith(f"--method: {method}")
        assert "\n" not in str(refused.value)


def test_what_goes_is_not_refused() -> None:
    check_sizes(RepNet(), 384, 14, 8, 2)
    check_sizes(TinyTL(16, 3), 48, 2, 16, 3)


@pytest.mark.parametrize("name", ["repnet", "tinytl"])
@pytest.mark.parametrize(("argument", "value"), [("r", 0), ("r", 2.5), ("groups", True)])
def test_no_numbers_are_refused_by_their_name(name: str, argument: str, value: object) -> None:
    with pytest.raises(
        UserError, match=rf"{name}\({argument}={value!r}\): {argument} must be a whole number"
    ):
        parse_method(f"{name}({argument}={value!r})")


def test_a_grid_is_that_of_the_patches_alone() -> None:
    assert side_of(tape_of(Config("toy", 48, 5, 2, method="full")), "blocks.3.out") == 3
    plain = step_tape(geometry("deit_t", 64, 5), 1, "math")  # type: ignore[arg-type]
    assert side_of(plain, "blocks.3.out") == 4
