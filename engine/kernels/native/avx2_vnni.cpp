// The library for processors with AVX2 and AVX-VNNI. engine/kernels/instruction_sets.py has the compiler flags.
#if !defined(__AVXVNNI__) || defined(__AVX512F__)
#error "compile this file with AVX2 and AVX-VNNI, and without AVX512"
#endif
#include "c_api.h"
