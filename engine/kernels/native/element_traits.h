// `ElementTraits`: the dot product, GELU and powers of 2 for BF16 and for FP32. Attention's elements and the activations between
// the feed-forward layers have one of these two types. The functions are as precise as the type and no more.
//
// GELU(x) = x Phi(x), where Phi is the cumulative distribution function of the normal distribution (Hendrycks and Gimpel 2016,
// arXiv:1606.08415). Phi - 1/2 is odd, so it is x times a function of x^2. x is clamped, because Phi is nearly 0 or 1 beyond the
// clamp.

#pragma once

#include "simd.h"

namespace crossrt {

template <class Element>
struct ElementTraits;

template <>
struct ElementTraits<BFloat16> {
    using Dot = DotBf16;
    static constexpr int PER_WORD = 2;  // elements in a 32-bit word
    // Absolute error: at most 2.4e-4 |x|.
    static ALWAYS_INLINE FloatVec gelu(FloatVec x) {
        const FloatVec clamped = clamp(x, 3.5f);
        const FloatVec odd = polynomial(clamped * clamped, -7.1176036e-07f, 3.50398659e-05f, -7.28269981e-04f,
                                        8.52908473e-03f, -6.44131526e-02f, 3.98064524e-01f);
        return x * fmadd(odd, clamped, broadcast(0.5f));
    }
    // Relative error: at most 1e-4, a fortieth of BF16's step.
    static ALWAYS_INLINE FloatVec exp2(FloatVec x) {
        return crossrt::exp2(x, [](FloatVec f) ALWAYS_INLINE_LAMBDA {
            return polynomial(f, 5.50091019e-02f, 2.4221098e-01f, 6.93282888e-01f, 1.0f);
        });
    }
};

template <>
struct ElementTraits<float> {
    using Dot = DotFp32;
    static constexpr int PER_WORD = 1;
    // A ratio of two polynomials of degree 5 in x^2. Error: at most 2.2e-7 max(|x|, 1), two steps of FP32.
    static ALWAYS_INLINE FloatVec gelu(FloatVec x) {
        const FloatVec clamped = clamp(x, 5.6f), square = clamped * clamped;
        const FloatVec numerator = polynomial(square, 2.21456418e-08f, 6.35640026e-06f, 1.73840803e-04f, 4.70719906e-03f,
                                              3.43751982e-02f, 3.98942232e-01f);
        const FloatVec denominator = polynomial(square, 1.18021171e-06f, 7.50983963e-05f, 1.91292271e-03f, 2.89395563e-02f,
                                                2.52831548e-01f, 1.0f);
        const FloatVec odd = numerator / denominator;
        return x * fmadd(odd, clamped, broadcast(0.5f));
    }
    // Relative error: less than a step of FP32.
    static ALWAYS_INLINE FloatVec exp2(FloatVec x) {
        return crossrt::exp2(x, [](FloatVec f) ALWAYS_INLINE_LAMBDA {
            return polynomial(f, 1.53458051e-04f, 1.33999309e-03f, 9.61848907e-03f, 5.55032864e-02f, 2.40226462e-01f,
                              6.93147182e-01f, 1.0f);
        });
    }
};

}  // namespace crossrt
