// Memory of a kernel's own, at the start of a cache line.
#pragma once

#include <stdint.h>
#include <stdlib.h>

namespace {

struct Buffer {
    void* memory = nullptr;
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    ~Buffer() { free(memory); }
    template <class T> T* get(int64_t count) {
        if (!memory && posix_memalign(&memory, 64, size_t(count > 0 ? count : 1) * sizeof(T))) memory = nullptr;
        return static_cast<T*>(memory);
    }
};

} // namespace
