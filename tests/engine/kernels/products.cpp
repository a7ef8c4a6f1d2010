// Matrix products of a kind of processor, for test_products.py.

#include "gemm.h"

using namespace crossrt;

namespace {

ALWAYS_INLINE void put(int32_t* to, IntVec sums) { store_words(to, sums); }
ALWAYS_INLINE void put(float* to, FloatVec sums) { store(to, sums); }

// `sums` [count, out] = `rows` [count, in], `stride` elements apart, times `weight`, which is packed in panels.
template <class Dot, class Row, class Weight, class Sum>
void product(const Weight* weight, int in, int out, const Row* rows, int64_t stride, int count, Sum* sums) {
    const ThreadState state;
    gemm<Dot>(weight, in, 0, out, rows, stride, count,
              [&](int row, int channel, typename Dot::Sum low, typename Dot::Sum high) ALWAYS_INLINE_LAMBDA {
                  put(sums + int64_t(row) * out + channel, low);
                  put(sums + int64_t(row) * out + channel + LANES, high);
              });
}

}  // namespace

extern "C" {

int most_of_an_activation() { return DotInt8::MAX_ACTIVATION; }
int offset_of_activations() { return DotInt8::OFFSET; }
int rows_read_beyond() { return ROWS_READ_BEYOND; }

void product_int8(const int8_t* weight, int in, int out, const DotInt8::Activation* rows, int64_t stride, int count,
                  int32_t* sums) {
    product<DotInt8>(weight, in, out, rows, stride, count, sums);
}
void product_bf16(const BFloat16* weight, int in, int out, const BFloat16* rows, int64_t stride, int count, float* sums) {
    product<DotBf16>(weight, in, out, rows, stride, count, sums);
}
void product_fp32(const float* weight, int in, int out, const float* rows, int64_t stride, int count, float* sums) {
    product<DotFp32>(weight, in, out, rows, stride, count, sums);
}
}
