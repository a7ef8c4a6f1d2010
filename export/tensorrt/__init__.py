"""Builds and checks TensorRT engines."""
