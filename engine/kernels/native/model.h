// `Model`: the weights of a cross-encoder in one precision, with the layout of the file. The constructors read the arrays in the
// file's order (`ModelDims.tensors` in engine/bundle/native_weights.py).

#pragma once

#include <optional>
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
    // The part of a layer after attention: the output projection and the feed-forward layers, each with a LayerNorm after its
    // residual sum. In a ModernBERT these are the LayerNorm before the feed-forward layers, and the one before the next layer or
    // the head. A panel of a gated `ffn_up` has 16 values and then their 16 gates.
    struct PostAttention {
        Linear attention_output, ffn_up, ffn_down;
        typename Precision::OutlierChannels outliers;            // of ffn_down's input
        typename Precision::ActivationBalance activation_balance;  // of the same
        LayerNorm attention_norm, output_norm;

        PostAttention(const ModelDims& dims, WeightReader& weights)
            : attention_output(weights, dims.attention_width(), dims.width()),
              ffn_up(weights, dims.width(), dims.is_modern() ? 2 * dims.intermediate : dims.intermediate),
              ffn_down(weights, dims.intermediate, dims.width()),
              outliers(weights),
              activation_balance(weights, dims.intermediate, dims.activation_balance),
              attention_norm(weights),
              output_norm(weights) {}
    };
    struct Layer {
        Linear query_key_value;
        PostAttention post_attention;

        Layer(const ModelDims& dims, WeightReader& weights)
            : query_key_value(weights, dims.width(), 3 * dims.attention_width()), post_attention(dims, weights) {}
    };
    // The last layer of a BERT has no keys and values. Only [CLS] reaches the classification head, so each attention head has one
    // query q for each pair. Matrix products are associative: a score is (x K) q = x (K q), and a context is w (x V) = (w x) V,
    // where x are the hidden states and w the softmax weights. So q is multiplied with K's weights, attention reads the hidden
    // states as its keys and values, and its result is multiplied with V's weights. These are two products for each pair instead
    // of two for each token. (DeepSeek-V2 calls this absorbing, arXiv:2405.04434.) The bias of the keys adds the same number to
    // all scores of a head. Softmax cancels it, so it is not in the file. A ModernBERT rotates its keys by their positions, so
    // nothing can be absorbed, and its last layer is a `Layer`.
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

    // Embeddings that are narrower than the hidden states are projected to them after their LayerNorm (ELECTRA-small). Because of
    // the LayerNorm, the projection cannot be folded into the tables.
    struct Projection {
        Linear linear;
        typename Precision::Smoothing smoothing;  // of its outputs, as input of the first layer

        Projection(const ModelDims& dims, WeightReader& weights)
            : linear(weights, dims.embedding_width(), dims.width()), smoothing(weights) {}
    };

    const typename Precision::Embedding* word_embedding;  // [vocab][embedding_width]
    // BERT: [positions][embedding_width] and [types][embedding_width].
    const float *position_embedding = nullptr, *type_embedding = nullptr;
    // ModernBERT: the cosines and then the sines of each position's angles, [positions][head]: rotary[0] for layers without a
    // window, rotary[1] for layers with one. has_window [layers] is 1 for the latter.
    const float* rotary[2] = {};
    const int32_t* has_window = nullptr;
    LayerNorm embedding_norm;
    std::optional<Projection> projection;
    std::vector<Layer> layers;      // in a BERT, all but the last
    std::optional<LastLayer> last;  // in a BERT
    std::vector<Dense> head;        // the classification head; `ModelDims::head` is the number of channels of an attention head
    LayerNormParams head_norm{};

    Model(const ModelDims& dims, WeightReader weights)
        : word_embedding(weights.read<typename Precision::Embedding>()),
          embedding_norm(read_positions(dims, weights)) {
        if (dims.embedding) projection.emplace(dims, weights);
        const int plain = dims.is_modern() ? dims.layers : dims.layers - 1;
        for (int n = 0; n < plain; n++) layers.emplace_back(dims, weights);
        if (!dims.is_modern()) last.emplace(dims, weights);
        for (int n = 0; n < dims.dense; n++) {
            const int out = n == dims.dense - 1 ? dims.labels : dims.hidden;
            head.push_back({weights.read<float>(), weights.read<float>(), dims.hidden, out});
        }
        if (dims.head_norm) head_norm = {weights.read<float>(), weights.read<float>()};
        if (dims.is_modern()) has_window = weights.read<int32_t>();
        constexpr int OUTLIERS = Precision::OutlierChannels::COUNT;
        if (OUTLIERS) {
            const auto* channels = weights.read<int32_t>();
            for (Layer& layer : layers) layer.post_attention.outliers.channels = channels, channels += OUTLIERS;
            if (last) last->post_attention.outliers.channels = channels;
        }
        if (weights.next != weights.end) throw WrongArrays();
    }

private:
    // Reads the position tables, and returns `weights`, which then begin after them.
    WeightReader& read_positions(const ModelDims& dims, WeightReader& weights) {
        if (dims.is_modern()) {
            for (const float*& table : rotary) table = weights.read<float>();
        } else {
            position_embedding = weights.read<float>();
            type_embedding = weights.read<float>();
        }
        return weights;
    }
};

}  // namespace crossrt
