"""Exports PyTorch checkpoints to bundles, and compares each of them with PyTorch."""
