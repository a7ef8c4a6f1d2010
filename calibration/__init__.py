"""Calibration data, 8-bit ranges, and ranking measures and reports."""
