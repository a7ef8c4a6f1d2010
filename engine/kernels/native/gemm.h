// Matrix products of activations with packed weights. Nearly all of the time is spent in the k-loop of `microkernel`.
//
//     C [rows, out] = A [rows, in] B [in, out]
//
// B is packed in panels of PANEL = 32 output channels (usually called NR), one panel after the other. A panel has one step for
// every 32-bit word of input, which is four INT8, two BF16 or one FP32 neighbouring input channels. A step has the words of the
// 32 output channels side by side. This is the operand layout of vpdpbusd and vdpbf16ps, which oneDNN calls VNNI layout. For INT8
// it is [out / 32][in / 4][32][4]:
//
//               channel 0      channel 1            channel 31
//     step 0    0  1  2  3     0  1  2  3    ...    0  1  2  3      <- the input channels of each byte
//     step 1    4  5  6  7     4  5  6  7    ...    4  5  6  7
//     ...
//
// All kinds of processors use this packing, whatever their vector width, so one file of weights serves all of them. The 32 words
// of a step are two registers of AVX512, four of AVX2 or eight of NEON, and 16 steps are two tiles of AMX.
//
// A stays row-major. In each step, a row's word is broadcast to all lanes. The microkernel multiplies a tile of a few rows (MR)
// with one panel and keeps the sums in registers. The number of rows depends on the number of registers (isa/).

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

// Cuts `count` rows into tiles for a product and calls `work.template operator()<R>(first, height)` for each. The tiles have
// nearly equal heights. The height is the compile-time constant R, so that the sums can be kept in registers. If one microkernel
// serves all heights (ANY_HEIGHT), all tiles except the last have the largest height, and R is always that height.
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

// Multiplies `count` rows, which are `stride` elements apart, with packed weights of `in` input channels, for the output channels
// from `begin` to before `end`. `epilogue(row, out, low, high)` gets 32 sums at a time, of the output channels from `out` on.
//
// A panel stays in the L1 or L2 cache for all rows. The whole weights do not fit there and come from the L3 cache. So the next
// panel is prefetched into the L2 cache while this one is used, one slice with each tile.
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
