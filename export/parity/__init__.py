"""The comparison with PyTorch."""
