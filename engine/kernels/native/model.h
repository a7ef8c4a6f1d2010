// `Model`: the weights of a cross-encoder in one precision, as they lie in the file. The constructors read the arrays in the
// file's order (`ModelDims.tensors` in engine/bundle/native_weights.py).

#pragma once

#include <vector>

#include "model_dims.h"
#include "precision.h"

namespace crossrt {

// A linear layer of the head, in FP32.
struct Dense {
    const float *weight, *bias;  // [in][out]
    int in, out;
};

template <class Precision>
struct Model {
    using Element = typename Precision::Element;
    using Linear = typename Precision::Linear;

    struct LayerNorm : LayerNormParams {
        typename Precision::Smoothing smoothing;
        explicit LayerNorm(WeightReader& weights)
            : LayerNormParams{weights.read<float>(), weights.read<float>()}, smoothing(weights) {}
    };
    // The part of a layer after attention: its output projection and the feed-forward layers.
    struct PostAttention {
        Linear attention_output, ffn_up, ffn_down;
        typename Precision::OutlierChannels outliers;  // of ffn_down's input
        LayerNorm attention_norm, output_norm;

        PostAttention(const ModelDims& dims, WeightReader& weights)
            : attention_output(weights, dims.attention_width(), dims.width()),
              ffn_up(weights, dims.width(), dims.intermediate),
              ffn_down(weights, dims.intermediate, dims.width()),
              outliers(weights),
              attention_norm(weights),
              output_norm(weights) {}
    };
    struct Layer {
        Linear query_key_value;
        PostAttention post_attention;

        Layer(const ModelDims& dims, WeightReader& weights)
            : query_key_value(weights, dims.width(), 3 * dims.attention_width()), post_attention(dims, weights) {}
    };
    // The last layer has no keys and values. Only [CLS] reaches the head, so each head has one query q a pair. Matrix products
    // are associative: a score is (x K) q = x (K q), and a context is (w x) V = w (x V), where x are the hidden states and w the
    // softmax weights. So q is multiplied with K's weights, attention reads the hidden states as its keys and values, and its
    // result is multiplied with V's weights: two products for each pair in place of two for each token. (DeepSeek-V2 calls it
    // absorbing, arXiv:2405.04434.) The bias of the keys adds the same to all scores of a head, which softmax cancels; it is not
    // in the file.
    struct LastLayer {
        Linear query;
        const Element* key;        // packed for each head, with head inputs and width outputs
        const Element* value;      // packed, with width inputs and attention_width outputs
        const float* value_bias;   // [attention_width]
        PostAttention post_attention;

        LastLayer(const ModelDims& dims, WeightReader& weights)
            : query(weights, dims.width(), dims.attention_width()),
              key(weights.read<Element>()),
              value(weights.read<Element>()),
              value_bias(weights.read<float>()),
              post_attention(dims, weights) {}
    };

    const typename Precision::Embedding* word_embedding;  // [vocab][width]
    const float *position_embedding, *type_embedding;     // [positions][width], [types][width]
    LayerNorm embedding_norm;
    std::vector<Layer> layers;  // all but the last
    LastLayer last;
    std::vector<Dense> head;  // the classification head; `ModelDims::head` is the channels of an attention head

    Model(const ModelDims& dims, WeightReader weights)
        : word_embedding(weights.read<typename Precision::Embedding>()),
          position_embedding(weights.read<float>()),
          type_embedding(weights.read<float>()),
          embedding_norm(weights),
          layers(all_but_last(dims, weights)),
          last(dims, weights) {
        for (int n = 0; n < dims.dense; n++) {
            const int out = n == dims.dense - 1 ? dims.labels : dims.hidden;
            head.push_back({weights.read<float>(), weights.read<float>(), dims.hidden, out});
        }
        constexpr int OUTLIERS = Precision::OutlierChannels::COUNT;
        if (OUTLIERS) {
            const auto* channels = weights.read<int32_t>();
            for (Layer& layer : layers) layer.post_attention.outliers.channels = channels, channels += OUTLIERS;
            last.post_attention.outliers.channels = channels;
        }
        if (weights.next != weights.end) throw WrongArrays();
    }

private:
    static std::vector<Layer> all_but_last(const ModelDims& dims, WeightReader& weights) {
        std::vector<Layer> layers;
        for (int n = 1; n < dims.layers; n++) layers.emplace_back(dims, weights);
        return layers;
    }
};

}  // namespace crossrt
