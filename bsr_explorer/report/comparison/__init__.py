"""Methods beside one another: what is written of a comparison."""
