// Attention of one head over one pair: softmax(Q K^T) V in BF16, with the scale and log2(e) folded into Q's weights.
//
// Scores of up to 12 queries with all keys stay in the first cache. There is no padding, so there is no mask.

#pragma once

#include "memory.h"
#include "vectors.h"

namespace crossrt {

// Sixteen rows of sixteen dwords become sixteen columns.
INLINE void transpose(__m512i rows[16]) {
    __m512i pairs[16];
    for (int n = 0; n < 16; n += 2) {
        pairs[n] = _mm512_unpacklo_epi32(rows[n], rows[n + 1]);
        pairs[n + 1] = _mm512_unpackhi_epi32(rows[n], rows[n + 1]);
    }
    for (int n = 0; n < 16; n += 4) {
        rows[n] = _mm512_unpacklo_epi64(pairs[n], pairs[n + 2]);
        rows[n + 1] = _mm512_unpackhi_epi64(pairs[n], pairs[n + 2]);
        rows[n + 2] = _mm512_unpacklo_epi64(pairs[n + 1], pairs[n + 3]);
        rows[n + 3] = _mm512_unpackhi_epi64(pairs[n + 1], pairs[n + 3]);
    }
    // Each row holds, in its four lanes, four rows' dwords of columns c, c + 4, c + 8 and c + 12.
    for (int c = 0; c < 4; c++) {
        const __m512i low = _mm512_shuffle_i32x4(rows[c], rows[c + 4], 0x88);
        const __m512i high = _mm512_shuffle_i32x4(rows[c], rows[c + 4], 0xdd);
        const __m512i low2 = _mm512_shuffle_i32x4(rows[c + 8], rows[c + 12], 0x88);
        const __m512i high2 = _mm512_shuffle_i32x4(rows[c + 8], rows[c + 12], 0xdd);
        pairs[c] = _mm512_shuffle_i32x4(low, low2, 0x88);
        pairs[c + 8] = _mm512_shuffle_i32x4(low, low2, 0xdd);
        pairs[c + 4] = _mm512_shuffle_i32x4(high, high2, 0x88);
        pairs[c + 12] = _mm512_shuffle_i32x4(high, high2, 0xdd);
    }
    for (int n = 0; n < 16; n++) rows[n] = pairs[n];
}

// Keys [tokens, width] as panels of 32 keys.
INLINE void pack_keys(const Half* keys, ptrdiff_t stride, int tokens, int width, Half* to) {
    for (int first = 0; first < tokens; first += LANES) {
        Half* panel = to + (first / PANEL) * width * PANEL + (first % PANEL) * 2;
        for (int part = 0; part < width; part += 2 * LANES) {
            __m512i rows[LANES];
            for (int n = 0; n < LANES; n++)
                rows[n] = first + n < tokens ? _mm512_loadu_si512(keys + (first + n) * stride + part) : _mm512_setzero_si512();
            transpose(rows);
            for (int n = 0; n < LANES; n++) _mm512_store_si512(panel + (part / 2 + n) * 2 * PANEL, rows[n]);
        }
    }
}

// Values [tokens, width] as panels of 32 channels, two tokens a step.
INLINE void pack_values(const Half* values, ptrdiff_t stride, int tokens, int width, Half* to) {
    alignas(64) Half order[2][2 * LANES];
    for (int n = 0; n < LANES; n++)
        for (int half = 0; half < 2; half++) {
            order[half][2 * n] = n + half * LANES;
            order[half][2 * n + 1] = n + half * LANES + 32;  // of the second token
        }
    const __m512i low = _mm512_load_si512(order[0]), high = _mm512_load_si512(order[1]);
    for (int part = 0; part < width; part += PANEL)
        for (int token = 0; token < tokens; token += 2, to += 2 * PANEL) {
            const Half* row = values + token * stride + part;
            const __m512i one = _mm512_loadu_si512(row);
            const __m512i two = token + 1 < tokens ? _mm512_loadu_si512(row + stride) : _mm512_setzero_si512();
            _mm512_store_si512(to, _mm512_permutex2var_epi16(one, low, two));
            _mm512_store_si512(to + PANEL, _mm512_permutex2var_epi16(one, high, two));
        }
}

// Makes weights of a row of scores, which do not add up to 1, and returns their sum.
INLINE float softmax(const float* scores, int tokens, Half* weights) {
    const int whole = (tokens - 1) / LANES * LANES;
    const __mmask16 tail = static_cast<__mmask16>((2u << (tokens - 1 - whole)) - 1);
    Floats largest = _mm512_mask_loadu_ps(all(-INFINITY), tail, scores + whole);
    for (int n = 0; n < whole; n += LANES) largest = _mm512_max_ps(largest, load(scores + n));
    const Floats top = all(_mm512_reduce_max_ps(largest));
    Floats sum = all(0);
    for (int n = 0; n <= whole; n += LANES) {
        const Floats weight = _mm512_maskz_mov_ps(n < whole ? 0xffff : tail, exp2(_mm512_sub_ps(load(scores + n), top)));
        sum = _mm512_add_ps(sum, weight);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + n), (__m256i)_mm512_cvtneps_pbh(weight));
    }
    return _mm512_reduce_add_ps(sum);
}

// Packed keys and values of one head, and the scores and weights of a tile.
struct Attention {
    Half *keys, *values, *weights;
    float* scores;

    Attention(Memory& memory, int tokens, int width)
        : keys(memory.take<Half>(columns(tokens) * width)),
          values(memory.take<Half>((columns(tokens) + 2) * width)),
          weights(memory.take<Half>(TILE * columns(tokens))),
          scores(memory.take<float>(TILE * columns(tokens))) {}

    static size_t columns(int tokens) { return (tokens + PANEL - 1) / PANEL * PANEL; }
};

// `queries` are one head's, `apart` from one another, its `keys` and `values` are `stride` apart; the context of each query
// goes to `context`, `wide` apart.
INLINE void attend(const Half* queries, ptrdiff_t apart, int count, const Half* keys, const Half* values, ptrdiff_t stride,
                   int tokens, int width, float* context, ptrdiff_t wide, const Attention& memory) {
    const int columns = Attention::columns(tokens), steps = (tokens + 1) / 2;
    pack_keys(keys, stride, tokens, width, memory.keys);
    pack_values(values, stride, tokens, width, memory.values);
    in_tiles(count, [&]<int R>(int first) APART {
        for (int key = 0; key < columns; key += PANEL)
            tile<Halves, R>(queries + first * apart, 2 * apart, memory.keys + key * width, width / 2,
                            [&](int r, Floats low, Floats high) INLINED { store(memory.scores + r * columns + key, low, high); });
        float inverse[R];
        for (int r = 0; r < R; r++)
            inverse[r] = 1 / softmax(memory.scores + r * columns, tokens, memory.weights + r * columns);
        for (int part = 0; part < width; part += PANEL)
            tile<Halves, R>(memory.weights, 2 * columns, memory.values + part * 2 * steps, steps,
                            [&](int r, Floats low, Floats high) INLINED {
                                const Floats share = all(inverse[r]);
                                store(context + (first + r) * wide + part, _mm512_mul_ps(low, share), _mm512_mul_ps(high, share));
                            });
    });
}

}  // namespace crossrt
