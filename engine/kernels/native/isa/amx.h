// x86-64 with AVX512-BF16 and AMX (Intel from Sapphire Rapids on): products of INT8 and BF16 on tiles. isa/avx512.h includes this
// file if the compiler may use AMX, and has everything else.
//
// A tile register has 16 rows of 64 bytes. An instruction multiplies 16 rows of activations, of 16 words each, with 16 steps of
// 16 output channels, and adds to 16 x 16 sums. A panel's step has 32 output channels. So half a panel is a tile whose 16 rows,
// the steps, are 128 bytes apart, and the packing of all kinds is also a layout of tiles (Intel, Optimization Reference Manual,
// chapter 20). For 32 rows and 32 output channels, the microkernel keeps 2 x 2 tiles of sums, two tiles of rows and two of the
// panel, which are all 8 registers. Sums get into vectors through the L1 cache.
//
// Whole tiles of rows are read. These can be up to 15 rows after the last one, whose sums are not used. `ROWS_READ_BEYOND` tells
// callers how many rows to allocate.

#pragma once

#include <cstring>

namespace crossrt {

constexpr int ROWS_READ_BEYOND = 15;
constexpr int TILE = 32;

#ifndef CROSSRT_EMULATED_TILES  // if it is defined, tests/engine/kernels/emulated_tiles.h has these functions in plain C++
// This is assembly with a "memory" clobber, because GCC 12's intrinsics do not declare that they read memory.
template <int T>
ALWAYS_INLINE void tile_load(const void* from, ptrdiff_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(T) : "memory");
}
template <int T>
ALWAYS_INLINE void tile_store(void* to, ptrdiff_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(T) : "memory");
}
template <int T>
ALWAYS_INLINE void tile_zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(T));
}
// Adds the products of UINT8 in tile A and INT8 in tile B to INT32 in tile C.
template <int C, int A, int B>
ALWAYS_INLINE void tile_dot_int8() {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}
// Adds the products of BF16 in tiles A and B to FP32 in tile C.
template <int C, int A, int B>
ALWAYS_INLINE void tile_dot_bf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}
ALWAYS_INLINE void tile_configure(const void* config) { asm volatile("ldtilecfg (%0)" : : "r"(config) : "memory"); }
ALWAYS_INLINE void tile_release() { asm volatile("tilerelease"); }
#endif

// Makes the tile registers usable in this thread, all with 16 rows of 64 bytes. The destructor releases them, so that the system
// need not save 8 KiB when it switches threads.
class ThreadState {
public:
    ThreadState() {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t bytes_of_row[16] = {};
            uint8_t rows[16] = {};
        } config;
        for (int tile = 0; tile < 8; tile++) config.bytes_of_row[tile] = 64, config.rows[tile] = 16;
        tile_configure(&config);
    }
    ThreadState(const ThreadState&) = delete;
    ~ThreadState() { tile_release(); }
};

struct DotInt8 {
    using Sum = IntVec;
    using Number = int32_t;
    using Activation = uint8_t;
    static constexpr int ROWS = TILE, MAX_ACTIVATION = 255, OFFSET = 0;
    static constexpr bool ANY_HEIGHT = true;
    template <int C, int A, int B>
    static ALWAYS_INLINE void add() {
        tile_dot_int8<C, A, B>();
    }
};

struct DotBf16 {
    using Sum = FloatVec;
    using Number = float;
    static constexpr int ROWS = TILE;
    static constexpr bool ANY_HEIGHT = true;
    template <int C, int A, int B>
    static ALWAYS_INLINE void add() {
        tile_dot_bf16<C, A, B>();
    }
};

ALWAYS_INLINE IntVec load_sums(const int32_t* from) { return load_words(from); }
ALWAYS_INLINE FloatVec load_sums(const float* from) { return load(from); }

// Multiplies up to 32 rows with one panel.
template <class Dot>
inline void multiply_tiles(const char* rows, ptrdiff_t stride, const char* panel, int steps, int height,
                           typename Dot::Number sums[TILE][PANEL]) {
    constexpr int STEPS = 16, BYTES = 4 * STEPS, OF_PANEL = 4 * PANEL;  // a tile's steps; bytes of its row and of a panel's step
    const bool two = height > STEPS;
    tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
    const auto add = [&](const char* activations, ptrdiff_t stride, const char* weights) ALWAYS_INLINE_LAMBDA {
        tile_load<4>(activations, stride);
        tile_load<6>(weights, OF_PANEL);
        tile_load<7>(weights + OF_PANEL / 2, OF_PANEL);
        Dot::template add<0, 4, 6>();
        Dot::template add<1, 4, 7>();
        if (two) {
            tile_load<5>(activations + 16 * stride, stride);
            Dot::template add<2, 5, 6>();
            Dot::template add<3, 5, 7>();
        }
    };
    int step = 0;
    for (; step + STEPS <= steps; step += STEPS) add(rows + 4 * step, stride, panel + step * OF_PANEL);
    if (const int rest = steps - step) {
        // Memory after the rows and the panel may be unmapped, or hold NaN, and 0 times NaN is NaN.
        alignas(64) char activations[TILE][BYTES] = {}, weights[STEPS][OF_PANEL] = {};
        for (int r = 0; r < height; r++) std::memcpy(activations[r], rows + r * stride + 4 * step, 4 * rest);
        std::memcpy(weights, panel + step * OF_PANEL, rest * OF_PANEL);
        add(activations[0], BYTES, weights[0]);
    }
    tile_store<0>(sums[0], OF_PANEL);
    tile_store<1>(sums[0] + LANES, OF_PANEL);
    if (two) {
        tile_store<2>(sums[16], OF_PANEL);
        tile_store<3>(sums[16] + LANES, OF_PANEL);
    }
}

template <class Dot, int R, class Epilogue>
    requires Dot::ANY_HEIGHT
ALWAYS_INLINE void microkernel(const void* rows, ptrdiff_t stride, const void* panel, int steps, int height,
                               Epilogue&& epilogue) {
    alignas(64) typename Dot::Number sums[TILE][PANEL];
    multiply_tiles<Dot>(static_cast<const char*>(rows), stride, static_cast<const char*>(panel), steps, height, sums);
    for (int r = 0; r < height; r++) epilogue(r, load_sums(sums[r]), load_sums(sums[r] + LANES));
}

}  // namespace crossrt
