// The kernels for processors with AVX512; INT8 wants AVX512-VNNI besides.
#ifdef __AVX512BF16__
#error "compile it without AVX512-BF16"
#endif
#include "encoder.h"
