// Functions of 16 FP32 numbers that are the same on every kind of processor: polynomials, clamping and powers of 2.
//
// Rows in memory and the weights that they are multiplied with are padded with zeros to a multiple of 32 elements. So no loop
// over channels has a tail.

#pragma once

#include "gemm.h"

namespace crossrt {

// A polynomial in x by Horner's scheme. The coefficients begin with that of the highest power.
template <class... Coefficients>
ALWAYS_INLINE FloatVec polynomial(FloatVec x, float highest, Coefficients... coefficients) {
    FloatVec sum = broadcast(highest);
    for (float coefficient : {coefficients...}) sum = fmadd(sum, x, broadcast(coefficient));
    return sum;
}

// x clamped to [-limit, limit].
ALWAYS_INLINE FloatVec clamp(FloatVec x, float limit) { return maximum(minimum(x, broadcast(limit)), broadcast(-limit)); }

// 2^x for x <= 126. Below -126, where the result would be subnormal, it is 2^-126.
//
// 2^x = 2^n 2^f, where n is x rounded to an integer and f is the rest, in [-1/2, 1/2]. Adding 1.5 * 2^23 rounds x, and leaves n
// in the lowest bits of the sum. These are shifted by 23 and added to the exponent of 2^f. `fraction(f)` is a polynomial for 2^f,
// whose degree decides the precision.
template <class Fraction>
ALWAYS_INLINE FloatVec exp2(FloatVec x, Fraction&& fraction) {
    constexpr float ROUNDING = 12582912;  // 1.5 * 2^23
    x = maximum(x, broadcast(-126));
    const FloatVec shifted = x + broadcast(ROUNDING);
    return shift_exponent(fraction(x - (shifted - broadcast(ROUNDING))), shifted);
}

}  // namespace crossrt
