"""The processors and GPUs of this machine."""
