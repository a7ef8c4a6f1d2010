"""Reads published PyTorch checkpoints, and runs them in PyTorch as the reference."""
