"""Bundles from ONNX files that other tools exported."""
