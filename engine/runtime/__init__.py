"""Chooses the backend, precision and device of a bundle, and runs requests on them."""
