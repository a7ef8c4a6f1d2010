"""Cuts requests into batches, and lays batches out in memory."""
