// Vectors of 16 FP32 numbers (AVX512): loads and stores of FP32 and BF16, polynomials, powers of 2, and transpositions.
//
// A BF16 is the upper half of an FP32 and is held as its bits. Rows in memory are padded with zeros to a multiple of 32 elements,
// as are the weights that meet them, so no loop over channels has a remainder.

#pragma once

#include "gemm.h"

namespace crossrt {

using BFloat16 = uint16_t;  // bits
using FloatVec = __m512;
constexpr int LANES = 16;

ALWAYS_INLINE FloatVec broadcast(float value) { return _mm512_set1_ps(value); }
ALWAYS_INLINE FloatVec load(const float* from) { return _mm512_loadu_ps(from); }
ALWAYS_INLINE FloatVec load(const BFloat16* from) {
    const __m512i upper = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(upper, 16));
}
ALWAYS_INLINE float to_float(BFloat16 value) {
    const uint32_t bits = static_cast<uint32_t>(value) << 16;
    float result;
    __builtin_memcpy(&result, &bits, 4);
    return result;
}
ALWAYS_INLINE void store(float* to, FloatVec low, FloatVec high) {
    _mm512_storeu_ps(to, low);
    _mm512_storeu_ps(to + LANES, high);
}
#ifdef __AVX512BF16__
ALWAYS_INLINE __m256i to_bf16(FloatVec values) { return (__m256i)_mm512_cvtneps_pbh(values); }
ALWAYS_INLINE __m512i to_bf16(FloatVec low, FloatVec high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }
#else
// Rounds to nearest, ties to even, as the instruction does.
ALWAYS_INLINE __m256i to_bf16(FloatVec values) {
    const __m512i bits = _mm512_castps_si512(values), even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
ALWAYS_INLINE __m512i to_bf16(FloatVec low, FloatVec high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(to_bf16(low)), to_bf16(high), 1);
}
#endif
ALWAYS_INLINE void store(BFloat16* to, FloatVec low, FloatVec high) { _mm512_storeu_si512(to, to_bf16(low, high)); }
ALWAYS_INLINE void store(float* to, FloatVec values) { _mm512_storeu_ps(to, values); }
ALWAYS_INLINE void store(BFloat16* to, FloatVec values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), to_bf16(values));
}

// A polynomial in x by Horner's scheme; coefficients from the highest power down.
template <class... Coefficients>
ALWAYS_INLINE FloatVec polynomial(FloatVec x, float highest, Coefficients... coefficients) {
    FloatVec sum = broadcast(highest);
    for (float coefficient : {coefficients...}) sum = _mm512_fmadd_ps(sum, x, broadcast(coefficient));
    return sum;
}

// x clamped to [-limit, limit].
ALWAYS_INLINE FloatVec clamp(FloatVec x, float limit) {
    return _mm512_max_ps(_mm512_min_ps(x, broadcast(limit)), broadcast(-limit));
}

// 2^x for x <= 0; below -126, where the result would be subnormal, 2^-126.
//
// 2^x = 2^n 2^f, where n is x rounded to an integer and f the rest in [-1/2, 1/2]. Adding 1.5 * 2^23 rounds x, and leaves n in
// the lowest bits of the sum; shifted by 23 it is added to the exponent of 2^f. `fraction(f)` is a polynomial for 2^f: its degree
// sets the precision.
template <class Fraction>
ALWAYS_INLINE FloatVec exp2(FloatVec x, Fraction&& fraction) {
    constexpr float ROUNDING = 12582912;  // 1.5 * 2^23
    x = _mm512_max_ps(x, broadcast(-126));
    const FloatVec shifted = _mm512_add_ps(x, broadcast(ROUNDING));
    const FloatVec power = fraction(_mm512_sub_ps(x, _mm512_sub_ps(shifted, broadcast(ROUNDING))));
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(power), exponent));
}

// Transposes 16 x 16 dwords in place: row by row of two, of four, then of all.
ALWAYS_INLINE void transpose(__m512i rows[16]) {
    __m512i pairs[16];
    for (int n = 0; n < 16; n += 2) {
        pairs[n] = _mm512_unpacklo_epi32(rows[n], rows[n + 1]);
        pairs[n + 1] = _mm512_unpackhi_epi32(rows[n], rows[n + 1]);
    }
    for (int n = 0; n < 16; n += 4) {
        rows[n] = _mm512_unpacklo_epi64(pairs[n], pairs[n + 2]);
        rows[n + 1] = _mm512_unpackhi_epi64(pairs[n], pairs[n + 2]);
        rows[n + 2] = _mm512_unpacklo_epi64(pairs[n + 1], pairs[n + 3]);
        rows[n + 3] = _mm512_unpackhi_epi64(pairs[n + 1], pairs[n + 3]);
    }
    // Each register now holds four rows' dwords of the columns c, c + 4, c + 8 and c + 12, one column in each 128-bit lane.
    for (int c = 0; c < 4; c++) {
        const __m512i low = _mm512_shuffle_i32x4(rows[c], rows[c + 4], 0x88);
        const __m512i high = _mm512_shuffle_i32x4(rows[c], rows[c + 4], 0xdd);
        const __m512i low2 = _mm512_shuffle_i32x4(rows[c + 8], rows[c + 12], 0x88);
        const __m512i high2 = _mm512_shuffle_i32x4(rows[c + 8], rows[c + 12], 0xdd);
        pairs[c] = _mm512_shuffle_i32x4(low, low2, 0x88);
        pairs[c + 8] = _mm512_shuffle_i32x4(low, low2, 0xdd);
        pairs[c + 4] = _mm512_shuffle_i32x4(high, high2, 0x88);
        pairs[c + 12] = _mm512_shuffle_i32x4(high, high2, 0xdd);
    }
    for (int n = 0; n < 16; n++) rows[n] = pairs[n];
}

// Reduces each of 16 vectors to one number: lane n of the result is rows[n] reduced by `combine` (a sum or a maximum). The rows
// are transposed as they are reduced: 15 calls of `combine` for all rows, where one row alone takes 4. `rows` is overwritten.
template <class Combine>
ALWAYS_INLINE FloatVec transpose_reduce(FloatVec rows[LANES], Combine&& combine) {
#pragma GCC unroll 8
    for (int n = 0; n < 8; n++)
        rows[n] = combine(_mm512_shuffle_f32x4(rows[n], rows[n + 8], 0x44), _mm512_shuffle_f32x4(rows[n], rows[n + 8], 0xee));
#pragma GCC unroll 4
    for (int n = 0; n < 4; n++)
        rows[n] = combine(_mm512_shuffle_f32x4(rows[n], rows[n + 4], 0x88), _mm512_shuffle_f32x4(rows[n], rows[n + 4], 0xdd));
#pragma GCC unroll 2
    for (int n = 0; n < 2; n++)
        rows[n] = combine(_mm512_shuffle_ps(rows[n], rows[n + 2], 0x44), _mm512_shuffle_ps(rows[n], rows[n + 2], 0xee));
    const FloatVec reduced = combine(_mm512_shuffle_ps(rows[0], rows[1], 0x88), _mm512_shuffle_ps(rows[0], rows[1], 0xdd));
    // The shuffles leave the rows in another order.
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15), reduced);
}

}  // namespace crossrt
