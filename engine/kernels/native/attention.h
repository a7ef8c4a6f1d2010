// Attention of one head over one pair: softmax(Q K^T) V in BF16 or FP32, with the scale and log2(e) folded into Q's weights.
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
template <class Value>
INLINE void pack_keys(const Value* keys, ptrdiff_t stride, int tokens, int width, Value* to) {
    const ptrdiff_t dwords = width / Numbers<Value>::A_DWORD;
    for (int first = 0; first < tokens; first += LANES) {
        auto* panel = reinterpret_cast<int32_t*>(to) + (first / PANEL) * dwords * PANEL + first % PANEL;
        for (int part = 0; part < dwords; part += LANES) {
            __m512i rows[LANES];
            for (int n = 0; n < LANES; n++)
                rows[n] = first + n < tokens ? _mm512_loadu_si512(keys + (first + n) * stride + part * Numbers<Value>::A_DWORD)
                                             : _mm512_setzero_si512();
            transpose(rows);
            for (int n = 0; n < LANES; n++) _mm512_store_si512(panel + (part + n) * PANEL, rows[n]);
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

// Values [tokens, width] as panels of 32 channels.
INLINE void pack_values(const float* values, ptrdiff_t stride, int tokens, int width, float* to) {
    for (int part = 0; part < width; part += PANEL)
        for (int token = 0; token < tokens; token++, to += PANEL) {
            const float* row = values + token * stride + part;
            store(to, load(row), load(row + LANES));
        }
}

// What `join` makes of each row, in the order of the rows: four steps for all of them, in place of four for each.
template <class Join>
INLINE Floats across(Floats rows[LANES], Join&& join) {
#pragma GCC unroll 8
    for (int n = 0; n < 8; n++)
        rows[n] = join(_mm512_shuffle_f32x4(rows[n], rows[n + 8], 0x44), _mm512_shuffle_f32x4(rows[n], rows[n + 8], 0xee));
#pragma GCC unroll 4
    for (int n = 0; n < 4; n++)
        rows[n] = join(_mm512_shuffle_f32x4(rows[n], rows[n + 4], 0x88), _mm512_shuffle_f32x4(rows[n], rows[n + 4], 0xdd));
#pragma GCC unroll 2
    for (int n = 0; n < 2; n++)
        rows[n] = join(_mm512_shuffle_ps(rows[n], rows[n + 2], 0x44), _mm512_shuffle_ps(rows[n], rows[n + 2], 0xee));
    const Floats mixed = join(_mm512_shuffle_ps(rows[0], rows[1], 0x88), _mm512_shuffle_ps(rows[0], rows[1], 0xdd));
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15), mixed);
}

// Makes weights of R rows of scores, `columns` apart, and says what each row is to be multiplied by to add up to 1.
template <int R, class Value>
INLINE void softmax(const float* scores, int columns, int tokens, Value* weights, float share[LANES]) {
    const int whole = (tokens - 1) / LANES * LANES;
    const __mmask16 tail = static_cast<__mmask16>((2u << (tokens - 1 - whole)) - 1);
    Floats rows[LANES];
    for (int r = 0; r < LANES; r++) rows[r] = all(1);
    for (int r = 0; r < R; r++) {
        const float* row = scores + r * columns;
        rows[r] = _mm512_mask_loadu_ps(all(-INFINITY), tail, row + whole);
        for (int n = 0; n < whole; n += LANES) rows[r] = _mm512_max_ps(rows[r], load(row + n));
    }
    alignas(64) float top[LANES];
    _mm512_store_ps(top, across(rows, [](Floats one, Floats two) INLINED { return _mm512_max_ps(one, two); }));
    for (int r = 0; r < LANES; r++) rows[r] = all(1);
    for (int r = 0; r < R; r++) {
        Value* to = weights + r * columns;
        auto weight = [&](int n, __mmask16 there) INLINED {
            const Floats below = _mm512_sub_ps(load(scores + r * columns + n), all(top[r]));
            const Floats each = _mm512_maskz_mov_ps(there, Numbers<Value>::exp2(below));
            store(to + n, each);
            return each;
        };
        Floats sum = weight(whole, tail);
        for (int n = 0; n < whole; n += LANES) sum = _mm512_add_ps(sum, weight(n, 0xffff));
        rows[r] = sum;
    }
    const Floats sums = across(rows, [](Floats one, Floats two) INLINED { return _mm512_add_ps(one, two); });
    _mm512_storeu_ps(share, _mm512_div_ps(all(1), sums));
}

// Packed keys and values of one head, and the scores and weights of a tile.
template <class Value>
struct Attention {
    Value *keys, *values, *weights;
    float* scores;

    Attention(Memory& memory, int tokens, int width)
        : keys(memory.take<Value>(columns(tokens) * width)),
          values(memory.take<Value>((columns(tokens) + 2) * width)),
          weights(memory.take<Value>(TILE * columns(tokens))),
          scores(memory.take<float>(TILE * columns(tokens))) {}

    static size_t columns(int tokens) { return (tokens + PANEL - 1) / PANEL * PANEL; }
};

// `queries` are one head's, `apart` from one another, its `keys` and `values` are `stride` apart; the context of each query
// goes to `context`, in FP32 or BF16, `wide` apart.
template <class Value, class Context>
INLINE void attend(const Value* queries, ptrdiff_t apart, int count, const Value* keys, const Value* values, ptrdiff_t stride,
                   int tokens, int width, Context* context, ptrdiff_t wide, const Attention<Value>& memory) {
    using Dot = typename Numbers<Value>::Dot;
    constexpr int A_DWORD = Numbers<Value>::A_DWORD;
    const int columns = Attention<Value>::columns(tokens), steps = (tokens + A_DWORD - 1) / A_DWORD;
    pack_keys(keys, stride, tokens, width, memory.keys);
    pack_values(values, stride, tokens, width, memory.values);
    in_tiles(count, [&]<int R>(int first) APART {
        for (int key = 0; key < columns; key += PANEL)
            tile<Dot, R>(queries + first * apart, sizeof(Value) * apart, memory.keys + ptrdiff_t(key) * width, width / A_DWORD,
                         [&](int r, Floats low, Floats high) INLINED { store(memory.scores + r * columns + key, low, high); });
        float share[LANES];
        softmax<R>(memory.scores, columns, tokens, memory.weights, share);
        for (int part = 0; part < width; part += PANEL)
            tile<Dot, R>(memory.weights, sizeof(Value) * columns, memory.values + ptrdiff_t(part) * A_DWORD * steps, steps,
                         [&](int r, Floats low, Floats high) INLINED {
                             const Floats each = all(share[r]);
                             store(context + (first + r) * wide + part, _mm512_mul_ps(low, each), _mm512_mul_ps(high, each));
                         });
    });
}

}  // namespace crossrt
