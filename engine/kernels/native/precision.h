// The precisions in which a model is computed: `Int8`, `Bf16` and `Fp32`. The encoder has one of them as template argument.
//
// A precision defines:
//
//     Element            the type of attention and of the feed-forward activations: BF16 or FP32 (element_traits.h)
//     Embedding          the type of the word embeddings in the file
//     Linear             the packed weights of a linear layer (gemm.h)
//     ActivationRows     rows [rows, width] of activations as linear layers read them
//     quantize_row       writes a row of FP32 as such a row: INT8 quantizes it, BF16 converts it, FP32 copies it
//     quantize_smoothed  does so with a LayerNorm's outputs, which INT8 multiplies by factors and rotates
//     layer_norm         normalizes a row of FP32 in place and writes it as such a row
//     linear             multiplies such rows with a linear layer
//     ffn_down           the same for the second feed-forward layer, where INT8 has outlier channels
//     Smoothing, OutlierChannels, ActivationBalance, FeedForwardScratch   for INT8 only; without effect in the others
//     CLS_RESIDUAL, quantize_residual   for INT8 only; 0, and without effect, in the others
//
// INT8 is dynamic quantization: activations have a scale and a zero point for each token, and weights a scale for each output
// channel. A token's range is found when its row is computed, so a score does not depend on calibration texts or on other pairs.
// Three methods keep outliers from widening the range: smoothing (SmoothQuant, Xiao et al. 2023, arXiv:2211.10438), rotations
// (QuaRot, Ashkboos et al. 2024, arXiv:2404.00456), and outlier channels in FP32. The last method is that of LLM.int8() (Dettmers
// et al. 2022, arXiv:2208.07339), but calibration chooses the channels once. docs/decisions/0012 and 0033 measure the effects.

#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "element_traits.h"
#include "layer_norm.h"
#include "weight_reader.h"
#include "workspace.h"

namespace crossrt {

// The asymmetric quantization of one row to 8 bits: q = round(x / scale) + zero point. 0 is represented exactly. The zero point
// is rounded up, so that q of the row's smallest number is never negative. AVX512 reads q as unsigned, and would turn -1 into
// 255. The range has one step less than q allows, which leaves room for the rounding: 254 steps, where q can be up to 255.
//
// What is stored is q - DotInt8::OFFSET. `zero_point` is the zero point of the stored value.
struct RowQuantization {
    float scale, inverse, zero_point;

    RowQuantization(float low, float high) {
        low = low < 0 ? low : 0;
        high = high > 0 ? high : 0;
        scale = (high - low) / (DotInt8::MAX_ACTIVATION - 1);
        // A row of zeros, or of numbers too small to divide by, becomes zeros.
        inverse = scale > 1e-30f ? 1 / scale : 0;
        zero_point = std::ceil(-low * inverse) - DotInt8::OFFSET;
    }
    ALWAYS_INLINE void apply(DotInt8::Activation* to, FloatVec values) const {
        store_rounded(to, fmadd(values, broadcast(inverse), broadcast(zero_point)));
    }
};

struct Int8 {
    using Element = BFloat16;
    using Embedding = uint16_t;  // FP16
    // The number of additional rows for each pair when queries, keys and values are computed. The error of [CLS] reaches the
    // score undiluted, because all tokens attend to it and the head reads it. So the error of its quantization, the residual, is
    // quantized too, with its own range, and the products of both rows are added. This gives [CLS] 16 bits, at the cost of one
    // more row for each pair.
    static constexpr int CLS_RESIDUAL = 1;

    // The 8-bit weights W, in [-127, 127], with a scale for each output channel. `sums` is scale * (the sum of the channel's row
    // of W), for each output channel. It compensates the zero points of the activations: for a row x = row_scale * q + row_shift
    // (`ActivationRows`) the layer's output is row_scale * scale * (W q) + row_shift * sums + bias.
    struct Linear {
        const int8_t* weight;  // [out / 32][in / 4][32][4]
        const float *scale, *sums, *bias;  // [out]
        int in, out;

        Linear(WeightReader& weights, int in, int out)
            : weight(weights.read<int8_t>()),
              scale(weights.read<float>()),
              sums(weights.read<float>()),
              bias(weights.read<float>()),
              in(in),
              out(out) {}
    };

    // x = scale * value + shift. `RowQuantization` stores the values. Each row has one scale and one shift. (In
    // calibration/quantization.py each channel has a shift.)
    struct ActivationRows {
        DotInt8::Activation* values;
        float *scale, *shift;
        ptrdiff_t stride;

        ActivationRows(Workspace& workspace, int count, int width)
            : values(workspace.allocate<DotInt8::Activation>(size_t(count) * width)),
              scale(workspace.allocate<float>(count)),
              shift(workspace.allocate<float>(count)),
              stride(width) {}
        ActivationRows from_row(int row) const {
            ActivationRows rest = *this;
            rest.values += row * stride;
            rest.scale += row;
            rest.shift += row;
            return rest;
        }
    };

    // SmoothQuant: a LayerNorm's outputs are multiplied by a factor for each channel before they are quantized. The export has
    // divided the weights that read them by the same factor. It is called `balance` in the file, and is the reciprocal of
    // `smoothing` in calibration/quantization.py.
    struct Smoothing {
        const float* factor;  // [width]
        explicit Smoothing(WeightReader& weights) : factor(weights.read<float>()) {}
    };

    // The input channels of the second feed-forward layer that have large outliers. They are multiplied in FP32, and their
    // activations are 0 in the INT8 product.
    struct OutlierChannels {
        static constexpr int COUNT = 4;
        const float* weight;  // [COUNT][out]
        const int32_t* channels;  // [COUNT]; the file has the channels of all layers at its end
        explicit OutlierChannels(WeightReader& weights) : weight(weights.read<float>()), channels(nullptr) {}
    };

    // Like SmoothQuant's factors for a LayerNorm's outputs, but for the outputs of the activation function between the
    // feed-forward layers. They are applied where the function is computed. (A ModernBERT has these factors in the weights of its
    // gates.)
    class ActivationBalance {
        std::vector<float> ones;

    public:
        const float* factor;  // [width]

        // Without factors in the file, as in a ModernBERT or in an older format, all factors are 1.
        ActivationBalance(WeightReader& weights, int width, bool in_file)
            : ones(in_file ? 0 : width, 1.0f), factor(in_file ? weights.read<float>() : ones.data()) {}
        // Not copyable: a copy's `factor` would point to the `ones` of the original.
        ActivationBalance(ActivationBalance&&) = default;
        ALWAYS_INLINE FloatVec apply(int n, FloatVec values) const { return values * load(factor + n); }
    };

    // The input of the second feed-forward layer for one block of rows.
    struct FeedForwardScratch {
        ActivationRows rows;
        float* outliers;  // [rows][OutlierChannels::COUNT]
        FeedForwardScratch(Workspace& workspace, int count, int width)
            : rows(workspace, count, width),
              outliers(workspace.allocate<float>(size_t(count) * OutlierChannels::COUNT)) {}
    };

    // A Hadamard rotation of groups of COUNT channels that are 16 apart, which are the same lane of neighbouring vectors. It is
    // not normalized, so the results are larger by the square root of COUNT. A channel that is larger than the others is spread
    // over its group, so that the row's range is smaller. The export has multiplied the weights by the inverse
    // (export/precision/rotation.py).
    template <int COUNT>
    static ALWAYS_INLINE void rotate(FloatVec (&values)[COUNT]) {
#pragma GCC unroll 3
        for (int half = 1; half < COUNT; half *= 2) {
#pragma GCC unroll 8
            for (int i = 0; i < COUNT; i++) {
                if (i & half) continue;
                const FloatVec sum = values[i] + values[i + half];
                values[i + half] = values[i] - values[i + half];
                values[i] = sum;
            }
        }
    }
    // Writes the rotated row to `to` [width] and returns its quantization. `values(n)` gives the 16 values from channel `n` on.
    // `width` is a multiple of 32.
    template <class Values>
    static ALWAYS_INLINE RowQuantization rotate_row(int width, float* to, Values&& values) {
        FloatVec low = broadcast(0), high = broadcast(0);
        const auto rotate_group = [&]<int COUNT>(int n) ALWAYS_INLINE_LAMBDA {
            FloatVec group[COUNT];
#pragma GCC unroll 8
            for (int i = 0; i < COUNT; i++) group[i] = values(n + i * LANES);
            rotate(group);
#pragma GCC unroll 8
            for (int i = 0; i < COUNT; i++) {
                low = minimum(low, group[i]);
                high = maximum(high, group[i]);
                store(to + n + i * LANES, group[i]);
            }
        };
        int n = 0;
        for (; n + 8 * LANES <= width; n += 8 * LANES) rotate_group.template operator()<8>(n);
        for (; n + 4 * LANES <= width; n += 4 * LANES) rotate_group.template operator()<4>(n);
        if (n < width) rotate_group.template operator()<2>(n);
        return RowQuantization(lowest(low), highest(high));
    }

    // `values(n)` gives the 16 values from channel `n` on.
    template <class Values>
    static ALWAYS_INLINE void quantize_row(int width, const RowQuantization& quantization, const ActivationRows& to,
                                           Values&& values) {
        for (int n = 0; n < width; n += LANES)
            quantization.apply(to.values + n, values(n));
        *to.scale = quantization.scale;
        *to.shift = -quantization.scale * quantization.zero_point;
    }
    template <class Values>
    static ALWAYS_INLINE void quantize_row(int width, const ActivationRows& to, Values&& values) {
        FloatVec low = broadcast(0), high = broadcast(0);
        for (int n = 0; n < width; n += LANES) {
            low = minimum(low, values(n));
            high = maximum(high, values(n));
        }
        quantize_row(width, RowQuantization(lowest(low), highest(high)), to, values);
    }
    static ALWAYS_INLINE void quantize_row(const float* row, int width, const ActivationRows& to) {
        quantize_row(width, to, [&](int n) ALWAYS_INLINE_LAMBDA { return load(row + n); });
    }
    // Rotates a row into the buffer `rotated` [width] and quantizes it. If `rotated` is null, the row is quantized as it is.
    template <class Values>
    static ALWAYS_INLINE void quantize_rotated(int width, float* rotated, const ActivationRows& to, Values&& values) {
        if (!rotated) return quantize_row(width, to, values);
        quantize_row(width, rotate_row(width, rotated, values), to,
                     [&](int n) ALWAYS_INLINE_LAMBDA { return load(rotated + n); });
    }
    static ALWAYS_INLINE void quantize_smoothed(const float* row, int width, const Smoothing& smoothing, float* rotated,
                                                const ActivationRows& to) {
        quantize_rotated(width, rotated, to, [&](int n) ALWAYS_INLINE_LAMBDA {
            return load(row + n) * load(smoothing.factor + n);
        });
    }
    // Quantizes the residual of a smoothed row: the row minus what `quantized`, its quantization, represents.
    static ALWAYS_INLINE void quantize_residual(const float* row, int width, const Smoothing& smoothing, float* rotated,
                                                const ActivationRows& quantized, const ActivationRows& to) {
        const auto smoothed = [&](int n) ALWAYS_INLINE_LAMBDA { return load(row + n) * load(smoothing.factor + n); };
        const auto kept = [&](int n) ALWAYS_INLINE_LAMBDA {
            return fmadd(load(quantized.values + n), broadcast(*quantized.scale), broadcast(*quantized.shift));
        };
        if (rotated) {
            rotate_row(width, rotated, smoothed);
            quantize_row(width, to, [&](int n) ALWAYS_INLINE_LAMBDA { return load(rotated + n) - kept(n); });
        } else {
            quantize_row(width, to, [&](int n) ALWAYS_INLINE_LAMBDA {
                return fmsub(load(row + n), load(smoothing.factor + n), kept(n));
            });
        }
    }
    static ALWAYS_INLINE void layer_norm(float* row, int channels, int width, const LayerNormParams& params, float epsilon,
                                         const Smoothing& smoothing, float* rotated, const ActivationRows& to) {
        if (rotated) {
            crossrt::layer_norm(row, channels, width, params, epsilon, [](int, FloatVec) ALWAYS_INLINE_LAMBDA {});
            return quantize_smoothed(row, width, smoothing, rotated, to);
        }
        FloatVec low = broadcast(0), high = broadcast(0);
        crossrt::layer_norm(row, channels, width, params, epsilon, [&](int n, FloatVec values) ALWAYS_INLINE_LAMBDA {
            values = values * load(smoothing.factor + n);
            low = minimum(low, values);
            high = maximum(high, values);
        });
        quantize_row(width, RowQuantization(lowest(low), highest(high)), to,
                     [&](int n) ALWAYS_INLINE_LAMBDA { return load(row + n) * load(smoothing.factor + n); });
    }

    template <class Epilogue>
    static ALWAYS_INLINE void linear(const Linear& layer, const ActivationRows& rows, int count, int begin, int end,
                                     Epilogue&& epilogue) {
        gemm<DotInt8>(layer.weight, layer.in, begin, end, rows.values, rows.stride, count,
                      [&](int row, int out, DotInt8::Sum low, DotInt8::Sum high) ALWAYS_INLINE_LAMBDA {
                          const FloatVec scale = broadcast(rows.scale[row]), shift = broadcast(rows.shift[row]);
                          auto dequantized = [&](DotInt8::Sum sum, int n) ALWAYS_INLINE_LAMBDA {
                              const FloatVec scaled = to_floats(sum) * load(layer.scale + n);
                              const FloatVec rest = fmadd(shift, load(layer.sums + n), load(layer.bias + n));
                              return fmadd(scaled, scale, rest);
                          };
                          epilogue(row, out, dequantized(low, out), dequantized(high, out + LANES));
                      });
    }

    // The second feed-forward layer for `count` rows `activations` [count, in] in BF16. Their outlier channels are set to 0.
    template <class Epilogue>
    static ALWAYS_INLINE void ffn_down(const Linear& layer, const OutlierChannels& outliers, BFloat16* activations, int count,
                                       const FeedForwardScratch& scratch, float* rotated, Epilogue&& epilogue) {
        const int width = layer.in;
        for (int row = 0; row < count; row++) {
            BFloat16* values = activations + ptrdiff_t(row) * width;
            for (int n = 0; n < OutlierChannels::COUNT; n++) {
                scratch.outliers[row * OutlierChannels::COUNT + n] = to_float(values[outliers.channels[n]]);
                values[outliers.channels[n]] = 0;
            }
            const auto loaded = [&](int n) ALWAYS_INLINE_LAMBDA { return load(values + n); };
            if (rotated) {
                quantize_rotated(width, rotated, scratch.rows.from_row(row), loaded);
            } else {
                const Extremes range = extremes(values, width);
                quantize_row(width, RowQuantization(range.low, range.high), scratch.rows.from_row(row), loaded);
            }
        }
        linear(layer, scratch.rows, count, 0, layer.out,
               [&](int row, int out, FloatVec low, FloatVec high) ALWAYS_INLINE_LAMBDA {
                   for (int n = 0; n < OutlierChannels::COUNT; n++) {
                       const FloatVec value = broadcast(scratch.outliers[row * OutlierChannels::COUNT + n]);
                       const float* weight = outliers.weight + ptrdiff_t(n) * layer.out + out;
                       low = fmadd(value, load(weight), low);
                       high = fmadd(value, load(weight + LANES), high);
                   }
                   epilogue(row, out, low, high);
               });
    }
};

// Weights and activations of one floating-point type.
template <class ElementType>
struct Floating {
    using Element = ElementType;
    using Embedding = ElementType;  // in Bf16 the 16 bits are FP16
    static constexpr int CLS_RESIDUAL = 0;

    struct Linear {
        const Element* weight;  // [out / 32][in / 2][32][2] in BF16, [out / 32][in][32] in FP32
        const float* bias;  // [out]
        int in, out;

        Linear(WeightReader& weights, int in, int out)
            : weight(weights.read<Element>()), bias(weights.read<float>()), in(in), out(out) {}
    };
    struct ActivationRows {
        Element* values;
        ptrdiff_t stride;

        ActivationRows(Element* values, int width) : values(values), stride(width) {}
        ActivationRows(Workspace& workspace, int count, int width)
            : ActivationRows(workspace.allocate<Element>(size_t(count) * width), width) {}
        ActivationRows from_row(int row) const { return {values + row * stride, int(stride)}; }
    };
    struct Smoothing {
        explicit Smoothing(WeightReader&) {}
    };
    struct OutlierChannels {
        static constexpr int COUNT = 0;
        const int32_t* channels;
        explicit OutlierChannels(WeightReader&) {}
    };
    struct ActivationBalance {
        ActivationBalance(WeightReader&, int, bool) {}
        static ALWAYS_INLINE FloatVec apply(int, FloatVec values) { return values; }
    };
    struct FeedForwardScratch {
        FeedForwardScratch(Workspace&, int, int) {}
    };

    // Quantizes nothing: converts to BF16, or copies FP32.
    static ALWAYS_INLINE void quantize_row(const float* row, int width, const ActivationRows& to) {
        for (int n = 0; n < width; n += 2 * LANES) store(to.values + n, load(row + n), load(row + n + LANES));
    }
    static ALWAYS_INLINE void quantize_smoothed(const float* row, int width, const Smoothing&, float*, const ActivationRows& to) {
        quantize_row(row, width, to);
    }
    static void quantize_residual(const float*, int, const Smoothing&, float*, const ActivationRows&, const ActivationRows&) {}
    static ALWAYS_INLINE void layer_norm(float* row, int channels, int width, const LayerNormParams& params, float epsilon,
                                         const Smoothing&, float*, const ActivationRows& to) {
        crossrt::layer_norm(row, channels, width, params, epsilon,
                            [&](int n, FloatVec values) ALWAYS_INLINE_LAMBDA { store(to.values + n, values); });
    }

    template <class Epilogue>
    static ALWAYS_INLINE void linear(const Linear& layer, const ActivationRows& rows, int count, int begin, int end,
                                     Epilogue&& epilogue) {
        gemm<typename ElementTraits<Element>::Dot>(
            layer.weight, layer.in, begin, end, rows.values, rows.stride, count,
            [&](int row, int out, FloatVec low, FloatVec high) ALWAYS_INLINE_LAMBDA {
                epilogue(row, out, low + load(layer.bias + out), high + load(layer.bias + out + LANES));
            });
    }

    template <class Epilogue>
    static ALWAYS_INLINE void ffn_down(const Linear& layer, const OutlierChannels&, Element* activations, int count,
                                       const FeedForwardScratch&, float*, Epilogue&& epilogue) {
        linear(layer, ActivationRows(activations, layer.in), count, 0, layer.out, epilogue);
    }
};
using Bf16 = Floating<BFloat16>;
using Fp32 = Floating<float>;

}  // namespace crossrt
