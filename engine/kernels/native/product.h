// Products of activations with packed weights: the loop in which nearly all of the time is spent.
//
// A panel holds 32 output channels of a weight matrix, step after step: in one step each channel has one dword, which is
// four 8-bit numbers, two of BF16 or one of FP32, and so has the row of activations that it is multiplied with. A tile is up to 12 rows
// times one panel: 24 sums in registers, two registers for the panel, one for the row.

#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace crossrt {

#define INLINE inline __attribute__((always_inline))
#define INLINED __attribute__((always_inline))  // of lambdas: a call in the midst of a tile would spill all its sums
#define APART __attribute__((noinline))          // of lambdas: a tile of each height is a function of its own

constexpr int PANEL = 32;
constexpr int TILE = 12;

// Unsigned activations times signed weights, summed in 32 bits: VNNI. It does not saturate.
struct Bytes {
    using Sum = __m512i;
    static INLINE Sum zero() { return _mm512_setzero_si512(); }
    // Around the intrinsic, GCC 12 copies every sum twice.
    static INLINE void add(Sum& sum, __m512i row, __m512i panel) {
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(row), "v"(panel));
    }
};

// FP32 times FP32, summed in FP32.
struct Singles {
    using Sum = __m512;
    static INLINE Sum zero() { return _mm512_setzero_ps(); }
    static INLINE void add(Sum& sum, __m512i row, __m512i panel) {
        asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(row), "v"(panel));
    }
};

// BF16 times BF16, summed in FP32: AVX512-BF16, or, as each is the upper half of an FP32, two products of those.
struct Halves {
    using Sum = __m512;
    static INLINE Sum zero() { return _mm512_setzero_ps(); }
    static INLINE void add(Sum& sum, __m512i row, __m512i panel) {
#ifdef __AVX512BF16__
        asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(row), "v"(panel));
#else
        const __m512i upper = _mm512_set1_epi32(~0xffff);
        Singles::add(sum, _mm512_slli_epi32(row, 16), _mm512_slli_epi32(panel, 16));
        Singles::add(sum, _mm512_and_si512(row, upper), _mm512_and_si512(panel, upper));
#endif
    }
};

// `rows` lie `stride` bytes apart and have `steps` dwords. `sink(row, low, high)` gets each row's 32 sums.
template <class Dot, int R, class Sink>
INLINE void tile(const void* rows, ptrdiff_t stride, const void* panel, int steps, Sink&& sink) {
    const char* weights = static_cast<const char*>(panel);
    typename Dot::Sum low[R], high[R];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) low[r] = high[r] = Dot::zero();
    // Every third row has a pointer: the two below it are one and two strides away, which an address can hold.
    const char* row[(R + 2) / 3];
#pragma GCC unroll 12
    for (int r = 0; r < R; r += 3) row[r / 3] = static_cast<const char*>(rows) + r * stride;
    for (int step = 0; step < steps; step++, weights += 4 * PANEL) {
        const __m512i first = _mm512_load_si512(weights), second = _mm512_load_si512(weights + 64);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            int32_t dword;
            __builtin_memcpy(&dword, row[r / 3] + (r % 3) * stride, 4);
            const __m512i same = _mm512_set1_epi32(dword);
            Dot::add(low[r], same, first);
            Dot::add(high[r], same, second);
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; r += 3) row[r / 3] += 4;
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) sink(r, low[r], high[r]);
}

// Call `work.template operator()<R>(first)` for tiles of nearly equal height that cover `count` rows.
template <class Work>
INLINE void in_tiles(int count, Work&& work) {
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

}  // namespace crossrt
