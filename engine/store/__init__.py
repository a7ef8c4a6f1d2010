"""Passages that were tokenized before."""
