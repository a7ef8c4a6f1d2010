// The library for processors with AMX and AVX512-BF16. engine/kernels/instruction_sets.py has the compiler flags.
#if !defined(__AVX512BF16__) || !defined(__AMX_TILE__)
#error "compile this file with AVX512-BF16 and AMX"
#endif
#include "c_api.h"
