"""The native kernels: the sources, and the files of their weights."""
