"""crossrt's own kernels: the sources, and the files of their weights."""
