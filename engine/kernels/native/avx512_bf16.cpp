// The kernels for processors with AVX512-VNNI and AVX512-BF16.
#ifndef __AVX512BF16__
#error "compile it with AVX512-BF16"
#endif
#include "encoder.h"
