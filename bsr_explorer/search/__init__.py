"""Searching for the front of accuracy against memory, when only accuracy costs anything."""
