// The library for processors with AVX512-VNNI and AVX512-BF16. engine/kernels/instruction_sets.py has the compiler flags.
#ifndef __AVX512BF16__
#error "compile this file with AVX512-BF16"
#endif
#include "c_api.h"
