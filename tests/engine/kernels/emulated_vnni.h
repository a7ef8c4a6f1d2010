// AVX-VNNI's vpdpbusd as a function in plain C++, for processors that have AVX2 without it. It follows the operation in Intel's
// manual. This file is included before isa/avx2.h, whose source is then compiled without the instruction.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define __AVXVNNI__ 1
#define CROSSRT_EMULATED_VNNI

namespace crossrt {

inline void dot_of_bytes(__m256i& sum, __m256i activation, __m256i weight) {
    int32_t sums[8];
    uint8_t activations[32];
    int8_t weights[32];
    std::memcpy(sums, &sum, sizeof sums);
    std::memcpy(activations, &activation, sizeof activations);
    std::memcpy(weights, &weight, sizeof weights);
    for (int n = 0; n < 32; n++) sums[n / 4] += activations[n] * weights[n];
    std::memcpy(&sum, sums, sizeof sum);
}

}  // namespace crossrt
