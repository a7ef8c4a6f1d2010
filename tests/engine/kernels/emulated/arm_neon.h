// The NEON instructions that engine/kernels/native/isa/neon.h uses, as functions in plain C++, so that its kinds run on any
// machine. The include path puts this file before the compiler's own arm_neon.h. The results are those of the instructions to the
// last bit, except for NaN.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

typedef int8_t int8x8_t __attribute__((vector_size(8)));
typedef int16_t int16x4_t __attribute__((vector_size(8)));
typedef int32_t int32x2_t __attribute__((vector_size(8)));
typedef uint16_t uint16x4_t __attribute__((vector_size(8)));
typedef float float32x2_t __attribute__((vector_size(8)));
typedef int8_t int8x16_t __attribute__((vector_size(16)));
typedef uint8_t uint8x16_t __attribute__((vector_size(16)));
typedef int16_t int16x8_t __attribute__((vector_size(16)));
typedef uint16_t uint16x8_t __attribute__((vector_size(16)));
typedef int32_t int32x4_t __attribute__((vector_size(16)));
typedef uint32_t uint32x4_t __attribute__((vector_size(16)));
typedef float float32x4_t __attribute__((vector_size(16)));
struct float16x4_t {
    uint16x4_t bits;
};
struct float16x8_t {
    uint16x8_t bits;
};
struct bfloat16x8_t {
    uint16x8_t bits;
};

namespace emulated {

template <class To, class From>
To with_bits(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

template <class Vector>
Vector load(const void* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

// Returns a vector with `function(n)` in lane n.
template <class Vector, class Function>
Vector lanes(Function&& function) {
    Vector vector;
    for (size_t n = 0; n < sizeof vector / sizeof vector[0]; n++) vector[n] = function(n);
    return vector;
}

// Returns the lanes of `from` from lane `first` on, converted to the type of `To`.
template <class To, class From>
To widened(From from, int first) {
    return lanes<To>([&](int n) { return from[first + n]; });
}

// Returns the lanes of `from`, clamped to the range of the lanes of `To`.
template <class To, class From>
To saturated(From from) {
    using Number = std::remove_cvref_t<decltype(To{}[0])>;
    constexpr int LEAST = std::numeric_limits<Number>::min();
    return lanes<To>([&](int n) {
        const int value = from[n];
        return static_cast<Number>(value < LEAST ? LEAST : value > ~LEAST ? ~LEAST : value);
    });
}
template <class To, class Half>
To joined(Half low, Half high) {
    constexpr int HALF = sizeof low / sizeof low[0];
    return lanes<To>([&](int n) { return n < HALF ? low[n] : high[n - HALF]; });
}

inline float minimum(float a, float b) { return a < b || (a == b && std::signbit(a)) ? a : b; }
inline float maximum(float a, float b) { return -minimum(-a, -b); }

inline float from_fp16(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                       : exponent     ? std::ldexp(1024.f + fraction, exponent - 25)
                                      : std::ldexp(float(fraction), -24);
    return bits >> 15 ? -size : size;
}
inline float from_bf16(uint16_t bits) { return with_bits<float>(uint32_t(bits) << 16); }
// Rounds to nearest, ties to even.
inline uint16_t to_bf16(float value) {
    const uint32_t bits = with_bits<uint32_t>(value);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

inline float without_subnormal(float value) { return std::abs(value) < 0x1p-126f ? std::copysign(0.f, value) : value; }
// Returns a + b, rounded to odd as BFMMLA rounds: of the two neighbours of an inexact sum, it is the one whose last bit is 1.
inline float add_to_odd(float a, float b) {
    const double sum = double(a) + b, rest = (a - (sum - (sum - a))) + (b - (sum - a));  // what the FP64 sum has lost
    float result = static_cast<float>(sum);
    if (std::isinf(result) || (result == sum && rest == 0)) return without_subnormal(result);
    const bool beyond = std::abs(result) > std::abs(sum) || (result == sum && (rest < 0) == (sum > 0));
    if (beyond) result = std::nextafter(result, 0.f);
    return without_subnormal(with_bits<float>(with_bits<uint32_t>(result) | 1));
}

}  // namespace emulated

#define OF_TWO(name, Vector, expression)                                \
    inline Vector name(Vector first, Vector second) {                   \
        return emulated::lanes<Vector>([&](int n) {                     \
            const auto a = first[n], b = second[n];                     \
            return expression;                                          \
        });                                                             \
    }
OF_TWO(vaddq_f32, float32x4_t, a + b)
OF_TWO(vsubq_f32, float32x4_t, a - b)
OF_TWO(vmulq_f32, float32x4_t, a* b)
OF_TWO(vdivq_f32, float32x4_t, a / b)
OF_TWO(vminq_f32, float32x4_t, emulated::minimum(a, b))
OF_TWO(vmaxq_f32, float32x4_t, emulated::maximum(a, b))
OF_TWO(vaddq_s32, int32x4_t, static_cast<int32_t>(uint32_t(a) + uint32_t(b)))
OF_TWO(vaddq_u32, uint32x4_t, a + b)
OF_TWO(vandq_u32, uint32x4_t, a& b)
OF_TWO(vandq_s32, int32x4_t, a& b)
OF_TWO(vand_s32, int32x2_t, a& b)
OF_TWO(vmaxq_s16, int16x8_t, a > b ? a : b)
OF_TWO(vmaxq_u16, uint16x8_t, a > b ? a : b)
#undef OF_TWO
inline float32x4_t vnegq_f32(float32x4_t a) { return -a; }
inline float32x4_t vfmaq_f32(float32x4_t sum, float32x4_t a, float32x4_t b) {
    return emulated::lanes<float32x4_t>([&](int n) { return std::fma(a[n], b[n], sum[n]); });
}
inline float32x4_t vfmaq_lane_f32(float32x4_t sum, float32x4_t a, float32x2_t b, int lane) {
    return emulated::lanes<float32x4_t>([&](int n) { return std::fma(a[n], b[lane], sum[n]); });
}
inline uint32x4_t vcgtq_s32(int32x4_t a, int32x4_t b) {
    return emulated::lanes<uint32x4_t>([&](int n) { return a[n] > b[n] ? ~0u : 0u; });
}
inline float32x4_t vbslq_f32(uint32x4_t mask, float32x4_t a, float32x4_t b) {
    return (float32x4_t)((mask & (uint32x4_t)a) | (~mask & (uint32x4_t)b));
}

inline float vaddvq_f32(float32x4_t a) { return (a[0] + a[1]) + (a[2] + a[3]); }
inline float vminvq_f32(float32x4_t a) {
    return emulated::minimum(emulated::minimum(a[0], a[1]), emulated::minimum(a[2], a[3]));
}
inline float vmaxvq_f32(float32x4_t a) { return -vminvq_f32(-a); }
#define GREATEST(name, Lane, Vector)                                    \
    inline Lane name(Vector a) {                                        \
        Lane most = a[0];                                               \
        for (int n = 1; n < 8; n++) most = a[n] > most ? a[n] : most;   \
        return most;                                                    \
    }
GREATEST(vmaxvq_s16, int16_t, int16x8_t)
GREATEST(vmaxvq_u16, uint16_t, uint16x8_t)
#undef GREATEST

#define SHIFTED(name, To, From, first, expression)                                 \
    inline To name(From from, int bits) {                                          \
        return emulated::lanes<To>([&](int n) {                                    \
            const uint32_t word = from[first + n];                                 \
            return expression;                                                     \
        });                                                                        \
    }
SHIFTED(vshlq_n_s32, int32x4_t, int32x4_t, 0, static_cast<int32_t>(word << bits))
SHIFTED(vshl_n_s32, int32x2_t, int32x2_t, 0, static_cast<int32_t>(word << bits))
SHIFTED(vshrq_n_u32, uint32x4_t, uint32x4_t, 0, word >> bits)
SHIFTED(vshll_n_u16, uint32x4_t, uint16x4_t, 0, word << bits)
SHIFTED(vshll_high_n_u16, uint32x4_t, uint16x8_t, 4, word << bits)
SHIFTED(vshrn_n_u32, uint16x4_t, uint32x4_t, 0, static_cast<uint16_t>(word >> bits))
#undef SHIFTED
inline uint16x8_t vshrn_high_n_u32(uint16x4_t low, uint32x4_t high, int bits) {
    return emulated::lanes<uint16x8_t>([&](int n) { return n < 4 ? low[n] : static_cast<uint16_t>(high[n - 4] >> bits); });
}

inline int16x8_t vmovl_s8(int8x8_t a) { return emulated::widened<int16x8_t>(a, 0); }
inline int16x8_t vmovl_high_s8(int8x16_t a) { return emulated::widened<int16x8_t>(a, 8); }
inline int32x4_t vmovl_s16(int16x4_t a) { return emulated::widened<int32x4_t>(a, 0); }
inline int32x4_t vmovl_high_s16(int16x8_t a) { return emulated::widened<int32x4_t>(a, 4); }
inline int16x4_t vqmovn_s32(int32x4_t a) { return emulated::saturated<int16x4_t>(a); }
inline int8x8_t vqmovn_s16(int16x8_t a) { return emulated::saturated<int8x8_t>(a); }
inline int16x8_t vqmovn_high_s32(int16x4_t low, int32x4_t high) { return emulated::joined<int16x8_t>(low, vqmovn_s32(high)); }
inline int8x16_t vqmovn_high_s16(int8x8_t low, int16x8_t high) { return emulated::joined<int8x16_t>(low, vqmovn_s16(high)); }

inline float32x4_t vcvtq_f32_s32(int32x4_t a) { return emulated::widened<float32x4_t>(a, 0); }
inline int32x4_t vcvtnq_s32_f32(float32x4_t a) {
    return emulated::lanes<int32x4_t>([&](int n) {
        const float rounded = std::nearbyint(a[n]);
        return rounded >= 0x1p31f ? INT32_MAX : rounded < -0x1p31f ? INT32_MIN : static_cast<int32_t>(rounded);
    });
}
inline float32x4_t vcvt_f32_f16(float16x4_t a) {
    return emulated::lanes<float32x4_t>([&](int n) { return emulated::from_fp16(a.bits[n]); });
}
inline float32x4_t vcvt_high_f32_f16(float16x8_t a) {
    return emulated::lanes<float32x4_t>([&](int n) { return emulated::from_fp16(a.bits[4 + n]); });
}
inline bfloat16x8_t vcvtq_low_bf16_f32(float32x4_t a) {
    return {emulated::lanes<uint16x8_t>([&](int n) { return n < 4 ? emulated::to_bf16(a[n]) : uint16_t(0); })};
}
inline bfloat16x8_t vcvtq_high_bf16_f32(bfloat16x8_t low, float32x4_t high) {
    return {emulated::lanes<uint16x8_t>([&](int n) { return n < 4 ? low.bits[n] : emulated::to_bf16(high[n - 4]); })};
}

inline float32x4_t vdupq_n_f32(float a) { return float32x4_t{} + a; }
inline int32x4_t vdupq_n_s32(int32_t a) { return int32x4_t{} + a; }
inline int32x2_t vdup_n_s32(int32_t a) { return int32x2_t{} + a; }
inline uint32x4_t vdupq_n_u32(uint32_t a) { return uint32x4_t{} + a; }
inline int16x8_t vdupq_n_s16(int16_t a) { return int16x8_t{} + a; }
inline uint16x8_t vdupq_n_u16(uint16_t a) { return uint16x8_t{} + a; }
inline int32x4_t vdupq_lane_s32(int32x2_t a, int lane) { return vdupq_n_s32(a[lane]); }
inline int32x2_t vcreate_s32(uint64_t words) { return emulated::with_bits<int32x2_t>(words); }

inline float32x4_t vld1q_f32(const float* from) { return emulated::load<float32x4_t>(from); }
inline int32x4_t vld1q_s32(const int32_t* from) { return emulated::load<int32x4_t>(from); }
inline int8x16_t vld1q_s8(const int8_t* from) { return emulated::load<int8x16_t>(from); }
inline uint8x16_t vld1q_u8(const uint8_t* from) { return emulated::load<uint8x16_t>(from); }
inline uint16x8_t vld1q_u16(const uint16_t* from) { return emulated::load<uint16x8_t>(from); }
inline void vst1q_f32(float* to, float32x4_t a) { std::memcpy(to, &a, sizeof a); }
inline void vst1q_s8(int8_t* to, int8x16_t a) { std::memcpy(to, &a, sizeof a); }
inline void vst1q_u8(uint8_t* to, uint8x16_t a) { std::memcpy(to, &a, sizeof a); }
inline void vst1q_u16(uint16_t* to, uint16x8_t a) { std::memcpy(to, &a, sizeof a); }

inline int8x8_t vget_low_s8(int8x16_t a) { return emulated::widened<int8x8_t>(a, 0); }
inline int16x4_t vget_low_s16(int16x8_t a) { return emulated::widened<int16x4_t>(a, 0); }
inline uint16x4_t vget_low_u16(uint16x8_t a) { return emulated::widened<uint16x4_t>(a, 0); }
inline float16x4_t vget_low_f16(float16x8_t a) { return {vget_low_u16(a.bits)}; }
inline int32x2_t vget_low_s32(int32x4_t a) { return int32x2_t{a[0], a[1]}; }
inline int32x2_t vget_high_s32(int32x4_t a) { return int32x2_t{a[2], a[3]}; }
inline float32x2_t vget_low_f32(float32x4_t a) { return float32x2_t{a[0], a[1]}; }
inline float32x2_t vget_high_f32(float32x4_t a) { return float32x2_t{a[2], a[3]}; }
inline int32x4_t vcombine_s32(int32x2_t a, int32x2_t b) { return int32x4_t{a[0], a[1], b[0], b[1]}; }
inline float32x4_t vcombine_f32(float32x2_t a, float32x2_t b) { return float32x4_t{a[0], a[1], b[0], b[1]}; }

inline int32x4_t vtrn1q_s32(int32x4_t a, int32x4_t b) { return int32x4_t{a[0], b[0], a[2], b[2]}; }
inline int32x4_t vtrn2q_s32(int32x4_t a, int32x4_t b) { return int32x4_t{a[1], b[1], a[3], b[3]}; }
inline int32x4_t vzip1q_s32(int32x4_t a, int32x4_t b) { return int32x4_t{a[0], b[0], a[1], b[1]}; }
inline int32x4_t vzip2q_s32(int32x4_t a, int32x4_t b) { return int32x4_t{a[2], b[2], a[3], b[3]}; }
inline int16x8_t vzip1q_s16(int16x8_t a, int16x8_t b) { return int16x8_t{a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3]}; }
inline int16x8_t vzip2q_s16(int16x8_t a, int16x8_t b) { return int16x8_t{a[4], b[4], a[5], b[5], a[6], b[6], a[7], b[7]}; }

#define SAME_BITS(name, To, From) \
    inline To name(From a) { return emulated::with_bits<To>(a); }
SAME_BITS(vreinterpret_f32_s32, float32x2_t, int32x2_t)
SAME_BITS(vreinterpret_s8_s32, int8x8_t, int32x2_t)
SAME_BITS(vreinterpretq_bf16_s32, bfloat16x8_t, int32x4_t)
SAME_BITS(vreinterpretq_f16_u16, float16x8_t, uint16x8_t)
SAME_BITS(vreinterpretq_f32_s32, float32x4_t, int32x4_t)
SAME_BITS(vreinterpretq_s16_s32, int16x8_t, int32x4_t)
SAME_BITS(vreinterpretq_s16_u16, int16x8_t, uint16x8_t)
SAME_BITS(vreinterpretq_s32_f32, int32x4_t, float32x4_t)
SAME_BITS(vreinterpretq_s32_s16, int32x4_t, int16x8_t)
SAME_BITS(vreinterpretq_s32_u32, int32x4_t, uint32x4_t)
SAME_BITS(vreinterpretq_s32_u8, int32x4_t, uint8x16_t)
SAME_BITS(vreinterpretq_s8_s32, int8x16_t, int32x4_t)
SAME_BITS(vreinterpretq_u16_bf16, uint16x8_t, bfloat16x8_t)
SAME_BITS(vreinterpretq_u32_f32, uint32x4_t, float32x4_t)
SAME_BITS(vreinterpretq_u8_s32, uint8x16_t, int32x4_t)
#undef SAME_BITS

inline int16x8_t vmull_s8(int8x8_t a, int8x8_t b) { return vmovl_s8(a) * vmovl_s8(b); }
inline int16x8_t vmull_high_s8(int8x16_t a, int8x16_t b) { return vmovl_high_s8(a) * vmovl_high_s8(b); }
inline int16x8_t vpaddq_s16(int16x8_t a, int16x8_t b) {
    return emulated::lanes<int16x8_t>([&](int n) {
        const int16x8_t& from = n < 4 ? a : b;
        return static_cast<int16_t>(from[n % 4 * 2] + from[n % 4 * 2 + 1]);
    });
}
inline int32x4_t vpadalq_s16(int32x4_t sum, int16x8_t a) {
    return emulated::lanes<int32x4_t>([&](int n) { return sum[n] + a[2 * n] + a[2 * n + 1]; });
}
inline int32x4_t vdotq_lane_s32(int32x4_t sum, int8x16_t a, int8x8_t b, int lane) {
    for (int n = 0; n < 16; n++) sum[n / 4] += a[n] * b[4 * lane + n % 4];
    return sum;
}
inline int32x4_t vmmlaq_s32(int32x4_t sum, int8x16_t a, int8x16_t b) {
    for (int n = 0; n < 32; n++) sum[n / 8] += a[n / 16 * 8 + n % 8] * b[n / 8 % 2 * 8 + n % 8];
    return sum;
}
// Adds two products to each other, and the result to the sum. Then it does so with the next two. Each addition rounds to odd and
// has no subnormal numbers (FPCR.EBF = 0).
inline float32x4_t vbfmmlaq_f32(float32x4_t sum, bfloat16x8_t a, bfloat16x8_t b) {
    for (int n = 0; n < 8; n++) {
        const auto product = [&](int k) {
            return emulated::without_subnormal(emulated::from_bf16(a.bits[n / 4 * 4 + k])) *
                   emulated::without_subnormal(emulated::from_bf16(b.bits[n / 2 % 2 * 4 + k]));
        };
        const int k = n % 2 * 2;
        sum[n / 2] = emulated::add_to_odd(
            emulated::without_subnormal(sum[n / 2]), emulated::add_to_odd(product(k), product(k + 1)));
    }
    return sum;
}
