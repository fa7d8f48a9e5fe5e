"""Measuring a real step. Knows tensors and modules, and no method."""
