"""Stores of passages that are tokenized in advance."""
