"""Runs requests on the backends that were chosen: batches, turns, results."""
