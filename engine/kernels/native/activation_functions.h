// The activation functions between the feed-forward layers, on 16 numbers at a time. The epilogue of the first layer is compiled
// once for each of them.

#pragma once

#include "element_traits.h"
#include "model_dims.h"

namespace crossrt {

template <class Element>
struct Gelu {
    ALWAYS_INLINE FloatVec operator()(FloatVec x) const { return ElementTraits<Element>::gelu(x); }
};

struct Relu {
    ALWAYS_INLINE FloatVec operator()(FloatVec x) const { return maximum(broadcast(0), x); }
};

// x / (1 + 2^t), where t = x (linear + cubic x^2). This is x times the logistic function of -t ln 2.
//
// Error: at most 1.2e-7 |x| in FP32 and 2.6e-5 |x| in BF16, for both functions below. This was found by comparing with FP64 at
// every 64th FP32 number, with AVX512 and AVX2. tests/engine/kernels/isa_check.cpp compares fewer numbers, on the kinds that the
// test machine can run or emulate.
//
// t is limited to 126, so that the quotient does not become subnormal: far below 0 the result is -2^-126 |x| instead of something
// closer to 0. x^2 is limited because `cubic` may be 0, and 0 times infinity is NaN.
template <class Element>
struct TimesLogistic {
    float linear, cubic;

    ALWAYS_INLINE FloatVec operator()(FloatVec x) const {
        const FloatVec square = minimum(x * x, broadcast(1e30f));
        const FloatVec t = x * fmadd(square, broadcast(cubic), broadcast(linear));
        return x / (broadcast(1) + ElementTraits<Element>::exp2(minimum(t, broadcast(126))));
    }
};

// Calls `work` with the function of an activation. `work` is compiled once for each function.
template <class Element, class Work>
ALWAYS_INLINE void with_activation(Activation activation, Work&& work) {
    constexpr float LOG2_E = 1.44269504f, ROOT = 0.79788456f;  // sqrt(2 / pi)
    switch (activation) {
        case Activation::relu: return work(Relu());
        // x/2 (1 + tanh(u)) = x logistic(2u), where u = sqrt(2/pi) (x + 0.044715 x^3) (Hendrycks and Gimpel 2016,
        // arXiv:1606.08415).
        case Activation::gelu_tanh:
            return work(TimesLogistic<Element>{-2 * LOG2_E * ROOT, -2 * LOG2_E * ROOT * 0.044715f});
        // x logistic(x) (Elfwing et al. 2017, arXiv:1702.03118).
        case Activation::silu: return work(TimesLogistic<Element>{-LOG2_E, 0});
        default: return work(Gelu<Element>());
    }
}

}  // namespace crossrt
