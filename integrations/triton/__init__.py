"""Models for Triton Inference Server: how they are written, and what its backends run."""
