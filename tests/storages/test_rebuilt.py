"""What is computed again takes nothing of its own."""

from __future__ import annotations

from bsr_explorer.devices import CPU
from bsr_explorer.storages import Quantized, Rebuilt


def test_it_costs_what_its_source_costs_on_the_way() -> None:
    source, shape = Quantized(4, 1), (2, 10, 8)
    rebuilt = Rebuilt(source)
    assert rebuilt.bytes(shape, "fp32") == rebuilt.passing(shape, "fp32") == 0
    assert rebuilt.pack_scratch(shape, "fp32", CPU) == 0
    assert rebuilt.unpack_scratch(shape, "fp32", CPU) == source.unpack_scratch(shape, "fp32", CPU)
    assert rebuilt.packs
