"""The HTML page of a study: one file that needs no network."""
