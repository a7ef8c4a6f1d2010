// Vectors of 16 numbers, and what is done with them to one row of activations, a token: GELU, LayerNorm.
//
// Rows are padded with zeros to a multiple of 32, and so are the weights that meet them.

#pragma once

#include <cmath>

#include "product.h"

namespace crossrt {

using Half = uint16_t;  // BF16
using Floats = __m512;
constexpr int LANES = 16;

INLINE Floats all(float value) { return _mm512_set1_ps(value); }
INLINE Floats load(const float* from) { return _mm512_loadu_ps(from); }
INLINE Floats load(const Half* from) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
INLINE float single(Half half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}
INLINE void store(float* to, Floats low, Floats high) {
    _mm512_storeu_ps(to, low);
    _mm512_storeu_ps(to + LANES, high);
}
INLINE void store(Half* to, Floats low, Floats high) {
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

// x times the normal distribution's cumulative function (Hendrycks and Gimpel 2016, arXiv:1606.08415), which is 1/2 and an
// odd polynomial that errs by 2e-4 of x at most, and is held at its end beyond 4.
INLINE Floats gelu(Floats x) {
    const Floats near = _mm512_max_ps(_mm512_min_ps(x, all(4)), all(-4));
    const Floats square = _mm512_mul_ps(near, near);
    Floats sum = all(2.25881501e-08f);
    for (float term : {-1.5888241e-06f, 4.77638268e-05f, -8.12186938e-04f, 8.7636892e-03f, -6.45544145e-02f, 3.97870285e-01f})
        sum = _mm512_fmadd_ps(sum, square, all(term));
    return _mm512_mul_ps(x, _mm512_fmadd_ps(sum, near, all(0.5f)));
}

// 2 to the power of x. Errs by 1e-4 of it, a fortieth of BF16's step.
INLINE Floats exp2(Floats x) {
    const Floats whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Floats rest = _mm512_sub_ps(x, whole);
    Floats sum = all(5.50091019e-02f);
    for (float term : {2.4221098e-01f, 6.93282888e-01f, 1.0f}) sum = _mm512_fmadd_ps(sum, rest, all(term));
    return _mm512_scalef_ps(sum, whole);
}

struct Norm {
    const float *weight, *bias;
};

// LayerNorm (Ba et al. 2016, arXiv:1607.06450) in place, over the first `channels` of `width`.
INLINE void normalise(float* row, int channels, int width, const Norm& norm, float epsilon) {
    Floats low_sum = all(0), high_sum = all(0);
    for (int n = 0; n < width; n += 2 * LANES) {
        low_sum = _mm512_add_ps(low_sum, load(row + n));
        high_sum = _mm512_add_ps(high_sum, load(row + n + LANES));
    }
    const float mean = _mm512_reduce_add_ps(_mm512_add_ps(low_sum, high_sum)) / channels;
    low_sum = high_sum = all(0);
    for (int n = 0; n < width; n += 2 * LANES) {
        const Floats low = _mm512_sub_ps(load(row + n), all(mean)), high = _mm512_sub_ps(load(row + n + LANES), all(mean));
        low_sum = _mm512_fmadd_ps(low, low, low_sum);
        high_sum = _mm512_fmadd_ps(high, high, high_sum);
    }
    // The padding has each brought the mean's square.
    const float squares = _mm512_reduce_add_ps(_mm512_add_ps(low_sum, high_sum)) - (width - channels) * mean * mean;
    const float inverse = 1 / std::sqrt(squares / channels + epsilon);
    for (int n = 0; n < width; n += LANES) {
        const Floats normal = _mm512_mul_ps(_mm512_sub_ps(load(row + n), all(mean)), all(inverse));
        _mm512_storeu_ps(row + n, _mm512_fmadd_ps(normal, load(norm.weight + n), load(norm.bias + n)));
    }
}

}  // namespace crossrt
