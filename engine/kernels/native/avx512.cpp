// The library for processors with AVX512. INT8 also needs AVX512-VNNI. engine/kernels/instruction_sets.py has the compiler flags.
#ifdef __AVX512BF16__
#error "compile this file without AVX512-BF16"
#endif
#include "c_api.h"
