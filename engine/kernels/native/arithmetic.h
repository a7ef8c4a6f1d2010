// The arithmetics that a model is computed in: `EightBit`, `SixteenBit` and `ThirtyTwoBit`. Each says what the weights of its linear
// layers and their rows of activations are, how a row of FP32 becomes one of them, what a product is, and, by `Value` and
// `Word`, what attention and the embeddings of words are in.

#pragma once

#include <algorithm>
#include <cmath>

#include "memory.h"
#include "vectors.h"

namespace crossrt {

// Calls `sink(row, out, low, high)` with 32 sums of each row of activations, for each panel of the outputs `begin` to `end`.
// Weights come from the third cache: while a panel is used, the next is fetched, a slice with each tile.
template <class Dot, class Weight, class Value, class Sink>
INLINE void panels(const Weight* weight, int in, int begin, int end, const Value* rows, ptrdiff_t stride, int count,
                   Sink&& sink) {
    const int bytes = PANEL * in * int(sizeof(Weight)), slice = std::min(bytes, bytes * TILE / count);
    for (int out = begin; out < end; out += PANEL) {
        const char* panel = reinterpret_cast<const char*>(weight + size_t(out) * in);
        const char* next = panel + bytes;
        const int ahead = out + PANEL < end ? slice : 0;
        in_tiles(count, [&]<int R>(int first) APART {
            for (int n = 0; n < ahead; n += 64) _mm_prefetch(next + n, _MM_HINT_T1);
            next += ahead;
            tile<Dot, R>(rows + first * stride, stride * sizeof(Value), panel, in * int(sizeof(Weight)) / 4,
                         [&](int r, typename Dot::Sum low, typename Dot::Sum high) INLINED { sink(first + r, out, low, high); });
        });
    }
}

// One range for a row, which holds 0 exactly. 254 steps and not 255: the place of 0 is rounded up, so that the smallest
// number is never below 0, where the conversion would take it for the largest.
struct Range {
    float scale, inverse, zero;

    Range(float low, float high) {
        low = low < 0 ? low : 0;
        high = high > 0 ? high : 0;
        scale = (high - low) / 254;
        // Of a row of zeros, or of numbers too small to divide by, nothing is left.
        inverse = scale > 1e-30f ? 1 / scale : 0;
        zero = std::ceil(-low * inverse);
    }
    INLINE __m128i apply(Floats values) const {
        return _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(_mm512_fmadd_ps(values, all(inverse), all(zero))));
    }
};

// Weights in 8 bits with a scale for each output; activations in 8 bits with a range for each row.
struct EightBit {
    using Value = Half;
    using Word = Half;  // FP16

    struct Linear {
        const int8_t* weight;  // [out / 32][in / 4][32][4]
        const float *scale, *sums, *bias;
        int in, out;

        Linear(Arrays& arrays, int in, int out)
            : weight(arrays.take<int8_t>()),
              scale(arrays.take<float>()),
              sums(arrays.take<float>()),
              bias(arrays.take<float>()),
              in(in),
              out(out) {}
    };

    // x = scale * q + shift, where q is 0 to 255.
    struct Rows {
        uint8_t* values;
        float *scale, *shift;
        ptrdiff_t stride;

        Rows(Memory& memory, int count, int width)
            : values(memory.take<uint8_t>(size_t(count) * width)),
              scale(memory.take<float>(count)),
              shift(memory.take<float>(count)),
              stride(width) {}
        Rows from(int row) const {
            Rows rest = *this;
            rest.values += row * stride;
            rest.scale += row;
            rest.shift += row;
            return rest;
        }
        void copy(const Rows& other) const {
            std::memcpy(values, other.values, stride);
            *scale = *other.scale;
            *shift = *other.shift;
        }
    };

    // What LayerNorm's channels are multiplied by before they are put into 8 bits, and the weights that read them divided by.
    struct Balance {
        const float* factor;
        explicit Balance(Arrays& arrays) : factor(arrays.take<float>()) {}
    };

    // Channels of the second feed-forward layer's input that are multiplied in FP32, and are 0 in the product in 8 bits.
    struct Kept {
        static constexpr int COUNT = 4;
        const float* weight;  // [COUNT][out]
        const int32_t* channels;  // all layers' come last
        explicit Kept(Arrays& arrays) : weight(arrays.take<float>()), channels(nullptr) {}
    };

    // What one block of rows needs between both feed-forward layers.
    struct Between {
        Rows rows;
        float* kept;
        Between(Memory& memory, int count, int width)
            : rows(memory, count, width), kept(memory.take<float>(size_t(count) * Kept::COUNT)) {}
    };

    // A row of FP32, or of BF16, in 8 bits.
    template <class Values>
    static INLINE void put(int width, const Range& range, const Rows& to, Values&& values) {
        for (int n = 0; n < width; n += LANES)
            _mm_storeu_si128(reinterpret_cast<__m128i*>(to.values + n), range.apply(values(n)));
        *to.scale = range.scale;
        *to.shift = -range.scale * range.zero;
    }
    template <class Values>
    static INLINE void put(int width, const Rows& to, Values&& values) {
        Floats low = all(0), high = all(0);
        for (int n = 0; n < width; n += LANES) {
            low = _mm512_min_ps(low, values(n));
            high = _mm512_max_ps(high, values(n));
        }
        put(width, Range(_mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high)), to, values);
    }
    static INLINE void put(const float* row, int width, const Rows& to) {
        put(width, to, [&](int n) INLINED { return load(row + n); });
    }
    static INLINE void normalise(float* row, int channels, int width, const Norm& norm, float epsilon, const Balance& balance,
                                 const Rows& to) {
        Floats low = all(0), high = all(0);
        crossrt::normalise(row, channels, width, norm, epsilon, [&](int n, Floats value) INLINED {
            value = _mm512_mul_ps(value, load(balance.factor + n));
            low = _mm512_min_ps(low, value);
            high = _mm512_max_ps(high, value);
        });
        put(width, Range(_mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high)), to,
            [&](int n) INLINED { return _mm512_mul_ps(load(row + n), load(balance.factor + n)); });
    }

    template <class Sink>
    static INLINE void product(const Linear& linear, const Rows& rows, int count, int begin, int end, Sink&& sink) {
        panels<Bytes>(linear.weight, linear.in, begin, end, rows.values, rows.stride, count,
                      [&](int row, int out, __m512i low, __m512i high) INLINED {
                          const Floats scale = all(rows.scale[row]), shift = all(rows.shift[row]);
                          auto value = [&](__m512i sum, int n) INLINED {
                              const Floats scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), load(linear.scale + n));
                              const Floats rest = _mm512_fmadd_ps(shift, load(linear.sums + n), load(linear.bias + n));
                              return _mm512_fmadd_ps(scaled, scale, rest);
                          };
                          sink(row, out, value(low, out), value(high, out + LANES));
                      });
    }

    // The second feed-forward layer, of what GELU gave in BF16.
    template <class Sink>
    static INLINE void second(const Linear& linear, const Kept& kept, Half* wide, int count, const Between& between,
                              Sink&& sink) {
        constexpr float GELU_LEAST = -0.1703f;  // it is nowhere below -0.17003, nor is what BF16 makes of it
        const int width = linear.in;
        for (int row = 0; row < count; row++) {
            Half* values = wide + ptrdiff_t(row) * width;
            for (int n = 0; n < Kept::COUNT; n++) {
                between.kept[row * Kept::COUNT + n] = single(values[kept.channels[n]]);
                values[kept.channels[n]] = 0;
            }
            // BF16's positive numbers are in the order of their bits.
            __m512i high = _mm512_setzero_si512();
            for (int n = 0; n < width; n += 2 * LANES) high = _mm512_max_epi16(high, _mm512_loadu_si512(values + n));
            const __m256i halves = _mm256_max_epi16(_mm512_castsi512_si256(high), _mm512_extracti64x4_epi64(high, 1));
            const float largest = single(static_cast<Half>(_mm512_reduce_max_epi32(_mm512_cvtepi16_epi32(halves))));
            put(width, Range(GELU_LEAST, largest), between.rows.from(row), [&](int n) INLINED { return load(values + n); });
        }
        product(linear, between.rows, count, 0, linear.out, [&](int row, int out, Floats low, Floats high) INLINED {
            for (int n = 0; n < Kept::COUNT; n++) {
                const Floats factor = all(between.kept[row * Kept::COUNT + n]);
                const float* weight = kept.weight + ptrdiff_t(n) * linear.out + out;
                low = _mm512_fmadd_ps(factor, load(weight), low);
                high = _mm512_fmadd_ps(factor, load(weight + LANES), high);
            }
            sink(row, out, low, high);
        });
    }
};

// Weights and activations of one type, BF16 or FP32.
template <class Number, class WordNumber>
struct Floating {
    using Value = Number;
    using Word = WordNumber;

    struct Linear {
        const Value* weight;  // [out / 32][in / 2][32][2] in BF16, [out / 32][in][32] in FP32
        const float* bias;
        int in, out;

        Linear(Arrays& arrays, int in, int out) : weight(arrays.take<Value>()), bias(arrays.take<float>()), in(in), out(out) {}
    };
    struct Rows {
        Value* values;
        ptrdiff_t stride;

        Rows(Value* values, int width) : values(values), stride(width) {}
        Rows(Memory& memory, int count, int width) : Rows(memory.take<Value>(size_t(count) * width), width) {}
        Rows from(int row) const { return {values + row * stride, int(stride)}; }
        void copy(const Rows& other) const { std::memmove(values, other.values, stride * sizeof(Value)); }
    };
    struct Balance {
        explicit Balance(Arrays&) {}
    };
    struct Kept {
        static constexpr int COUNT = 0;
        const int32_t* channels;
        explicit Kept(Arrays&) {}
    };
    struct Between {
        Between(Memory&, int, int) {}
    };

    static INLINE void put(const float* row, int width, const Rows& to) {
        for (int n = 0; n < width; n += 2 * LANES) store(to.values + n, load(row + n), load(row + n + LANES));
    }
    static INLINE void normalise(float* row, int channels, int width, const Norm& norm, float epsilon, const Balance&,
                                 const Rows& to) {
        crossrt::normalise(row, channels, width, norm, epsilon,
                           [&](int n, Floats value) INLINED { store(to.values + n, value); });
    }

    template <class Sink>
    static INLINE void product(const Linear& linear, const Rows& rows, int count, int begin, int end, Sink&& sink) {
        panels<typename Numbers<Value>::Dot>(linear.weight, linear.in, begin, end, rows.values, rows.stride, count,
                                             [&](int row, int out, Floats low, Floats high) INLINED {
                                                 sink(row, out, _mm512_add_ps(low, load(linear.bias + out)),
                                                      _mm512_add_ps(high, load(linear.bias + out + LANES)));
                                             });
    }

    template <class Sink>
    static INLINE void second(const Linear& linear, const Kept&, Value* wide, int count, const Between&, Sink&& sink) {
        product(linear, Rows(wide, linear.in), count, 0, linear.out, sink);
    }
};
using SixteenBit = Floating<Half, Half>;
using ThirtyTwoBit = Floating<float, float>;

}  // namespace crossrt
