// The library for processors with AVX2. engine/kernels/instruction_sets.py has the compiler flags.
#if !defined(__AVX2__) || defined(__AVX512F__) || defined(__AVXVNNI__)
#error "compile this file with AVX2, and without AVX512 and AVX-VNNI"
#endif
#include "c_api.h"
