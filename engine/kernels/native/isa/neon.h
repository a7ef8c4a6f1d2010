// aarch64 with NEON, whose registers have 128 bits. INT8 has instructions if the compiler may use the dot product (FEAT_DotProd)
// or products of small matrices (FEAT_I8MM), and BF16 if it may use FEAT_BF16. Otherwise INT8 is computed by products of 16 bits,
// and BF16 by products of FP32.
//
// A vector is four registers. The microkernel multiplies a tile of up to 6 rows with the first half of a panel and then with the
// second half. It keeps 24 of the 32 registers for sums, and the others for the factors.
//
// The instructions multiply signed activations with signed weights, so activations are stored as q - 128 (`DotInt8::OFFSET`).

#pragma once

#include <arm_neon.h>

#include <type_traits>

namespace crossrt {

struct FloatVec {
    float32x4_t part[4];
};
struct IntVec {
    int32x4_t part[4];
};
struct LaneMask {
    uint32x4_t part[4];  // in the lanes of the mask, all bits are 1
};

// Returns the results of `function` for each of the four registers.
template <class Result = FloatVec, class Function, class... Vectors>
ALWAYS_INLINE Result of_parts(Function&& function, const Vectors&... vectors) {
    return {{function(vectors.part[0]...), function(vectors.part[1]...), function(vectors.part[2]...), function(vectors.part[3]...)}};
}

ALWAYS_INLINE FloatVec operator+(FloatVec a, FloatVec b) { return of_parts(vaddq_f32, a, b); }
ALWAYS_INLINE FloatVec operator-(FloatVec a, FloatVec b) { return of_parts(vsubq_f32, a, b); }
ALWAYS_INLINE FloatVec operator*(FloatVec a, FloatVec b) { return of_parts(vmulq_f32, a, b); }
ALWAYS_INLINE FloatVec operator/(FloatVec a, FloatVec b) { return of_parts(vdivq_f32, a, b); }
// vfmaq_f32 adds the product of its second and third argument to the first.
ALWAYS_INLINE FloatVec fmadd(FloatVec a, FloatVec b, FloatVec c) { return of_parts(vfmaq_f32, c, a, b); }
ALWAYS_INLINE FloatVec fmsub(FloatVec a, FloatVec b, FloatVec c) { return fmadd(a, b, of_parts(vnegq_f32, c)); }
ALWAYS_INLINE FloatVec minimum(FloatVec a, FloatVec b) { return of_parts(vminq_f32, a, b); }
ALWAYS_INLINE FloatVec maximum(FloatVec a, FloatVec b) { return of_parts(vmaxq_f32, a, b); }

ALWAYS_INLINE FloatVec broadcast(float value) {
    const float32x4_t all = vdupq_n_f32(value);
    return {{all, all, all, all}};
}
ALWAYS_INLINE FloatVec load(const float* from) {
    return {{vld1q_f32(from), vld1q_f32(from + 4), vld1q_f32(from + 8), vld1q_f32(from + 12)}};
}
ALWAYS_INLINE FloatVec load(const BFloat16* from) {
    const uint16x8_t low = vld1q_u16(from), high = vld1q_u16(from + 8);
    const IntVec bits{{vreinterpretq_s32_u32(vshll_n_u16(vget_low_u16(low), 16)), vreinterpretq_s32_u32(vshll_high_n_u16(low, 16)),
                       vreinterpretq_s32_u32(vshll_n_u16(vget_low_u16(high), 16)), vreinterpretq_s32_u32(vshll_high_n_u16(high, 16))}};
    return of_parts(vreinterpretq_f32_s32, bits);
}
ALWAYS_INLINE FloatVec to_floats(IntVec integers) { return of_parts(vcvtq_f32_s32, integers); }
ALWAYS_INLINE FloatVec load(const int8_t* from) {
    const int8x16_t bytes = vld1q_s8(from);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
    return to_floats({{vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)}});
}
ALWAYS_INLINE FloatVec load_fp16(const uint16_t* from) {
    const float16x8_t low = vreinterpretq_f16_u16(vld1q_u16(from)), high = vreinterpretq_f16_u16(vld1q_u16(from + 8));
    return {{vcvt_f32_f16(vget_low_f16(low)), vcvt_high_f32_f16(low), vcvt_f32_f16(vget_low_f16(high)), vcvt_high_f32_f16(high)}};
}

ALWAYS_INLINE void store(float* to, FloatVec values) {
    vst1q_f32(to, values.part[0]);
    vst1q_f32(to + 4, values.part[1]);
    vst1q_f32(to + 8, values.part[2]);
    vst1q_f32(to + 12, values.part[3]);
}
// Rounds 8 numbers to BF16.
ALWAYS_INLINE uint16x8_t to_bf16(float32x4_t low, float32x4_t high) {
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
    return vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(low), high));
#else
    const auto rounded = [](float32x4_t values) ALWAYS_INLINE_LAMBDA {
        const uint32x4_t bits = vreinterpretq_u32_f32(values), even = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
        return vaddq_u32(bits, vaddq_u32(even, vdupq_n_u32(0x7fff)));
    };
    return vshrn_high_n_u32(vshrn_n_u32(rounded(low), 16), rounded(high), 16);
#endif
}
ALWAYS_INLINE void store(BFloat16* to, FloatVec values) {
    vst1q_u16(to, to_bf16(values.part[0], values.part[1]));
    vst1q_u16(to + 8, to_bf16(values.part[2], values.part[3]));
}
template <class Number>
ALWAYS_INLINE void store(Number* to, FloatVec low, FloatVec high) {
    store(to, low);
    store(to + LANES, high);
}
ALWAYS_INLINE void store_rounded(int8_t* to, FloatVec values) {
    const IntVec rounded = of_parts<IntVec>(vcvtnq_s32_f32, values);
    const int16x8_t low = vqmovn_high_s32(vqmovn_s32(rounded.part[0]), rounded.part[1]);
    const int16x8_t high = vqmovn_high_s32(vqmovn_s32(rounded.part[2]), rounded.part[3]);
    vst1q_s8(to, vqmovn_high_s16(vqmovn_s16(low), high));
}

ALWAYS_INLINE float sum(FloatVec values) {
    return vaddvq_f32(vaddq_f32(vaddq_f32(values.part[0], values.part[1]), vaddq_f32(values.part[2], values.part[3])));
}
ALWAYS_INLINE float lowest(FloatVec values) {
    return vminvq_f32(vminq_f32(vminq_f32(values.part[0], values.part[1]), vminq_f32(values.part[2], values.part[3])));
}
ALWAYS_INLINE float highest(FloatVec values) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(values.part[0], values.part[1]), vmaxq_f32(values.part[2], values.part[3])));
}

ALWAYS_INLINE FloatVec shift_exponent(FloatVec power, FloatVec shifted) {
    const auto added = [](float32x4_t power, float32x4_t shifted) ALWAYS_INLINE_LAMBDA {
        const int32x4_t exponent = vshlq_n_s32(vreinterpretq_s32_f32(shifted), 23);
        return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(power), exponent));
    };
    return of_parts(added, power, shifted);
}

ALWAYS_INLINE LaneMask first_lanes(int count) {
    const int32_t numbers[4] = {0, 1, 2, 3};
    const auto before = [&](int count) ALWAYS_INLINE_LAMBDA { return vcgtq_s32(vdupq_n_s32(count), vld1q_s32(numbers)); };
    return {{before(count), before(count - 4), before(count - 8), before(count - 12)}};
}
ALWAYS_INLINE FloatVec select(LaneMask mask, FloatVec values, FloatVec others) { return of_parts(vbslq_f32, mask, values, others); }

// The lower halves, or the upper halves, of two registers.
ALWAYS_INLINE int32x4_t lower_halves(int32x4_t a, int32x4_t b) { return vcombine_s32(vget_low_s32(a), vget_low_s32(b)); }
ALWAYS_INLINE int32x4_t upper_halves(int32x4_t a, int32x4_t b) { return vcombine_s32(vget_high_s32(a), vget_high_s32(b)); }
ALWAYS_INLINE float32x4_t lower_halves(float32x4_t a, float32x4_t b) { return vcombine_f32(vget_low_f32(a), vget_low_f32(b)); }
ALWAYS_INLINE float32x4_t upper_halves(float32x4_t a, float32x4_t b) { return vcombine_f32(vget_high_f32(a), vget_high_f32(b)); }

// Transposes 4 x 4 words.
ALWAYS_INLINE IntVec transpose_4(IntVec rows) {
    const int32x4_t even = vtrn1q_s32(rows.part[0], rows.part[1]), odd = vtrn2q_s32(rows.part[0], rows.part[1]);
    const int32x4_t even2 = vtrn1q_s32(rows.part[2], rows.part[3]), odd2 = vtrn2q_s32(rows.part[2], rows.part[3]);
    return {{lower_halves(even, even2), lower_halves(odd, odd2), upper_halves(even, even2), upper_halves(odd, odd2)}};
}
ALWAYS_INLINE FloatVec transpose_4(FloatVec rows) {
    return of_parts(vreinterpretq_f32_s32, transpose_4(of_parts<IntVec>(vreinterpretq_s32_f32, rows)));
}

// Reduces four rows at a time to four lanes each, and transposes these, so that the rows are reduced further together.
template <int R, class Combine>
ALWAYS_INLINE FloatVec reduce_rows(FloatVec rows[LANES], Combine&& combine) {
    FloatVec lanes[4];  // of a group of four rows: part n has lane n of what is left of each row
    for (int n = 0; n < 4; n++) {
        const FloatVec* four = rows + 4 * n;
        const auto part = [&](int part) ALWAYS_INLINE_LAMBDA {
            return FloatVec{{four[0].part[part], four[1].part[part], four[2].part[part], four[3].part[part]}};
        };
        lanes[n] = 4 * n < R ? transpose_4(combine(combine(part(0), part(1)), combine(part(2), part(3)))) : part(0);
    }
    const auto lane = [&](int lane) ALWAYS_INLINE_LAMBDA {
        return FloatVec{{lanes[0].part[lane], lanes[1].part[lane], lanes[2].part[lane], lanes[3].part[lane]}};
    };
    return combine(combine(lane(0), lane(1)), combine(lane(2), lane(3)));
}

// `count` is a multiple of 32.
ALWAYS_INLINE Extremes extremes(const BFloat16* values, int count) {
    uint16x8_t low = vdupq_n_u16(0);
    int16x8_t high = vdupq_n_s16(0);
    for (int n = 0; n < count; n += 8) {
        const uint16x8_t bits = vld1q_u16(values + n);
        low = vmaxq_u16(low, bits);
        high = vmaxq_s16(high, vreinterpretq_s16_u16(bits));
    }
    return extremes_of(vmaxvq_u16(low), vmaxvq_s16(high));
}

// 4 words of any type, at any address.
ALWAYS_INLINE int32x4_t load_register(const void* from) { return vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(from))); }
// Loads COUNT words, one or two. If it is one, the other lane is 0.
template <int COUNT>
ALWAYS_INLINE int32x2_t load_lanes(const void* from) {
    std::conditional_t<COUNT == 2, uint64_t, uint32_t> words;
    __builtin_memcpy(&words, from, sizeof words);
    return vcreate_s32(words);
}
ALWAYS_INLINE IntVec bits(FloatVec values) {
    IntVec words;
    for (int n = 0; n < 4; n++) words.part[n] = vreinterpretq_s32_f32(values.part[n]);
    return words;
}
ALWAYS_INLINE IntVec zero_words() {
    const int32x4_t zero = vdupq_n_s32(0);
    return {{zero, zero, zero, zero}};
}
ALWAYS_INLINE IntVec load_words(const void* from) {
    const char* words = static_cast<const char*>(from);
    return {{load_register(words), load_register(words + 16), load_register(words + 32), load_register(words + 48)}};
}
ALWAYS_INLINE void store_words(void* to, IntVec words) {
    for (int n = 0; n < 4; n++) vst1q_u8(static_cast<uint8_t*>(to) + 16 * n, vreinterpretq_u8_s32(words.part[n]));
}

ALWAYS_INLINE void transpose(IntVec rows[LANES]) {
    IntVec columns[LANES];
    for (int row = 0; row < LANES; row += 4)
        for (int part = 0; part < 4; part++) {
            const IntVec block = transpose_4(IntVec{
                {rows[row].part[part], rows[row + 1].part[part], rows[row + 2].part[part], rows[row + 3].part[part]}});
            for (int n = 0; n < 4; n++) columns[4 * part + n].part[row / 4] = block.part[n];
        }
    for (int n = 0; n < LANES; n++) rows[n] = columns[n];
}

ALWAYS_INLINE void interleave(IntVec first, IntVec second, IntVec& low, IntVec& high) {
    const auto lower = [&](int part) ALWAYS_INLINE_LAMBDA {
        return vreinterpretq_s32_s16(
            vzip1q_s16(vreinterpretq_s16_s32(first.part[part]), vreinterpretq_s16_s32(second.part[part])));
    };
    const auto upper = [&](int part) ALWAYS_INLINE_LAMBDA {
        return vreinterpretq_s32_s16(
            vzip2q_s16(vreinterpretq_s16_s32(first.part[part]), vreinterpretq_s16_s32(second.part[part])));
    };
    low = {{lower(0), upper(0), lower(1), upper(1)}};
    high = {{lower(2), upper(2), lower(3), upper(3)}};
}

constexpr int ROWS_READ_BEYOND = 0;
constexpr int TILE = 12;
struct ThreadState {
    ThreadState() {}  // not trivial, so that a variable of it counts as used
};

// A Dot has one of two functions:
//
//     add(sum, activation, weights)            adds a row's word, in lane 0, times the words of 4 output channels to 4 sums
//     add_matrix(sum, activations, weights)    adds 2 words of each of 2 rows times 2 words of each of 2 channels to 4 sums

// FP32 times FP32, summed in FP32.
struct DotFp32 {
    using Sum = FloatVec;
    using Register = float32x4_t;
    static constexpr bool ANY_HEIGHT = false;
    static constexpr bool BY_MATRIX = false;
    static constexpr int ROWS = 6;
    static ALWAYS_INLINE Register zero() { return vdupq_n_f32(0); }
    static ALWAYS_INLINE void add(Register& sum, int32x2_t activation, int32x4_t weights) {
        sum = vfmaq_lane_f32(sum, vreinterpretq_f32_s32(weights), vreinterpret_f32_s32(activation), 0);
    }
};

#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
constexpr bool BF16_INSTRUCTION = true;
// BFMMLA does four times as many multiply-adds as FMLA, and Arm's own processors execute it at half the rate of FMLA or faster
// (Software Optimization Guides of Neoverse V1 and N2).
inline bool bf16_is_faster() { return true; }
#else
constexpr bool BF16_INSTRUCTION = false;
constexpr bool bf16_is_faster() { return false; }
#endif
// BF16 times BF16, summed in FP32, by BFMMLA. Without it there are two FP32 products: a BF16 is the upper half of an FP32.
struct DotBf16 {
    using Sum = FloatVec;
    using Register = float32x4_t;
    static constexpr bool ANY_HEIGHT = false;
    static ALWAYS_INLINE Register zero() { return vdupq_n_f32(0); }
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
    static constexpr bool BY_MATRIX = true;
    static constexpr int ROWS = 6;
    static ALWAYS_INLINE void add_matrix(Register& sum, int32x4_t activations, int32x4_t weights) {
        sum = vbfmmlaq_f32(sum, vreinterpretq_bf16_s32(activations), vreinterpretq_bf16_s32(weights));
    }
#else
    static constexpr bool BY_MATRIX = false;
    static constexpr int ROWS = 4;
    static ALWAYS_INLINE void add(Register& sum, int32x2_t activation, int32x4_t weights) {
        DotFp32::add(sum, vshl_n_s32(activation, 16), vshlq_n_s32(weights, 16));
        DotFp32::add(sum, vand_s32(activation, vdup_n_s32(~0xffff)), vandq_s32(weights, vdupq_n_s32(~0xffff)));
    }
#endif
};

// Signed INT8 activations times signed INT8 weights, summed in INT32 without saturation, by SMMLA, SDOT or products of 16 bits.
struct DotInt8 {
    using Sum = IntVec;
    using Register = int32x4_t;
    using Activation = int8_t;
    static constexpr bool ANY_HEIGHT = false;
    static constexpr int ROWS = 6, MAX_ACTIVATION = 255, OFFSET = 128;
    static ALWAYS_INLINE Register zero() { return vdupq_n_s32(0); }
#ifdef __ARM_FEATURE_MATMUL_INT8
    static constexpr bool BY_MATRIX = true;
    static ALWAYS_INLINE void add_matrix(Register& sum, int32x4_t activations, int32x4_t weights) {
        sum = vmmlaq_s32(sum, vreinterpretq_s8_s32(activations), vreinterpretq_s8_s32(weights));
    }
#else
    static constexpr bool BY_MATRIX = false;
    static ALWAYS_INLINE void add(Register& sum, int32x2_t activation, int32x4_t weights) {
#ifdef __ARM_FEATURE_DOTPROD
        sum = vdotq_lane_s32(sum, vreinterpretq_s8_s32(weights), vreinterpret_s8_s32(activation), 0);
#else
        const int8x16_t a = vreinterpretq_s8_s32(vdupq_lane_s32(activation, 0)), b = vreinterpretq_s8_s32(weights);
        // The sum of two products fits in 16 bits: 2 * 128 * 127 = 32,512.
        sum = vpadalq_s16(sum, vpaddq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)), vmull_high_s8(a, b)));
#endif
    }
#endif
};

// Multiplies R rows with 16 of the 32 output channels of a panel.
template <class Dot, int R>
ALWAYS_INLINE void half_of_panel(const char* rows, ptrdiff_t stride, const char* weights, int steps, typename Dot::Sum sums[R]) {
    typename Dot::Register sum[R][4];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = sum[r][2] = sum[r][3] = Dot::zero();
    for (int step = 0; step < steps; step++, weights += 4 * PANEL, rows += 4) {
        int32x2_t activation[R];
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) activation[r] = load_lanes<1>(rows + r * stride);
#pragma GCC unroll 4
        for (int n = 0; n < 4; n++) {
            const int32x4_t four = load_register(weights + 16 * n);
#pragma GCC unroll 6
            for (int r = 0; r < R; r++) Dot::add(sum[r][n], activation[r], four);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) sums[r] = {{sum[r][0], sum[r][1], sum[r][2], sum[r][3]}};
}

// The same by products of 2 x 2 words with 2 x 2 words, of two rows and two steps at a time. The words of 4 channels in one step
// and in the next are interleaved, so that each register has both steps of 2 channels. A last row without a partner is used
// twice. A last step without a partner is combined with zeros.
template <class Dot, int R>
ALWAYS_INLINE void half_of_panel_by_matrix(const char* rows, ptrdiff_t stride, const char* weights, int steps,
                                           typename Dot::Sum sums[R]) {
    constexpr int PAIRS = (R + 1) / 2;
    typename Dot::Register sum[PAIRS][8];  // each has sums of 2 rows and 2 channels
#pragma GCC unroll 3
    for (int pair = 0; pair < PAIRS; pair++)
#pragma GCC unroll 8
        for (int n = 0; n < 8; n++) sum[pair][n] = Dot::zero();
    const auto add = [&]<bool TWO_STEPS>() ALWAYS_INLINE_LAMBDA {
        const auto words_of = [&](int row) ALWAYS_INLINE_LAMBDA { return load_lanes<TWO_STEPS ? 2 : 1>(rows + row * stride); };
        int32x4_t activations[PAIRS];
#pragma GCC unroll 3
        for (int pair = 0; pair < PAIRS; pair++)
            activations[pair] = vcombine_s32(words_of(2 * pair), words_of(2 * pair + 1 < R ? 2 * pair + 1 : 2 * pair));
#pragma GCC unroll 4
        for (int n = 0; n < 4; n++) {
            const int32x4_t first = load_register(weights + 16 * n);
            const int32x4_t second = TWO_STEPS ? load_register(weights + 4 * PANEL + 16 * n) : vdupq_n_s32(0);
            const int32x4_t low = vzip1q_s32(first, second), high = vzip2q_s32(first, second);
#pragma GCC unroll 3
            for (int pair = 0; pair < PAIRS; pair++) {
                Dot::add_matrix(sum[pair][2 * n], activations[pair], low);
                Dot::add_matrix(sum[pair][2 * n + 1], activations[pair], high);
            }
        }
    };
    for (; steps >= 2; steps -= 2, weights += 2 * 4 * PANEL, rows += 2 * 4) add.template operator()<true>();
    if (steps) add.template operator()<false>();
    // The lower half of a register belongs to the first row of a pair, the upper half to the second.
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
        for (int n = 0; n < 4; n++) {
            const auto& left = sum[r / 2][2 * n];
            const auto& right = sum[r / 2][2 * n + 1];
            sums[r].part[n] = r % 2 ? upper_halves(left, right) : lower_halves(left, right);
        }
    }
}

template <class Dot, int R, class Epilogue>
ALWAYS_INLINE void microkernel(const void* rows, ptrdiff_t stride, const void* panel, int steps, int, Epilogue&& epilogue) {
    const char* row = static_cast<const char*>(rows);
    const char* weights = static_cast<const char*>(panel);
    typename Dot::Sum low[R], high[R];
    if constexpr (Dot::BY_MATRIX) {
        half_of_panel_by_matrix<Dot, R>(row, stride, weights, steps, low);
        half_of_panel_by_matrix<Dot, R>(row, stride, weights + 64, steps, high);
    } else {
        half_of_panel<Dot, R>(row, stride, weights, steps, low);
        half_of_panel<Dot, R>(row, stride, weights + 64, steps, high);
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) epilogue(r, low[r], high[r]);
}

}  // namespace crossrt
