"""The workshop for calibration data and ranking measures."""
