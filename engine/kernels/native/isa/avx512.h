// x86-64 with AVX512 (F, BW, DQ, VL). INT8 needs AVX512-VNNI. BF16 has an instruction if the compiler may use AVX512-BF16.
// Otherwise it is computed by FP32 instructions.
//
// A vector is one register. The microkernel multiplies a tile of up to 12 rows (MR) with one panel of 32 output channels (NR). It
// uses 27 of 32 registers: 24 for sums, two for a step of the panel and one for the word of a row. docs/decisions/0012 has the
// measurements.

#pragma once

#include <cpuid.h>
#include <immintrin.h>

namespace crossrt {

using FloatVec = __m512;
using IntVec = __m512i;
using LaneMask = __mmask16;

ALWAYS_INLINE FloatVec broadcast(float value) { return _mm512_set1_ps(value); }
ALWAYS_INLINE FloatVec load(const float* from) { return _mm512_loadu_ps(from); }
ALWAYS_INLINE FloatVec load(const BFloat16* from) {
    const __m512i upper = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(upper, 16));
}
ALWAYS_INLINE FloatVec load(const uint8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
ALWAYS_INLINE FloatVec load_fp16(const uint16_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
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
ALWAYS_INLINE void store(float* to, FloatVec values) { _mm512_storeu_ps(to, values); }
ALWAYS_INLINE void store(BFloat16* to, FloatVec values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), to_bf16(values));
}
ALWAYS_INLINE void store(float* to, FloatVec low, FloatVec high) {
    _mm512_storeu_ps(to, low);
    _mm512_storeu_ps(to + LANES, high);
}
ALWAYS_INLINE void store(BFloat16* to, FloatVec low, FloatVec high) { _mm512_storeu_si512(to, to_bf16(low, high)); }
ALWAYS_INLINE void store_rounded(uint8_t* to, FloatVec values) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(values)));
}

ALWAYS_INLINE FloatVec fmadd(FloatVec a, FloatVec b, FloatVec c) { return _mm512_fmadd_ps(a, b, c); }
ALWAYS_INLINE FloatVec fmsub(FloatVec a, FloatVec b, FloatVec c) { return _mm512_fmsub_ps(a, b, c); }
ALWAYS_INLINE FloatVec minimum(FloatVec a, FloatVec b) { return _mm512_min_ps(a, b); }
ALWAYS_INLINE FloatVec maximum(FloatVec a, FloatVec b) { return _mm512_max_ps(a, b); }
ALWAYS_INLINE float sum(FloatVec values) { return _mm512_reduce_add_ps(values); }
ALWAYS_INLINE float lowest(FloatVec values) { return _mm512_reduce_min_ps(values); }
ALWAYS_INLINE float highest(FloatVec values) { return _mm512_reduce_max_ps(values); }

ALWAYS_INLINE FloatVec shift_exponent(FloatVec power, FloatVec shifted) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(power), exponent));
}

ALWAYS_INLINE LaneMask first_lanes(int count) { return static_cast<LaneMask>((1u << count) - 1); }
ALWAYS_INLINE FloatVec select(LaneMask mask, FloatVec values, FloatVec others) {
    return _mm512_mask_blend_ps(mask, others, values);
}

// The rows are transposed as they are reduced. This takes 15 calls of `combine` for all rows, where a single row takes 4.
template <int R, class Combine>
ALWAYS_INLINE FloatVec reduce_rows(FloatVec rows[LANES], Combine&& combine) {
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

// `count` is a multiple of 32.
ALWAYS_INLINE Extremes extremes(const BFloat16* values, int count) {
    __m512i low = _mm512_setzero_si512(), high = low;
    for (int n = 0; n < count; n += 2 * LANES) {
        const __m512i bits = _mm512_loadu_si512(values + n);
        low = _mm512_max_epu16(low, bits);
        high = _mm512_max_epi16(high, bits);
    }
    const __m256i lows = _mm256_max_epu16(_mm512_castsi512_si256(low), _mm512_extracti64x4_epi64(low, 1));
    const __m256i highs = _mm256_max_epi16(_mm512_castsi512_si256(high), _mm512_extracti64x4_epi64(high, 1));
    return extremes_of(_mm512_reduce_max_epi32(_mm512_cvtepu16_epi32(lows)), _mm512_reduce_max_epi32(_mm512_cvtepu16_epi32(highs)));
}

ALWAYS_INLINE IntVec bits(FloatVec values) { return _mm512_castps_si512(values); }
ALWAYS_INLINE IntVec zero_words() { return _mm512_setzero_si512(); }
ALWAYS_INLINE IntVec load_words(const void* from) { return _mm512_loadu_si512(from); }
ALWAYS_INLINE void store_words(void* to, IntVec words) { _mm512_storeu_si512(to, words); }

// Transposes 16 x 16 words in place: first between two rows, then between four, then between all.
ALWAYS_INLINE void transpose(IntVec rows[LANES]) {
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
    // Each register now holds four rows' words of the columns c, c + 4, c + 8 and c + 12, one column in each 128-bit lane.
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

ALWAYS_INLINE void interleave(IntVec first, IntVec second, IntVec& low, IntVec& high) {
    alignas(64) uint16_t order[2][2 * LANES];
    for (int n = 0; n < LANES; n++)
        for (int half = 0; half < 2; half++) {
            order[half][2 * n] = n + half * LANES;
            order[half][2 * n + 1] = n + half * LANES + 32;  // of the second vector
        }
    low = _mm512_permutex2var_epi16(first, _mm512_load_si512(order[0]), second);
    high = _mm512_permutex2var_epi16(first, _mm512_load_si512(order[1]), second);
}

}  // namespace crossrt

#ifdef __AMX_TILE__
#include "amx.h"  // TILE, ThreadState, DotInt8 and DotBf16
#endif

namespace crossrt {

#ifndef __AMX_TILE__
constexpr int ROWS_READ_BEYOND = 0;
constexpr int TILE = 12;
struct ThreadState {
    ThreadState() {}  // not trivial, so that a variable of it counts as used
};

// Unsigned INT8 activations times signed INT8 weights, summed in INT32 without saturation, by AVX512-VNNI.
struct DotInt8 {
    using Sum = IntVec;
    using Activation = uint8_t;
    static constexpr int ROWS = 12, MAX_ACTIVATION = 255, OFFSET = 0;
    static constexpr bool ANY_HEIGHT = false;
    static ALWAYS_INLINE Sum zero() { return _mm512_setzero_si512(); }
    // This is inline assembly, because GCC 12 copies every sum twice around the intrinsic, which halves the speed.
    static ALWAYS_INLINE void add(Sum& sum, __m512i activation, __m512i weight) {
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(activation), "v"(weight));
    }
};

#endif

// FP32 times FP32, summed in FP32.
struct DotFp32 {
    using Sum = FloatVec;
    static constexpr int ROWS = 12;
    static constexpr bool ANY_HEIGHT = false;
    static ALWAYS_INLINE Sum zero() { return _mm512_setzero_ps(); }
    static ALWAYS_INLINE void add(Sum& sum, __m512i activation, __m512i weight) {
        asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(activation), "v"(weight));
    }
};

#ifndef __AMX_TILE__
// BF16 times BF16, summed in FP32, by AVX512-BF16. Without it there are two FP32 products: a BF16 is the upper half of an FP32.
struct DotBf16 {
    using Sum = FloatVec;
    static constexpr int ROWS = 12;
    static constexpr bool ANY_HEIGHT = false;
    static ALWAYS_INLINE Sum zero() { return _mm512_setzero_ps(); }
    static ALWAYS_INLINE void add(Sum& sum, __m512i activation, __m512i weight) {
#ifdef __AVX512BF16__
        asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(activation), "v"(weight));
#else
        const __m512i upper = _mm512_set1_epi32(~0xffff);
        DotFp32::add(sum, _mm512_slli_epi32(activation, 16), _mm512_slli_epi32(weight, 16));
        DotFp32::add(sum, _mm512_and_si512(activation, upper), _mm512_and_si512(weight, upper));
#endif
    }
};

#endif

#ifdef __AVX512BF16__
constexpr bool BF16_INSTRUCTION = true;
// On an Intel Xeon (Emerald Rapids, 3.0 GHz), vdpbf16ps does 46 billion multiply-adds a second and vfmadd231ps 89. On AMD from
// Zen 4 on, vdpbf16ps does twice as many as vfmadd231ps. AMX's tiles are faster than both.
inline bool bf16_is_faster() {
#ifdef __AMX_TILE__
    return true;
#else
    unsigned leaf, ebx, ecx, edx;
    return !(__get_cpuid(0, &leaf, &ebx, &ecx, &edx) && ebx == signature_INTEL_ebx);
#endif
}
#else
constexpr bool BF16_INSTRUCTION = false;
constexpr bool bf16_is_faster() { return false; }
#endif

ALWAYS_INLINE FloatVec to_floats(IntVec integers) { return _mm512_cvtepi32_ps(integers); }

template <class Dot, int R, class Epilogue>
    requires(!Dot::ANY_HEIGHT)
ALWAYS_INLINE void microkernel(const void* rows, ptrdiff_t stride, const void* panel, int steps, int, Epilogue&& epilogue) {
    const char* weights = static_cast<const char*>(panel);
    typename Dot::Sum low[R], high[R];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) low[r] = high[r] = Dot::zero();
    // There is one pointer for three rows, because x86 addressing modes reach the other two, one and two strides away.
    const char* row[(R + 2) / 3];
#pragma GCC unroll 12
    for (int r = 0; r < R; r += 3) row[r / 3] = static_cast<const char*>(rows) + r * stride;
    for (int step = 0; step < steps; step++, weights += 4 * PANEL) {
        const __m512i low_weights = _mm512_load_si512(weights), high_weights = _mm512_load_si512(weights + 64);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            int32_t word;
            __builtin_memcpy(&word, row[r / 3] + (r % 3) * stride, 4);
            const __m512i activation = _mm512_set1_epi32(word);
            Dot::add(low[r], activation, low_weights);
            Dot::add(high[r], activation, high_weights);
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; r += 3) row[r / 3] += 4;
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) epilogue(r, low[r], high[r]);
}

}  // namespace crossrt
