// LayerNorm (Ba et al. 2016, arXiv:1607.06450) of one row, a token, in FP32.

#pragma once

#include <cmath>

#include "simd.h"

namespace crossrt {

struct LayerNormParams {
    const float *weight, *bias;  // [width]
};

// Normalizes `row` [width] in place, of which the first `channels` count and the rest are zeros. `epilogue(n, values)` gets the
// 16 results from channel `n` on while they are in a register.
template <class Epilogue>
ALWAYS_INLINE void layer_norm(float* row, int channels, int width, const LayerNormParams& params, float epsilon,
                              Epilogue&& epilogue) {
    FloatVec low_sum = broadcast(0), high_sum = broadcast(0);
    for (int n = 0; n < width; n += 2 * LANES) {
        low_sum = _mm512_add_ps(low_sum, load(row + n));
        high_sum = _mm512_add_ps(high_sum, load(row + n + LANES));
    }
    const float mean = _mm512_reduce_add_ps(_mm512_add_ps(low_sum, high_sum)) / channels;
    low_sum = high_sum = broadcast(0);
    for (int n = 0; n < width; n += 2 * LANES) {
        const FloatVec low = _mm512_sub_ps(load(row + n), broadcast(mean));
        const FloatVec high = _mm512_sub_ps(load(row + n + LANES), broadcast(mean));
        low_sum = _mm512_fmadd_ps(low, low, low_sum);
        high_sum = _mm512_fmadd_ps(high, high, high_sum);
    }
    // Each channel of padding is 0 and has added the square of the mean.
    const float squares = _mm512_reduce_add_ps(_mm512_add_ps(low_sum, high_sum)) - (width - channels) * mean * mean;
    const float inverse = 1 / std::sqrt(squares / channels + epsilon);
    for (int n = 0; n < width; n += LANES) {
        const FloatVec normalized = _mm512_mul_ps(_mm512_sub_ps(load(row + n), broadcast(mean)), broadcast(inverse));
        const FloatVec values = _mm512_fmadd_ps(normalized, load(params.weight + n), load(params.bias + n));
        _mm512_storeu_ps(row + n, values);
        epilogue(n, values);
    }
}

}  // namespace crossrt
