"""Bundles on disk, and what is kept for them in the cache."""
