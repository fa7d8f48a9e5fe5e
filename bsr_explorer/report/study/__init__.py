"""What a study came to, and what is written of it."""
