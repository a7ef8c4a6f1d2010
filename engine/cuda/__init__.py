"""CUDA: driver, bindings, cuBLAS and compiled kernels."""
