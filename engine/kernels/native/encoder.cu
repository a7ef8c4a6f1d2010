// The encoder on a GPU, between the matrix products, which are cuBLAS's: embeddings, attention, LayerNorm, the head's end.
//
// Tokens of all pairs lie one after the other, without padding: [tokens, channels], FP16, sums and statistics in FP32. What is
// known when a model is opened is a macro: HIDDEN channels, padded with zeros to WIDTH; HEADS of HEAD channels each, ATTENDED
// together; TYPES of tokens, 0 where they make no difference; EPSILON; LABELS; ACTIVATION before the last layer of the head.
// Compiled by NVRTC when a model is opened; tests compile it for the processor, with device.cuh's few verbs in C++.

#include "device.cuh"

namespace {

constexpr int PAIRS = (WIDTH + 63) / 64;        // of neighbouring channels that a lane has of a token
constexpr int TILE = 64;                        // queries of a block, and keys whose scores it has at once
constexpr int TAKEN = HEAD > 64 ? TILE : 2 * TILE;  // keys and values that lie in shared memory at once
constexpr int PITCH = HEAD + 8;                 // halves from a row to the next: no two of eight rows are in the same banks

__device__ float sum_of_warp(float value) {
    for (int step = 16; step; step /= 2) value += shuffle_xor(value, step);
    return value;
}

// LayerNorm of a token, whose channels 2 (lane + 32 i) and the next are values[2 i] and [2 i + 1].
__device__ void normalize(const float* values, const float* weight, const float* bias, half_bits* out) {
    const int lane = threadIdx.x % 32;
    float sum = 0;
    for (int i = 0; i < 2 * PAIRS; i++) sum += values[i];
    const float mean = sum_of_warp(sum) / HIDDEN;
    float squares = 0;
    for (int i = 0; i < 2 * PAIRS; i++) {
        const int channel = 2 * (lane + 32 * (i / 2)) + i % 2;
        if (channel < HIDDEN) squares += (values[i] - mean) * (values[i] - mean);
    }
    const float scale = rsqrtf(sum_of_warp(squares) / HIDDEN + EPSILON);
    for (int i = 0; i < PAIRS; i++) {
        const int channel = 2 * (lane + 32 * i);
        if (channel >= WIDTH) break;
        const float low = (values[2 * i] - mean) * scale * weight[channel] + bias[channel];
        const float high = (values[2 * i + 1] - mean) * scale * weight[channel + 1] + bias[channel + 1];
        *(unsigned*)(out + channel) = packed(low, high);
    }
}

__device__ float low(unsigned two) { return to_float((half_bits)two); }
__device__ float high(unsigned two) { return to_float((half_bits)(two >> 16)); }

// Rows of a head into shared memory, `rows` of them and zeros to the next sixteen. 128 threads, 16 bytes each.
__device__ void take(half_bits* to, const half_bits* from, int rows, int stride) {
    constexpr int PARTS = HEAD / 8;
    for (int part = threadIdx.x; part < (rows + 15) / 16 * 16 * PARTS; part += 128) {
        const int row = part / PARTS, channel = part % PARTS * 8;
        uint4 eight = {0, 0, 0, 0};
        if (row < rows) eight = *(const uint4*)(from + (long long)row * stride + channel);
        *(uint4*)(to + row * PITCH + channel) = eight;
    }
}

}  // namespace

// hidden [tokens, WIDTH] = LayerNorm(word + position + type). A warp a token. `places` are position + 65536 type.
extern "C" __global__ void __launch_bounds__(128) embed(
    int tokens, const int* ids, const int* places, const half_bits* word, const float* position, const float* type,
    const float* weight, const float* bias, half_bits* hidden) {
    const int token = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (token >= tokens) return;
    const half_bits* words = word + (long long)ids[token] * WIDTH;
    const float* positions = position + (long long)(places[token] & 0xFFFF) * WIDTH;
    float values[2 * PAIRS];
    for (int i = 0; i < PAIRS; i++) {
        const int channel = 2 * (lane + 32 * i);
        values[2 * i] = values[2 * i + 1] = 0;
        if (channel >= WIDTH) break;
        const unsigned two = *(const unsigned*)(words + channel);
        values[2 * i] = low(two) + positions[channel];
        values[2 * i + 1] = high(two) + positions[channel + 1];
#if TYPES
        const float* types = type + (places[token] >> 16) * WIDTH + channel;
        values[2 * i] += types[0];
        values[2 * i + 1] += types[1];
#endif
    }
    normalize(values, weight, bias, hidden + (long long)token * WIDTH);
}

// hidden = LayerNorm(hidden + change). A warp a token.
extern "C" __global__ void __launch_bounds__(128) add_normalize(
    int tokens, half_bits* hidden, const half_bits* change, const float* weight, const float* bias) {
    const int token = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (token >= tokens) return;
    half_bits* row = hidden + (long long)token * WIDTH;
    const half_bits* changes = change + (long long)token * WIDTH;
    float values[2 * PAIRS];
    for (int i = 0; i < PAIRS; i++) {
        const int channel = 2 * (lane + 32 * i);
        values[2 * i] = values[2 * i + 1] = 0;
        if (channel >= WIDTH) break;
        const unsigned two = *(const unsigned*)(row + channel), more = *(const unsigned*)(changes + channel);
        values[2 * i] = low(two) + low(more);
        values[2 * i + 1] = high(two) + high(more);
    }
    normalize(values, weight, bias, row);
}

// mixed [tokens, ATTENDED] = softmax(query key) value, of query_key_value [tokens, 3 ATTENDED], whose queries carry the scale and
// log2(e). A block has one head of a tile: up to 64 queries of one pair, sixteen a warp, of which it is told the pair's first
// token, its length and the tile's first query; a length of 0 is no tile. Softmax as it goes (Milakov and Gimelshein 2018,
// arXiv:1805.02867), products of 16 x 8 x 16 whose scores never leave the registers (Dao 2023, arXiv:2307.08691).
extern "C" __global__ void __launch_bounds__(128) attend(
    int count, const int* tiles, const half_bits* query_key_value, half_bits* mixed) {
    __shared__ __align__(16) half_bits keys[TAKEN * PITCH], values[TAKEN * PITCH];
    const int tile = blockIdx.x, begin = tiles[3 * tile], length = tiles[3 * tile + 1], first = tiles[3 * tile + 2];
    if (tile >= count || !length) return;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    constexpr int STRIDE = 3 * ATTENDED;
    const half_bits* base = query_key_value + (long long)begin * STRIDE + blockIdx.y * HEAD;
    // A lane has columns 2 (lane % 4) and the next, in [0] and [1], of row lane / 4, and in [2] and [3] of the eighth after it.
    const int place = first + 16 * warp + lane / 4, column = 2 * (lane % 4);
    unsigned query[HEAD / 16][4];
    for (int k = 0; k < HEAD / 16; k++)
        for (int i = 0; i < 4; i++) {
            const int row = place + i % 2 * 8;
            query[k][i] = row < length ? *(const unsigned*)(base + (long long)row * STRIDE + 16 * k + i / 2 * 8 + column) : 0;
        }
    float out[HEAD / 8][4] = {}, largest[2] = {-INFINITE, -INFINITE}, sums[2] = {};
    const int matrix = lane / 8, row = lane % 8;
    for (int taken = 0; taken < length; taken += TAKEN) {
        const int rest = length - taken < TAKEN ? length - taken : TAKEN;
        if (taken) __syncthreads();  // those before have been read
        take(keys, base + ATTENDED + (long long)taken * STRIDE, rest, STRIDE);
        take(values, base + 2 * ATTENDED + (long long)taken * STRIDE, rest, STRIDE);
        __syncthreads();
        if (first + 16 * warp >= length) continue;  // a warp without queries has helped to take
        for (int block = 0; block < rest; block += TILE) {
            float scores[TILE / 8][4];
            float most[2] = {largest[0], largest[1]};
#pragma unroll
            for (int k = 0; k < TILE / 16; k++) {  // sixteen keys
                float(*score)[4] = scores + 2 * k;
                for (int i = 0; i < 8; i++) score[i / 4][i % 4] = 0;
                const int key_row = block + 16 * k;
                if (key_row >= rest) continue;
#pragma unroll
                for (int h = 0; h < HEAD / 16; h++) {
                    unsigned key[4];
                    load_matrices(key, keys + (key_row + 8 * (matrix / 2) + row) * PITCH + 16 * h + matrix % 2 * 8);
                    multiply_add(score[0], query[h], key);
                    multiply_add(score[1], query[h], key + 2);
                }
                for (int i = 0; i < 8; i++) {
                    float& one = score[i / 4][i % 4];
                    if (key_row + i / 4 * 8 + column + i % 2 >= rest) one = -INFINITE;
                    most[i % 4 / 2] = fmaxf(most[i % 4 / 2], one);
                }
            }
            for (int half = 0; half < 2; half++) {
                most[half] = fmaxf(most[half], shuffle_xor(most[half], 1));
                most[half] = fmaxf(most[half], shuffle_xor(most[half], 2));
                const float faded = power_of_two(largest[half] - most[half]);
                largest[half] = most[half];
                sums[half] *= faded;
                for (int n = 0; n < HEAD / 8; n++)
                    for (int i = 0; i < 2; i++) out[n][2 * half + i] *= faded;
            }
#pragma unroll
            for (int k = 0; k < TILE / 16; k++) {
                const int key_row = block + 16 * k;
                if (key_row >= rest) continue;
                float share[2][4];
                for (int i = 0; i < 8; i++) {
                    const float one = power_of_two(scores[2 * k + i / 4][i % 4] - largest[i % 4 / 2]);
                    share[i / 4][i % 4] = one;
                    sums[i % 4 / 2] += one;
                }
                const unsigned shares[4] = {packed(share[0][0], share[0][1]), packed(share[0][2], share[0][3]),
                                            packed(share[1][0], share[1][1]), packed(share[1][2], share[1][3])};
#pragma unroll
                for (int n = 0; n < HEAD / 8; n += 2) {
                    unsigned value[4];
                    load_matrices_transposed(
                        value, values + (key_row + matrix % 2 * 8 + row) * PITCH + 8 * (n + matrix / 2));
                    multiply_add(out[n], shares, value);
                    multiply_add(out[n + 1], shares, value + 2);
                }
            }
        }
    }
    for (int half = 0; half < 2; half++) {
        if (first + 16 * warp >= length) continue;
        float sum = sums[half];
        sum += shuffle_xor(sum, 1);
        sum += shuffle_xor(sum, 2);
        if (place + 8 * half >= length) continue;
        half_bits* to = mixed + (long long)(begin + place + 8 * half) * ATTENDED + blockIdx.y * HEAD + column;
        for (int n = 0; n < HEAD / 8; n++)
            *(unsigned*)(to + 8 * n) = packed(out[n][2 * half] / sum, out[n][2 * half + 1] / sum);
    }
}

// first [rows, WIDTH] = each pair's first token. A warp a row.
extern "C" __global__ void __launch_bounds__(128) take_first(
    int rows, const int* begins, const half_bits* hidden, half_bits* first) {
    const int row = blockIdx.x * 4 + threadIdx.x / 32;
    if (row >= rows) return;
    for (int channel = threadIdx.x % 32 * 8; channel < WIDTH; channel += 256)
        *(uint4*)(first + (long long)row * WIDTH + channel) =
            *(const uint4*)(hidden + (long long)begins[row] * WIDTH + channel);
}

// mixed [rows, ATTENDED] of the first tokens alone: query [rows, ATTENDED], key_value [tokens, 2 ATTENDED]. A warp has one head of
// a pair: a key a lane, then eight channels of a value a lane, of as many values as fit. A length of 0 is no pair.
extern "C" __global__ void __launch_bounds__(128) attend_first(
    int rows, const int* begins, const int* lengths, const half_bits* query, const half_bits* key_value,
    half_bits* mixed) {
    constexpr int PARTS = HEAD / 8, TOGETHER = 32 / PARTS;
    const int item = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (item >= rows * HEADS) return;
    const int row = item / HEADS, head = item % HEADS, length = lengths[row];
    const half_bits* queries = query + (long long)row * ATTENDED + head * HEAD;
    const half_bits* keys = key_value + (long long)begins[row] * 2 * ATTENDED + head * HEAD;
    const half_bits* values = keys + ATTENDED + lane % PARTS * 8;
    float largest = -INFINITE, sum = 0, out[8] = {};
    for (int block = 0; block < length; block += 32) {
        float score = -INFINITE;
        if (block + lane < length) {
            const half_bits* key = keys + (long long)(block + lane) * 2 * ATTENDED;
            score = 0;
#pragma unroll
            for (int part = 0; part < HEAD; part += 8) {
                const uint4 q = *(const uint4*)(queries + part), k = *(const uint4*)(key + part);
                score += low(q.x) * low(k.x) + high(q.x) * high(k.x) + low(q.y) * low(k.y) + high(q.y) * high(k.y) +
                         low(q.z) * low(k.z) + high(q.z) * high(k.z) + low(q.w) * low(k.w) + high(q.w) * high(k.w);
            }
        }
        float most = fmaxf(largest, score);
        for (int step = 16; step; step /= 2) most = fmaxf(most, shuffle_xor(most, step));
        const float faded = power_of_two(largest - most), share = power_of_two(score - most);
        largest = most;
        sum = sum * faded + share;
        for (int i = 0; i < 8; i++) out[i] *= faded;
#pragma unroll
        for (int group = 0; group < 32; group += TOGETHER) {
            const int place = group + lane / PARTS;
            const float of = shuffle(share, place & 31);
            if (lane >= TOGETHER * PARTS || place >= 32 || block + place >= length) continue;
            const uint4 v = *(const uint4*)(values + (long long)(block + place) * 2 * ATTENDED);
            const float eight[8] = {low(v.x), high(v.x), low(v.y), high(v.y), low(v.z), high(v.z), low(v.w), high(v.w)};
            for (int i = 0; i < 8; i++) out[i] += of * eight[i];
        }
    }
    sum = sum_of_warp(sum);
    for (int i = 0; i < 8; i++) {
        float total = 0;
        for (int group = 0; group < TOGETHER; group++) total += shuffle(out[i], (lane % PARTS + PARTS * group) & 31);
        out[i] = length ? total / sum : 0;
    }
    if (lane < PARTS) {
        const uint4 eight = {packed(out[0], out[1]), packed(out[2], out[3]), packed(out[4], out[5]), packed(out[6], out[7])};
        *(uint4*)(mixed + (long long)row * ATTENDED + head * HEAD + lane * 8) = eight;
    }
}

// logits [rows, LABELS] = activation(pooled) weight + bias; pooled is FP32 [rows, WIDTH], or the first tokens where the head is one
// layer; weight [HIDDEN, LABELS]. A warp a row.
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
