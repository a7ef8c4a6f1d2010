// AMX's tile instructions as functions in plain C++, for processors without them. They follow the operation that Intel's manual
// gives (Instruction Set Extensions Programming Reference, chapter 3), with its order of additions and its treatment of subnormal
// numbers. This file is included before isa/amx.h, whose source is then compiled for AVX512.

#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define __AMX_TILE__ 1
#define CROSSRT_EMULATED_TILES

namespace crossrt {

struct Tile {
    alignas(64) unsigned char bytes[16][64];
};
struct Tiles {
    Tile tile[8];
    uint16_t bytes_of_row[8];
    uint8_t rows[8];
    bool configured = false;
};
inline thread_local Tiles tiles;

inline void fault_unless(bool fine) {
    if (!fine) std::abort();  // the processor raises #UD or #GP
}
inline void tile_configure(const void* config) {
    const auto* bytes = static_cast<const unsigned char*>(config);
    fault_unless(bytes[0] == 1 && bytes[1] == 0);
    for (int n = 2; n < 16; n++) fault_unless(bytes[n] == 0);
    for (int n = 0; n < 16; n++) {
        uint16_t width;
        std::memcpy(&width, bytes + 16 + 2 * n, 2);
        const uint8_t rows = bytes[48 + n];
        if (n < 8) {
            fault_unless(width <= 64 && rows <= 16 && (width == 0) == (rows == 0));
            tiles.bytes_of_row[n] = width, tiles.rows[n] = rows;
        } else {
            fault_unless(width == 0 && rows == 0);
        }
    }
    std::memset(tiles.tile, 0, sizeof tiles.tile);
    tiles.configured = true;
}
inline void tile_release() { tiles.configured = false; }

template <int T>
void tile_zero() {
    fault_unless(tiles.configured);
    std::memset(&tiles.tile[T], 0, sizeof(Tile));
}
template <int T>
void tile_load(const void* from, ptrdiff_t stride) {
    fault_unless(tiles.configured);
    std::memset(&tiles.tile[T], 0, sizeof(Tile));
    for (int row = 0; row < tiles.rows[T]; row++)
        std::memcpy(tiles.tile[T].bytes[row], static_cast<const char*>(from) + row * stride, tiles.bytes_of_row[T]);
}
template <int T>
void tile_store(void* to, ptrdiff_t stride) {
    fault_unless(tiles.configured);
    for (int row = 0; row < tiles.rows[T]; row++)
        std::memcpy(static_cast<char*>(to) + row * stride, tiles.tile[T].bytes[row], tiles.bytes_of_row[T]);
}
// `dot(a, b, words, sum)` adds to `sum` the products of a row's `words` words with a column's, which are 64 bytes apart.
template <class Sum, int C, int A, int B, class Dot>
void tile_dot(Dot&& dot) {
    fault_unless(tiles.configured && tiles.rows[C] == tiles.rows[A] && tiles.bytes_of_row[A] == 4 * tiles.rows[B] &&
                 tiles.bytes_of_row[C] == tiles.bytes_of_row[B]);
    for (int m = 0; m < tiles.rows[C]; m++)
        for (int n = 0; n < tiles.bytes_of_row[C] / 4; n++) {
            Sum sum;
            std::memcpy(&sum, tiles.tile[C].bytes[m] + 4 * n, 4);
            sum = dot(tiles.tile[A].bytes[m], tiles.tile[B].bytes[0] + 4 * n, tiles.rows[B], sum);
            std::memcpy(tiles.tile[C].bytes[m] + 4 * n, &sum, 4);
        }
}
template <int C, int A, int B>
void tile_dot_int8() {
    tile_dot<int32_t, C, A, B>([](const unsigned char* a, const unsigned char* b, int words, int32_t sum) {
        for (int k = 0; k < words; k++)
            for (int n = 0; n < 4; n++) sum += int32_t(a[4 * k + n]) * int32_t(static_cast<signed char>(b[64 * k + n]));
        return sum;
    });
}
// TDPBF16PS treats subnormal numbers as zeros, in its operands and in its results.
inline float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }
inline float from_bf16(const unsigned char* at) {
    uint16_t bits;
    std::memcpy(&bits, at, 2);
    const uint32_t word = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return flushed(value);
}
// The products of the first and of the second numbers of all words have a sum each. Both are rounded once a product (FMA), and
// added up before they are added to C.
template <int C, int A, int B>
void tile_dot_bf16() {
    tile_dot<float, C, A, B>([](const unsigned char* a, const unsigned char* b, int words, float sum) {
        float parts[2] = {0, 0};
        for (int k = 0; k < words; k++)
            for (int n = 0; n < 2; n++)
                parts[n] = flushed(std::fma(from_bf16(a + 4 * k + 2 * n), from_bf16(b + 64 * k + 2 * n), parts[n]));
        return flushed(flushed(sum) + flushed(parts[0] + parts[1]));
    });
}

}  // namespace crossrt
