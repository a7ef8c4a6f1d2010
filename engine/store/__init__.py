"""Stores of passages that were tokenized in advance."""
