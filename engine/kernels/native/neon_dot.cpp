// The library for aarch64 processors with the dot product. engine/kernels/instruction_sets.py has the compiler flags.
#if !defined(__ARM_FEATURE_DOTPROD) || defined(__ARM_FEATURE_MATMUL_INT8)
#error "compile this file with the dot product, and without I8MM"
#endif
#include "c_api.h"
