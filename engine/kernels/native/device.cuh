// What the kernels ask of a GPU beside plain arithmetic, of compute capability 8.0 and later: halves, and products of matrices
// by a warp. No header of CUDA's is needed, which not every machine with a driver has.
#pragma once

typedef unsigned short half_bits;
#define INFINITE __int_as_float(0x7f800000)

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

// Two halves, the first in the low bits.
__device__ __forceinline__ unsigned packed(float low, float high) {
    unsigned result;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
}

// 2 to the power of a number that is not positive, to 2^-22 of it; 0 for minus infinity.
__device__ __forceinline__ float power_of_two(float value) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
    return result;
}

__device__ __forceinline__ float shuffle_xor(float value, int lanes) { return __shfl_xor_sync(~0u, value, lanes); }
__device__ __forceinline__ float shuffle(float value, int lane) { return __shfl_sync(~0u, value, lane); }

// Four matrices of 8 x 8 halves from shared memory; lane i says where row i % 8 of matrix i / 8 is. A lane gets two neighbouring
// columns, 2 (lane % 4) and the next, of row lane / 4.
__device__ __forceinline__ void load_matrices(unsigned* matrices, const half_bits* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
}

// The same of the transposed matrices: rows 2 (lane % 4) and the next, of column lane / 4.
__device__ __forceinline__ void load_matrices_transposed(unsigned* matrices, const half_bits* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
}

// sums [16, 8] += left [16, 16] right [16, 8], in a warp. PTX ISA, "mma.m16n8k16" says which lane holds what.
__device__ __forceinline__ void multiply_add(float* sums, const unsigned* left, const unsigned* right) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}
