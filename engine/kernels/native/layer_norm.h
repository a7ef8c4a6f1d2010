// LayerNorm (Ba et al. 2016, arXiv:1607.06450) of one row in FP32. A row is a token.

#pragma once

#include <cmath>

#include "simd.h"

namespace crossrt {

struct LayerNormParams {
    const float *weight, *bias;  // [width]
};

// Normalizes `row` [width] in place. The first `channels` of it are real, and the rest must be zeros. `epilogue(n, values)` gets
// the 16 results from channel `n` on while they are in a register.
template <class Epilogue>
ALWAYS_INLINE void layer_norm(float* row, int channels, int width, const LayerNormParams& params, float epsilon,
                              Epilogue&& epilogue) {
    FloatVec low_sum = broadcast(0), high_sum = broadcast(0);
    for (int n = 0; n < width; n += 2 * LANES) {
        low_sum = low_sum + load(row + n);
        high_sum = high_sum + load(row + n + LANES);
    }
    const float mean = sum(low_sum + high_sum) / channels;
    low_sum = high_sum = broadcast(0);
    for (int n = 0; n < width; n += 2 * LANES) {
        const FloatVec low = load(row + n) - broadcast(mean);
        const FloatVec high = load(row + n + LANES) - broadcast(mean);
        low_sum = fmadd(low, low, low_sum);
        high_sum = fmadd(high, high, high_sum);
    }
    // Each channel of padding is 0, so it added the square of the mean, which is subtracted here.
    const float squares = sum(low_sum + high_sum) - (width - channels) * mean * mean;
    const float inverse = 1 / std::sqrt(squares / channels + epsilon);
    for (int n = 0; n < width; n += LANES) {
        const FloatVec normalized = (load(row + n) - broadcast(mean)) * broadcast(inverse);
        const FloatVec values = fmadd(normalized, load(params.weight + n), load(params.bias + n));
        store(row + n, values);
        epilogue(n, values);
    }
}

}  // namespace crossrt
