// `Workspace`: memory that is allocated when a session opens, and freed all at once.

#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <vector>

namespace crossrt {

class Workspace {
public:
    Workspace() = default;
    Workspace(const Workspace&) = delete;
    virtual ~Workspace() {
        for (void* block : blocks) ::operator delete(block, ALIGNMENT);
    }

    // Returns `count` zeros, aligned to 64 bytes. At least 64 more bytes follow, because a vector load may begin at the last
    // element. Throws bad_alloc.
    template <class Number>
    Number* allocate(size_t count) {
        const size_t bytes = (count * sizeof(Number) + 127) / 64 * 64;
        blocks.reserve(blocks.size() + 1);
        void* block = ::operator new(bytes, ALIGNMENT);
        blocks.push_back(block);
        std::memset(block, 0, bytes);
        return static_cast<Number*>(block);
    }

private:
    static constexpr std::align_val_t ALIGNMENT{64};
    std::vector<void*> blocks;
};

}  // namespace crossrt
