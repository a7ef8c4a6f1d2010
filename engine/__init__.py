"""The runtime: from texts to scores, with NumPy and a tokenizer. It never needs torch."""
