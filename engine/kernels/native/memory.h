// Memory that is taken once and freed together, and the arrays that a model comes in.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

namespace crossrt {

class Memory {
public:
    Memory() = default;
    Memory(const Memory&) = delete;
    virtual ~Memory() {
        for (void* each : owned) std::free(each);
    }

    // Zeros, where vectors can be loaded, with room for one vector more.
    template <class Number>
    Number* take(size_t count) {
        const size_t bytes = (count * sizeof(Number) + 127) / 64 * 64;
        owned.reserve(owned.size() + 1);
        void* memory = std::aligned_alloc(64, bytes);
        if (!memory) throw std::bad_alloc();
        owned.push_back(memory);
        std::memset(memory, 0, bytes);
        return static_cast<Number*>(memory);
    }

private:
    std::vector<void*> owned;
};

// A model's arrays, in the order in which they are asked for.
struct Arrays {
    const void* const* next;

    template <class Number>
    const Number* take() {
        return static_cast<const Number*>(*next++);
    }
};

}  // namespace crossrt
