"""Vision transformers: their names, their geometry, the tape of their training step, their weights."""
