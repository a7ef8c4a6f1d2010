// `ModelDims`: the dimensions of a model, as Python passes them.

#pragma once

#include "gemm.h"

namespace crossrt {

// `gelu_tanh` is GELU's tanh approximation, which transformers calls `gelu_new`. activation_functions.h has the functions between
// the feed-forward layers.
enum class Activation { none, tanh, relu, gelu, gelu_tanh, silu };
// `bert`: LayerNorm after each sum, positions in a table, attention to all tokens (Devlin et al. 2019, arXiv:1810.04805).
// `modernbert`: LayerNorm before attention and before the feed-forward part, rotary positions, a window of tokens in some layers,
// a gated feed-forward part (Warner et al. 2024, arXiv:2412.13663).
enum class Architecture { bert, modernbert };
enum class Pooling { cls, mean };

// Has the same fields as `EncoderDims` in engine/kernels/encoder.py. `ModelDims` in engine/bundle/native_weights.py explains
// them. Python bounds them (`MAX_DIMS` there), so a row of activations, or three rows side by side, has fewer than 2^31 elements.
// The offset of a row, which is its number times its width, can be larger, so it is a ptrdiff_t.
struct ModelDims {
    int hidden, heads, head, intermediate, layers, types, vocab, positions, labels, dense, activation, bits;
    // For models like RoBERTa, the id of the padding token. It has row 0 of the position table, and is not counted in the
    // positions of the other tokens. Negative for models that count every token.
    int padding;
    int architecture, pooling;
    int window;     // in layers with a window, a token attends to tokens that are at most this many positions away
    int head_norm;  // whether LayerNorm comes before the last linear layer of the head
    int embedding;  // channels of the embeddings if they are projected to the hidden states; otherwise 0
    int hidden_activation;  // `Activation` of the feed-forward part; `activation` is the head's
    int activation_balance;  // whether INT8 has factors for the channels between the feed-forward layers
    int rotated;  // whether INT8 rotates rows before it quantizes them (`Int8::rotate`)
    float epsilon;

    // Channels of a row of hidden states with its padding.
    int width() const { return (hidden + PANEL - 1) / PANEL * PANEL; }
    // Channels of an embedding with its padding.
    int embedding_width() const { return embedding ? (embedding + PANEL - 1) / PANEL * PANEL : width(); }
    // Channels of all attention heads together, in a query, key, value or context.
    int attention_width() const { return heads * head; }
    bool is_modern() const { return static_cast<Architecture>(architecture) == Architecture::modernbert; }
    bool reads_cls() const { return static_cast<Pooling>(pooling) == Pooling::cls; }
};

}  // namespace crossrt
