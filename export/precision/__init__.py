"""The data type of each tensor in FP16, in INT8 and in the weights of the native kernels."""
