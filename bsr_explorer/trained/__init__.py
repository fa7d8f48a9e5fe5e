"""What is left of a training: weights, their card, other formats."""
