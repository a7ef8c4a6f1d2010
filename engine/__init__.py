"""The runtime: from texts to scores, with NumPy and a tokenizer. It never needs torch."""

from .hardware.cpus import check_numpy

check_numpy()  # before a module of the runtime imports it
