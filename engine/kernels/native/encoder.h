// `Encoder`: a BERT-like cross-encoder or a ModernBERT on a CPU. Token ids in, logits out.
//
// The pairs of a batch are stored one after the other without padding. Activations are [tokens, width] with one row for each
// token, and there are no masks. The residual stream (`hidden`) is FP32. Every linear layer reads rows in the model's precision.
// They are computed right after LayerNorm or attention, while the row is in the L1 cache. Biases, dequantization, activation
// functions and residuals are epilogues of the matrix products, and so are a ModernBERT's rotary positions and its gate. The
// design and its measurements are in docs/decisions/0012, and ModernBERT in 0031.

#pragma once

#include <memory>

#include "activation_functions.h"
#include "attention.h"
#include "model.h"
#include "thread_team.h"

namespace crossrt {

// The most tokens that go through a layer together, so that its weights are fetched once. Only a single longer pair has more.
constexpr int BATCH_TOKENS = 512;
// Rows that go through both feed-forward layers before the next rows do, so that the second layer reads the results of the first
// from the cache. 48 and 192 are no faster.
constexpr int FFN_ROW_BLOCK = 96;
// How many tokens ahead a word embedding is prefetched.
constexpr int PREFETCH_DISTANCE = 4;

struct Pair {
    const int32_t* ids;
    const uint8_t* types;
    int length;
    int row;  // of its first token, [CLS], among the tokens of the batch
};

class Encoder {
public:
    const ModelDims dims;

    explicit Encoder(const ModelDims& dims) : dims(dims) {}
    virtual ~Encoder() = default;
    // Returns memory for one batch at a time, with a team of `threads` threads.
    virtual std::unique_ptr<Workspace> new_workspace(int threads) const = 0;
    // Writes logits [count, labels]. All pairs together have at most BATCH_TOKENS tokens, unless there is only one pair. Several
    // threads may call it at once, each with its own workspace.
    virtual void score(Pair* pairs, int count, Workspace& workspace, float* logits) const = 0;
};

// `Factor` is the type in which attention multiplies: Precision's Element, or FP32.
template <class Precision, class Factor = typename Precision::Element>
class EncoderOf : public Encoder {
    using Element = typename Precision::Element;
    using Dot = typename ElementTraits<Element>::Dot;
    using ActivationRows = typename Precision::ActivationRows;
    using Linear = typename Precision::Linear;
    using Layer = typename Model<Precision>::Layer;
    using LayerNorm = typename Model<Precision>::LayerNorm;
    using PostAttention = typename Model<Precision>::PostAttention;

    // What one thread computes: the batch's tokens from `begin` to before `end`. The pairs from `first_pair` to before
    // `last_pair` begin there.
    struct Share {
        int begin, end, first_pair, last_pair;
        // The thread's first row of `quantized_hidden`.
        int first_row() const { return begin + Precision::CLS_RESIDUAL * first_pair; }
    };

    // The buffers of one thread.
    struct ThreadScratch {
        Element* intermediate;  // [FFN_ROW_BLOCK, intermediate], the input of the second feed-forward layer
        typename Precision::FeedForwardScratch feed_forward;
        AttentionScratch<Element, Factor> attention;
        float* row;  // [width], or [embedding_width]
        float* rotated;  // INT8: the Hadamard rotation of the row that is being quantized; null if rows are not rotated

        ThreadScratch(Workspace& workspace, const ModelDims& dims, int tokens)
            : intermediate(workspace.allocate<Element>(size_t(FFN_ROW_BLOCK) * dims.intermediate)),
              feed_forward(workspace, FFN_ROW_BLOCK, dims.intermediate),
              attention(workspace, tokens, dims.is_modern() ? dims.head : std::max(dims.head, dims.width())),
              row(workspace.allocate<float>(std::max(dims.width(), dims.embedding_width()))),
              rotated(dims.rotated ? workspace.allocate<float>(
                                         std::max({dims.width(), dims.embedding_width(), dims.intermediate}))
                                   : nullptr) {}
    };
    struct Activations : Workspace {
        float *hidden, *context;   // [tokens, width], [tokens, attention_width]
        Element* query_key_value;  // [tokens, 3 attention_width]; in a BERT's last layer the hidden states, [tokens, width]
        // For `LastLayer`, TILE pairs at a time: the queries [TILE, attention_width], the queries times K's weights
        // [TILE, heads, width], and the softmax-weighted sums of the hidden states [TILE, heads, width].
        Element *cls_query, *absorbed_query, *pooled_hidden;
        // hidden and context as linear layers read them: quantized in INT8, converted in BF16, copied in FP32. In INT8 the rows
        // of a thread's tokens in `quantized_hidden` are followed by the residuals of [CLS], one for each of its pairs. If
        // embeddings are projected, `quantized_context` has them before the first layer.
        ActivationRows quantized_hidden, quantized_context;
        int* positions;                      // of each token in its pair, for a ModernBERT's rotary positions
        std::vector<ThreadScratch> scratch;  // by rank
        ThreadTeam team;

        Activations(const ModelDims& dims, int tokens, int threads)
            : hidden(allocate<float>(size_t(tokens) * dims.width())),
              context(allocate<float>(size_t(tokens) * dims.attention_width())),
              query_key_value(allocate<Element>(size_t(tokens + ROWS_READ_BEYOND) * std::max(3 * dims.attention_width(), dims.width()))),
              cls_query(allocate<Element>(size_t(TILE) * dims.attention_width())),
              absorbed_query(allocate<Element>((size_t(TILE) * dims.heads + ROWS_READ_BEYOND) * dims.width())),
              pooled_hidden(allocate<Element>(size_t(TILE) * dims.heads * dims.width())),
              quantized_hidden(*this, tokens + Precision::CLS_RESIDUAL * BATCH_TOKENS + ROWS_READ_BEYOND, dims.width()),
              quantized_context(*this, tokens + ROWS_READ_BEYOND, std::max(dims.attention_width(), dims.embedding_width())),
              positions(allocate<int>(tokens)),
              team(threads) {
            for (int rank = 0; rank < threads; rank++) scratch.emplace_back(*this, dims, tokens);
        }
    };

    const Model<Precision> model;

public:
    EncoderOf(const ModelDims& dims, WeightReader weights) : Encoder(dims), model(dims, weights) {}

    std::unique_ptr<Workspace> new_workspace(int threads) const override {
        return std::make_unique<Activations>(dims, std::max(dims.positions, BATCH_TOKENS), threads);
    }

    // The threads divide the tokens in whole tiles, and attention by heads. Attention reads the keys and values of all tokens of
    // a pair, so the threads wait for one another before and after it. The calling thread alone computes what has one row for
    // each pair: the last layer of a BERT, a ModernBERT's last layer after attention if the head reads [CLS], or the mean, and
    // the head.
    void score(Pair* pairs, int count, Workspace& workspace, float* logits) const override {
        auto& activations = static_cast<Activations&>(workspace);
        int tokens = 0;
        for (int pair = 0; pair < count; tokens += pairs[pair++].length) pairs[pair].row = tokens;
        const int threads = activations.team.size, tiles = (tokens + TILE - 1) / TILE;
        activations.team.run([&](int rank) {
            const ThreadState state;
            const auto first_token = [&](int64_t of_rank) {
                return int(std::min<int64_t>(tokens, tiles * of_rank / threads * TILE));
            };
            const auto first_pair = [&](int token) {
                const auto before = [&](const Pair& pair) { return pair.row < token; };
                return int(std::partition_point(pairs, pairs + count, before) - pairs);
            };
            const int begin = first_token(rank), end = first_token(rank + 1);
            const Share share{begin, end, first_pair(begin), first_pair(end)};
            const ThreadScratch& scratch = activations.scratch[rank];
            embed(pairs, share, activations, scratch);
            if (model.projection && begin < end) project_embeddings(share, activations, scratch);
            for (int number = 0; number < int(model.layers.size()); number++) {
                const Layer& layer = model.layers[number];
                if (begin < end) project(number, pairs, share, activations, scratch);
                activations.team.synchronize();
                attend_heads(number, pairs, count, rank, activations, scratch);
                activations.team.synchronize();
                if (is_for_cls(number)) break;
                quantize_contexts(begin, end, activations);
                post_attention(layer.post_attention, begin, end, share.first_row(), activations, scratch);
            }
        });
        const ThreadState state;
        if (model.last) {
            attend_from_cls(pairs, count, activations);
            post_attention(model.last->post_attention, 0, count, 0, activations, activations.scratch[0]);
        } else if (dims.reads_cls()) {
            for (int pair = 0; pair < count; pair++) {
                move_row(activations.hidden, dims.width(), pairs[pair].row, pair);
                move_row(activations.context, dims.attention_width(), pairs[pair].row, pair);
            }
            quantize_contexts(0, count, activations);
            post_attention(model.layers.back().post_attention, 0, count, 0, activations, activations.scratch[0]);
            for (int pair = 0; pair < count; pair++) normalize_last(activations.hidden + ptrdiff_t(pair) * dims.width());
        } else {
            for (int pair = 0; pair < count; pair++)
                take_mean(pairs[pair], activations.hidden + ptrdiff_t(pair) * dims.width(), activations);
        }
        classify(count, activations, logits);
    }

private:
    // An epilogue that stores sums in a matrix.
    struct Store {
        Element* to;
        ptrdiff_t stride;
        ALWAYS_INLINE void operator()(int row, int out, FloatVec low, FloatVec high) const {
            store(to + row * stride + out, low, high);
        }
    };

    // An epilogue that rotates queries and keys by the positions of their tokens (RoFormer, Su et al. 2021, arXiv:2104.09864),
    // and stores queries, keys and values. The two channels that are rotated together are in the same lane of `low` and `high`.
    struct TurnAndStore {
        Store products;
        const float* table;
        const int* positions;
        int head, turned;  // channels of a head; channels that are rotated, those of all queries and keys
        ALWAYS_INLINE void operator()(int row, int out, FloatVec low, FloatVec high) const {
            if (out < turned) {
                const float* angles = table + ptrdiff_t(positions[row]) * head + out % head / 2;
                const FloatVec cosine = load(angles), sine = load(angles + head / 2), first = low;
                low = fmsub(first, cosine, high * sine);
                high = fmadd(high, cosine, first * sine);
            }
            products(row, out, low, high);
        }
    };

    // Whether a layer is the last one of a ModernBERT whose head reads only [CLS].
    bool is_for_cls(int layer) const { return dims.is_modern() && dims.reads_cls() && layer == dims.layers - 1; }

    // The LayerNorm whose output is the input of a layer's queries, keys and values.
    const LayerNorm& norm_before(int layer) const {
        return layer == 0 ? model.embedding_norm : model.layers[layer - 1].post_attention.output_norm;
    }

    const typename Precision::Smoothing& smoothing_before(int layer) const {
        return layer == 0 && model.projection ? model.projection->smoothing : norm_before(layer).smoothing;
    }

    static void move_row(float* rows, ptrdiff_t width, ptrdiff_t from, ptrdiff_t to) {
        std::memmove(rows + to * width, rows + from * width, width * sizeof(float));
    }

    // Normalizes a row of hidden states in place, and writes it to `to` as linear layers read it.
    void normalize(const LayerNorm& norm, float* row, const ActivationRows& to, const ThreadScratch& scratch) const {
        Precision::layer_norm(row, dims.hidden, dims.width(), norm, dims.epsilon, norm.smoothing, scratch.rotated, to);
    }

    // Normalizes a row of the residual stream and returns it. In a BERT this is in place. In a ModernBERT the residual stream
    // stays as it is, and a copy is normalized.
    const float* normalize_sum(const LayerNorm& norm, float* sum, const ActivationRows& to, const ThreadScratch& scratch) const {
        float* row = sum;
        if (dims.is_modern()) {
            row = scratch.row;
            std::copy_n(sum, dims.width(), row);
        }
        normalize(norm, row, to, scratch);
        return row;
    }

    // A ModernBERT's last LayerNorm, in FP32 and in place.
    void normalize_last(float* row) const {
        const LayerNorm& norm = model.layers.back().post_attention.output_norm;
        layer_norm(row, dims.hidden, dims.width(), norm, dims.epsilon, [](int, FloatVec) ALWAYS_INLINE_LAMBDA {});
    }

    // Writes the mean of a pair's last hidden states to `to`, and overwrites the hidden states. `to` may be any row of the hidden
    // states up to the pair's first.
    void take_mean(const Pair& pair, float* to, const Activations& activations) const {
        float* hidden = activations.hidden + ptrdiff_t(pair.row) * dims.width();
        for (int token = 0; token < pair.length; token++) {
            float* row = hidden + ptrdiff_t(token) * dims.width();
            normalize_last(row);
            for (int n = 0; token > 0 && n < dims.width(); n += LANES) store(hidden + n, load(hidden + n) + load(row + n));
        }
        for (int n = 0; n < dims.width(); n += LANES) store(to + n, load(hidden + n) / broadcast(pair.length));
    }

    void quantize_contexts(int begin, int end, const Activations& activations) const {
        for (int row = begin; row < end; row++)
            Precision::quantize_row(activations.context + ptrdiff_t(row) * dims.attention_width(), dims.attention_width(),
                                    activations.quantized_context.from_row(row));
    }

    static ALWAYS_INLINE FloatVec load_embedding(const float* from) { return load(from); }
    static ALWAYS_INLINE FloatVec load_embedding(const uint16_t* from) {  // FP16
        return load_fp16(from);
    }

    // hidden = LayerNorm(word + position + type embedding), for the tokens of a thread. A ModernBERT has only word embeddings.
    // Embeddings that are projected go to `quantized_context` instead of `hidden`.
    void embed(const Pair* pair, const Share& share, const Activations& activations, const ThreadScratch& scratch) const {
        using Embedding = typename Precision::Embedding;
        const ptrdiff_t width = dims.embedding_width();
        const int channels = dims.embedding ? dims.embedding : dims.hidden;
        const LayerNorm& norm = model.embedding_norm;
        const ActivationRows quantized = dims.embedding ? activations.quantized_context.from_row(share.begin)
                                                        : activations.quantized_hidden.from_row(share.first_row());
        int first = 0;
        for (; first < share.end; first += pair++->length) {
            const int from = std::max(0, share.begin - first), until = std::min(pair->length, share.end - first);
            // RoBERTa-like models count positions without padding tokens. `counted` is the number of this pair's tokens before
            // `from`, where this thread begins, that are not padding.
            int counted = 0;
            for (int token = 0; dims.padding >= 0 && token < from; token++) counted += pair->ids[token] != dims.padding;
            for (int token = from; token < until; token++) {
                const int row = first + token;
                float* to = dims.embedding ? scratch.row : activations.hidden + row * width;
                const Embedding* word = model.word_embedding + ptrdiff_t(pair->ids[token]) * width;
                // The rows are scattered over a large table, so the hardware prefetcher cannot predict them.
                const int ahead = token + PREFETCH_DISTANCE < pair->length ? token + PREFETCH_DISTANCE : 0;
                const Embedding* word_ahead = model.word_embedding + ptrdiff_t(pair->ids[ahead]) * width;
                const int position = dims.padding < 0 ? token : pair->ids[token] == dims.padding ? 0 : ++counted;
                const float* position_row = dims.is_modern() ? nullptr : model.position_embedding + position * width;
                activations.positions[row] = position;
                const float* type_row = dims.types ? model.type_embedding + pair->types[token] * width : nullptr;
                for (int n = 0; n < width; n += LANES) {
                    if (n * sizeof(Embedding) % 64 == 0) __builtin_prefetch(word_ahead + n, 0, 3);
                    FloatVec sum = load_embedding(word + n);
                    if (type_row) sum = sum + load(type_row + n);
                    if (position_row) sum = sum + load(position_row + n);
                    store(to + n, sum);
                }
                Precision::layer_norm(to, channels, int(width), norm, dims.epsilon, norm.smoothing,
                                      scratch.rotated, quantized.from_row(row - share.begin));
            }
        }
    }

    // hidden = embeddings W + b, for the tokens of a thread.
    void project_embeddings(const Share& share, const Activations& activations, const ThreadScratch& scratch) const {
        const ptrdiff_t width = dims.width();
        const int count = share.end - share.begin;
        float* hidden = activations.hidden + share.begin * width;
        Precision::linear(model.projection->linear, activations.quantized_context.from_row(share.begin), count, 0, int(width),
                          [&](int row, int out, FloatVec low, FloatVec high) ALWAYS_INLINE_LAMBDA {
                              store(hidden + row * width + out, low, high);
                          });
        const ActivationRows quantized = activations.quantized_hidden.from_row(share.first_row());
        for (int row = 0; row < count; row++)
            Precision::quantize_smoothed(hidden + row * width, int(width), model.projection->smoothing, scratch.rotated,
                                         quantized.from_row(row));
    }

    // Computes a layer's queries, keys and values for a thread's tokens.
    void project(int number, const Pair* pairs, const Share& share, const Activations& activations,
                 const ThreadScratch& scratch) const {
        const Linear& layer = model.layers[number].query_key_value;
        const typename Precision::Smoothing& smoothing = smoothing_before(number);
        const ptrdiff_t stride = 3 * dims.attention_width();
        const int count = share.end - share.begin;
        const ActivationRows rows = activations.quantized_hidden.from_row(share.first_row());
        const Pair* pair = pairs + share.first_pair;
        int residuals = 0;
        for (; Precision::CLS_RESIDUAL && pair + residuals < pairs + share.last_pair; residuals++) {
            const int row = pair[residuals].row;
            const ActivationRows quantized = rows.from_row(row - share.begin);
            float* hidden = activations.hidden + ptrdiff_t(row) * dims.width();
            const bool is_sum = dims.is_modern() && number > 0;
            const float* normalized = is_sum ? normalize_sum(norm_before(number), hidden, quantized, scratch) : hidden;
            Precision::quantize_residual(normalized, dims.width(), smoothing, scratch.rotated, quantized,
                                         rows.from_row(count + residuals));
        }
        const auto row_of = [=](int n) { return pair[n].row - share.begin; };
        const Store products{activations.query_key_value + share.begin * stride, stride};
        if (dims.is_modern()) {
            const float* table = model.rotary[model.has_window[number]];
            const TurnAndStore turned{products, table, activations.positions + share.begin, dims.head, 2 * dims.attention_width()};
            multiply_with_residuals(layer, rows, count, residuals, row_of, products, turned);
        } else {
            multiply_with_residuals(layer, rows, count, residuals, row_of, products, products);
        }
    }

    // Multiplies `count` rows and the `residuals` rows after them with a linear layer. The products of the residuals, without the
    // bias, are added to the results of the rows `row_of(0)`, `row_of(1)`, ... Within a panel the rows are computed in order, so
    // those results are already stored. Rotating them again has no effect, because they are rows of [CLS], which is at position
    // 0.
    template <class RowOf, class Epilogue>
    void multiply_with_residuals(const Linear& layer, const ActivationRows& rows, int count, int residuals, RowOf&& row_of,
                                 const Store& products, const Epilogue& store_products) const {
        Precision::linear(layer, rows, count + residuals, 0, layer.out,
                          [&](int row, int out, FloatVec low, FloatVec high) ALWAYS_INLINE_LAMBDA {
                              if (Precision::CLS_RESIDUAL && row >= count) {
                                  row = row_of(row - count);
                                  const Element* sum = products.to + row * products.stride + out;
                                  low = low - load(layer.bias + out) + load(sum);
                                  high = high - load(layer.bias + out + LANES) + load(sum + LANES);
                              }
                              store_products(row, out, low, high);
                          });
    }

    // Attention of a layer. The threads take the heads of all pairs in turn.
    void attend_heads(int layer, const Pair* pairs, int count, int rank, const Activations& activations,
                      const ThreadScratch& scratch) const {
        const int window = dims.is_modern() && model.has_window[layer] ? dims.window : ALL_TOKENS;
        const int attention_width = dims.attention_width();
        const ptrdiff_t stride = 3 * attention_width;
        int turn = 0;
        for (int pair = 0, row = 0; pair < count; row += pairs[pair++].length)
            for (int channel = 0; channel < attention_width; channel += dims.head, turn++) {
                if (turn % activations.team.size != rank) continue;
                const int length = pairs[pair].length;
                const Element* queries = activations.query_key_value + row * stride + channel;
                attend(queries, stride, is_for_cls(layer) ? 1 : length, queries + attention_width,
                       queries + 2 * attention_width, stride, length, dims.head,
                       activations.context + ptrdiff_t(row) * attention_width + channel, attention_width, scratch.attention,
                       window);
            }
    }

    // Attention of [CLS] to the hidden states in a BERT's last layer (see `LastLayer`). Moves the rows of [CLS], each pair's
    // first token, to the front. From here on there is one row for each pair.
    void attend_from_cls(const Pair* pairs, int count, const Activations& activations) const {
        const int width = dims.width(), attention_width = dims.attention_width();
        const ptrdiff_t all_heads = ptrdiff_t(dims.heads) * width;
        Element* hidden_states = activations.query_key_value;  // [tokens, width]
        for (int pair = 0, row = 0; pair < count; row += pairs[pair++].length) {
            const ptrdiff_t begin = ptrdiff_t(row) * width, end = begin + ptrdiff_t(pairs[pair].length) * width;
            for (ptrdiff_t n = begin; n < end; n += PANEL)
                store(hidden_states + n, load(activations.hidden + n), load(activations.hidden + n + LANES));
            move_row(activations.hidden, width, row, pair);
        }
        const auto& last = *model.last;
        const typename Precision::Smoothing& smoothing = smoothing_before(dims.layers - 1);
        float* rotated = activations.scratch[0].rotated;
        for (int begin = 0; begin < count; begin += TILE) {
            const int rows = std::min(TILE, count - begin);
            const ActivationRows quantized = activations.quantized_hidden;
            for (int n = 0; n < rows; n++) {
                const float* hidden = activations.hidden + ptrdiff_t(begin + n) * width;
                Precision::quantize_smoothed(hidden, width, smoothing, rotated, quantized.from_row(n));
                if (Precision::CLS_RESIDUAL)
                    Precision::quantize_residual(hidden, width, smoothing, rotated, quantized.from_row(n),
                                                 quantized.from_row(rows + n));
            }
            const Store queries{activations.cls_query, attention_width};
            multiply_with_residuals(last.query, quantized, rows, Precision::CLS_RESIDUAL * rows, [](int n) { return n; }, queries,
                                    queries);
            for (int head = 0; head < dims.heads; head++)
                gemm<Dot>(last.key + ptrdiff_t(head) * dims.head * width, dims.head, 0, width,
                          activations.cls_query + head * dims.head, attention_width, rows,
                          [&](int row, int out, FloatVec low, FloatVec high) ALWAYS_INLINE_LAMBDA {
                              store(activations.absorbed_query + row * all_heads + head * width + out, low, high);
                          });
            for (int pair = begin; pair < begin + rows; hidden_states += ptrdiff_t(pairs[pair++].length) * width) {
                const ptrdiff_t at = (pair - begin) * all_heads;
                attend(activations.absorbed_query + at, width, dims.heads, hidden_states, hidden_states, width,
                       pairs[pair].length, width, activations.pooled_hidden + at, width, activations.scratch[0].attention);
            }
            for (int head = 0; head < dims.heads; head++)
                gemm<Dot>(last.value, width, head * dims.head, (head + 1) * dims.head,
                          activations.pooled_hidden + head * width, all_heads, rows,
                          [&](int row, int out, FloatVec low, FloatVec high) ALWAYS_INLINE_LAMBDA {
                              store(activations.context + row * attention_width + out,
                                    low + load(last.value_bias + out), high + load(last.value_bias + out + LANES));
                          });
            for (int n = 0; n < rows; n++)
                Precision::quantize_row(activations.context + n * attention_width, attention_width,
                                        activations.quantized_context.from_row(begin + n));
        }
    }

    // The part of a layer after attention, for the rows from `from` to before `to`. In `quantized_hidden`, the first of them is
    // row `quantized_row`.
    //     hidden = LayerNorm(hidden + attention_output(context));  hidden = LayerNorm(hidden + ffn_down(f(ffn_up(hidden))))
    // In a ModernBERT, with (values, gates) = ffn_up(LayerNorm(hidden)), it is
    //     hidden = hidden + attention_output(context);  hidden = hidden + ffn_down(f(values) gates)
    // f is the activation function. The product is compiled for each f, so that f is chosen once for a block of rows.
    void post_attention(const PostAttention& layer, int from, int to, int quantized_row, const Activations& activations,
                        const ThreadScratch& scratch) const {
        const int width = dims.width();
        const auto activation = static_cast<Activation>(dims.hidden_activation);
        auto add_to = [&](float* hidden) {
            return [=](int row, int out, FloatVec low, FloatVec high) ALWAYS_INLINE_LAMBDA {
                float* to = hidden + ptrdiff_t(row) * width + out;
                store(to, low + load(to), high + load(to + LANES));
            };
        };
        if (from < to)
            Precision::linear(layer.attention_output, activations.quantized_context.from_row(from), to - from, 0, width,
                              add_to(activations.hidden + ptrdiff_t(from) * width));
        for (int begin = from; begin < to; begin += FFN_ROW_BLOCK) {
            const int rows = std::min(FFN_ROW_BLOCK, to - begin);
            float* hidden = activations.hidden + ptrdiff_t(begin) * width;
            const ActivationRows quantized = activations.quantized_hidden.from_row(quantized_row + begin - from);
            for (int row = 0; row < rows; row++)
                normalize_sum(layer.attention_norm, hidden + row * width, quantized.from_row(row), scratch);
            with_activation<Element>(activation, [&](auto activate) {
                if (dims.is_modern())
                    Precision::linear(layer.ffn_up, quantized, rows, 0, layer.ffn_up.out,
                                      [&](int row, int out, FloatVec values, FloatVec gates) ALWAYS_INLINE_LAMBDA {
                                          store(scratch.intermediate + row * dims.intermediate + out / 2,
                                                activate(values) * gates);
                                      });
                else
                    Precision::linear(layer.ffn_up, quantized, rows, 0, dims.intermediate,
                                      [&](int row, int out, FloatVec low, FloatVec high) ALWAYS_INLINE_LAMBDA {
                                          store(scratch.intermediate + row * dims.intermediate + out,
                                                layer.activation_balance.apply(out, activate(low)),
                                                layer.activation_balance.apply(out + LANES, activate(high)));
                                      });
            });
            Precision::ffn_down(layer.ffn_down, layer.outliers, scratch.intermediate, rows, scratch.feed_forward,
                                scratch.rotated, add_to(hidden));
            for (int row = 0; row < rows; row++)
                normalize_sum(layer.output_norm, hidden + row * width, quantized.from_row(row), scratch);
        }
    }

    // The head, in FP32: from one row of hidden states for each pair ([CLS] or the mean) to its logits. A row of weights is read
    // once for all pairs.
    void classify(int pairs, const Activations& activations, float* logits) const {
        std::vector<float> values(size_t(pairs) * dims.hidden), next;
        for (int pair = 0; pair < pairs; pair++)
            std::copy_n(activations.hidden + ptrdiff_t(pair) * dims.width(), dims.hidden, values.begin() + pair * dims.hidden);
        for (const Dense& layer : model.head) {
            next.resize(size_t(pairs) * layer.out);
            for (int pair = 0; pair < pairs; pair++) std::copy_n(layer.bias, layer.out, next.begin() + pair * layer.out);
            for (int n = 0; n < layer.in; n++)
                for (int pair = 0; pair < pairs; pair++) {
                    const float factor = values[pair * layer.in + n], *__restrict weight = layer.weight + size_t(n) * layer.out;
                    float* __restrict to = next.data() + pair * layer.out;
                    for (int out = 0; out < layer.out; out++) to[out] += factor * weight[out];
                }
            if (&layer != &model.head.back()) {
                for (float& value : next) value = activated(value);
                if (dims.head_norm)
                    for (int pair = 0; pair < pairs; pair++) normalize_in_head(next.data() + ptrdiff_t(pair) * layer.out);
            }
            values.swap(next);
        }
        std::copy(values.begin(), values.end(), logits);
    }

    // `layer_norm` needs padded rows, and rows of the head are not padded.
    void normalize_in_head(float* row) const {
        double sum = 0, squares = 0;
        for (int n = 0; n < dims.hidden; n++) sum += row[n];
        const float mean = float(sum / dims.hidden);
        for (int n = 0; n < dims.hidden; n++) squares += (row[n] - mean) * (row[n] - mean);
        const float inverse = 1 / std::sqrt(float(squares / dims.hidden) + dims.epsilon);
        for (int n = 0; n < dims.hidden; n++)
            row[n] = (row[n] - mean) * inverse * model.head_norm.weight[n] + model.head_norm.bias[n];
    }

    float activated(float value) const {
        switch (static_cast<Activation>(dims.activation)) {
            case Activation::tanh: return std::tanh(value);
            case Activation::relu: return value > 0 ? value : 0;
            case Activation::gelu: return value * 0.5f * (1 + std::erf(value * 0.70710678f));
            case Activation::gelu_tanh:
                return value * 0.5f * (1 + std::tanh(value * (0.79788456f + 0.035677408f * value * value)));
            case Activation::silu: return value / (1 + std::exp(-value));
            default: return value;
        }
    }
};

}  // namespace crossrt
