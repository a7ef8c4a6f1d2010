// The instructions of a kind of processor, behind names that are the same for all kinds.
//
// The encoder is written once, on 16 numbers at a time. Each kind of processor has one file in isa/, which a library includes
// once, and which defines:
//
//     FloatVec, IntVec     16 FP32 numbers; 64 bytes, seen as 16 words of 32 bits
//     LaneMask             a choice of lanes
//     BFloat16             in isa.h: the upper half of an FP32, held as its bits
//
//     broadcast(number)                    the number in all lanes
//     load(from)                           16 numbers in FP32, BF16 or DotInt8::Activation, as FP32
//     load_fp16(from)                      16 numbers in FP16, as FP32
//     store(to, values)                    stores FP32, or rounds it to BF16: to nearest, ties to even
//     store(to, low, high)                 the same for 32 numbers
//     store_rounded(to, values)            rounds to integers, ties to even, and clamps them to what DotInt8::Activation holds. No
//                                          value is so low that it rounds to less.
//     a + b, a - b, a * b, a / b           of each lane
//     fmadd(a, b, c), fmsub(a, b, c)       a * b + c and a * b - c, rounded once
//     minimum(a, b), maximum(a, b)         of each lane
//     sum(values), lowest(values), highest(values)           of all lanes
//     shift_exponent(power, shifted)       adds the lowest bits of `shifted` to the exponents of `power` (`exp2` in simd.h)
//     first_lanes(count), select(mask, values, others)       the lanes before `count`; values there, others elsewhere
//     reduce_rows<R>(rows, combine)        lane n of the result is rows[n] reduced by `combine`, a sum or a maximum, for n < R.
//                                          All 16 rows must be initialized; they are overwritten.
//     extremes(values, count)              the least and the greatest of BF16 numbers and 0
//     load_words(from), store_words(to, words), zero_words(), transpose(rows)    16 words, and 16 x 16 of them
//     bits(values)                         16 FP32 numbers as 16 words
//     interleave(first, second, low, high) BF16: first[0], second[0], first[1], ... in two vectors
//
//     DotInt8, DotFp32, DotBf16            what a step of a matrix product adds, with
//         Sum                                  FloatVec, or IntVec for INT8: 16 sums
//         ROWS                                 the rows of a tile, at most and at best
//         ANY_HEIGHT                           whether one microkernel is for all heights up to ROWS, or there is one for each
//         Activation, OFFSET                   of DotInt8: a quantized activation q, in [0, MAX_ACTIVATION], is stored as q - OFFSET.
//                                              UINT8 and 0 where the instruction has unsigned activations, INT8 and 128 where it
//                                              has signed ones
//         MAX_ACTIVATION                       of DotInt8: the greatest q whose sums cannot saturate
//     BF16_INSTRUCTION                     whether DotBf16 is an instruction, and not two FP32 products of converted factors
//     bf16_is_faster()                     whether it is one and this processor multiplies by it faster than in FP32
//     to_floats(sum)                       16 INT32 sums as FP32
//     microkernel<Dot, R>(rows, stride, panel, steps, height, epilogue)
//                                          multiplies `height` rows with one panel (gemm.h), which are R unless ANY_HEIGHT
//     TILE                                 the most rows of any tile
//     ROWS_READ_BEYOND                     rows after those of a product that a microkernel may read, and must be there
//     ThreadState                          stands in a thread while it computes
//
// Loads and stores need no alignment, except those of panels: a panel is aligned to 64 bytes.

#pragma once

#include <cstddef>
#include <cstdint>

namespace crossrt {

#define ALWAYS_INLINE inline __attribute__((always_inline))
// For lambdas that get the sums of a microkernel: a call would spill all of them to the stack.
#define ALWAYS_INLINE_LAMBDA __attribute__((always_inline))
// For the lambda that handles one tile height: inlined into one another, the heights spill their sums too.
#define NOINLINE __attribute__((noinline))

// Output channels of a panel of packed weights, on all kinds of processors (gemm.h).
constexpr int PANEL = 32;
// Numbers in a FloatVec.
constexpr int LANES = 16;

using BFloat16 = uint16_t;  // bits

struct Extremes {
    float low, high;
};

ALWAYS_INLINE float to_float(BFloat16 value) {
    const uint32_t bits = static_cast<uint32_t>(value) << 16;
    float result;
    __builtin_memcpy(&result, &bits, 4);
    return result;
}

// Among BF16 numbers of one sign the order of the numbers, or of their negatives, is that of their bits. So the greatest bits, as
// unsigned integers, are those of the least number, if any is negative; as signed integers and from 0 on, those of the greatest.
ALWAYS_INLINE Extremes extremes_of(uint16_t greatest_unsigned, uint16_t greatest_signed) {
    return {greatest_unsigned & 0x8000 ? to_float(greatest_unsigned) : 0, to_float(greatest_signed)};
}

}  // namespace crossrt

#if defined(__AVX512F__)
#include "isa/avx512.h"
#elif defined(__AVX2__)
#include "isa/avx2.h"
#elif defined(__ARM_NEON)
#include "isa/neon.h"
#else
#error "no file in isa/ is for the instructions that this is compiled with"
#endif
