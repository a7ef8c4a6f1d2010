"""The runtime: text in, scores out. NumPy and a tokenizer; no torch, ever."""
