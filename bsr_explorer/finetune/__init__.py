"""A configuration for real: built, measured, fine-tuned."""
