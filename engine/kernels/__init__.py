"""The native kernels: their C++ and CUDA sources (`native/`), the compiled libraries, and whether they can run here."""
