// The library for aarch64 processors with NEON, without dot product and I8MM. engine/kernels/instruction_sets.py has the compiler
// flags.
#if !defined(__ARM_NEON) || defined(__ARM_FEATURE_DOTPROD) || defined(__ARM_FEATURE_MATMUL_INT8)
#error "compile this file with NEON, and without the dot product and I8MM"
#endif
#include "c_api.h"
