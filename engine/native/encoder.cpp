// A cross-encoder in 8 bits on a CPU with AVX512-VNNI and AVX512-BF16: token ids in, logits out.
//
// Linear layers multiply 8-bit activations, each token with a range of its own, by 8-bit weights; attention is in BF16;
// all else is FP32. Pairs lie one after the other without padding. Python calls it by ctypes (engine/native.py), which
// names the arrays that `crossrt_open` takes.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "attention.h"

namespace crossrt {

struct Linear {
    const int8_t* weight;  // [out / 32][in / 4][32][4]
    const float *scale, *sums, *bias;
    int in, out;
};

enum class Activation { none, tanh, relu, gelu };

struct Dense {
    const float *weight, *bias;  // [in][out]
    int in, out;
};

// Channels of a linear layer's input that are multiplied in FP32, beside the product in 8 bits, in which they are 0.
constexpr int KEPT = 4;
struct Kept {
    const float* weight;  // [KEPT][out]
    const int32_t* channels;
};

struct Layer {
    Linear query_key_value, attention_output, intermediate, output;
    Kept kept;  // of output
    Norm attention_norm, output_norm;
};

struct Encoder {
    int hidden, width, heads, head, layers, types, vocab, positions, labels;
    Activation activation;  // between the head's layers
    float epsilon;
    const Half* word;  // FP16
    const float *position, *type;
    Norm embedding_norm;
    std::vector<Layer> layer;
    std::vector<Dense> dense;

    int attended() const { return heads * head; }
};

// Tokens that go through a layer together, so that its weights are fetched for all of them at once.
constexpr int TOGETHER = 384;
// Rows that go through both feed-forward layers before the next do.
constexpr int BLOCK = 96;
// Words whose embedding is fetched ahead.
constexpr int AHEAD = 4;

struct Pair {
    const int64_t *ids, *types;
    int length;
};

// Memory for one call at a time.
struct Memory {
    std::vector<void*> owned;
    float *hidden, *context, *kept;
    Half *query_key_value, *query, *wide;
    Quantized narrow, attended, inner, cls;
    Attention attention;

    Memory(const Encoder& encoder, int rows) {
        const int width = encoder.width, all_heads = encoder.attended(), intermediate = encoder.layer[0].intermediate.out;
        const size_t columns = Attention::columns(rows);
        hidden = take<float>(size_t(rows) * width);
        context = take<float>(size_t(rows) * all_heads);
        query_key_value = take<Half>(size_t(rows) * 3 * all_heads);
        query = take<Half>(size_t(rows) * all_heads);
        wide = take<Half>(size_t(BLOCK) * intermediate);
        kept = take<float>(BLOCK * KEPT);
        narrow = quantized(rows, width);
        cls = quantized(rows, width);
        attended = quantized(rows, all_heads);
        inner = quantized(BLOCK, intermediate);
        attention = {take<Half>(columns * encoder.head), take<Half>((columns + 2) * encoder.head), take<Half>(TILE * columns),
                     take<float>(TILE * columns)};
    }
    ~Memory() {
        for (void* one : owned) std::free(one);
    }
    Memory(const Memory&) = delete;

    template <class Number>
    Number* take(size_t count) {
        const size_t bytes = (count * sizeof(Number) + 127) / 64 * 64;
        void* memory = std::aligned_alloc(64, bytes);
        if (!memory) throw std::bad_alloc();
        owned.push_back(memory);
        std::memset(memory, 0, bytes);
        return static_cast<Number*>(memory);
    }
    Quantized quantized(int rows, int width) {
        const ptrdiff_t stride = (width + 63) / 64 * 64;
        return {take<uint8_t>(rows * stride), take<float>(rows), take<float>(rows), stride};
    }
};

// x W^T + b of the layer's outputs `begin` to `end`: `sink(row, output, low, high)` gets 32 of each row.
template <class Sink>
INLINE void product(const Linear& linear, const Quantized& rows, int count, int begin, int end, Sink&& sink) {
    for (int out = begin; out < end; out += PANEL) {
        const int8_t* panel = linear.weight + size_t(out) * linear.in;
        // Weights come from the third cache: while this panel is used, the next is fetched, a slice with each tile.
        const int bytes = PANEL * linear.in, slice = out + PANEL < end ? std::min(bytes, bytes * TILE / count) : 0;
        const int8_t* next = panel + bytes;
        in_tiles(count, [&]<int R>(int first) {
            const Quantized from = rows.from(first);
            for (int n = 0; n < slice; n += 64) _mm_prefetch(next + n, _MM_HINT_T1);
            next += slice;
            tile<Bytes, R>(from.values, rows.stride, panel, linear.in / 4, [&](int r, __m512i low, __m512i high) INLINED {
                const Floats scale = all(from.scale[r]), shift = all(from.shift[r]);
                auto value = [&](__m512i sum, int n) INLINED {
                    const Floats scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), load(linear.scale + n));
                    return _mm512_fmadd_ps(scaled, scale, _mm512_fmadd_ps(shift, load(linear.sums + n), load(linear.bias + n)));
                };
                sink(first + r, out, value(low, out), value(high, out + LANES));
            });
        });
    }
}

template <class Number>
struct Store {
    Number* to;
    ptrdiff_t stride;
    INLINE void operator()(int row, int out, Floats low, Floats high) const { store(to + row * stride + out, low, high); }
};

INLINE void add_to(float* to, Floats low, Floats high) {
    store(to, _mm512_add_ps(low, load(to)), _mm512_add_ps(high, load(to + LANES)));
}

// Sums of word, position and type embeddings, normalised.
void embed(const Encoder& encoder, const Pair* pairs, int count, const Memory& memory) {
    const int width = encoder.width;
    int row = 0;
    for (const Pair* pair = pairs; pair < pairs + count; pair++)
        for (int place = 0; place < pair->length; place++, row++) {
            float* to = memory.hidden + row * width;
            const Half* word = encoder.word + pair->ids[place] * width;
            // The next words lie anywhere.
            const Half* soon = encoder.word + pair->ids[place + AHEAD < pair->length ? place + AHEAD : 0] * width;
            const float* position = encoder.position + place * width;
            const float* type = encoder.types ? encoder.type + pair->types[place] * width : nullptr;
            for (int n = 0; n < width; n += PANEL) {
                _mm_prefetch(soon + n, _MM_HINT_T0);
                for (int half = n; half < n + PANEL; half += LANES) {
                    Floats sum = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(word + half)));
                    if (type) sum = _mm512_add_ps(sum, load(type + half));
                    _mm512_storeu_ps(to + half, _mm512_add_ps(sum, load(position + half)));
                }
            }
            normalise(to, encoder.hidden, width, encoder.embedding_norm, encoder.epsilon, memory.narrow.from(row));
        }
}

// What comes after attention, for `count` rows of `hidden`, whose contexts are in 8 bits.
void finish(const Encoder& encoder, const Layer& layer, int count, const Memory& memory) {
    const int width = encoder.width;
    product(layer.attention_output, memory.attended, count, 0, width, [&](int row, int out, Floats low, Floats high) INLINED {
        add_to(memory.hidden + row * width + out, low, high);
    });
    for (int begin = 0; begin < count; begin += BLOCK) {
        const int rows = count - begin < BLOCK ? count - begin : BLOCK, intermediate = layer.intermediate.out;
        float* hidden = memory.hidden + begin * width;
        const Quantized narrow = memory.narrow.from(begin);
        auto norm = [&](const Norm& of) {
            for (int row = 0; row < rows; row++)
                normalise(hidden + row * width, encoder.hidden, width, of, encoder.epsilon, narrow.from(row));
        };
        norm(layer.attention_norm);
        product(layer.intermediate, narrow, rows, 0, intermediate, [&](int row, int out, Floats low, Floats high) INLINED {
            store(memory.wide + row * intermediate + out, gelu(low), gelu(high));
        });
        for (int row = 0; row < rows; row++) {
            Half* wide = memory.wide + row * intermediate;
            for (int n = 0; n < KEPT; n++) {
                memory.kept[row * KEPT + n] = single(wide[layer.kept.channels[n]]);
                wide[layer.kept.channels[n]] = 0;
            }
            quantise_gelu(wide, intermediate, memory.inner.from(row));
        }
        product(layer.output, memory.inner, rows, 0, width, [&](int row, int out, Floats low, Floats high) INLINED {
            for (int n = 0; n < KEPT; n++) {
                const Floats kept = all(memory.kept[row * KEPT + n]);
                const float* weight = layer.kept.weight + n * width + out;
                low = _mm512_fmadd_ps(kept, load(weight), low);
                high = _mm512_fmadd_ps(kept, load(weight + LANES), high);
            }
            add_to(hidden + row * width + out, low, high);
        });
        norm(layer.output_norm);
    }
}

// Attention of one pair: `count` queries, `apart` from one another, over its tokens, of which the first is row `begin`; the
// contexts go to the rows from `row` on.
void attend_all_heads(const Encoder& encoder, const Half* queries, ptrdiff_t apart, int count, int begin, int tokens, int row,
                      const Memory& memory) {
    const int all_heads = encoder.attended();
    const ptrdiff_t stride = 3 * all_heads;
    const Half* keys = memory.query_key_value + begin * stride + all_heads;
    float* context = memory.context + row * all_heads;
    for (int at = 0; at < all_heads; at += encoder.head)
        attend(queries + at, apart, count, keys + at, keys + all_heads + at, stride, tokens, encoder.head, context + at,
               all_heads, memory.attention);
    for (int n = 0; n < count; n++) quantise(context + n * all_heads, all_heads, memory.attended.from(row + n));
}

float activated(Activation activation, float value) {
    switch (activation) {
        case Activation::tanh: return std::tanh(value);
        case Activation::relu: return value > 0 ? value : 0;
        case Activation::gelu: return value * 0.5f * (1 + std::erf(value * 0.70710678f));
        default: return value;
    }
}

// From the [CLS] of each pair to its logits, in FP32. Pairs share each row of the weights.
void head(const Encoder& encoder, int pairs, const Memory& memory, float* logits) {
    std::vector<float> values(size_t(pairs) * encoder.hidden), next;
    for (int pair = 0; pair < pairs; pair++)
        std::copy_n(memory.hidden + pair * encoder.width, encoder.hidden, values.begin() + pair * encoder.hidden);
    for (size_t number = 0; number < encoder.dense.size(); number++) {
        const Dense& dense = encoder.dense[number];
        next.resize(size_t(pairs) * dense.out);
        for (int pair = 0; pair < pairs; pair++) std::copy_n(dense.bias, dense.out, next.begin() + pair * dense.out);
        for (int n = 0; n < dense.in; n++)
            for (int pair = 0; pair < pairs; pair++) {
                const float factor = values[pair * dense.in + n], *__restrict weight = dense.weight + size_t(n) * dense.out;
                float* __restrict to = next.data() + pair * dense.out;
                for (int out = 0; out < dense.out; out++) to[out] += factor * weight[out];
            }
        if (number + 1 < encoder.dense.size())
            for (float& each : next) each = activated(encoder.activation, each);
        values.swap(next);
    }
    std::copy(values.begin(), values.end(), logits);
}

// Pairs that go through the layers together.
void encode(const Encoder& encoder, const Pair* pairs, int count, const Memory& memory, float* logits) {
    const int width = encoder.width, all_heads = encoder.attended();
    const ptrdiff_t stride = 3 * all_heads;
    int tokens = 0;
    for (int pair = 0; pair < count; pair++) tokens += pairs[pair].length;
    embed(encoder, pairs, count, memory);
    for (int number = 0; number < encoder.layers; number++) {
        const Layer& layer = encoder.layer[number];
        // Only [CLS] reaches the head, so of the last layer the other tokens need keys and values alone.
        const bool last = number == encoder.layers - 1;
        product(layer.query_key_value, memory.narrow, tokens, last ? all_heads : 0, 3 * all_heads,
                Store<Half>{memory.query_key_value, stride});
        if (last) {
            for (int pair = 0, row = 0; pair < count; row += pairs[pair++].length) {
                const Quantized from = memory.narrow.from(row), to = memory.cls.from(pair);
                std::memcpy(to.values, from.values, from.stride);
                *to.scale = *from.scale;
                *to.shift = *from.shift;
                std::memmove(memory.hidden + pair * width, memory.hidden + row * width, width * sizeof(float));
            }
            product(layer.query_key_value, memory.cls, count, 0, all_heads, Store<Half>{memory.query, all_heads});
        }
        for (int pair = 0, row = 0; pair < count; row += pairs[pair++].length) {
            const int length = pairs[pair].length;
            if (last)
                attend_all_heads(encoder, memory.query + pair * all_heads, all_heads, 1, row, length, pair, memory);
            else
                attend_all_heads(encoder, memory.query_key_value + row * stride, stride, length, row, length, row, memory);
        }
        finish(encoder, layer, last ? count : tokens, memory);
    }
    head(encoder, count, memory, logits);
}

}  // namespace crossrt

using namespace crossrt;

extern "C" {

// `sizes`: hidden, heads, head, intermediate, layers, types, vocab, positions, labels, dense layers, their activation; widths
// are padded, hidden is not. `arrays`: word, position, type, embedding norm's weight, bias and balance; of each layer
// query_key_value, attention_output, intermediate and output (weight, scale, sums, bias each), the weights of output's kept
// channels, then both norms; of each dense layer weight and bias; and the kept channels [layers, KEPT]. They must outlive the
// encoder. Null when there is no memory.
Encoder* crossrt_open(const int32_t* sizes, float epsilon, const void* const* arrays) try {
    auto encoder = std::make_unique<Encoder>();
    encoder->hidden = sizes[0];
    encoder->width = (sizes[0] + PANEL - 1) / PANEL * PANEL;
    encoder->heads = sizes[1];
    encoder->head = sizes[2];
    encoder->layers = sizes[4];
    encoder->types = sizes[5];
    encoder->vocab = sizes[6];
    encoder->positions = sizes[7];
    encoder->labels = sizes[8];
    encoder->activation = static_cast<Activation>(sizes[10]);
    encoder->epsilon = epsilon;
    auto floats = [&] { return static_cast<const float*>(*arrays++); };
    auto norm = [&] { return Norm{floats(), floats(), floats()}; };
    auto linear = [&](int in, int out) {
        return Linear{static_cast<const int8_t*>(*arrays++), floats(), floats(), floats(), in, out};
    };
    encoder->word = static_cast<const Half*>(*arrays++);
    encoder->position = floats();
    encoder->type = floats();
    encoder->embedding_norm = norm();
    const int width = encoder->width, all_heads = encoder->attended(), intermediate = sizes[3];
    for (int n = 0; n < encoder->layers; n++)
        encoder->layer.push_back({linear(width, 3 * all_heads), linear(all_heads, width), linear(width, intermediate),
                                  linear(intermediate, width), Kept{floats(), nullptr}, norm(), norm()});
    for (int n = 0; n < sizes[9]; n++)
        encoder->dense.push_back({floats(), floats(), encoder->hidden, n == sizes[9] - 1 ? encoder->labels : encoder->hidden});
    for (int n = 0; n < encoder->layers; n++)
        encoder->layer[n].kept.channels = static_cast<const int32_t*>(*arrays) + n * KEPT;
    return encoder.release();
} catch (const std::bad_alloc&) {
    return nullptr;
}

void crossrt_close(Encoder* encoder) { delete encoder; }

// Memory for one call at a time, of pairs up to the longest. Null when there is none.
Memory* crossrt_memory(const Encoder* encoder) try {
    return new Memory(*encoder, encoder->positions > TOGETHER ? encoder->positions : TOGETHER);
} catch (const std::bad_alloc&) {
    return nullptr;
}

void crossrt_free(Memory* memory) { delete memory; }

// Logits [rows, labels] of a batch [rows, width] that is padded at the right. Returns 0, or 1 for a row without a token or with
// one after padding, 2 for an id or type that the model does not have, 3 where there is no memory.
int crossrt_encode(const Encoder* encoder, const Memory* memory, int rows, int width, const int64_t* ids, const int64_t* mask,
                   const int64_t* types, float* logits) try {
    std::vector<Pair> pairs(rows);
    for (int row = 0; row < rows; row++, ids += width, mask += width, types += width) {
        int length = 0;
        while (length < width && mask[length]) length++;
        if (!length || std::any_of(mask + length, mask + width, [](int64_t each) { return each; })) return 1;
        for (int n = 0; n < length; n++) {
            if (uint64_t(ids[n]) >= uint64_t(encoder->vocab)) return 2;
            if (encoder->types && uint64_t(types[n]) >= uint64_t(encoder->types)) return 2;
        }
        pairs[row] = {ids, types, length};
    }
    for (int begin = 0, end = 0; begin < rows; begin = end) {
        int tokens = pairs[end++].length;
        while (end < rows && tokens + pairs[end].length <= TOGETHER) tokens += pairs[end++].length;
        encode(*encoder, pairs.data() + begin, end - begin, *memory, logits + begin * encoder->labels);
    }
    return 0;
} catch (const std::bad_alloc&) {
    return 3;
}
}
