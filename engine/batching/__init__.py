"""Cuts requests into batches, and lays out batches in memory."""
