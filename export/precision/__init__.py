"""FP16, INT8 and native weights: what each tensor is held in."""
