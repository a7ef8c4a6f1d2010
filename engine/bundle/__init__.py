"""Bundles on disk, and caches for what is built from them."""
