// Memory for large results, which is handed out again once nobody holds it (`_torch/memory.py` says why). In the core,
// since a call whose numbers have driven everything else out of the caches takes the longer the more code it runs.
#pragma once

#include "torch.h"

#include <vector>

namespace lossless {

class Recycler {
  public:
    // Remembers `limit` bytes at most. `side` has the attributes that `_torch/memory.py` gives.
    Recycler(int64_t limit, nb::handle side);
    Recycler(const Recycler&) = delete;

    // A contiguous tensor like x, with any numbers in it; what x holds may be gone.
    nb::object empty_like(nb::handle x);
    int64_t remembered() const { return int64_t(memories.size()); }
    // In a forked child, where another thread may have been at work.
    void forget();

  private:
    // How many tensors, and other owners in C++ and in Python, refer to a storage.
    struct References {
        int64_t owners, objects;
        bool operator==(const References&) const = default;
    };
    // What was handed out: a tensor that nobody else has, and its storage, which somebody may have.
    struct Memory {
        int64_t bytes;
        Element element;
        Handle handle;
        nb::object tensor, storage, number, address; // `number`: by which PyTorch knows the storage
        References alone;                            // while nobody refers to it
    };
    using Shared = std::shared_ptr<Memory>; // since any call of Python's may end in forget()
    Memory fresh(nb::handle x, const Array& like) const;
    nb::object recycled(nb::handle x, int64_t bytes);
    Shared take(nb::handle x, int64_t bytes);
    bool is_unchanged(const Memory& memory) const;
    References references(const Memory& memory) const;
    nb::object another(const Memory& memory, nb::handle x) const;

    const int64_t limit;
    nb::object like_of, use_count, in_storage;
    int64_t large, huge;          // bytes from which memory is remembered, and from which huge pages are worth it
    std::vector<Shared> memories; // the latest last
    int64_t kept = 0;             // bytes
    bool busy = false;
};

} // namespace lossless
