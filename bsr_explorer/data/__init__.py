"""Images and labels: where they lie, how they are read, split and loaded."""
