"""Plain vision transformers: their geometry and the tape of their training step."""
