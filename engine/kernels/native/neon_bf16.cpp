// The library for aarch64 processors with I8MM and BF16. engine/kernels/instruction_sets.py has the compiler flags.
#if !defined(__ARM_FEATURE_MATMUL_INT8) || !defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#error "compile this file with I8MM and BF16"
#endif
#include "c_api.h"
