"""Runs requests on the chosen backends: batches, turns, results."""
