// `Workspace`: memory that is allocated once, when a session opens, and freed as a whole.

#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

namespace crossrt {

class Workspace {
public:
    Workspace() = default;
    Workspace(const Workspace&) = delete;
    virtual ~Workspace() {
        for (void* block : blocks) std::free(block);
    }

    // `count` zeros, aligned to 64 bytes, with 64 bytes of slack: a vector load may begin at the last element. Throws bad_alloc.
    template <class Number>
    Number* allocate(size_t count) {
        const size_t bytes = (count * sizeof(Number) + 127) / 64 * 64;
        blocks.reserve(blocks.size() + 1);
        void* block = std::aligned_alloc(64, bytes);
        if (!block) throw std::bad_alloc();
        blocks.push_back(block);
        std::memset(block, 0, bytes);
        return static_cast<Number*>(block);
    }

private:
    std::vector<void*> blocks;
};

}  // namespace crossrt
