"""Two studies beside one another."""
