"""The search for the front of accuracy against memory. Only accuracy has to be measured."""
