"""What a user might bring in a package of their own: methods, a storage, an architecture."""
