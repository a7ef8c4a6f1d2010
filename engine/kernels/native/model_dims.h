// `ModelDims`: the dimensions of a model, as Python passes them.

#pragma once

#include "gemm.h"

namespace crossrt {

// `gelu_tanh` is GELU's form with tanh, transformers' `gelu_new`. activation_functions.h has those of the feed-forward part.
enum class Activation { none, tanh, relu, gelu, gelu_tanh, silu };
// `bert`: LayerNorm after each sum, positions in a table, attention to all tokens (Devlin et al. 2019, arXiv:1810.04805).
// `modernbert`: LayerNorm before each linear layer, rotary positions, a window of tokens in some layers, a gated feed-forward part
// (Warner et al. 2024, arXiv:2412.13663).
enum class Architecture { bert, modernbert };
enum class Pooling { cls, mean };

// Mirrors `_ModelDims` in engine/backends/native_cpu.py, field by field; `ModelDims` in engine/bundle/native_weights.py says what
// they are. Python has bounded them (`MAX_DIMS` there), so a row of activations, or three of them side by side, has less than
// 2^31 elements. The offset of a row, its number times its width, can be larger: it is a ptrdiff_t throughout.
struct ModelDims {
    int hidden, heads, head, intermediate, layers, types, vocab, positions, labels, dense, activation, bits;
    // For models as RoBERTa, the id of padding: it has row 0 of the position table, and the positions of the other tokens are
    // counted without it. Negative for models that count every token.
    int padding;
    int architecture, pooling;
    int window;     // how far from a token those are that it attends to, in layers with a window
    int head_norm;  // whether LayerNorm comes before the last linear layer of the head
    int embedding;  // channels of embeddings that are projected to the hidden states; 0 where nothing is projected
    int hidden_activation;  // `Activation` of the feed-forward part; `activation` is the head's
    int activation_balance;  // whether INT8 has factors for the channels of the feed-forward part
    int rotated;  // whether INT8 rotates what it quantizes (`Int8::rotate`)
    float epsilon;

    // Channels of a row of hidden states with its padding.
    int width() const { return (hidden + PANEL - 1) / PANEL * PANEL; }
    // Channels of an embedding with its padding.
    int embedding_width() const { return embedding ? (embedding + PANEL - 1) / PANEL * PANEL : width(); }
    // Channels of all heads together: of a query, a key, a value or a context.
    int attention_width() const { return heads * head; }
    bool is_modern() const { return static_cast<Architecture>(architecture) == Architecture::modernbert; }
    bool reads_cls() const { return static_cast<Pooling>(pooling) == Pooling::cls; }
};

}  // namespace crossrt
