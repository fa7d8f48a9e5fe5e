"""Running a configuration: built, measured, fine-tuned."""
