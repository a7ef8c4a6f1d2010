// x86-64 with AVX2, FMA and F16C, and with AVX-VNNI if the compiler may use it. BF16 has no instructions here and is computed by
// those of FP32.
//
// A vector is two registers. The microkernel multiplies a tile of up to 6 rows with the first half of a panel and then with the
// second half. It uses 15 of 16 registers: 12 for sums, two for weights and one for the word of a row.

#pragma once

#include <immintrin.h>

namespace crossrt {

struct FloatVec {
    __m256 low, high;
};
struct IntVec {
    __m256i low, high;
};
using LaneMask = FloatVec;  // in the lanes of the mask, all bits are 1

ALWAYS_INLINE FloatVec operator+(FloatVec a, FloatVec b) { return {a.low + b.low, a.high + b.high}; }
ALWAYS_INLINE FloatVec operator-(FloatVec a, FloatVec b) { return {a.low - b.low, a.high - b.high}; }
ALWAYS_INLINE FloatVec operator*(FloatVec a, FloatVec b) { return {a.low * b.low, a.high * b.high}; }
ALWAYS_INLINE FloatVec operator/(FloatVec a, FloatVec b) { return {a.low / b.low, a.high / b.high}; }
ALWAYS_INLINE FloatVec fmadd(FloatVec a, FloatVec b, FloatVec c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
ALWAYS_INLINE FloatVec fmsub(FloatVec a, FloatVec b, FloatVec c) {
    return {_mm256_fmsub_ps(a.low, b.low, c.low), _mm256_fmsub_ps(a.high, b.high, c.high)};
}
ALWAYS_INLINE FloatVec minimum(FloatVec a, FloatVec b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
ALWAYS_INLINE FloatVec maximum(FloatVec a, FloatVec b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }

ALWAYS_INLINE FloatVec broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
ALWAYS_INLINE FloatVec load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
ALWAYS_INLINE __m128i load_half(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }
ALWAYS_INLINE FloatVec load(const BFloat16* from) {
    const auto widened = [](const BFloat16* from) ALWAYS_INLINE_LAMBDA {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_half(from)), 16));
    };
    return {widened(from), widened(from + 8)};
}
ALWAYS_INLINE FloatVec load(const uint8_t* from) {
    const __m128i bytes = load_half(from);
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}
ALWAYS_INLINE FloatVec load_fp16(const uint16_t* from) {
    return {_mm256_cvtph_ps(load_half(from)), _mm256_cvtph_ps(load_half(from + 8))};
}

// Packs 2 x 8 integers of 32 bits into 16 of 16 bits. They must be in the range of unsigned 16-bit integers, or are clamped to
// it.
ALWAYS_INLINE __m256i pack_16(__m256i low, __m256i high) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
}
ALWAYS_INLINE __m256i to_bf16(FloatVec values) {
    const auto rounded = [](__m256 values) ALWAYS_INLINE_LAMBDA {
        const __m256i bits = _mm256_castps_si256(values), even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        return _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff))), 16);
    };
    return pack_16(rounded(values.low), rounded(values.high));
}
ALWAYS_INLINE void store(float* to, FloatVec values) {
    _mm256_storeu_ps(to, values.low);
    _mm256_storeu_ps(to + 8, values.high);
}
ALWAYS_INLINE void store(BFloat16* to, FloatVec values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), to_bf16(values));
}
template <class Number>
ALWAYS_INLINE void store(Number* to, FloatVec low, FloatVec high) {
    store(to, low);
    store(to + LANES, high);
}
ALWAYS_INLINE void store_rounded(uint8_t* to, FloatVec values) {
    const __m256i words = pack_16(_mm256_cvtps_epi32(values.low), _mm256_cvtps_epi32(values.high));
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
}

// Reduces 8 numbers to one.
template <class Combine>
ALWAYS_INLINE float reduce(__m256 values, Combine&& combine) {
    __m128 half = combine(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    half = combine(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(combine(half, _mm_movehdup_ps(half)));
}
ALWAYS_INLINE float sum(FloatVec values) {
    return reduce(values.low + values.high, [](__m128 a, __m128 b) ALWAYS_INLINE_LAMBDA { return a + b; });
}
ALWAYS_INLINE float lowest(FloatVec values) {
    return reduce(_mm256_min_ps(values.low, values.high),
                  [](__m128 a, __m128 b) ALWAYS_INLINE_LAMBDA { return _mm_min_ps(a, b); });
}
ALWAYS_INLINE float highest(FloatVec values) {
    return reduce(_mm256_max_ps(values.low, values.high),
                  [](__m128 a, __m128 b) ALWAYS_INLINE_LAMBDA { return _mm_max_ps(a, b); });
}

ALWAYS_INLINE FloatVec shift_exponent(FloatVec power, FloatVec shifted) {
    const auto added = [](__m256 power, __m256 shifted) ALWAYS_INLINE_LAMBDA {
        const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
        return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(power), exponent));
    };
    return {added(power.low, shifted.low), added(power.high, shifted.high)};
}

ALWAYS_INLINE LaneMask first_lanes(int count) {
    const __m256i number = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), number)),
            _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count - 8), number))};
}
ALWAYS_INLINE FloatVec select(LaneMask mask, FloatVec values, FloatVec others) {
    return {_mm256_blendv_ps(others.low, values.low, mask.low), _mm256_blendv_ps(others.high, values.high, mask.high)};
}

template <int R, class Combine>
ALWAYS_INLINE FloatVec reduce_rows(FloatVec rows[LANES], Combine&& combine) {
    float reduced[LANES] = {};
    for (int r = 0; r < R; r++) {
        // The first step combines the two registers. Each further step combines a register with a permutation of itself, until
        // every lane has the reduction.
        FloatVec row = combine(rows[r], FloatVec{rows[r].high, rows[r].low});
        row.high = _mm256_permute2f128_ps(row.low, row.low, 1);
        row = combine(row, FloatVec{row.high, row.low});
        row.high = _mm256_permute_ps(row.low, 0x4e);
        row = combine(row, FloatVec{row.high, row.low});
        row.high = _mm256_permute_ps(row.low, 0xb1);
        row = combine(row, FloatVec{row.high, row.low});
        reduced[r] = _mm256_cvtss_f32(row.low);
    }
    return load(reduced);
}

// The greatest of 16 unsigned integers.
ALWAYS_INLINE uint16_t greatest_of(__m256i words) {
    const __m128i half = _mm_max_epu16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    // The instruction finds the minimum, so the bits are inverted before it and after it.
    return ~_mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(half, _mm_set1_epi16(-1))), 0);
}
// `count` is a multiple of 32.
ALWAYS_INLINE Extremes extremes(const BFloat16* values, int count) {
    __m256i low = _mm256_setzero_si256(), high = low;
    for (int n = 0; n < count; n += 16) {
        const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + n));
        low = _mm256_max_epu16(low, bits);
        high = _mm256_max_epi16(high, bits);
    }
    return extremes_of(greatest_of(low), greatest_of(high));
}

ALWAYS_INLINE IntVec bits(FloatVec values) { return {_mm256_castps_si256(values.low), _mm256_castps_si256(values.high)}; }
ALWAYS_INLINE IntVec zero_words() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
ALWAYS_INLINE IntVec load_words(const void* from) {
    const __m256i* words = static_cast<const __m256i*>(from);
    return {_mm256_loadu_si256(words), _mm256_loadu_si256(words + 1)};
}
ALWAYS_INLINE void store_words(void* to, IntVec words) {
    _mm256_storeu_si256(static_cast<__m256i*>(to), words.low);
    _mm256_storeu_si256(static_cast<__m256i*>(to) + 1, words.high);
}

// Transposes 8 x 8 words.
ALWAYS_INLINE void transpose_8(__m256i rows[8]) {
    __m256i pairs[8];
    for (int n = 0; n < 8; n += 2) {
        pairs[n] = _mm256_unpacklo_epi32(rows[n], rows[n + 1]);
        pairs[n + 1] = _mm256_unpackhi_epi32(rows[n], rows[n + 1]);
    }
    for (int n = 0; n < 8; n += 4) {
        rows[n] = _mm256_unpacklo_epi64(pairs[n], pairs[n + 2]);
        rows[n + 1] = _mm256_unpackhi_epi64(pairs[n], pairs[n + 2]);
        rows[n + 2] = _mm256_unpacklo_epi64(pairs[n + 1], pairs[n + 3]);
        rows[n + 3] = _mm256_unpackhi_epi64(pairs[n + 1], pairs[n + 3]);
    }
    for (int n = 0; n < 4; n++) {
        pairs[n] = _mm256_permute2x128_si256(rows[n], rows[n + 4], 0x20);
        pairs[n + 4] = _mm256_permute2x128_si256(rows[n], rows[n + 4], 0x31);
    }
    for (int n = 0; n < 8; n++) rows[n] = pairs[n];
}
ALWAYS_INLINE void transpose(IntVec rows[LANES]) {
    __m256i blocks[4][8];  // upper left, upper right, lower left, lower right
    for (int n = 0; n < 8; n++) {
        blocks[0][n] = rows[n].low;
        blocks[1][n] = rows[n].high;
        blocks[2][n] = rows[n + 8].low;
        blocks[3][n] = rows[n + 8].high;
    }
    for (auto& block : blocks) transpose_8(block);
    for (int n = 0; n < 8; n++) {
        rows[n] = {blocks[0][n], blocks[2][n]};
        rows[n + 8] = {blocks[1][n], blocks[3][n]};
    }
}

ALWAYS_INLINE void interleave(IntVec first, IntVec second, IntVec& low, IntVec& high) {
    const auto of_half = [](__m256i a, __m256i b) ALWAYS_INLINE_LAMBDA {
        const __m256i even = _mm256_unpacklo_epi16(a, b), odd = _mm256_unpackhi_epi16(a, b);
        return IntVec{_mm256_permute2x128_si256(even, odd, 0x20), _mm256_permute2x128_si256(even, odd, 0x31)};
    };
    low = of_half(first.low, second.low);
    high = of_half(first.high, second.high);
}

constexpr bool BF16_INSTRUCTION = false;
constexpr bool bf16_is_faster() { return false; }
ALWAYS_INLINE FloatVec to_floats(IntVec integers) { return {_mm256_cvtepi32_ps(integers.low), _mm256_cvtepi32_ps(integers.high)}; }

constexpr int ROWS_READ_BEYOND = 0;
constexpr int TILE = 12;
struct ThreadState {
    ThreadState() {}  // not trivial, so that a variable of it counts as used
};

// `add` multiplies 8 words of weights with one word of a row, which is in all lanes, and adds the products.
struct DotFp32 {
    using Sum = FloatVec;
    using Register = __m256;
    static constexpr int ROWS = 6;
    static constexpr bool ANY_HEIGHT = false;
    static ALWAYS_INLINE Register zero() { return _mm256_setzero_ps(); }
    static ALWAYS_INLINE void add(Register& sum, __m256i activation, __m256i weight) {
        asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(activation), "x"(weight));
    }
};

// Two FP32 products: a BF16 is the upper half of an FP32.
struct DotBf16 {
    using Sum = FloatVec;
    using Register = __m256;
    static constexpr int ROWS = 4;
    static constexpr bool ANY_HEIGHT = false;
    static ALWAYS_INLINE Register zero() { return _mm256_setzero_ps(); }
    static ALWAYS_INLINE void add(Register& sum, __m256i activation, __m256i weight) {
        const __m256i upper = _mm256_set1_epi32(~0xffff);
        DotFp32::add(sum, _mm256_slli_epi32(activation, 16), _mm256_slli_epi32(weight, 16));
        DotFp32::add(sum, _mm256_and_si256(activation, upper), _mm256_and_si256(weight, upper));
    }
};

#if defined(__AVXVNNI__) && !defined(CROSSRT_EMULATED_VNNI)  // the macro: tests/engine/kernels/emulated_vnni.h has it in C++
// For each 32-bit lane: sum += the four unsigned bytes of `activation` times the four signed bytes of `weight`.
ALWAYS_INLINE void dot_of_bytes(__m256i& sum, __m256i activation, __m256i weight) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(activation), "x"(weight));
}
#endif

// Unsigned INT8 activations times signed INT8 weights, summed in INT32 without saturation.
//
// Without VNNI the products of two neighbouring input channels are first added in 16 bits, where they could saturate. So
// activations are at most 129, one bit less: 2 * 129 * 127 = 32,766.
struct DotInt8 {
    using Sum = IntVec;
    using Register = __m256i;
    using Activation = uint8_t;
    static constexpr int OFFSET = 0;
    static constexpr bool ANY_HEIGHT = false;
    static ALWAYS_INLINE Register zero() { return _mm256_setzero_si256(); }
#ifdef __AVXVNNI__
    static constexpr int ROWS = 6, MAX_ACTIVATION = 255;
    static ALWAYS_INLINE void add(Register& sum, __m256i activation, __m256i weight) { dot_of_bytes(sum, activation, weight); }
#else
    static constexpr int ROWS = 4, MAX_ACTIVATION = 129;
    static ALWAYS_INLINE void add(Register& sum, __m256i activation, __m256i weight) {
        const __m256i pairs = _mm256_maddubs_epi16(activation, weight);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
#endif
};

#ifdef __clang__
// Clang keeps the sums in registers only in a separate function. If this is inlined together with an epilogue that has many
// constants, such as GELU, Clang stores the sums in memory, and FP32 is 18 % slower (Clang 22.1 of Zig 0.17.1, a MiniLM-L-6, one
// core of an Intel Xeon).
#define SUMS_IN_REGISTERS NOINLINE
#else
#define SUMS_IN_REGISTERS ALWAYS_INLINE
#endif

// Multiplies R rows with 16 of the 32 output channels of a panel.
template <class Dot, int R>
SUMS_IN_REGISTERS void half_of_panel(const char* row, ptrdiff_t stride, const __m256i* weights, int steps,
                                     typename Dot::Sum sums[R]) {
    typename Dot::Register low[R], high[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) low[r] = high[r] = Dot::zero();
    for (int step = 0; step < steps; step++, weights += 4, row += 4) {
        const __m256i low_weights = _mm256_load_si256(weights), high_weights = _mm256_load_si256(weights + 1);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            int32_t word;
            __builtin_memcpy(&word, row + r * stride, 4);
            const __m256i activation = _mm256_set1_epi32(word);
            Dot::add(low[r], activation, low_weights);
            Dot::add(high[r], activation, high_weights);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) sums[r] = {low[r], high[r]};
}

template <class Dot, int R, class Epilogue>
ALWAYS_INLINE void microkernel(const void* rows, ptrdiff_t stride, const void* panel, int steps, int, Epilogue&& epilogue) {
    const char* row = static_cast<const char*>(rows);
    const __m256i* weights = static_cast<const __m256i*>(panel);
    typename Dot::Sum low[R], high[R];
    half_of_panel<Dot, R>(row, stride, weights, steps, low);
    half_of_panel<Dot, R>(row, stride, weights + 2, steps, high);
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) epilogue(r, low[r], high[r]);
}

}  // namespace crossrt
