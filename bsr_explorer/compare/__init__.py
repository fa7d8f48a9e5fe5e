"""Methods side by side at one setting."""
