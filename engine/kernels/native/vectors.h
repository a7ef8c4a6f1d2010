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
#ifdef __AVX512BF16__
INLINE __m256i halves(Floats values) { return (__m256i)_mm512_cvtneps_pbh(values); }
INLINE __m512i halves(Floats low, Floats high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }
#else
// The nearest, and of two as near the even one.
INLINE __m256i halves(Floats values) {
    const __m512i bits = _mm512_castps_si512(values), even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
INLINE __m512i halves(Floats low, Floats high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(halves(low)), halves(high), 1);
}
#endif
INLINE void store(Half* to, Floats low, Floats high) { _mm512_storeu_si512(to, halves(low, high)); }

// Sixteen values as they are kept.
INLINE void store(float* to, Floats values) { _mm512_storeu_ps(to, values); }
INLINE void store(Half* to, Floats values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), halves(values));
}

// The polynomial of x with these coefficients, the highest power first.
template <class... Terms>
INLINE Floats polynomial(Floats x, float highest, Terms... terms) {
    Floats sum = all(highest);
    for (float term : {terms...}) sum = _mm512_fmadd_ps(sum, x, all(term));
    return sum;
}

INLINE Floats held(Floats x, float most) { return _mm512_max_ps(_mm512_min_ps(x, all(most)), all(-most)); }

// 2 to the power of x, which is 0 or less; below -126 it is held. `fraction(x)` is the power of what is left of it between
// -1/2 and 1/2.
template <class Fraction>
INLINE Floats exp2(Floats x, Fraction&& fraction) {
    constexpr float ROUNDS = 12582912;  // 1.5 * 2^23: added, it leaves a whole number in the lowest bits
    x = _mm512_max_ps(x, all(-126));
    const Floats shifted = _mm512_add_ps(x, all(ROUNDS));
    const Floats power = fraction(_mm512_sub_ps(x, _mm512_sub_ps(shifted, all(ROUNDS))));
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(power), exponent));
}

// What attention, and the input of the second feed-forward layer, are kept and multiplied in, and functions as exact as that.
// GELU is x times the normal distribution's cumulative function (Hendrycks and Gimpel 2016, arXiv:1606.08415), which is 1/2 and
// an odd function, held where it is nearly 1.
template <class Value>
struct Numbers;

template <>
struct Numbers<Half> {
    using Dot = Halves;
    static constexpr int A_DWORD = 2;
    // Errs by 2.4e-4 of x at most.
    static INLINE Floats gelu(Floats x) {
        const Floats near = held(x, 3.5f);
        const Floats odd = polynomial(_mm512_mul_ps(near, near), -7.1176036e-07f, 3.50398659e-05f, -7.28269981e-04f,
                                      8.52908473e-03f, -6.44131526e-02f, 3.98064524e-01f);
        return _mm512_mul_ps(x, _mm512_fmadd_ps(odd, near, all(0.5f)));
    }
    // Errs by 1e-4 of it, a fortieth of BF16's step.
    static INLINE Floats exp2(Floats x) {
        return crossrt::exp2(x, [](Floats rest) INLINED {
            return polynomial(rest, 5.50091019e-02f, 2.4221098e-01f, 6.93282888e-01f, 1.0f);
        });
    }
};

template <>
struct Numbers<float> {
    using Dot = Singles;
    static constexpr int A_DWORD = 1;
    // Errs by 2.2e-7 of x, or of 1 where x is less: two steps of FP32.
    static INLINE Floats gelu(Floats x) {
        const Floats near = held(x, 5.6f), square = _mm512_mul_ps(near, near);
        const Floats over = polynomial(square, 2.21456418e-08f, 6.35640026e-06f, 1.73840803e-04f, 4.70719906e-03f,
                                       3.43751982e-02f, 3.98942232e-01f);
        const Floats under = polynomial(square, 1.18021171e-06f, 7.50983963e-05f, 1.91292271e-03f, 2.89395563e-02f,
                                        2.52831548e-01f, 1.0f);
        const Floats odd = _mm512_div_ps(over, under);
        return _mm512_mul_ps(x, _mm512_fmadd_ps(odd, near, all(0.5f)));
    }
    // Errs by less than a step of FP32.
    static INLINE Floats exp2(Floats x) {
        return crossrt::exp2(x, [](Floats rest) INLINED {
            return polynomial(rest, 1.53458051e-04f, 1.33999309e-03f, 9.61848907e-03f, 5.55032864e-02f, 2.40226462e-01f,
                              6.93147182e-01f, 1.0f);
        });
    }
};

struct Norm {
    const float *weight, *bias;
};

// LayerNorm (Ba et al. 2016, arXiv:1607.06450) in place, over the first `channels` of `width`; `sink(n, value)` gets it too.
template <class Sink>
INLINE void normalise(float* row, int channels, int width, const Norm& norm, float epsilon, Sink&& sink) {
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
        const Floats value = _mm512_fmadd_ps(normal, load(norm.weight + n), load(norm.bias + n));
        _mm512_storeu_ps(row + n, value);
        sink(n, value);
    }
}

}  // namespace crossrt
