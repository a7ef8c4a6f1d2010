// What is done to one row of activations, a token: embedding, LayerNorm, GELU, and the way into 8 bits.
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

// Rows in 8 bits, each with its own range: x = scale * q + shift, where q is 0 to 255.
struct Quantized {
    uint8_t* values;
    float* scale;
    float* shift;
    ptrdiff_t stride;

    Quantized from(int row) const { return {values + row * stride, scale + row, shift + row, stride}; }
};

// One range for a row, which holds 0 exactly. 254 steps and not 255: the place of 0 is rounded up, so that the smallest
// number is never below 0, where the conversion would take it for the largest.
struct Range {
    float scale, inverse, zero;

    Range(float low, float high) {
        low = low < 0 ? low : 0;
        high = high > 0 ? high : 0;
        scale = (high - low) / 254;
        // Of a row of zeros, or of numbers too small to divide by, nothing is left.
        inverse = scale > 1e-30f ? 1 / scale : 0;
        zero = std::ceil(-low * inverse);
    }
    INLINE __m128i apply(Floats values) const {
        return _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(_mm512_fmadd_ps(values, all(inverse), all(zero))));
    }
};

// `values(n)` are the row's numbers from the n-th on.
template <class Values>
INLINE void quantise(int width, const Range& range, const Quantized& to, Values&& values) {
    for (int n = 0; n < width; n += LANES)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to.values + n), range.apply(values(n)));
    *to.scale = range.scale;
    *to.shift = -range.scale * range.zero;
}

INLINE void quantise(const float* row, int width, const Quantized& to) {
    Floats low = all(0), high = all(0);
    for (int n = 0; n < width; n += LANES) {
        low = _mm512_min_ps(low, load(row + n));
        high = _mm512_max_ps(high, load(row + n));
    }
    const Range range(_mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high));
    quantise(width, range, to, [&](int n) INLINED { return load(row + n); });
}

constexpr float GELU_LEAST = -0.17f;  // GELU is nowhere below -0.16997

// Of what GELU gave, in BF16, whose positive numbers are in the order of their bits.
INLINE void quantise_gelu(const Half* row, int width, const Quantized& to) {
    __m512i high = _mm512_setzero_si512();
    for (int n = 0; n < width; n += 2 * LANES) high = _mm512_max_epi16(high, _mm512_loadu_si512(row + n));
    const __m256i halves = _mm256_max_epi16(_mm512_castsi512_si256(high), _mm512_extracti64x4_epi64(high, 1));
    const float largest = single(static_cast<Half>(_mm512_reduce_max_epi32(_mm512_cvtepi16_epi32(halves))));
    quantise(width, Range(GELU_LEAST, largest), to, [&](int n) INLINED { return load(row + n); });
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

// Before a row is put into 8 bits, each channel is multiplied by its `balance`, by which the weights that read it are divided.
struct Norm {
    const float *weight, *bias, *balance;
};

// LayerNorm (Ba et al. 2016, arXiv:1607.06450) in place, over the first `channels` of `width`; and the row in 8 bits.
INLINE void normalise(float* row, int channels, int width, const Norm& norm, float epsilon, const Quantized& to) {
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
    Floats least = all(0), largest = all(0);
    for (int n = 0; n < width; n += LANES) {
        const Floats normal = _mm512_mul_ps(_mm512_sub_ps(load(row + n), all(mean)), all(inverse));
        const Floats value = _mm512_fmadd_ps(normal, load(norm.weight + n), load(norm.bias + n));
        _mm512_storeu_ps(row + n, value);
        const Floats balanced = _mm512_mul_ps(value, load(norm.balance + n));
        least = _mm512_min_ps(least, balanced);
        largest = _mm512_max_ps(largest, balanced);
    }
    const Range range(_mm512_reduce_min_ps(least), _mm512_reduce_max_ps(largest));
    quantise(width, range, to, [&](int n) INLINED { return _mm512_mul_ps(load(row + n), load(norm.balance + n)); });
}

}  // namespace crossrt
