// Matrix products of activations with packed weights. Nearly all of the time is spent in the loop of `microkernel`.
//
//     C [rows, out] = A [rows, in] B [in, out]
//
// B is packed in panels of PANEL = 32 output channels (NR in the usual terms), one panel after the other. A panel has a step for
// every 32-bit word of input: four INT8, two BF16 or one FP32 neighbouring input channels. In a step all 32 output channels have
// their word side by side, so that a step is two registers. This is the operand layout of vpdpbusd and vdpbf16ps, which oneDNN
// calls VNNI layout. For INT8, [out / 32][in / 4][32][4]:
//
//               channel 0      channel 1            channel 31
//     step 0    0  1  2  3     0  1  2  3    ...    0  1  2  3      <- the input channels of each byte
//     step 1    4  5  6  7     4  5  6  7    ...    4  5  6  7
//     ...
//
// A stays row-major: the word of a row at a step is broadcast to all lanes. The microkernel multiplies a tile of up to TILE = 12
// rows (MR) with one panel: 24 sums stay in registers, two registers hold the panel's step and one the row's word, of 32.
// docs/decisions/0012 has the measurements.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace crossrt {

#define ALWAYS_INLINE inline __attribute__((always_inline))
// For lambdas that get the sums of a microkernel: a call would spill all of them to the stack.
#define ALWAYS_INLINE_LAMBDA __attribute__((always_inline))
// For the lambda that handles one tile height: inlined into one another, the heights spill their sums too.
#define NOINLINE __attribute__((noinline))

constexpr int PANEL = 32;
constexpr int TILE = 12;

// Unsigned INT8 activations times signed INT8 weights, summed in INT32 without saturation: AVX512-VNNI.
struct DotInt8 {
    using Sum = __m512i;
    static ALWAYS_INLINE Sum zero() { return _mm512_setzero_si512(); }
    // Inline assembly, because GCC 12 copies every sum twice around the intrinsic, which halves the speed.
    static ALWAYS_INLINE void add(Sum& sum, __m512i activation, __m512i weight) {
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(activation), "v"(weight));
    }
};

// FP32 times FP32, summed in FP32.
struct DotFp32 {
    using Sum = __m512;
    static ALWAYS_INLINE Sum zero() { return _mm512_setzero_ps(); }
    static ALWAYS_INLINE void add(Sum& sum, __m512i activation, __m512i weight) {
        asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(activation), "v"(weight));
    }
};

// BF16 times BF16, summed in FP32: AVX512-BF16. Without it, two FP32 products: a BF16 is the upper half of an FP32.
struct DotBf16 {
    using Sum = __m512;
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

// Multiplies R rows, which lie `stride` bytes apart and have `steps` words, with one panel. `epilogue(row, low, high)` gets the
// 32 sums of each row: of the panel's first and last 16 output channels.
template <class Dot, int R, class Epilogue>
ALWAYS_INLINE void microkernel(const void* rows, ptrdiff_t stride, const void* panel, int steps, Epilogue&& epilogue) {
    const char* weights = static_cast<const char*>(panel);
    typename Dot::Sum low[R], high[R];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) low[r] = high[r] = Dot::zero();
    // One pointer for three rows: x86 addresses reach the other two, one and two strides away.
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

// Cuts `count` rows into tiles of nearly equal height, up to TILE, and calls `work.template operator()<R>(first)` for each: the
// height is a compile-time constant, so that the sums can be registers.
template <class Work>
ALWAYS_INLINE void for_each_tile(int count, Work&& work) {
    const int tiles = (count + TILE - 1) / TILE;
    for (int n = 0, first = 0; n < tiles; n++) {
        const int height = (count - first + tiles - n - 1) / (tiles - n);
        switch (height) {
            case 1: work.template operator()<1>(first); break;
            case 2: work.template operator()<2>(first); break;
            case 3: work.template operator()<3>(first); break;
            case 4: work.template operator()<4>(first); break;
            case 5: work.template operator()<5>(first); break;
            case 6: work.template operator()<6>(first); break;
            case 7: work.template operator()<7>(first); break;
            case 8: work.template operator()<8>(first); break;
            case 9: work.template operator()<9>(first); break;
            case 10: work.template operator()<10>(first); break;
            case 11: work.template operator()<11>(first); break;
            default: work.template operator()<12>(first); break;
        }
        first += height;
    }
}

// Multiplies `count` rows, `stride` elements apart, with the panels of the output channels `begin` to `end` of packed weights
// with `in` input channels. `epilogue(row, out, low, high)` gets 32 sums at a time: of the output channels from `out` on.
//
// A panel stays in the first or second cache for all rows. The weights as a whole do not: they come from the third cache. So the
// next panel is prefetched into the second cache while this one is used, a slice with each tile.
template <class Dot, class Weight, class Element, class Epilogue>
ALWAYS_INLINE void gemm(const Weight* weight, int in, int begin, int end, const Element* rows, ptrdiff_t stride, int count,
                        Epilogue&& epilogue) {
    const int bytes = PANEL * in * int(sizeof(Weight)), slice = std::min(bytes, bytes * TILE / count);
    for (int out = begin; out < end; out += PANEL) {
        const char* panel = reinterpret_cast<const char*>(weight + size_t(out) * in);
        const char* next = panel + bytes;
        const int prefetched = out + PANEL < end ? slice : 0;
        for_each_tile(count, [&]<int R>(int first) NOINLINE {
            for (int n = 0; n < prefetched; n += 64) _mm_prefetch(next + n, _MM_HINT_T1);
            next += prefetched;
            microkernel<Dot, R>(rows + first * stride, stride * sizeof(Element), panel, in * int(sizeof(Weight)) / 4,
                                [&](int r, typename Dot::Sum low, typename Dot::Sum high) ALWAYS_INLINE_LAMBDA {
                                    epilogue(first + r, out, low, high);
                                });
        });
    }
}

}  // namespace crossrt
