// The functions of engine/kernels/native/device.cuh in C++, for tests without a GPU. Each thread of a block is a fiber. A warp's
// operations, such as a shuffle, wait until all lanes of the warp have reached them.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(threads)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define INF INFINITY

typedef unsigned short half_bits;
struct uint4 {
    unsigned x, y, z, w;
};
struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};
struct Index {
    int x, y, z;
};

struct Thread {
    ucontext_t context;  // for the first switch to the fiber; later switches use `jump`, which makes no system call
    jmp_buf jump;
    std::unique_ptr<char[]> stack;
    Index index;
    int turn = 0;
    bool begun = false, done = false;
};

struct Barrier {
    int waiting = 0, generation = 0;
};

struct Warp {
    Barrier barrier;
    unsigned words[2][32][8];
};

inline Index blockIdx;
inline Thread* current;
inline jmp_buf scheduler;
inline std::vector<Warp> warps;
inline Barrier block_barrier;
inline int threads;
#define threadIdx (current->index)

inline void yield() {
    if (!_setjmp(current->jump)) _longjmp(scheduler, 1);
}

inline void wait(Barrier& barrier, int size) {
    const int generation = barrier.generation;
    if (++barrier.waiting == size) {
        barrier.waiting = 0;
        barrier.generation++;
    }
    while (barrier.generation == generation) yield();
}

inline void __syncthreads() { wait(block_barrier, threads); }

// Returns the words of all lanes, once each lane has called this with its own. Calls alternate between two buffers, so that no
// lane overwrites what another lane still reads.
inline unsigned (*exchanged(const void* words, int size))[8] {
    Warp& warp = warps[current->index.x / 32];
    auto buffer = warp.words[current->turn++ % 2];
    std::memcpy(buffer[current->index.x % 32], words, size);
    wait(warp.barrier, 32);
    return buffer;
}

inline float to_float(half_bits value) {
    const int exponent = value >> 10 & 31, mantissa = value & 1023;
    const float size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                       : exponent     ? std::ldexp(1024.0f + mantissa, exponent - 25)
                                      : std::ldexp(float(mantissa), -24);
    return value >> 15 ? -size : size;
}

inline half_bits to_half(float value) {
    const half_bits sign = std::signbit(value) ? 0x8000 : 0;
    const float size = std::fabs(value);
    if (std::isnan(size)) return 0x7E00;
    if (size >= 65520) return sign | 0x7C00;
    int exponent = 0;
    std::frexp(size, &exponent);
    if (size < 6.103515625e-05f) return sign | half_bits(std::nearbyint(std::ldexp(size, 24)));
    const int mantissa = int(std::nearbyint(std::ldexp(size, 11 - exponent)));  // 1024 to 2048
    return sign | half_bits(((exponent + 14) << 10) + (mantissa - 1024));
}

inline unsigned pack_halves(float low, float high) { return to_half(low) | unsigned(to_half(high)) << 16; }

inline float rsqrtf(float value) { return 1 / std::sqrt(value); }

inline float exp2_approx(float value) { return std::exp2(value); }

inline float shuffle(float value, int lane) {
    float result;
    std::memcpy(&result, exchanged(&value, 4)[lane], 4);
    return result;
}

inline float shuffle_xor(float value, int lanes) { return shuffle(value, current->index.x % 32 ^ lanes); }

inline void load(unsigned* matrices, const half_bits* row, bool transposed) {
    if (reinterpret_cast<size_t>(row) % 16) std::abort();  // a GPU faults too
    auto rows = exchanged(&row, sizeof row);
    const int lane = current->index.x % 32;
    for (int matrix = 0; matrix < 4; matrix++) {
        half_bits two[2];
        for (int i = 0; i < 2; i++) {
            const int across = 2 * (lane % 4) + i, line = transposed ? across : lane / 4;
            const half_bits* start;
            std::memcpy(&start, rows[8 * matrix + line], sizeof start);
            two[i] = start[transposed ? lane / 4 : across];
        }
        matrices[matrix] = two[0] | unsigned(two[1]) << 16;
    }
}

inline void load_matrices(unsigned* matrices, const half_bits* row) { load(matrices, row, false); }
inline void load_matrices_transposed(unsigned* matrices, const half_bits* row) { load(matrices, row, true); }

// PTX ISA, "Matrix fragments for mma.m16n8k16".
inline void mma_16x8x16(float* sums, const unsigned* a, const unsigned* b) {
    unsigned words[6];
    std::memcpy(words, a, 16);
    std::memcpy(words + 4, b, 8);
    auto lanes = exchanged(words, sizeof words);
    const int lane = current->index.x % 32;
    const auto half_of = [&](int from, int word, int place) { return to_float(lanes[from][word] >> 16 * place & 0xFFFF); };
    for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
        float sum = 0;
        for (int k = 0; k < 16; k++)
            sum += half_of(4 * (row % 8) + k % 8 / 2, row / 8 + 2 * (k / 8), k % 2) *
                   half_of(4 * column + k % 8 / 2, 4 + k / 8, k % 2);
        sums[i] += sum;
    }
}
