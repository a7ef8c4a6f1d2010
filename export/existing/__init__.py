"""Bundles from ONNX files that others exported."""
