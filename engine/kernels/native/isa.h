// The instructions of a kind of processor, with the same names for all kinds.
//
// The encoder is written once, on vectors of 16 numbers. For each family of processors a file in isa/ defines the following. A
// library includes one of these files.
//
//     FloatVec, IntVec     16 FP32 numbers; 64 bytes as 16 words of 32 bits
//     LaneMask             a set of lanes
//     BFloat16             in isa.h: the upper half of an FP32, held as its bits
//
//     broadcast(number)                    the number in all lanes
//     load(from)                           16 numbers in FP32, BF16 or DotInt8::Activation, as FP32
//     load_fp16(from)                      16 numbers in FP16, as FP32
//     store(to, values)                    stores FP32, or rounds it to BF16: to nearest, ties to even
//     store(to, low, high)                 the same for 32 numbers
//     store_rounded(to, values)            rounds to integers, ties to even, and clamps to the maximum of DotInt8::Activation.
//                                          No value may round to less than its minimum.
//     a + b, a - b, a * b, a / b           of each lane
//     fmadd(a, b, c), fmsub(a, b, c)       a * b + c and a * b - c, rounded once
//     minimum(a, b), maximum(a, b)         of each lane
//     sum(values), lowest(values), highest(values)           of all lanes
//     shift_exponent(power, shifted)       adds the lowest bits of `shifted` to the exponents of `power` (`exp2` in simd.h)
//     first_lanes(count)                   the first `count` lanes
//     select(mask, values, others)         `values` in the lanes of the mask, `others` elsewhere
//     reduce_rows<R>(rows, combine)        lane n of the result is rows[n] reduced by `combine`, a sum or a maximum, for n < R.
//                                          All 16 rows must be initialized, and are overwritten.
//     extremes(values, count)              the least and the greatest of `count` BF16 numbers and 0
//     load_words(from), store_words(to, words), zero_words()   of 16 words
//     transpose(rows)                      transposes 16 x 16 words in place
//     bits(values)                         the bits of 16 FP32 numbers as 16 words
//     interleave(first, second, low, high) BF16: first[0], second[0], first[1], ... in two vectors
//
//     DotInt8, DotFp32, DotBf16            the multiply-add of one step of a matrix product, with
//         Sum                                  FloatVec, or IntVec for INT8: 16 sums
//         ROWS                                 the largest height of a tile, which is also the fastest
//         ANY_HEIGHT                           true if one microkernel serves all heights up to ROWS, false if each has its own
//         Activation, OFFSET                   of DotInt8: a quantized activation q, in [0, MAX_ACTIVATION], is stored as q - OFFSET.
//                                              UINT8 and 0 if the instruction has unsigned activations, INT8 and 128 if it has
//                                              signed ones
//         MAX_ACTIVATION                       of DotInt8: the greatest q whose sums cannot saturate
//     BF16_INSTRUCTION                     whether DotBf16 is an instruction, rather than two FP32 products of converted factors
//     bf16_is_faster()                     whether there is one and this processor multiplies faster by it than in FP32
//     to_floats(sum)                       16 INT32 sums as FP32
//     microkernel<Dot, R>(rows, stride, panel, steps, height, epilogue)
//                                          multiplies `height` rows with one panel (gemm.h). `height` is R unless ANY_HEIGHT.
//     TILE                                 rows that the buffers of a tile have, at least ROWS of every Dot. Threads divide the
//                                          tokens in multiples of TILE.
//     ROWS_READ_BEYOND                     rows after a product's last row that a microkernel may read, so they must exist
//     ThreadState                          an object of it must exist in a thread while the thread computes
//
// Loads and stores need no alignment, except loads of panels: a panel is aligned to 64 bytes.

#pragma once

#include <cstddef>
#include <cstdint>

namespace crossrt {

#define ALWAYS_INLINE inline __attribute__((always_inline))
// For lambdas that get the sums of a microkernel. A call would spill all sums to the stack.
#define ALWAYS_INLINE_LAMBDA __attribute__((always_inline))
// For the lambda that handles one tile height. If the heights were inlined into one function, the sums would be spilled too.
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

// Returns the extremes from the greatest bits of some BF16 numbers, as unsigned and as signed integers. Positive numbers have the
// order of their bits, and negative numbers the reverse order. So the greatest unsigned integer is the least number if any number
// is negative. The greatest signed integer, or 0 if all are negative, is the greatest number.
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
