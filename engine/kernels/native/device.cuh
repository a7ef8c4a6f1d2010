// The GPU instructions that the kernels use besides plain arithmetic: FP16 conversions, and a warp's shuffles, ldmatrix and mma.
// They need compute capability 8.0. They are PTX and compiler intrinsics, so that NVRTC needs none of CUDA's headers, which not
// every machine with a driver has. tests/engine/backends/emulated/device.cuh has the same functions in C++, for tests without a
// GPU.
#pragma once

typedef unsigned short half_bits;
#define INF __int_as_float(0x7f800000)

__device__ __forceinline__ float to_float(half_bits value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value));
    return result;
}

__device__ __forceinline__ half_bits to_half(float value) {
    half_bits result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(value));
    return result;
}

// Two FP16 numbers in 32 bits, `low` in the low half.
__device__ __forceinline__ unsigned pack_halves(float low, float high) {
    unsigned result;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
}

// 2^x for x <= 0, with a relative error of 2^-22; 0 for minus infinity.
__device__ __forceinline__ float exp2_approx(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

__device__ __forceinline__ float shuffle_xor(float value, int lanes) { return __shfl_xor_sync(~0u, value, lanes); }
__device__ __forceinline__ float shuffle(float value, int lane) { return __shfl_sync(~0u, value, lane); }

// Loads four 8 x 8 matrices of FP16 from shared memory. Lane i passes the address of row i % 8 of matrix i / 8. From each matrix
// it gets two neighbouring elements of row i / 4: the columns 2 (i % 4) and 2 (i % 4) + 1.
__device__ __forceinline__ void load_matrices(unsigned* matrices, const half_bits* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
}

// The same with transposed matrices: lane i gets the rows 2 (i % 4) and 2 (i % 4) + 1 of column i / 4.
__device__ __forceinline__ void load_matrices_transposed(unsigned* matrices, const half_bits* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
}

// A warp computes sums [16, 8] += a [16, 16] b [16, 8], with FP16 products and FP32 sums. "Matrix fragments for mma.m16n8k16" in
// the PTX ISA describes which lane holds which elements.
__device__ __forceinline__ void mma_16x8x16(float* sums, const unsigned* a, const unsigned* b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
