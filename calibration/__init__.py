"""Calibration data, ranges of 8-bit quantization, and measures and reports of rankings."""
