"""Blocks that nothing changes in training: which they are, and what they make of images, made once."""
