"""What single calls are seen to do, against what torch's derivative formulas say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bsr_explorer.errors import UserError
from bsr_explorer.models.traced.calls import Call, Given, Made, Place, Spec
from bsr_explorer.models.traced.observed import Observed
from bsr_explorer.operations.call import Facts, Happening
from bsr_explorer.storages.by_call import Packs
from tests.models.traced.small import Turning


def _facts(
    function: Callable[..., Any], *shapes: tuple[int, ...], needs: tuple[bool, ...], **kwargs: Any
) -> Facts:
    return Observed(_call(function, *shapes, **kwargs)).facts(needs)


def _call(function: Callable[..., Any], *shapes: tuple[int, ...], **kwargs: Any) -> Call:
    specs = [Spec.of(torch.empty(shape)) for shape in shapes]
    given = tuple(Given("read", f"x{n}", spec) for n, spec in enumerate(specs))
    places = tuple(Place(n) for n in range(len(shapes)))
    return Call("here", function, places, kwargs, given, (Made("y", specs[0]),))


def _kept(facts: Facts) -> set[tuple[str, int]]:
    return {(holds.what, holds.which) for holds in facts.kept if holds.what != "own"}


@pytest.mark.parametrize(
    ("needs", "kept", "backward"),
    [
        ((True, False), {("argument", 1)}, 1),
        ((False, True), {("argument", 0)}, 1),
        ((True, True), {("argument", 0), ("argument", 1)}, 2),
        ((False, False), set(), 0),
    ],
)
def test_a_product_keeps_the_other_factor(
    needs: tuple[bool, ...], kept: set[tuple[str, int]], backward: int
) -> None:
    facts = _facts(torch.matmul, (4, 3), (3, 5), needs=needs)
    assert _kept(facts) == kept
    assert facts.forward == 2 * 4 * 3 * 5 and facts.backward == backward * facts.forward
    assert facts.carries == (any(needs),)


def test_what_is_packed_is_brought_back_in_backward_and_forgotten() -> None:
    call = _call(torch.matmul, (4, 3), (3, 5))
    facts = Observed(call).facts((True, True), Packs(frozenset({0})))
    assert {(held.which, held.packed) for held in facts.kept} == {(0, True), (1, False)}
    place = next(place for place, held in enumerate(facts.kept) if held.packed)
    assert [each.what for each in facts.run] == ["pack", "make"]
    unwound = [(each.what, each.which) for each in facts.unwind if each.what in ("restore", "forget")]
    assert unwound == [("restore", place), ("forget", place)]


def test_what_two_of_a_call_read_is_brought_back_once() -> None:
    specs = (Given("read", "x", Spec.of(torch.empty(4, 4))),)
    call = Call("here", torch.matmul, (Place(0), Place(0)), {}, specs, (Made("y", specs[0].spec),))
    facts = Observed(call).facts((True,), Packs(frozenset({0})))
    assert [each.what for each in facts.run].count("pack") == 1 == len(facts.kept)
    assert [each.what for each in facts.unwind].count("restore") == 1


def test_a_result_is_packed_when_it_is_there() -> None:
    call = _call(F.softmax, (4, 3), dim=-1)
    facts = Observed(call).facts((True,), Packs(made=2))
    (held,) = facts.kept
    assert (held.what, held.packed) == ("result", True)
    assert [each.what for each in facts.run] == ["make", "pack"]
    assert Observed(call).facts((True,)).kept[0].packed is False


def test_a_copy_of_autocast_is_packed_as_the_argument_that_it_is_of() -> None:
    call = _call(torch.matmul, (4, 3), (3, 5))
    facts = Observed(call, torch.bfloat16).facts((True, True), Packs(frozenset({0, 1})))
    assert {(held.what, held.copy_of, held.dtype, held.shape) for held in facts.kept} == {
        ("own", 0, "bf16", (4, 3)),
        ("own", 1, "bf16", (3, 5)),
    }


def test_a_convolution_whose_bias_alone_trains_makes_both_gradients() -> None:
    specs = tuple(
        Given("read" if n == 0 else "parameter", f"x{n}", Spec.of(torch.empty(shape)))
        for n, shape in enumerate([(2, 3, 8, 8), (4, 3, 2, 2), (4,)])
    )
    places = tuple(Place(n) for n in range(3))
    call = Call("here", F.conv2d, places, {}, specs, (Made("y", Spec.of(torch.empty(2, 4, 7, 7))),))
    taken = [each.bytes for each in Observed(call).facts((False, False, True)).unwind if each.what == "take"]
    assert taken == [4 * 3 * 2 * 2 * 4]


def test_what_is_kept_before_a_product_is_there_before_it() -> None:
    specs = tuple(
        Given("read", f"x{n}", Spec.of(torch.empty(shape))) for n, shape in enumerate([(4, 3), (5, 3)])
    )
    call = Call("here", F.linear, (Place(0), Place(1)), {}, specs, (Made("y", Spec.of(torch.empty(4, 5))),))
    facts = Observed(call, torch.bfloat16).facts((True, True))
    assert [what for what, *_ in facts.kept] == ["own", "own"] and not facts.late
    assert [event.what for event in facts.run[: facts.early]] == [
        "take",
        "take",
    ]  # the copies that autocast makes
    assert "make" in [event.what for event in facts.run[facts.early :]]


def test_what_a_norm_keeps_is_there_when_it_has_computed() -> None:
    facts = _facts(lambda x: F.layer_norm(x, (3,)), (4, 3), needs=(True,))
    assert facts.late


def test_a_sum_keeps_nothing_and_passes_gradients_on() -> None:
    facts = _facts(torch.add, (4, 3), (4, 3), needs=(True, True))
    assert not facts.kept
    assert [happening.what for happening in facts.unwind] == ["pass", "pass"]


def test_a_sum_over_a_batch_makes_a_gradient_of_its_own() -> None:
    facts = _facts(torch.add, (4, 3), (1, 3), needs=(False, True))
    assert [(e.what, e.which) for e in facts.unwind if e.what == "give"] == [("give", 1)]


def test_softmax_keeps_its_result() -> None:
    assert _kept(_facts(F.softmax, (4, 3), needs=(True,), dim=-1)) == {("result", 0)}


def test_memory_of_its_own_that_is_kept_is_seen() -> None:
    facts = _facts(F.dropout, (4, 3), needs=(True,), p=0.5)
    assert [held for held in facts.kept if held.what == "own"]


def test_temporaries_come_and_go() -> None:
    facts = _facts(lambda x: (x * 2).sum(dim=0), (4, 3), needs=(False,))
    assert facts.run == (Happening("take", 0, 48), Happening("make", 0), Happening("drop", 0))


def test_integers_take_no_gradient() -> None:
    facts = _facts(lambda x: x.argmax(dim=1), (4, 3), needs=(True,))
    assert facts.carries == (False,) and not facts.kept


def test_a_call_that_cannot_be_made_alone_is_named() -> None:
    with pytest.raises(
        UserError, match=r"no rule for matmul of \(4, 3\), \(4, 3\) in here: made alone, it fails"
    ):
        _facts(torch.matmul, (4, 3), (4, 3), needs=(True, True))


_LSTM = torch.nn.LSTM(3, 4)


def _recurrent(x: torch.Tensor) -> Any:
    weights = {name: torch.empty_like(p) for name, p in _LSTM.named_parameters()}
    return torch.func.functional_call(_LSTM, weights, (x,))[0]


def test_products_that_nobody_counts_are_no_zero() -> None:
    with pytest.raises(UserError, match=r"nobody counts the FLOPs.*ask for a bound .--unknown bound."):
        _facts(_recurrent, (5, 2, 3), needs=(True,))


def test_asked_for_a_bound_they_are_named() -> None:
    facts = Observed(_call(_recurrent, (5, 2, 3))).bounding().facts((True,))
    assert facts.lacks.figures == ("forward_flops", "train_flops", "saved_bytes", "peak_bytes")
    assert "nobody counts the FLOPs of aten" in facts.lacks.why
    assert facts.carries == (True,) and facts.kept


def test_a_backward_that_looks_at_numbers_is_bounded_by_what_it_hands_on() -> None:
    call = _call(Turning.apply, (2, 3, 4))
    with pytest.raises(UserError, match=r"its backward cannot be made alone.*--unknown bound"):
        Observed(call).facts((True,))
    facts = Observed(call).bounding().facts((True,))
    assert facts.lacks.figures == ("train_flops", "peak_bytes")
    assert [held.what for held in facts.kept] == ["argument"]
    assert facts.unwind == (Happening("pass", 0, source=0),)


def test_no_bound_helps_where_the_call_itself_fails() -> None:
    with pytest.raises(UserError, match="made alone, it fails") as error:
        Observed(_call(torch.matmul, (4, 3), (4, 3))).bounding().facts((True, True))
    assert "--unknown" not in str(error.value)


def test_what_is_counted_lacks_nothing() -> None:
    call = _call(torch.matmul, (4, 3), (3, 5))
    assert Observed(call).bounding().facts((True, True)) == Observed(call).facts((True, True))


def test_calls_that_are_alike_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from bsr_explorer.models.traced import observed

    made: list[Call] = []
    plain = observed.observe

    def counting(call: Call, *args: Any) -> Facts:
        made.append(call)
        return plain(call, *args)

    monkeypatch.setattr(observed, "observe", counting)
    for _ in range(3):
        _facts(torch.tanh, (17, 19), needs=(True,))
    assert len(made) == 1
