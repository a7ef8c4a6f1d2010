"""Measures how fast bundles score here: `crossrt bench`."""
