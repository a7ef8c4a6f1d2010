// `WeightReader`: hands out a model's arrays one after the other, in the order of the file (`ModelDims.tensors` in
// engine/bundle/native_weights.py). The arrays are neither copied nor owned.
//
// A model of the same dimensions has more or fewer arrays in another version of crossrt. `WrongArrays` says so, before an array is
// read that is not there.

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
