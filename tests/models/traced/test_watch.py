"""The life of storages: who comes, who goes, who stays."""

from __future__ import annotations

import torch
from torch._subclasses import FakeTensorMode

from bsr_explorer.models.traced.watch import Sink, Watch, source


def test_storages_come_and_go_in_order() -> None:
    watch = Watch()
    with FakeTensorMode(), watch:
        x = torch.empty(4)
        y = x + 1
        del x
        z = y * 2
    assert [(event.what, event.which) for event in watch.run([z])] == [
        ("take", 0),
        ("take", 1),
        ("drop", 0),
        ("make", 0),
    ]


def test_what_happens_while_it_looks_away_is_not_seen() -> None:
    watch = Watch()
    with FakeTensorMode(), watch, watch.looking_away():
        torch.empty(4)
    assert watch.run([]) == ()


def test_gradients_go_from_sink_to_source() -> None:
    watch = Watch()
    with FakeTensorMode():
        x = source(torch.empty(4), watch, 0)
        watch.given([x])
        with watch.saving(), watch:
            y = x.exp()
        watch.run([y])
        (held,) = watch.kept()
        assert (held.what, held.which) == ("result", 0)
        sink = Sink.apply(watch, y)
        del x, y
        watch.begin_backward([True])
        start = torch.empty(())
        with watch:
            sink.backward(start)
    assert [event.what for event in watch.unwind()] == ["give", "let_go", "gone"]


def test_numbers_that_autograd_keeps_are_counted() -> None:
    watch = Watch()
    with FakeTensorMode():
        x = source(torch.empty(4), watch, 0)
        with watch:
            assert (x * 0.5 + 1).requires_grad
    assert watch.numbers == 1
