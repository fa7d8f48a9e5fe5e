"""Decoder-only language models: each token predicts the next one."""
