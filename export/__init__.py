"""The workshop that makes bundles: PyTorch to ONNX, and the parity check that proves each one."""
