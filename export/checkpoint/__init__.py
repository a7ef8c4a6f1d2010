"""PyTorch checkpoints as published, and PyTorch as the reference."""
