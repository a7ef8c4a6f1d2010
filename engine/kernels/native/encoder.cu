// The encoder on a GPU without its matrix products, which are cuBLAS's: embeddings, attention, LayerNorm, and the end of the
// head.
//
// The pairs of a batch lie one after the other without padding: activations are [tokens, channels] in FP16, with sums and
// statistics in FP32. A batch is rounded up to a few shapes (engine/batching/packed_layout.py), so each kernel may get rows that
// belong to no pair; what it computes for them is not read. Model dimensions are macros, so that loops over them are unrolled:
//
//     HIDDEN, WIDTH      channels of the hidden states, and those padded with zeros to a multiple of 32
//     HEADS, HEAD        attention heads, and channels of one
//     ATTENTION_WIDTH    HEADS * HEAD
//     TYPES              token types; 0 for a model without them
//     EPSILON            of LayerNorm
//     DENSE, LABELS, ACTIVATION   linear layers of the head, its outputs, and the activation before the last of them
//
// NVRTC compiles this when a model is opened (engine/cuda/cuda_kernels.py). Tests compile it for the CPU, with an emulated
// device.cuh.

#include "device.cuh"

namespace {

constexpr int CHANNEL_PAIRS = (WIDTH + 63) / 64;  // pairs of neighbouring channels that a lane holds of a token
constexpr int TILE = 64;                          // queries of a block, and keys whose scores it computes at once
constexpr int KEY_BLOCK = HEAD > 64 ? TILE : 2 * TILE;  // keys and values in shared memory at once: at most 48 KiB with both
// Elements from one row to the next in shared memory: 16 bytes more than a head, so that the eight rows of a matrix that ldmatrix
// reads lie in different banks.
constexpr int PITCH = HEAD + 8;

__device__ float sum_of_warp(float value) {
    for (int step = 16; step; step /= 2) value += shuffle_xor(value, step);
    return value;
}

// LayerNorm of a token by a warp. A lane holds the channels 2 (lane + 32 i) and the next in values[2 i] and values[2 i + 1].
__device__ void layer_norm(const float* values, const float* weight, const float* bias, half_bits* out) {
    const int lane = threadIdx.x % 32;
    float sum = 0;
    for (int i = 0; i < 2 * CHANNEL_PAIRS; i++) sum += values[i];
    const float mean = sum_of_warp(sum) / HIDDEN;
    float squares = 0;
    for (int i = 0; i < 2 * CHANNEL_PAIRS; i++) {
        const int channel = 2 * (lane + 32 * (i / 2)) + i % 2;
        if (channel < HIDDEN) squares += (values[i] - mean) * (values[i] - mean);
    }
    const float scale = rsqrtf(sum_of_warp(squares) / HIDDEN + EPSILON);
    for (int i = 0; i < CHANNEL_PAIRS; i++) {
        const int channel = 2 * (lane + 32 * i);
        if (channel >= WIDTH) break;
        const float low = (values[2 * i] - mean) * scale * weight[channel] + bias[channel];
        const float high = (values[2 * i + 1] - mean) * scale * weight[channel + 1] + bias[channel + 1];
        *(unsigned*)(out + channel) = pack_halves(low, high);
    }
}

__device__ float low(unsigned halves) { return to_float((half_bits)halves); }
__device__ float high(unsigned halves) { return to_float((half_bits)(halves >> 16)); }

// Copies `rows` rows of one head to shared memory, and fills up with zeros to a multiple of 16 rows. 128 threads, 16 bytes each.
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

// hidden [tokens, WIDTH] = LayerNorm(word + position + type embedding). A warp for each token. `places` [tokens] are
// position + 65536 * type.
extern "C" __global__ void __launch_bounds__(128) embed(
    int tokens, const int* ids, const int* places, const half_bits* word, const float* position, const float* type,
    const float* weight, const float* bias, half_bits* hidden) {
    const int token = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (token >= tokens) return;
    const half_bits* words = word + (long long)ids[token] * WIDTH;
    const float* positions = position + (long long)(places[token] & 0xFFFF) * WIDTH;
    float values[2 * CHANNEL_PAIRS];
    for (int i = 0; i < CHANNEL_PAIRS; i++) {
        const int channel = 2 * (lane + 32 * i);
        values[2 * i] = values[2 * i + 1] = 0;
        if (channel >= WIDTH) break;
        const unsigned halves = *(const unsigned*)(words + channel);
        values[2 * i] = low(halves) + positions[channel];
        values[2 * i + 1] = high(halves) + positions[channel + 1];
#if TYPES
        const float* types = type + (places[token] >> 16) * WIDTH + channel;
        values[2 * i] += types[0];
        values[2 * i + 1] += types[1];
#endif
    }
    layer_norm(values, weight, bias, hidden + (long long)token * WIDTH);
}

// hidden = LayerNorm(hidden + update), both [tokens, WIDTH]. A warp for each token.
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
    layer_norm(values, weight, bias, row);
}

// context [tokens, ATTENTION_WIDTH] = softmax(Q K^T) V, where query_key_value is [tokens, 3 ATTENTION_WIDTH] and the queries
// carry the scale and log2(e), so that softmax is 2^x.
//
// Flash attention: an online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867), whose maximum and sum are updated with each
// tile of keys and whose context so far is rescaled; scores stay in registers, because the fragment of sums that mma gives is the
// fragment of weights that the next mma takes (Dao 2023, arXiv:2307.08691).
//
// blockIdx.y is the head. blockIdx.x is a tile of up to 64 queries of one pair, 16 for each of 4 warps: `tiles` [count, 3] has
// the pair's first token, its length and the tile's first query. A length of 0 is an unused tile.
extern "C" __global__ void __launch_bounds__(128) attend(
    int count, const int* tiles, const half_bits* query_key_value, half_bits* context) {
    __shared__ __align__(16) half_bits keys[KEY_BLOCK * PITCH], values[KEY_BLOCK * PITCH];
    const int tile = blockIdx.x, begin = tiles[3 * tile], length = tiles[3 * tile + 1], first_query = tiles[3 * tile + 2];
    if (tile >= count || !length) return;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    constexpr int STRIDE = 3 * ATTENTION_WIDTH;
    const half_bits* base = query_key_value + (long long)begin * STRIDE + blockIdx.y * HEAD;
    // In a fragment a lane has columns 2 (lane % 4) and the next: in [0] and [1] of row lane / 4, in [2] and [3] of the row 8
    // below it.
    const int query_row = first_query + 16 * warp + lane / 4, column = 2 * (lane % 4);
    unsigned query[HEAD / 16][4];
    for (int k = 0; k < HEAD / 16; k++)
        for (int i = 0; i < 4; i++) {
            const int row = query_row + i % 2 * 8;
            query[k][i] = row < length ? *(const unsigned*)(base + (long long)row * STRIDE + 16 * k + i / 2 * 8 + column) : 0;
        }
    // Of the two rows that a lane has: the maximum so far, and this lane's part of the sum of weights.
    float out[HEAD / 8][4] = {}, maximum[2] = {-INF, -INF}, sums[2] = {};
    const int matrix = lane / 8, matrix_row = lane % 8;  // whose address this lane passes to load_matrices
    for (int first_key = 0; first_key < length; first_key += KEY_BLOCK) {
        const int block_keys = length - first_key < KEY_BLOCK ? length - first_key : KEY_BLOCK;
        if (first_key) __syncthreads();  // all warps have read the block before
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
                if (key_row >= block_keys) continue;
#pragma unroll
                for (int h = 0; h < HEAD / 16; h++) {
                    unsigned key[4];
                    load_matrices(key, keys + (key_row + 8 * (matrix / 2) + matrix_row) * PITCH + 16 * h + matrix % 2 * 8);
                    mma_16x8x16(score[0], query[h], key);
                    mma_16x8x16(score[1], query[h], key + 2);
                }
                for (int i = 0; i < 8; i++) {
                    float& one = score[i / 4][i % 4];
                    if (key_row + i / 4 * 8 + column + i % 2 >= block_keys) one = -INF;  // zeros after the last key
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
                if (key_row >= block_keys) continue;
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

// first [rows, WIDTH] = the hidden states of each pair's first token, [CLS]. A warp for each row.
extern "C" __global__ void __launch_bounds__(128) gather_first(
    int rows, const int* begins, const half_bits* hidden, half_bits* first) {
    const int row = blockIdx.x * 4 + threadIdx.x / 32;
    if (row >= rows) return;
    for (int channel = threadIdx.x % 32 * 8; channel < WIDTH; channel += 256)
        *(uint4*)(first + (long long)row * WIDTH + channel) =
            *(const uint4*)(hidden + (long long)begins[row] * WIDTH + channel);
}

// The last layer's attention, of each pair's first token alone: context [rows, ATTENTION_WIDTH], from query [rows,
// ATTENTION_WIDTH] and key_value [tokens, 2 ATTENTION_WIDTH]. A warp for each head of a pair, with an online softmax over 32 keys
// at a time: a lane computes the score of one key, then eight channels of the context, for as many values at once as the lanes
// allow. A length of 0 is an unused row.
extern "C" __global__ void __launch_bounds__(128) attend_first(
    int rows, const int* begins, const int* lengths, const half_bits* query, const half_bits* key_value,
    half_bits* context) {
    constexpr int PARTS = HEAD / 8, VALUES_AT_ONCE = 32 / PARTS;
    const int item = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (item >= rows * HEADS) return;
    const int row = item / HEADS, head = item % HEADS, length = lengths[row];
    const half_bits* queries = query + (long long)row * ATTENTION_WIDTH + head * HEAD;
    const half_bits* keys = key_value + (long long)begins[row] * 2 * ATTENTION_WIDTH + head * HEAD;
    const half_bits* values = keys + ATTENTION_WIDTH + lane % PARTS * 8;
    float maximum = -INF, sum = 0, out[8] = {};
    for (int first_key = 0; first_key < length; first_key += 32) {
        float score = -INF;
        if (first_key + lane < length) {
            const half_bits* key = keys + (long long)(first_key + lane) * 2 * ATTENTION_WIDTH;
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
            const uint4 v = *(const uint4*)(values + (long long)(first_key + key) * 2 * ATTENTION_WIDTH);
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

// The last linear layer of the head: logits [rows, LABELS] = activation(pooled) weight + bias, with weight [HIDDEN, LABELS]. A
// warp for each row. `pooled` [rows, WIDTH] is what the linear layer before it gave, in FP32; in a head of one layer it is the
// hidden states of the first tokens, in FP16.
#if DENSE == 1
typedef half_bits pooled_value;
__device__ float value_of(half_bits value) { return to_float(value); }
#else
typedef float pooled_value;
__device__ float value_of(float value) { return value; }
#endif

extern "C" __global__ void __launch_bounds__(128) classify(
    int rows, const pooled_value* pooled, const float* weight, const float* bias, float* logits) {
    const int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    float sums[LABELS] = {};
    for (int channel = lane; channel < HIDDEN; channel += 32) {
        float value = value_of(pooled[(long long)row * WIDTH + channel]);
        if (ACTIVATION == 1) value = tanhf(value);
        if (ACTIVATION == 2) value = fmaxf(value, 0);
        if (ACTIVATION == 3) value = 0.5f * value * (1 + erff(value * 0.70710678f));
        for (int label = 0; label < LABELS; label++) sums[label] += value * weight[channel * LABELS + label];
    }
    for (int label = 0; label < LABELS; label++) {
        const float sum = sum_of_warp(sums[label]);
        if (!lane) logits[row * LABELS + label] = sum + bias[label];
    }
}
