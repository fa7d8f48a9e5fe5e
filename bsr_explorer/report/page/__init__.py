"""The page that answers an engineer: one HTML file that needs no network."""
