"""The findings of a study, and the report of them."""
