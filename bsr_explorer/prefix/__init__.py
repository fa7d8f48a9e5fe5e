"""Frozen blocks: which they are, and their outputs, computed once."""
