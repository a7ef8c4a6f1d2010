"""Models for Triton Inference Server: the code that writes them, and the code that its backends run."""
