// AMX's tile instructions as functions in plain C++, for processors without them. They follow the operations in Intel's manual
// (Instruction Set Extensions Programming Reference, chapter 3). This file is included before isa/amx.h, whose source is then
// compiled for AVX512.

#pragma once

#include <immintrin.h>

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
// `product(a, b)` returns the sum of the products of the numbers in two words.
template <class Sum, int C, int A, int B, class Product>
void tile_dot(Product&& product) {
    fault_unless(tiles.configured && tiles.rows[C] == tiles.rows[A] && tiles.bytes_of_row[A] == 4 * tiles.rows[B] &&
                 tiles.bytes_of_row[C] == tiles.bytes_of_row[B]);
    for (int m = 0; m < tiles.rows[C]; m++)
        for (int n = 0; n < tiles.bytes_of_row[C] / 4; n++) {
            Sum sum;
            std::memcpy(&sum, tiles.tile[C].bytes[m] + 4 * n, 4);
            for (int k = 0; k < tiles.rows[B]; k++)
                sum += product(tiles.tile[A].bytes[m] + 4 * k, tiles.tile[B].bytes[k] + 4 * n);
            std::memcpy(tiles.tile[C].bytes[m] + 4 * n, &sum, 4);
        }
}
template <int C, int A, int B>
void tile_dot_int8() {
    tile_dot<int32_t, C, A, B>([](const unsigned char* a, const unsigned char* b) {
        int32_t sum = 0;
        for (int n = 0; n < 4; n++) sum += int32_t(a[n]) * int32_t(static_cast<signed char>(b[n]));
        return sum;
    });
}
template <int C, int A, int B>
void tile_dot_bf16() {
    tile_dot<float, C, A, B>([](const unsigned char* a, const unsigned char* b) {
        float sum = 0;
        for (int n = 0; n < 2; n++) {
            uint16_t bits[2];
            std::memcpy(&bits[0], a + 2 * n, 2);
            std::memcpy(&bits[1], b + 2 * n, 2);
            float factors[2];
            for (int f = 0; f < 2; f++) {
                const uint32_t word = uint32_t(bits[f]) << 16;
                std::memcpy(&factors[f], &word, 4);
            }
            sum += factors[0] * factors[1];
        }
        return sum;
    });
}

}  // namespace crossrt
