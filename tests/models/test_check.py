"""Names that timm knows, and the nearest to those that it does not."""

from __future__ import annotations

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.models.check import check_model


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown model 'deit_tt' \(nearest: deit_t, "):
        check_model("deit_tt")


def test_a_name_like_no_other_lists_the_aliases() -> None:
    with pytest.raises(UserError, match="unknown model '~~~'; choose an alias") as error:
        check_model("~~~")
    assert "nearest" not in str(error.value)
