// `WeightReader`: returns a model's arrays one after the other, in the order of the file (`ModelDims.tensors` in
// engine/bundle/native_weights.py). It neither copies nor owns the arrays.
//
// In another version of crossrt, a model of the same dimensions may have more or fewer arrays. `WrongArrays` is thrown before an
// array is read that does not exist.

#pragma once

namespace crossrt {

struct WrongArrays {};

struct WeightReader {
    const void* const* next;
    const void* const* end;

    template <class Number>
    const Number* read() {
        if (next == end) throw WrongArrays();
        return static_cast<const Number*>(*next++);
    }
};

}  // namespace crossrt
