"""CUDA: the driver, its Python bindings, cuBLAS and compiled kernels."""
