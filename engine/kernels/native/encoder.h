// A cross-encoder on a CPU with AVX512: token ids in, logits out.
//
// All is FP32, or else linear layers are in 8 bits or BF16 and attention in BF16 (arithmetic.h). Pairs lie one after the other
// without padding. Python calls it by ctypes (engine/backends/native_cpu.py), which names the arrays that `crossrt_open` takes.

#pragma once

#include <memory>
#include <system_error>

#include "arithmetic.h"
#include "attention.h"
#include "team.h"

namespace crossrt {

// The most tokens that go through a layer together, so that its weights are fetched for all of them at once.
constexpr int TOGETHER = 512;
// Rows that go through both feed-forward layers before the next do.
constexpr int BLOCK = 96;
// Words whose embedding is fetched ahead.
constexpr int AHEAD = 4;
// Of the functions at the end, for Python: one more with each change of what they take.
constexpr int INTERFACE = 1;

enum class Activation { none, tanh, relu, gelu };

// Python has bounded them (`MOST` in engine/bundle/native_weights.py) so that rows of activations, three of them side by side too, fit into
// an int. A row's number times its width need not, and is a ptrdiff_t throughout.
struct Sizes {
    int hidden, heads, head, intermediate, layers, types, vocab, positions, labels, dense, activation, bits;
    int padding;  // the id that has a position of its own, the table's first, and is not counted in others'; negative for none

    int width() const { return (hidden + PANEL - 1) / PANEL * PANEL; }
    int attended() const { return heads * head; }
};

struct Pair {
    const int32_t* ids;
    const uint8_t* types;
    int length;
};

struct Dense {
    const float *weight, *bias;  // [in][out]
    int in, out;
};

class Encoder {
public:
    const Sizes sizes;

    explicit Encoder(const Sizes& sizes) : sizes(sizes) {}
    virtual ~Encoder() = default;
    virtual std::unique_ptr<Memory> memory(int members) const = 0;
    // Logits [count, labels] of pairs that go through the layers together, in memory that is its own.
    virtual void encode(const Pair* pairs, int count, Memory& memory, float* logits) const = 0;
};

template <class Arithmetic>
class EncoderIn : public Encoder {
    using Value = typename Arithmetic::Value;
    using Word = typename Arithmetic::Word;
    using Dot = typename Numbers<Value>::Dot;
    using Rows = typename Arithmetic::Rows;
    using Linear = typename Arithmetic::Linear;

    struct NarrowingNorm : Norm {
        typename Arithmetic::Balance balance;
        explicit NarrowingNorm(Arrays& arrays) : Norm{arrays.take<float>(), arrays.take<float>()}, balance(arrays) {}
    };
    // What comes after attention.
    struct Finish {
        Linear attention_output, intermediate, output;
        typename Arithmetic::Kept kept;  // of output
        NarrowingNorm attention_norm, output_norm;

        Finish(const Sizes& sizes, Arrays& arrays)
            : attention_output(arrays, sizes.attended(), sizes.width()),
              intermediate(arrays, sizes.width(), sizes.intermediate),
              output(arrays, sizes.intermediate, sizes.width()),
              kept(arrays),
              attention_norm(arrays),
              output_norm(arrays) {}
    };
    struct Layer {
        Linear query_key_value;
        Finish finish;

        Layer(const Sizes& sizes, Arrays& arrays)
            : query_key_value(arrays, sizes.width(), 3 * sizes.attended()), finish(sizes, arrays) {}
    };
    // Only [CLS] reaches the head, so the last layer has one query a pair. Its keys and values are never made: a score is
    // (x K) q = x (K q) and a context (w x) V = w (x V), so with a product for each pair in place of one for each token, heads
    // read the hidden states themselves. The keys' bias adds the same to all scores of a head, which softmax takes away.
    struct Last {
        Linear query;
        const Value* key;    // for each head a weight as those of linear layers, [width][head]
        const Value* value;  // [attended][width]
        const float* value_bias;
        Finish finish;

        Last(const Sizes& sizes, Arrays& arrays)
            : query(arrays, sizes.width(), sizes.attended()),
              key(arrays.take<Value>()),
              value(arrays.take<Value>()),
              value_bias(arrays.take<float>()),
              finish(sizes, arrays) {}
    };
    // What one thread computes in.
    struct Scratch {
        Value* wide;
        typename Arithmetic::Between between;
        Attention<Value> attention;

        Scratch(Memory& memory, const Sizes& sizes, int rows)
            : wide(memory.take<Value>(size_t(BLOCK) * sizes.intermediate)),
              between(memory, BLOCK, sizes.intermediate),
              attention(memory, rows, std::max(sizes.head, sizes.width())) {}
    };
    struct Activations : Memory {
        float *hidden, *context;
        Value *query_key_value, *query, *folded, *mixed;
        Rows narrow, attended;
        std::vector<Scratch> scratch;  // of each member
        Team team;

        Activations(const Sizes& sizes, int rows, int members)
            : hidden(take<float>(size_t(rows) * sizes.width())),
              context(take<float>(size_t(rows) * sizes.attended())),
              query_key_value(take<Value>(size_t(rows) * std::max(3 * sizes.attended(), sizes.width()))),
              query(take<Value>(size_t(TILE) * sizes.attended())),
              folded(take<Value>(size_t(TILE) * sizes.heads * sizes.width())),
              mixed(take<Value>(size_t(TILE) * sizes.heads * sizes.width())),
              narrow(*this, rows, sizes.width()),
              attended(*this, rows, sizes.attended()),
              team(members) {
            for (int member = 0; member < members; member++) scratch.emplace_back(*this, sizes, rows);
        }
    };

    const float epsilon;
    const Word* word;
    const float *position, *type;
    NarrowingNorm embedding_norm;
    std::vector<Layer> layers;
    Last last;
    std::vector<Dense> dense;

public:
    EncoderIn(const Sizes& sizes, float epsilon, Arrays arrays)
        : Encoder(sizes),
          epsilon(epsilon),
          word(arrays.take<Word>()),
          position(arrays.take<float>()),
          type(arrays.take<float>()),
          embedding_norm(arrays),
          layers(all_but_last(sizes, arrays)),
          last(sizes, arrays) {
        for (int n = 0; n < sizes.dense; n++) {
            const int out = n == sizes.dense - 1 ? sizes.labels : sizes.hidden;
            dense.push_back({arrays.take<float>(), arrays.take<float>(), sizes.hidden, out});
        }
        if (Arithmetic::Kept::COUNT) {
            const auto* channels = arrays.take<int32_t>();
            for (Layer& layer : layers) layer.finish.kept.channels = channels, channels += Arithmetic::Kept::COUNT;
            last.finish.kept.channels = channels;
        }
    }

    std::unique_ptr<Memory> memory(int members) const override {
        return std::make_unique<Activations>(sizes, std::max(sizes.positions, TOGETHER), members);
    }

    // Each member of the team has rows of its own, tokens, and waits for others twice a layer: attention reads the keys and
    // values of all tokens of a pair, and its heads are shared out.
    void encode(const Pair* pairs, int count, Memory& own, float* logits) const override {
        auto& memory = static_cast<Activations&>(own);
        int tokens = 0;
        for (int pair = 0; pair < count; pair++) tokens += pairs[pair].length;
        const int members = memory.team.members, tiles = (tokens + TILE - 1) / TILE;
        memory.team.run([&](int member) {
            const auto share = [&](int64_t of) { return int(std::min<int64_t>(tokens, tiles * of / members * TILE)); };
            const int begin = share(member), end = share(member + 1);
            const Scratch& scratch = memory.scratch[member];
            embed(pairs, begin, end, memory);
            for (const Layer& layer : layers) {
                if (begin < end) project(layer.query_key_value, begin, end, memory);
                memory.team.wait();
                attend_all(pairs, count, member, memory, scratch);
                memory.team.wait();
                for (int row = begin; row < end; row++)
                    Arithmetic::put(memory.context + ptrdiff_t(row) * sizes.attended(), sizes.attended(),
                                    memory.attended.from(row));
                finish(layer.finish, begin, end, memory, scratch);
            }
        });
        attend_from_cls(pairs, count, memory);
        finish(last.finish, 0, count, memory, memory.scratch[0]);
        head(count, memory, logits);
    }

private:
    static std::vector<Layer> all_but_last(const Sizes& sizes, Arrays& arrays) {
        std::vector<Layer> layers;
        for (int n = 1; n < sizes.layers; n++) layers.emplace_back(sizes, arrays);
        return layers;
    }

    struct Store {
        Value* to;
        ptrdiff_t stride;
        INLINE void operator()(int row, int out, Floats low, Floats high) const { store(to + row * stride + out, low, high); }
    };

    void norm(const NarrowingNorm& of, float* row, const Rows& to) const {
        Arithmetic::normalise(row, sizes.hidden, sizes.width(), of, epsilon, of.balance, to);
    }

    static INLINE Floats load_word(const float* from) { return load(from); }
    static INLINE Floats load_word(const Half* from) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    }

    // Sums of word, position and type embeddings, normalised, for the tokens `begin` to `end` of all.
    void embed(const Pair* pair, int begin, int end, const Activations& memory) const {
        const ptrdiff_t width = sizes.width();
        int first = 0;
        for (; first < end; first += pair++->length) {
            const int from = std::max(0, begin - first), until = std::min(pair->length, end - first);
            // Tokens before that are not padding, where those alone are counted.
            int counted = 0;
            for (int place = 0; sizes.padding >= 0 && place < from; place++) counted += pair->ids[place] != sizes.padding;
            for (int place = from; place < until; place++) {
                const int row = first + place;
                float* to = memory.hidden + row * width;
                const Word* own = word + ptrdiff_t(pair->ids[place]) * width;
                // The next words lie anywhere.
                const Word* soon = word + ptrdiff_t(pair->ids[place + AHEAD < pair->length ? place + AHEAD : 0]) * width;
                const int at = sizes.padding < 0 ? place : pair->ids[place] == sizes.padding ? 0 : ++counted;
                const float* where = position + at * width;
                const float* kind = sizes.types ? type + pair->types[place] * width : nullptr;
                for (int n = 0; n < width; n += LANES) {
                    if (n * sizeof(Word) % 64 == 0) _mm_prefetch(soon + n, _MM_HINT_T0);
                    Floats sum = load_word(own + n);
                    if (kind) sum = _mm512_add_ps(sum, load(kind + n));
                    _mm512_storeu_ps(to + n, _mm512_add_ps(sum, load(where + n)));
                }
                norm(embedding_norm, to, memory.narrow.from(row));
            }
        }
    }

    void project(const Linear& layer, int begin, int end, const Activations& memory) const {
        const ptrdiff_t stride = 3 * sizes.attended();
        Arithmetic::product(layer, memory.narrow.from(begin), end - begin, 0, stride,
                            Store{memory.query_key_value + begin * stride, stride});
    }

    // One member's part of the heads of all pairs.
    void attend_all(const Pair* pairs, int count, int member, const Activations& memory, const Scratch& scratch) const {
        const int all_heads = sizes.attended();
        const ptrdiff_t stride = 3 * all_heads;
        int turn = 0;
        for (int pair = 0, row = 0; pair < count; row += pairs[pair++].length)
            for (int at = 0; at < all_heads; at += sizes.head, turn++) {
                if (turn % memory.team.members != member) continue;
                const int length = pairs[pair].length;
                const Value* queries = memory.query_key_value + row * stride + at;
                attend(queries, stride, length, queries + all_heads, queries + 2 * all_heads, stride, length, sizes.head,
                       memory.context + ptrdiff_t(row) * all_heads + at, all_heads, scratch.attention);
            }
    }

    // The last layer's attention. What belongs to [CLS] is moved to the first rows, one a pair.
    void attend_from_cls(const Pair* pairs, int count, const Activations& memory) const {
        const int width = sizes.width(), all_heads = sizes.attended();
        const ptrdiff_t all_mixed = ptrdiff_t(sizes.heads) * width;
        Value* states = memory.query_key_value;  // [tokens][width]
        for (int pair = 0, row = 0; pair < count; row += pairs[pair++].length) {
            const ptrdiff_t begin = ptrdiff_t(row) * width, end = begin + ptrdiff_t(pairs[pair].length) * width;
            for (ptrdiff_t n = begin; n < end; n += PANEL)
                store(states + n, load(memory.hidden + n), load(memory.hidden + n + LANES));
            memory.narrow.from(pair).copy(memory.narrow.from(row));
            std::memmove(memory.hidden + ptrdiff_t(pair) * width, memory.hidden + begin, width * sizeof(float));
        }
        for (int begin = 0; begin < count; begin += TILE) {
            const int some = std::min(TILE, count - begin);
            Arithmetic::product(last.query, memory.narrow.from(begin), some, 0, all_heads, Store{memory.query, all_heads});
            for (int head = 0; head < sizes.heads; head++)
                panels<Dot>(last.key + ptrdiff_t(head) * sizes.head * width, sizes.head, 0, width, memory.query + head * sizes.head,
                               all_heads, some, [&](int row, int out, Floats low, Floats high) INLINED {
                                   store(memory.folded + row * all_mixed + head * width + out, low, high);
                               });
            for (int pair = begin; pair < begin + some; states += ptrdiff_t(pairs[pair++].length) * width) {
                const ptrdiff_t at = (pair - begin) * all_mixed;
                attend(memory.folded + at, width, sizes.heads, states, states, width, pairs[pair].length, width,
                       memory.mixed + at, width, memory.scratch[0].attention);
            }
            for (int head = 0; head < sizes.heads; head++)
                panels<Dot>(last.value, width, head * sizes.head, (head + 1) * sizes.head, memory.mixed + head * width,
                               all_mixed, some, [&](int row, int out, Floats low, Floats high) INLINED {
                                   store(memory.context + row * all_heads + out, _mm512_add_ps(low, load(last.value_bias + out)),
                                         _mm512_add_ps(high, load(last.value_bias + out + LANES)));
                               });
            for (int n = 0; n < some; n++)
                Arithmetic::put(memory.context + n * all_heads, all_heads, memory.attended.from(begin + n));
        }
    }

    // What comes after attention, for the rows `from` to `to`.
    void finish(const Finish& layer, int from, int to, const Activations& memory, const Scratch& scratch) const {
        const int width = sizes.width();
        auto add_to = [&](float* hidden) {
            return [=](int row, int out, Floats low, Floats high) INLINED {
                float* to = hidden + ptrdiff_t(row) * width + out;
                store(to, _mm512_add_ps(low, load(to)), _mm512_add_ps(high, load(to + LANES)));
            };
        };
        if (from < to)
            Arithmetic::product(layer.attention_output, memory.attended.from(from), to - from, 0, width,
                                add_to(memory.hidden + ptrdiff_t(from) * width));
        for (int begin = from; begin < to; begin += BLOCK) {
            const int rows = std::min(BLOCK, to - begin);
            float* hidden = memory.hidden + ptrdiff_t(begin) * width;
            const Rows narrow = memory.narrow.from(begin);
            for (int row = 0; row < rows; row++) norm(layer.attention_norm, hidden + row * width, narrow.from(row));
            Arithmetic::product(layer.intermediate, narrow, rows, 0, sizes.intermediate,
                                [&](int row, int out, Floats low, Floats high) INLINED {
                                    store(scratch.wide + row * sizes.intermediate + out, Numbers<Value>::gelu(low),
                                          Numbers<Value>::gelu(high));
                                });
            Arithmetic::second(layer.output, layer.kept, scratch.wide, rows, scratch.between, add_to(hidden));
            for (int row = 0; row < rows; row++) norm(layer.output_norm, hidden + row * width, narrow.from(row));
        }
    }

    // From the [CLS] of each pair to its logits, in FP32. Pairs share each row of the weights.
    void head(int pairs, const Activations& memory, float* logits) const {
        std::vector<float> values(size_t(pairs) * sizes.hidden), next;
        for (int pair = 0; pair < pairs; pair++)
            std::copy_n(memory.hidden + ptrdiff_t(pair) * sizes.width(), sizes.hidden, values.begin() + pair * sizes.hidden);
        for (const Dense& layer : dense) {
            next.resize(size_t(pairs) * layer.out);
            for (int pair = 0; pair < pairs; pair++) std::copy_n(layer.bias, layer.out, next.begin() + pair * layer.out);
            for (int n = 0; n < layer.in; n++)
                for (int pair = 0; pair < pairs; pair++) {
                    const float factor = values[pair * layer.in + n], *__restrict weight = layer.weight + size_t(n) * layer.out;
                    float* __restrict to = next.data() + pair * layer.out;
                    for (int out = 0; out < layer.out; out++) to[out] += factor * weight[out];
                }
            if (&layer != &dense.back())
                for (float& each : next) each = activated(each);
            values.swap(next);
        }
        std::copy(values.begin(), values.end(), logits);
    }

    float activated(float value) const {
        switch (static_cast<Activation>(sizes.activation)) {
            case Activation::tanh: return std::tanh(value);
            case Activation::relu: return value > 0 ? value : 0;
            case Activation::gelu: return value * 0.5f * (1 + std::erf(value * 0.70710678f));
            default: return value;
        }
    }
};

}  // namespace crossrt

using namespace crossrt;

extern "C" {

int crossrt_interface() { return INTERFACE; }

// `arrays`: those of the file, in its order (`Sizes.tensors` of engine/bundle/native_weights.py), which must outlive the encoder. Null
// when there is no memory.
Encoder* crossrt_open(const Sizes* sizes, float epsilon, const void* const* arrays) try {
    switch (sizes->bits) {
        case 8: return new EncoderIn<EightBit>(*sizes, epsilon, Arrays{arrays});
        case 16: return new EncoderIn<SixteenBit>(*sizes, epsilon, Arrays{arrays});
        default: return new EncoderIn<ThirtyTwoBit>(*sizes, epsilon, Arrays{arrays});
    }
} catch (const std::bad_alloc&) {
    return nullptr;
}

void crossrt_close(Encoder* encoder) { delete encoder; }

// Memory for one call at a time, of pairs up to the longest, and the threads besides the caller's that compute it, `threads` in
// all. Null when there is none.
Memory* crossrt_memory(const Encoder* encoder, int threads) try {
    return encoder->memory(threads).release();
} catch (const std::bad_alloc&) {
    return nullptr;
} catch (const std::system_error&) {
    return nullptr;
}

void crossrt_free(Memory* memory) { delete memory; }

// Logits [count, labels] of the pairs named by `rows`: pair i is `ids[offsets[i]]` to before `ids[offsets[i + 1]]`, and so its
// types. Returns 0, or 1 for a pair of no tokens, of more than the model has positions for, or of an id or type that it does not
// have, 2 where there is no memory.
int crossrt_encode(const Encoder* encoder, Memory* memory, int64_t count, const int64_t* rows, const int64_t* offsets,
                   const int32_t* ids, const uint8_t* types, float* logits) try {
    const Sizes& sizes = encoder->sizes;
    std::vector<Pair> pairs;
    pairs.reserve(count);
    for (const int64_t* row = rows; row < rows + count; row++) {
        const int64_t begin = offsets[*row], end = offsets[*row + 1];
        if (begin >= end || end - begin > sizes.positions) return 1;
        for (int64_t n = begin; n < end; n++)
            if (uint32_t(ids[n]) >= uint32_t(sizes.vocab) || (sizes.types && types[n] >= sizes.types)) return 1;
        pairs.push_back({ids + begin, types + begin, int(end - begin)});
    }
    for (int64_t begin = 0, end = 0; begin < count; begin = end) {
        int64_t tokens = pairs[end++].length;
        while (end < count && tokens + pairs[end].length <= TOGETHER) tokens += pairs[end++].length;
        encoder->encode(pairs.data() + begin, int(end - begin), *memory, logits + begin * sizes.labels);
    }
    return 0;
} catch (const std::bad_alloc&) {
    return 2;
}
}
