// What the encoder computes on a GPU besides cuBLAS's matrix products: embeddings, attention, LayerNorm, and the last layer of
// the head.
//
// The pairs of a batch are stored one after the other without padding. Activations are [tokens, channels] in FP16, and sums and
// statistics are FP32. Batches are rounded up to a few shapes (engine/batching/packed_layout.py), so a kernel may get rows that
// belong to no pair. Their results are not read. The dimensions of the model are macros, so that loops over them are unrolled:
//
//     HIDDEN, WIDTH      channels of the hidden states, without and with the zeros that pad them to a multiple of 32
//     EMBEDDING, EMBEDDING_WIDTH  the same for embeddings that are projected to the hidden states; otherwise HIDDEN and WIDTH
//     HEADS, HEAD        attention heads, and channels of one
//     ATTENTION_WIDTH    HEADS * HEAD
//     TYPES              token types; 0 for a model without them
//     EPSILON            of LayerNorm
//     DENSE, LABELS, ACTIVATION   linear layers of the head, its outputs, and the activation before the last layer
//     HEAD_NORM          1 if LayerNorm follows that activation
//     MODERN             1 for a ModernBERT. Only a ModernBERT uses these:
//     INTERMEDIATE       channels of the feed-forward part
//     GATE_SCALE         the gated values are divided by it, so that they fit in FP16
//     WINDOW             in layers with a window, a token sees tokens that are at most this many positions away
//     FIRST_SEES         number of keys that a pair's first token sees in the last layer
//
// A ModernBERT has no LayerNorm on its residual stream (`sums`). The residual stream is FP32, because it may exceed the range of
// FP16. See docs/decisions/0032.
//
// NVRTC compiles this file when a model is opened (engine/cuda/cuda_kernels.py). Tests compile it for the CPU, with an emulated
// device.cuh.

#include "device.cuh"

namespace {

constexpr int CHANNEL_PAIRS = (WIDTH + 63) / 64;  // pairs of neighbouring channels of a token that a lane holds
constexpr int TILE = 64;                          // queries of a block, and keys whose scores are computed at once
constexpr int KEY_BLOCK = HEAD > 64 ? TILE : 2 * TILE;  // keys in shared memory, and as many values: at most 48 KiB
// Elements from one row to the next in shared memory. Rows are 16 bytes longer than a head, so that the eight rows of a matrix
// that ldmatrix reads lie in different banks.
constexpr int PITCH = HEAD + 8;

__device__ float sum_of_warp(float value) {
    for (int step = 16; step; step /= 2) value += shuffle_xor(value, step);
    return value;
}

struct Moments {
    float mean, scale;  // scale is 1 / sqrt(variance + EPSILON)
};

// A warp computes the moments of a token's CHANNELS. In values[2 i] and values[2 i + 1], a lane holds the channel 2 (lane + 32 i)
// and the next one. Channels beyond CHANNELS are 0.
template <int CHANNELS, int PAIRS>
__device__ Moments moments_of(const float* values) {
    const int lane = threadIdx.x % 32;
    float sum = 0;
    for (int i = 0; i < 2 * PAIRS; i++) sum += values[i];
    const float mean = sum_of_warp(sum) / CHANNELS;
    float squares = 0;
    for (int i = 0; i < 2 * PAIRS; i++) {
        const int channel = 2 * (lane + 32 * (i / 2)) + i % 2;
        if (channel < CHANNELS) squares += (values[i] - mean) * (values[i] - mean);
    }
    return {mean, rsqrtf(sum_of_warp(squares) / CHANNELS + EPSILON)};
}

// A warp computes LayerNorm of a token with PADDED channels, of which the first CHANNELS are real. Lanes hold the values as in
// `moments_of`. `store` gets a channel, its result, and the result of the next channel.
template <int CHANNELS, int PADDED, class Store>
__device__ void layer_norm(const float* values, const float* weight, const float* bias, const Store& store) {
    constexpr int PAIRS = (PADDED + 63) / 64;
    const Moments moments = moments_of<CHANNELS, PAIRS>(values);
    for (int i = 0; i < PAIRS; i++) {
        const int channel = 2 * (int(threadIdx.x % 32) + 32 * i);
        if (channel >= PADDED) break;
        const float low = (values[2 * i] - moments.mean) * moments.scale * weight[channel] + bias[channel];
        const float high = (values[2 * i + 1] - moments.mean) * moments.scale * weight[channel + 1] + bias[channel + 1];
        store(channel, low, high);
    }
}

struct StoreHalves {
    half_bits* to;
    __device__ void operator()(int channel, float low, float high) const { *(unsigned*)(to + channel) = pack_halves(low, high); }
};

__device__ float low(unsigned halves) { return to_float((half_bits)halves); }
__device__ float high(unsigned halves) { return to_float((half_bits)(halves >> 16)); }

// Copies `rows` rows of one head to shared memory, and adds rows of zeros up to a multiple of 16. Each of the 128 threads copies
// 16 bytes at a time.
__device__ void copy_to_shared(half_bits* to, const half_bits* from, int rows, int stride) {
    constexpr int PARTS = HEAD / 8;
    for (int part = threadIdx.x; part < (rows + 15) / 16 * 16 * PARTS; part += 128) {
        const int row = part / PARTS, channel = part % PARTS * 8;
        uint4 eight = {0, 0, 0, 0};
        if (row < rows) eight = *(const uint4*)(from + (long long)row * stride + channel);
        *(uint4*)(to + row * PITCH + channel) = eight;
    }
}

}  // namespace

#if !MODERN

// hidden [tokens, EMBEDDING_WIDTH] = LayerNorm(word + position + type embedding). A warp computes a token. `places` [tokens] has
// position + 65536 * type of each token.
extern "C" __global__ void __launch_bounds__(128) embed(
    int tokens, const int* ids, const int* places, const half_bits* word, const float* position, const float* type,
    const float* weight, const float* bias, half_bits* hidden) {
    const int token = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (token >= tokens) return;
    constexpr int EMBEDDING_PAIRS = (EMBEDDING_WIDTH + 63) / 64;
    const half_bits* words = word + (long long)ids[token] * EMBEDDING_WIDTH;
    const float* positions = position + (long long)(places[token] & 0xFFFF) * EMBEDDING_WIDTH;
    float values[2 * EMBEDDING_PAIRS];
    for (int i = 0; i < EMBEDDING_PAIRS; i++) {
        const int channel = 2 * (lane + 32 * i);
        values[2 * i] = values[2 * i + 1] = 0;
        if (channel >= EMBEDDING_WIDTH) break;
        const unsigned halves = *(const unsigned*)(words + channel);
        values[2 * i] = low(halves) + positions[channel];
        values[2 * i + 1] = high(halves) + positions[channel + 1];
#if TYPES
        const float* types = type + (places[token] >> 16) * EMBEDDING_WIDTH + channel;
        values[2 * i] += types[0];
        values[2 * i + 1] += types[1];
#endif
    }
    StoreHalves store{hidden + (long long)token * EMBEDDING_WIDTH};
    layer_norm<EMBEDDING, EMBEDDING_WIDTH>(values, weight, bias, store);
}

// hidden = LayerNorm(hidden + update), both [tokens, WIDTH]. A warp computes a token.
extern "C" __global__ void __launch_bounds__(128) add_normalize(
    int tokens, half_bits* hidden, const half_bits* update, const float* weight, const float* bias) {
    const int token = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (token >= tokens) return;
    half_bits* row = hidden + (long long)token * WIDTH;
    const half_bits* updates = update + (long long)token * WIDTH;
    float values[2 * CHANNEL_PAIRS];
    for (int i = 0; i < CHANNEL_PAIRS; i++) {
        const int channel = 2 * (lane + 32 * i);
        values[2 * i] = values[2 * i + 1] = 0;
        if (channel >= WIDTH) break;
        const unsigned before = *(const unsigned*)(row + channel), added = *(const unsigned*)(updates + channel);
        values[2 * i] = low(before) + low(added);
        values[2 * i + 1] = high(before) + high(added);
    }
    layer_norm<HIDDEN, WIDTH>(values, weight, bias, StoreHalves{row});
}

#else  // a ModernBERT

namespace {

// Loads a lane's part of a token's sums, as `moments_of` needs it.
__device__ void load_sums(float* values, const float* sums) {
    for (int i = 0; i < CHANNEL_PAIRS; i++) {
        const int channel = 2 * (int(threadIdx.x % 32) + 32 * i);
        values[2 * i] = values[2 * i + 1] = 0;
        if (channel >= WIDTH) break;
        const float2 two = *(const float2*)(sums + channel);
        values[2 * i] = two.x;
        values[2 * i + 1] = two.y;
    }
}

__device__ void unpack(float* eight, uint4 halves) {
    const unsigned pairs[4] = {halves.x, halves.y, halves.z, halves.w};
    for (int i = 0; i < 8; i++) eight[i] = i % 2 ? high(pairs[i / 2]) : low(pairs[i / 2]);
}

__device__ uint4 pack(const float* eight) {
    return {pack_halves(eight[0], eight[1]), pack_halves(eight[2], eight[3]), pack_halves(eight[4], eight[5]),
            pack_halves(eight[6], eight[7])};
}

// Rotates two channels by an angle, as rotary positions do (RoFormer, Su et al. 2021, arXiv:2104.09864).
__device__ void turn(float& first, float& second, float cosine, float sine) {
    const float before = first;
    first = before * cosine - second * sine;
    second = second * cosine + before * sine;
}

}  // namespace

// sums [tokens, WIDTH] = LayerNorm(word embedding). `normalized` gets the same in FP16, for the first layer. A warp computes a
// token.
extern "C" __global__ void __launch_bounds__(128) embed(
    int tokens, const int* ids, const half_bits* word, const float* weight, const float* bias, float* sums,
    half_bits* normalized) {
    const int token = blockIdx.x * 4 + threadIdx.x / 32;
    if (token >= tokens) return;
    const half_bits* words = word + (long long)ids[token] * WIDTH;
    float values[2 * CHANNEL_PAIRS];
    for (int i = 0; i < CHANNEL_PAIRS; i++) {
        const int channel = 2 * (int(threadIdx.x % 32) + 32 * i);
        values[2 * i] = values[2 * i + 1] = 0;
        if (channel >= WIDTH) break;
        const unsigned halves = *(const unsigned*)(words + channel);
        values[2 * i] = low(halves);
        values[2 * i + 1] = high(halves);
    }
    float* row = sums + (long long)token * WIDTH;
    const StoreHalves store{normalized + (long long)token * WIDTH};
    layer_norm<HIDDEN, WIDTH>(values, weight, bias, [=](int channel, float low, float high) {
        *(float2*)(row + channel) = {low, high};
        store(channel, low, high);
    });
}

// normalized [tokens, WIDTH] = LayerNorm(sums). A warp computes a token.
extern "C" __global__ void __launch_bounds__(128) normalize(
    int tokens, const float* sums, const float* weight, const float* bias, half_bits* normalized) {
    const int token = blockIdx.x * 4 + threadIdx.x / 32;
    if (token >= tokens) return;
    float values[2 * CHANNEL_PAIRS];
    load_sums(values, sums + (long long)token * WIDTH);
    layer_norm<HIDDEN, WIDTH>(values, weight, bias, StoreHalves{normalized + (long long)token * WIDTH});
}

// Rotates the keys in query_key_value [tokens, 3 ATTENTION_WIDTH] by the positions of their tokens, `places` [tokens]. A row of
// `angles` [positions, HEAD] has the cosines of a position and then the sines. The two channels that are rotated together are 16
// apart and form a plane. A thread rotates 8 planes. Several blocks of attention read a key, so keys are rotated here. Only one
// block reads a query, so queries are rotated there.
extern "C" __global__ void __launch_bounds__(128) turn_keys(
    int tokens, const int* places, const float* angles, half_bits* query_key_value) {
    constexpr int PARTS = ATTENTION_WIDTH / 16;
    const int item = blockIdx.x * 128 + threadIdx.x, token = item / PARTS, part = item % PARTS;
    if (token >= tokens) return;
    const int channel = part / 2 * 32 + part % 2 * 8, plane = part / 2 * 32 % HEAD / 2 + part % 2 * 8;
    half_bits* keys = query_key_value + (long long)token * 3 * ATTENTION_WIDTH + ATTENTION_WIDTH + channel;
    const float4* cosines = (const float4*)(angles + (long long)places[token] * HEAD + plane);
    const float4* sines = cosines + HEAD / 8;
    float first[8], second[8];
    unpack(first, *(const uint4*)keys);
    unpack(second, *(const uint4*)(keys + 16));
    for (int i = 0; i < 2; i++) {
        const float4 cosine = cosines[i], sine = sines[i];
        turn(first[4 * i], second[4 * i], cosine.x, sine.x);
        turn(first[4 * i + 1], second[4 * i + 1], cosine.y, sine.y);
        turn(first[4 * i + 2], second[4 * i + 2], cosine.z, sine.z);
        turn(first[4 * i + 3], second[4 * i + 3], cosine.w, sine.w);
    }
    *(uint4*)keys = pack(first);
    *(uint4*)(keys + 16) = pack(second);
}

// activation [tokens, INTERMEDIATE] = GELU(values) * gates / GATE_SCALE. `wide` [tokens, 2 INTERMEDIATE] has 16 values, then
// their 16 gates, and so on. A thread computes 8 channels.
extern "C" __global__ void __launch_bounds__(128) gate(int tokens, const half_bits* wide, half_bits* activation) {
    constexpr int PARTS = INTERMEDIATE / 8;
    const int item = blockIdx.x * 128 + threadIdx.x, token = item / PARTS, part = item % PARTS;
    if (token >= tokens) return;
    const half_bits* from = wide + (long long)token * 2 * INTERMEDIATE + part / 2 * 32 + part % 2 * 8;
    float values[8], gates[8];
    unpack(values, *(const uint4*)from);
    unpack(gates, *(const uint4*)(from + 16));
    for (int i = 0; i < 8; i++) values[i] *= 0.5f / GATE_SCALE * (1 + erff(values[i] * 0.70710678f)) * gates[i];
    *(uint4*)(activation + (long long)token * INTERMEDIATE + part * 8) = pack(values);
}

// first [rows, WIDTH] = the mean of LayerNorm(sums) over each pair's tokens. A block computes a pair: its four warps divide the
// tokens among them, and then add their sums one after the other.
extern "C" __global__ void __launch_bounds__(128) mean(
    int rows, const int* begins, const int* lengths, const float* sums, const float* weight, const float* bias,
    half_bits* first) {
    __shared__ float total[WIDTH];
    const int row = blockIdx.x, length = lengths[row], warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows || !length) return;
    float own[2 * CHANNEL_PAIRS] = {};
    for (int token = warp; token < length; token += 4) {
        float values[2 * CHANNEL_PAIRS];
        load_sums(values, sums + (long long)(begins[row] + token) * WIDTH);
        const Moments moments = moments_of<HIDDEN, CHANNEL_PAIRS>(values);
        for (int i = 0; i < 2 * CHANNEL_PAIRS; i++) own[i] += (values[i] - moments.mean) * moments.scale;
    }
    for (int adding = 0; adding < 4; adding++) {
        for (int i = 0; i < 2 * CHANNEL_PAIRS; i++) {
            const int channel = 2 * (lane + 32 * (i / 2)) + i % 2;
            if (warp == adding && channel < WIDTH) total[channel] = warp ? total[channel] + own[i] : own[i];
        }
        __syncthreads();
    }
    for (int channel = threadIdx.x; channel < WIDTH; channel += 128)
        first[(long long)row * WIDTH + channel] = to_half(total[channel] / length * weight[channel] + bias[channel]);
}

#endif

namespace {

// context [tokens, ATTENTION_WIDTH] = softmax(Q K^T) V. query_key_value is [tokens, 3 ATTENTION_WIDTH]. The queries contain the
// scale and log2(e), so softmax is 2^x.
//
// This is FlashAttention with an online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867): each tile of keys updates the
// maximum and the sum, and rescales the context so far. Scores stay in registers, because the fragment of sums that one mma
// returns is the fragment of weights that the next mma takes (Dao 2023, arXiv:2307.08691).
//
// blockIdx.y is the head. blockIdx.x is a tile of up to 64 queries of one pair, 16 for each of 4 warps. `tiles` [count, 3] has
// the pair's first token, its length, and the position in the pair of the tile's first query. A tile with a length of 0 is
// unused.
//
// A ModernBERT's queries are rotated by `angles`, as `turn_keys` rotates its keys. With WINDOWED a query sees the keys that are
// at most WINDOW positions away.
template <bool WINDOWED>
__device__ void attend_tile(
    int count, const int* tiles, const half_bits* query_key_value, const float* angles, half_bits* context) {
    __shared__ __align__(16) half_bits keys[KEY_BLOCK * PITCH], values[KEY_BLOCK * PITCH];
    const int tile = blockIdx.x, begin = tiles[3 * tile], length = tiles[3 * tile + 1], first_query = tiles[3 * tile + 2];
    if (tile >= count || !length) return;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    constexpr int STRIDE = 3 * ATTENTION_WIDTH;
    const half_bits* base = query_key_value + (long long)begin * STRIDE + blockIdx.y * HEAD;
    // In a fragment of sums, a lane has two rows and two columns: column 2 (lane % 4) and the next one, in [0] and [1] of row
    // lane / 4, and in [2] and [3] of row lane / 4 + 8.
    const int query_row = first_query + 16 * warp + lane / 4, column = 2 * (lane % 4);
    unsigned query[HEAD / 16][4];
    for (int k = 0; k < HEAD / 16; k++)
        for (int i = 0; i < 4; i++) {
            const int row = query_row + i % 2 * 8;
            query[k][i] = row < length ? *(const unsigned*)(base + (long long)row * STRIDE + 16 * k + i / 2 * 8 + column) : 0;
        }
#if MODERN
    for (int k = 0; k < HEAD / 16; k += 2)  // query[k] has the first channels of 16 planes, query[k + 1] the second
        for (int i = 0; i < 4; i++) {
            const int row = query_row + i % 2 * 8;
            if (row >= length) continue;
            const float* cosines = angles + (long long)row * HEAD + 8 * k + i / 2 * 8 + column;
            const float2 cosine = *(const float2*)cosines, sine = *(const float2*)(cosines + HEAD / 2);
            float first[2] = {low(query[k][i]), high(query[k][i])}, second[2] = {low(query[k + 1][i]), high(query[k + 1][i])};
            turn(first[0], second[0], cosine.x, sine.x);
            turn(first[1], second[1], cosine.y, sine.y);
            query[k][i] = pack_halves(first[0], first[1]);
            query[k + 1][i] = pack_halves(second[0], second[1]);
        }
#endif
    // `maximum` and `sums` are for the lane's two rows: the maximum so far, and this lane's part of the sum of weights.
    float out[HEAD / 8][4] = {}, maximum[2] = {-INF, -INF}, sums[2] = {};
    const int matrix = lane / 8, matrix_row = lane % 8;  // the row whose address this lane passes to load_matrices
    // The tile's queries see the keys from begin_key to before end_key. Every query sees one of the first TILE of them, so its
    // maximum is finite from then on.
    int begin_key = 0, end_key = length;
    if (WINDOWED && first_query > WINDOW) begin_key = first_query - WINDOW;
    if (WINDOWED && first_query + TILE + WINDOW < length) end_key = first_query + TILE + WINDOW;
    for (int first_key = begin_key; first_key < end_key; first_key += KEY_BLOCK) {
        const int block_keys = end_key - first_key < KEY_BLOCK ? end_key - first_key : KEY_BLOCK;
        // Whether no query of the warp sees any of the 16 keys from `key_row` on.
        const auto are_far = [=](int key_row) {
            const int distance = first_key + key_row - (first_query + 16 * warp);
            return WINDOWED && (distance > 15 + WINDOW || distance < -15 - WINDOW);
        };
        if (first_key != begin_key) __syncthreads();  // until all warps have read the previous block
        copy_to_shared(keys, base + ATTENTION_WIDTH + (long long)first_key * STRIDE, block_keys, STRIDE);
        copy_to_shared(values, base + 2 * ATTENTION_WIDTH + (long long)first_key * STRIDE, block_keys, STRIDE);
        __syncthreads();
        if (first_query + 16 * warp >= length) continue;  // a warp without queries only helps to copy
        for (int tile_key = 0; tile_key < block_keys; tile_key += TILE) {
            float scores[TILE / 8][4];
            float new_maximum[2] = {maximum[0], maximum[1]};
#pragma unroll
            for (int k = 0; k < TILE / 16; k++) {  // 16 keys at a time
                float(*score)[4] = scores + 2 * k;
                for (int i = 0; i < 8; i++) score[i / 4][i % 4] = 0;
                const int key_row = tile_key + 16 * k;
                if (key_row >= block_keys || are_far(key_row)) continue;
#pragma unroll
                for (int h = 0; h < HEAD / 16; h++) {
                    unsigned key[4];
                    load_matrices(key, keys + (key_row + 8 * (matrix / 2) + matrix_row) * PITCH + 16 * h + matrix % 2 * 8);
                    mma_16x8x16(score[0], query[h], key);
                    mma_16x8x16(score[1], query[h], key + 2);
                }
                for (int i = 0; i < 8; i++) {
                    float& one = score[i / 4][i % 4];
                    const int key = key_row + i / 4 * 8 + column + i % 2;
                    if (key >= block_keys) one = -INF;  // no key, but the zeros after the last
                    const int distance = first_key + key - (query_row + i % 4 / 2 * 8);
                    if (WINDOWED && unsigned(distance + WINDOW) > 2 * WINDOW) one = -INF;
                    new_maximum[i % 4 / 2] = fmaxf(new_maximum[i % 4 / 2], one);
                }
            }
            for (int half = 0; half < 2; half++) {  // four neighbouring lanes share a row
                new_maximum[half] = fmaxf(new_maximum[half], shuffle_xor(new_maximum[half], 1));
                new_maximum[half] = fmaxf(new_maximum[half], shuffle_xor(new_maximum[half], 2));
                const float rescale = exp2_approx(maximum[half] - new_maximum[half]);
                maximum[half] = new_maximum[half];
                sums[half] *= rescale;
                for (int n = 0; n < HEAD / 8; n++)
                    for (int i = 0; i < 2; i++) out[n][2 * half + i] *= rescale;
            }
#pragma unroll
            for (int k = 0; k < TILE / 16; k++) {
                const int key_row = tile_key + 16 * k;
                if (key_row >= block_keys || are_far(key_row)) continue;
                float weight[2][4];
                for (int i = 0; i < 8; i++) {
                    const float one = exp2_approx(scores[2 * k + i / 4][i % 4] - maximum[i % 4 / 2]);
                    weight[i / 4][i % 4] = one;
                    sums[i % 4 / 2] += one;
                }
                const unsigned weights[4] = {pack_halves(weight[0][0], weight[0][1]), pack_halves(weight[0][2], weight[0][3]),
                                             pack_halves(weight[1][0], weight[1][1]), pack_halves(weight[1][2], weight[1][3])};
#pragma unroll
                for (int n = 0; n < HEAD / 8; n += 2) {
                    unsigned value[4];
                    load_matrices_transposed(
                        value, values + (key_row + matrix % 2 * 8 + matrix_row) * PITCH + 8 * (n + matrix / 2));
                    mma_16x8x16(out[n], weights, value);
                    mma_16x8x16(out[n + 1], weights, value + 2);
                }
            }
        }
    }
    for (int half = 0; half < 2; half++) {
        if (first_query + 16 * warp >= length) continue;
        float sum = sums[half];
        sum += shuffle_xor(sum, 1);
        sum += shuffle_xor(sum, 2);
        if (query_row + 8 * half >= length) continue;
        half_bits* to =
            context + (long long)(begin + query_row + 8 * half) * ATTENTION_WIDTH + blockIdx.y * HEAD + column;
        for (int n = 0; n < HEAD / 8; n++)
            *(unsigned*)(to + 8 * n) = pack_halves(out[n][2 * half] / sum, out[n][2 * half + 1] / sum);
    }
}

}  // namespace

#if !MODERN
extern "C" __global__ void __launch_bounds__(128) attend(
    int count, const int* tiles, const half_bits* query_key_value, half_bits* context) {
    attend_tile<false>(count, tiles, query_key_value, nullptr, context);
}
typedef half_bits hidden_value;
#else
extern "C" __global__ void __launch_bounds__(128) attend(
    int count, const int* tiles, const half_bits* query_key_value, const float* angles, half_bits* context) {
    attend_tile<false>(count, tiles, query_key_value, angles, context);
}
extern "C" __global__ void __launch_bounds__(128) attend_window(
    int count, const int* tiles, const half_bits* query_key_value, const float* angles, half_bits* context) {
    attend_tile<true>(count, tiles, query_key_value, angles, context);
}
typedef float hidden_value;
#endif

// first [rows, WIDTH] = the hidden states of each pair's first token, [CLS]; in a ModernBERT, its sums. A warp copies a row.
extern "C" __global__ void __launch_bounds__(128) gather_first(
    int rows, const int* begins, const hidden_value* hidden, hidden_value* first) {
    constexpr int AT_ONCE = 16 / sizeof(hidden_value);
    const int row = blockIdx.x * 4 + threadIdx.x / 32;
    if (row >= rows) return;
    for (int channel = threadIdx.x % 32 * AT_ONCE; channel < WIDTH; channel += 32 * AT_ONCE)
        *(uint4*)(first + (long long)row * WIDTH + channel) =
            *(const uint4*)(hidden + (long long)begins[row] * WIDTH + channel);
}

// The last layer's attention, for the query of each pair's first token only. It computes context [rows, ATTENTION_WIDTH] from
// query [rows, ATTENTION_WIDTH] and key_value [tokens, 2 ATTENTION_WIDTH]. In a ModernBERT the input is query_key_value
// [tokens, 3 ATTENTION_WIDTH]. The first token is at position 0, so its query needs no rotation.
//
// A warp computes one head of one pair, with an online softmax over 32 keys at a time. A lane computes the score of one key. Then
// it adds eight channels of a value to the context, and the warp adds VALUES_AT_ONCE values at once. A row with a length of 0 is
// unused.
extern "C" __global__ void __launch_bounds__(128) attend_first(
    int rows, const int* begins, const int* lengths,
#if !MODERN
    const half_bits* query, const half_bits* key_value, half_bits* context) {
    constexpr int BESIDE = 2;  // parts of a row: key and value
#else
    const half_bits* query_key_value, half_bits* context) {
    constexpr int BESIDE = 3;
#endif
    constexpr int PARTS = HEAD / 8, VALUES_AT_ONCE = 32 / PARTS;
    const int item = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (item >= rows * HEADS) return;
    const int row = item / HEADS, head = item % HEADS;
#if !MODERN
    const int length = lengths[row];
    const half_bits* queries = query + (long long)row * ATTENTION_WIDTH + head * HEAD;
    const half_bits* keys = key_value + (long long)begins[row] * BESIDE * ATTENTION_WIDTH + head * HEAD;
#else
    const int length = lengths[row] < FIRST_SEES ? lengths[row] : FIRST_SEES;
    const half_bits* queries = query_key_value + (long long)begins[row] * BESIDE * ATTENTION_WIDTH + head * HEAD;
    const half_bits* keys = queries + ATTENTION_WIDTH;
#endif
    const half_bits* values = keys + ATTENTION_WIDTH + lane % PARTS * 8;
    float maximum = -INF, sum = 0, out[8] = {};
    for (int first_key = 0; first_key < length; first_key += 32) {
        float score = -INF;
        if (first_key + lane < length) {
            const half_bits* key = keys + (long long)(first_key + lane) * BESIDE * ATTENTION_WIDTH;
            score = 0;
#pragma unroll
            for (int part = 0; part < HEAD; part += 8) {
                const uint4 q = *(const uint4*)(queries + part), k = *(const uint4*)(key + part);
                score += low(q.x) * low(k.x) + high(q.x) * high(k.x) + low(q.y) * low(k.y) + high(q.y) * high(k.y) +
                         low(q.z) * low(k.z) + high(q.z) * high(k.z) + low(q.w) * low(k.w) + high(q.w) * high(k.w);
            }
        }
        float new_maximum = fmaxf(maximum, score);
        for (int step = 16; step; step /= 2) new_maximum = fmaxf(new_maximum, shuffle_xor(new_maximum, step));
        const float rescale = exp2_approx(maximum - new_maximum), weight = exp2_approx(score - new_maximum);
        maximum = new_maximum;
        sum = sum * rescale + weight;
        for (int i = 0; i < 8; i++) out[i] *= rescale;
#pragma unroll
        for (int group = 0; group < 32; group += VALUES_AT_ONCE) {
            const int key = group + lane / PARTS;
            const float key_weight = shuffle(weight, key & 31);
            if (lane >= VALUES_AT_ONCE * PARTS || key >= 32 || first_key + key >= length) continue;
            const uint4 v = *(const uint4*)(values + (long long)(first_key + key) * BESIDE * ATTENTION_WIDTH);
            const float eight[8] = {low(v.x), high(v.x), low(v.y), high(v.y), low(v.z), high(v.z), low(v.w), high(v.w)};
            for (int i = 0; i < 8; i++) out[i] += key_weight * eight[i];
        }
    }
    sum = sum_of_warp(sum);
    for (int i = 0; i < 8; i++) {
        float total = 0;
        for (int group = 0; group < VALUES_AT_ONCE; group++)
            total += shuffle(out[i], (lane % PARTS + PARTS * group) & 31);
        out[i] = length ? total / sum : 0;
    }
    if (lane < PARTS) {
        const uint4 eight = {pack_halves(out[0], out[1]), pack_halves(out[2], out[3]), pack_halves(out[4], out[5]),
                             pack_halves(out[6], out[7])};
        *(uint4*)(context + (long long)row * ATTENTION_WIDTH + head * HEAD + lane * 8) = eight;
    }
}

// The last linear layer of the head: logits [rows, LABELS] = activation(pooled) weight + bias, with weight [HIDDEN, LABELS]. With
// HEAD_NORM, LayerNorm(activation(pooled)) takes the place of activation(pooled). A warp computes a row. `pooled` [rows, WIDTH]
// is the output of the linear layer before it, in FP32. In a head of one layer it is the output of the encoder, in FP16.
#if DENSE == 1
typedef half_bits pooled_value;
__device__ float value_of(half_bits value) { return to_float(value); }
#else
typedef float pooled_value;
__device__ float value_of(float value) { return value; }
#endif

extern "C" __global__ void __launch_bounds__(128) classify(
    int rows, const pooled_value* pooled,
#if HEAD_NORM
    const float* norm_weight, const float* norm_bias,
#endif
    const float* weight, const float* bias, float* logits) {
    const int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const auto activated = [=](int channel) {
        float value = value_of(pooled[(long long)row * WIDTH + channel]);
        if (ACTIVATION == 1) value = tanhf(value);
        if (ACTIVATION == 2) value = fmaxf(value, 0);
        if (ACTIVATION == 3) value = 0.5f * value * (1 + erff(value * 0.70710678f));
        return value;
    };
    float sums[LABELS] = {};
#if HEAD_NORM
    constexpr int CHANNELS = (HIDDEN + 31) / 32;  // of a lane
    float values[CHANNELS], sum = 0, squares = 0;
    for (int i = 0; i < CHANNELS; i++) {
        values[i] = lane + 32 * i < HIDDEN ? activated(lane + 32 * i) : 0;
        sum += values[i];
    }
    const float mean = sum_of_warp(sum) / HIDDEN;
    for (int i = 0; i < CHANNELS; i++)
        if (lane + 32 * i < HIDDEN) squares += (values[i] - mean) * (values[i] - mean);
    const float scale = rsqrtf(sum_of_warp(squares) / HIDDEN + EPSILON);
    for (int i = 0; i < CHANNELS; i++) {
        const int channel = lane + 32 * i;
        if (channel >= HIDDEN) break;
        const float value = (values[i] - mean) * scale * norm_weight[channel] + norm_bias[channel];
        for (int label = 0; label < LABELS; label++) sums[label] += value * weight[channel * LABELS + label];
    }
#else
    for (int channel = lane; channel < HIDDEN; channel += 32) {
        const float value = activated(channel);
        for (int label = 0; label < LABELS; label++) sums[label] += value * weight[channel * LABELS + label];
    }
#endif
    for (int label = 0; label < LABELS; label++) {
        const float sum = sum_of_warp(sums[label]);
        if (!lane) logits[row * LABELS + label] = sum + bias[label];
    }
}
