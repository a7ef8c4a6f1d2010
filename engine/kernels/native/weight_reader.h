// `WeightReader`: hands out a model's arrays one after the other, in the order of the file (`ModelDims.tensors` in
// engine/bundle/native_weights.py). The arrays are neither copied nor owned.

#pragma once

namespace crossrt {

struct WeightReader {
    const void* const* next;

    template <class Number>
    const Number* read() {
        return static_cast<const Number*>(*next++);
    }
};

}  // namespace crossrt
