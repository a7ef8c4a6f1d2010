"""Chooses the backend, precision and shapes that a model is opened with."""
