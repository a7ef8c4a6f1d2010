// Attention of one head over one pair: softmax(Q K^T) V. Elements are BF16 or FP32, and sums are FP32.
//
// Both products multiply in BF16 if the processor does that faster than FP32. Otherwise elements in BF16 are converted to FP32 as
// they are packed. Converting them as they are multiplied would cost half as much as the products.
//
// The weights of Q contain the scale 1 / sqrt(head width) and log2(e), so softmax is 2^x without a multiplication of its own. K
// and V are packed into panels like the weights of linear layers (gemm.h). The 32 output channels of a panel are 32 keys in K,
// and 32 value channels in V. For a tile of queries the microkernel is called once for each panel of K and once for each panel of
// V. The tile's scores with all keys stay in the L1 cache.
//
// Pairs are stored one after the other without padding, so there is no mask. Only the last panel of keys has columns without a
// key, and softmax leaves them out. With a window (Beltagy et al. 2020, arXiv:2004.05150) a tile of queries visits only the
// panels with keys that at least one of its queries sees. Keys that a query does not see get no weight.

#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "element_traits.h"
#include "workspace.h"

namespace crossrt {

// Packs keys [tokens, width], whose rows are `stride` elements apart, into panels of 32 keys:
// [tokens / 32][width / PER_WORD][32][PER_WORD]. In the last group of 16 columns, those without a key are zeros. A group of 16
// columns without any key is not written.
template <class Element, class Factor>
ALWAYS_INLINE void pack_keys(const Element* keys, ptrdiff_t stride, int tokens, int width, Factor* to) {
    constexpr int PER_WORD = ElementTraits<Factor>::PER_WORD;
    const auto words_of = [](const Element* from) ALWAYS_INLINE_LAMBDA {
        if constexpr (std::is_same_v<Element, Factor>)
            return load_words(from);
        else
            return bits(load(from));
    };
    const ptrdiff_t words = width / PER_WORD;
    for (int first = 0; first < tokens; first += LANES) {
        auto* panel = reinterpret_cast<int32_t*>(to) + (first / PANEL) * words * PANEL + first % PANEL;
        for (int word = 0; word < words; word += LANES) {
            IntVec rows[LANES];
            for (int n = 0; n < LANES; n++)
                rows[n] = first + n < tokens ? words_of(keys + (first + n) * stride + word * PER_WORD) : zero_words();
            transpose(rows);
            for (int n = 0; n < LANES; n++) store_words(panel + (word + n) * PANEL, rows[n]);
        }
    }
}

// Packs values [tokens, width], whose rows are `stride` elements apart, into panels of 32 channels:
// [width / 32][tokens / 2][32][2]. A step interleaves two tokens. If the number of tokens is odd, the last step has zeros in
// place of a second token.
ALWAYS_INLINE void pack_values(const BFloat16* values, ptrdiff_t stride, int tokens, int width, BFloat16* to) {
    for (int channel = 0; channel < width; channel += PANEL)
        for (int token = 0; token < tokens; token += 2, to += 2 * PANEL) {
            const BFloat16* row = values + token * stride + channel;
            IntVec low, high;
            interleave(load_words(row), token + 1 < tokens ? load_words(row + stride) : zero_words(), low, high);
            store_words(to, low);
            store_words(to + PANEL, high);
        }
}

// The same in FP32: [width / 32][tokens][32].
template <class Element>
ALWAYS_INLINE void pack_values(const Element* values, ptrdiff_t stride, int tokens, int width, float* to) {
    for (int channel = 0; channel < width; channel += PANEL)
        for (int token = 0; token < tokens; token++, to += PANEL) {
            const Element* row = values + token * stride + channel;
            store(to, load(row), load(row + LANES));
        }
}

// Writes the softmax weights of R rows of scores, without normalizing them: 2^(score - maximum). `columns` is the distance
// between rows. `inverse_sums` gets 1 / (the sum of the row's weights) for each row. `attend` multiplies the context by it after
// the product with V, which saves normalizing the weights. R is at most LANES. The sum is taken in FP32, before weights are
// rounded to BF16. Powers of 2 are as precise as an Element.
//
// The last vector of a row may reach beyond the last token. Those lanes are masked: the score is minus infinity for the maximum,
// and the weight is 0.
template <class Element, int R, class Factor>
ALWAYS_INLINE void softmax(const float* scores, int columns, int tokens, Factor* weights, float inverse_sums[LANES]) {
    const int tail = (tokens - 1) / LANES * LANES;  // where the last vector begins
    const LaneMask tail_mask = first_lanes(tokens - tail), all = first_lanes(LANES);
    FloatVec rows[LANES];
    for (int r = 0; r < LANES; r++) rows[r] = broadcast(1);
    for (int r = 0; r < R; r++) {
        const float* row = scores + r * columns;
        rows[r] = select(tail_mask, load(row + tail), broadcast(-INFINITY));
        for (int n = 0; n < tail; n += LANES) rows[r] = maximum(rows[r], load(row + n));
    }
    float maxima[LANES];
    store(maxima, reduce_rows<R>(rows, [](FloatVec a, FloatVec b) ALWAYS_INLINE_LAMBDA { return maximum(a, b); }));
    for (int r = 0; r < LANES; r++) rows[r] = broadcast(1);
    for (int r = 0; r < R; r++) {
        Factor* to = weights + r * columns;
        auto exponentiate = [&](int n, LaneMask mask) ALWAYS_INLINE_LAMBDA {
            const FloatVec below = load(scores + r * columns + n) - broadcast(maxima[r]);
            const FloatVec weight = select(mask, ElementTraits<Element>::exp2(below), broadcast(0));
            store(to + n, weight);
            return weight;
        };
        FloatVec sum = exponentiate(tail, tail_mask);
        for (int n = 0; n < tail; n += LANES) sum = sum + exponentiate(n, all);
        rows[r] = sum;
    }
    const FloatVec sums = reduce_rows<R>(rows, [](FloatVec a, FloatVec b) ALWAYS_INLINE_LAMBDA { return a + b; });
    store(inverse_sums, broadcast(1) / sums);
}

// The buffers of `attend`: the packed keys and values of one head, and the scores and the softmax weights of one tile of queries.
// `queries` has the tile's converted queries, and is null if nothing is converted.
template <class Element, class Factor>
struct AttentionScratch {
    static constexpr bool CONVERTS = !std::is_same_v<Element, Factor>;
    Factor *keys, *values, *weights, *queries;
    float* scores;

    // For up to `tokens` tokens of `width` channels.
    AttentionScratch(Workspace& workspace, int tokens, int width)
        : keys(workspace.allocate<Factor>(columns(tokens) * width)),
          values(workspace.allocate<Factor>((columns(tokens) + 2) * width)),
          weights(workspace.allocate<Factor>(TILE * columns(tokens))),
          queries(CONVERTS ? workspace.allocate<Factor>(size_t(TILE) * width) : nullptr),
          scores(workspace.allocate<float>(TILE * columns(tokens))) {}

    // `tokens` rounded up to whole panels.
    static size_t columns(int tokens) { return (tokens + PANEL - 1) / PANEL * PANEL; }
};

// No window: every query sees all keys.
constexpr int ALL_TOKENS = -1;

// In each row, writes `value` to the columns of the keys that the query does not see, among the first `seen` columns. Row r
// belongs to query `first` + r, and column c to key `begin` + c. A query sees the keys that are at most `window` positions away.
template <class Number>
inline void fill_beyond_window(Number* to, Number value, int columns, int rows, int first, int begin, int seen, int window) {
    for (int r = 0; r < rows; r++) {
        Number* row = to + r * columns;
        const int query = first + r - begin;
        std::fill(row, row + std::max(query - window, 0), value);
        std::fill(row + std::min(query + window + 1, seen), row + seen, value);
    }
}

// Attention of `count` queries [count, width] to `tokens` keys and values [tokens, width]. Writes the queries' contexts to
// `context` [count, width], in FP32 or BF16. The strides are the distances between rows, in elements. With a `window`, query n is
// at the position of key n.
template <class Element, class Factor, class Context>
ALWAYS_INLINE void attend(const Element* queries, ptrdiff_t query_stride, int count, const Element* keys, const Element* values,
                          ptrdiff_t key_stride, int tokens, int width, Context* context, ptrdiff_t context_stride,
                          const AttentionScratch<Element, Factor>& scratch, int window = ALL_TOKENS) {
    using Scratch = AttentionScratch<Element, Factor>;
    using Dot = typename ElementTraits<Factor>::Dot;
    constexpr int PER_WORD = ElementTraits<Factor>::PER_WORD;
    const int all_steps = (tokens + PER_WORD - 1) / PER_WORD;
    pack_keys(keys, key_stride, tokens, width, scratch.keys);
    pack_values(values, key_stride, tokens, width, scratch.values);
    for_each_tile<Dot>(count, [&]<int R>(int first, int height) NOINLINE {
        // The tile sees `seen` keys from key `begin` on, where a panel begins.
        const int begin = window < 0 ? 0 : std::max(first - window, 0) / PANEL * PANEL;
        const int seen = (window < 0 ? tokens : std::min(first + height + window, tokens)) - begin;
        const int columns = Scratch::columns(seen), steps = (seen + PER_WORD - 1) / PER_WORD;
        const void* tile = queries + first * query_stride;
        ptrdiff_t stride = sizeof(Element) * query_stride;
        if constexpr (Scratch::CONVERTS) {
            for (int row = 0; row < height; row++)
                for (int n = 0; n < width; n += LANES)
                    store(scratch.queries + row * width + n, load(queries + (first + row) * query_stride + n));
            tile = scratch.queries;
            stride = sizeof(Factor) * width;
        }
        for (int key = 0; key < columns; key += PANEL)
            microkernel<Dot, R>(tile, stride, scratch.keys + ptrdiff_t(begin + key) * width, width / PER_WORD, height,
                                [&](int r, FloatVec low, FloatVec high) ALWAYS_INLINE_LAMBDA {
                                    store(scratch.scores + r * columns + key, low, high);
                                });
        if (window >= 0) fill_beyond_window(scratch.scores, -INFINITY, columns, height, first, begin, seen, window);
        float inverse_sums[R + LANES];
        for (int row = 0; row < height; row += LANES)
            softmax<Element, std::min(R, LANES)>(scratch.scores + row * columns, columns, seen,
                                                 scratch.weights + row * columns, inverse_sums + row);
        // `exp2` returns 2^-126 for minus infinity. Products with that weight are subnormal, and the processor takes a hundred
        // times as long for them.
        if (window >= 0) fill_beyond_window(scratch.weights, Factor(0), columns, height, first, begin, seen, window);
        for (int channel = 0; channel < width; channel += PANEL)
            microkernel<Dot, R>(scratch.weights, sizeof(Factor) * columns,
                                scratch.values + ptrdiff_t(channel) * PER_WORD * all_steps + begin * PANEL, steps, height,
                                [&](int r, FloatVec low, FloatVec high) ALWAYS_INLINE_LAMBDA {
                                    const FloatVec scale = broadcast(inverse_sums[r]);
                                    store(context + (first + r) * context_stride + channel, low * scale, high * scale);
                                });
    });
}

}  // namespace crossrt
