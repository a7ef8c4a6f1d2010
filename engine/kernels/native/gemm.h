// Matrix products of activations with packed weights. Nearly all of the time is spent in the loop of `microkernel`.
//
//     C [rows, out] = A [rows, in] B [in, out]
//
// B is packed in panels of PANEL = 32 output channels (NR in the usual terms), one panel after the other. A panel has a step for
// every 32-bit word of input: four INT8, two BF16 or one FP32 neighbouring input channels. In a step all 32 output channels have
// their word side by side. This is the operand layout of vpdpbusd and vdpbf16ps, which oneDNN calls VNNI layout. For INT8,
// [out / 32][in / 4][32][4]:
//
//               channel 0      channel 1            channel 31
//     step 0    0  1  2  3     0  1  2  3    ...    0  1  2  3      <- the input channels of each byte
//     step 1    4  5  6  7     4  5  6  7    ...    4  5  6  7
//     ...
//
// All kinds of processors read this one packing, whatever the width of their vectors, so a file of weights is for all of them:
// the 32 words of a step are two registers of AVX512, four of AVX2 or eight of NEON, and 16 steps are two tiles of AMX.
//
// A stays row-major: the word of a row at a step is broadcast to all lanes. The microkernel multiplies a tile of a few rows (MR)
// with one panel and keeps its sums in registers; how many rows depends on how many registers there are (isa/).

#pragma once

#include <algorithm>

#include "isa.h"

namespace crossrt {

template <int R, class Work>
ALWAYS_INLINE void with_height(int height, int first, Work&& work) {
    if constexpr (R > 1)
        if (height < R) return with_height<R - 1>(height, first, work);
    work.template operator()<R>(first, R);
}

// Cuts `count` rows into tiles for a product and calls `work.template operator()<R>(first, height)` for each. The tiles have nearly
// equal heights, which are compile-time constants R, so that the sums can be registers. Only where one microkernel is for all
// heights are they as high as can be, and R is the most that a height can be.
template <class Dot, class Work>
ALWAYS_INLINE void for_each_tile(int count, Work&& work) {
    constexpr int MOST = Dot::ROWS;
    if constexpr (Dot::ANY_HEIGHT) {
        for (int first = 0; first < count; first += MOST)
            work.template operator()<MOST>(first, std::min(MOST, count - first));
    } else {
        const int tiles = (count + MOST - 1) / MOST;
        for (int n = 0, first = 0; n < tiles; n++) {
            const int height = (count - first + tiles - n - 1) / (tiles - n);
            with_height<MOST>(height, first, work);
            first += height;
        }
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
    const int bytes = PANEL * in * int(sizeof(Weight)), slice = std::min(bytes, bytes * Dot::ROWS / count);
    for (int out = begin; out < end; out += PANEL) {
        const char* panel = reinterpret_cast<const char*>(weight + size_t(out) * in);
        const char* next = panel + bytes;
        const int prefetched = out + PANEL < end ? slice : 0;
        for_each_tile<Dot>(count, [&]<int R>(int first, int height) NOINLINE {
            for (int n = 0; n < prefetched; n += 64) __builtin_prefetch(next + n, 0, 2);
            next += prefetched;
            microkernel<Dot, R>(rows + first * stride, stride * sizeof(Element), panel, in * int(sizeof(Weight)) / 4, height,
                                [&](int r, typename Dot::Sum low, typename Dot::Sum high) ALWAYS_INLINE_LAMBDA {
                                    epilogue(first + r, out, low, high);
                                });
        });
    }
}

}  // namespace crossrt
