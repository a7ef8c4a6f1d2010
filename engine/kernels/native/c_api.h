// The functions that Python calls through ctypes (engine/kernels/encoder.py, engine/backends/native_cpu.py). They throw nothing.
// Each library includes this file once.

#pragma once

#include <system_error>

#include "encoder.h"

using namespace crossrt;

namespace crossrt {

// The version of these functions and of `ModelDims`. It is increased here and in support.py whenever their arguments change, so
// that Python does not call a library that was compiled for another version.
constexpr int INTERFACE = 7;

enum Status { OK, INVALID_INPUT, OUT_OF_MEMORY, WRONG_ARRAYS };

// Attention multiplies in BF16 or FP32, whichever is faster on this processor.
inline Encoder* new_int8_encoder(const ModelDims& dims, const WeightReader& weights) {
    if constexpr (BF16_INSTRUCTION)
        if (bf16_is_faster()) return new EncoderOf<Int8>(dims, weights);
    return new EncoderOf<Int8, float>(dims, weights);
}

}  // namespace crossrt

extern "C" {

int crossrt_interface() { return INTERFACE; }

// Opens an encoder. `arrays` [count] are the arrays of the file, in its order (`ModelDims.tensors` in
// engine/bundle/native_weights.py). They must outlive the encoder. Returns WRONG_ARRAYS if the model does not have exactly
// `count` arrays, because Python is then of another version.
int crossrt_open(const ModelDims* dims, const void* const* arrays, int64_t count, Encoder** encoder) try {
    const WeightReader weights{arrays, arrays + count};
    switch (dims->bits) {
        case 8: *encoder = new_int8_encoder(*dims, weights); break;
        case 16: *encoder = new EncoderOf<Bf16>(*dims, weights); break;
        default: *encoder = new EncoderOf<Fp32>(*dims, weights);
    }
    return OK;
} catch (const std::bad_alloc&) {
    return OUT_OF_MEMORY;
} catch (const WrongArrays&) {
    return WRONG_ARRAYS;
}

void crossrt_close(Encoder* encoder) { delete encoder; }

// Returns memory for one call of `crossrt_score` at a time, with `threads` - 1 threads that compute together with the caller's.
// Null if there is too little memory or the system starts no more threads.
Workspace* crossrt_new_workspace(const Encoder* encoder, int threads) try {
    return encoder->new_workspace(threads).release();
} catch (const std::bad_alloc&) {
    return nullptr;
} catch (const std::system_error&) {
    return nullptr;
}

void crossrt_free_workspace(Workspace* workspace) { delete workspace; }

// Writes the logits [count, labels] of the pairs with the numbers `rows` [count]. The tokens of pair i are `ids` and `types` from
// `offsets[i]` up to but not including `offsets[i + 1]`. Returns INVALID_INPUT for a pair without tokens, for one longer than the
// model's positions, and for an id or type that the model does not have.
int crossrt_score(const Encoder* encoder, Workspace* workspace, int64_t count, const int64_t* rows, const int64_t* offsets,
                  const int32_t* ids, const uint8_t* types, float* logits) try {
    const ModelDims& dims = encoder->dims;
    std::vector<Pair> pairs;
    pairs.reserve(count);
    for (const int64_t* row = rows; row < rows + count; row++) {
        const int64_t begin = offsets[*row], end = offsets[*row + 1];
        if (begin >= end || end - begin > dims.positions) return INVALID_INPUT;
        for (int64_t n = begin; n < end; n++)
            if (uint32_t(ids[n]) >= uint32_t(dims.vocab) || (dims.types && types[n] >= dims.types)) return INVALID_INPUT;
        pairs.push_back({ids + begin, types + begin, int(end - begin), 0});
    }
    for (int64_t begin = 0, end = 0; begin < count; begin = end) {
        int64_t tokens = pairs[end++].length;
        while (end < count && tokens + pairs[end].length <= BATCH_TOKENS) tokens += pairs[end++].length;
        encoder->score(pairs.data() + begin, int(end - begin), *workspace, logits + begin * dims.labels);
    }
    return OK;
} catch (const std::bad_alloc&) {
    return OUT_OF_MEMORY;
}
}
