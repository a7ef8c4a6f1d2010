"""Exports PyTorch checkpoints to bundles, and compares every exported model with PyTorch."""
