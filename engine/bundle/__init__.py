"""Bundles on disk, and the caches of what is built from them."""
