"""The cost model: pure arithmetic on tapes, without torch."""
