#include "recycler.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace lossless {
namespace {

struct Names {
    Name untyped_storage{"untyped_storage"}, cdata{"_cdata"}, data_ptr{"data_ptr"}, nbytes{"nbytes"},
        is_shared{"is_shared"};
};
const Names& names() {
    static const Names all;
    return all;
}

int64_t whole(nb::handle number) {
    const int64_t value = PyLong_AsLongLong(number.ptr());
    if (value == -1 && PyErr_Occurred()) nb::raise_python_error();
    return value;
}

// A fresh large array costs a page fault for each 4 KiB that is first touched: three times the time of writing it. Huge
// pages make that one for each 2 MiB.
void advise_huge_pages([[maybe_unused]] const void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE)), start = (uintptr_t(data) + page - 1) & ~(page - 1);
    const uintptr_t end = (uintptr_t(data) + uintptr_t(bytes)) & ~(page - 1);
    if (end > start)
        madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE); // a wish: refusal changes nothing
#endif
}

} // namespace

Recycler::Recycler(int64_t limit, nb::handle side)
    : limit(limit), like_of(get(side, Name("empty_like"))), use_count(get(side, Name("use_count"))),
      in_storage(get(side, Name("in_storage"))), large(whole(get(side, Name("LARGE")))),
      huge(whole(get(side, Name("HUGE")))) {}

nb::object Recycler::empty_like(nb::handle x) {
    const Array like(x, "x", Array::Use::shape);
    const int64_t bytes = like.bytes();
    // Who finds it busy (another thread, or a signal handler within this one) does not wait.
    return bytes < large || bytes > limit || busy ? fresh(x, like).tensor : recycled(x, bytes);
}

Recycler::Memory Recycler::fresh(nb::handle x, const Array& like) const {
    const int64_t bytes = like.bytes();
    Handle handle = fresh_handle(like.element, like.ndim, like.shape);
    nb::object tensor = handle ? wrapped(handle) : call(like_of, x);
    if (bytes >= huge) advise_huge_pages(Array(tensor, "out").data, bytes);
    return {bytes, like.element, std::move(handle), std::move(tensor), {}, {}, {}, {}};
}

nb::object Recycler::recycled(nb::handle x, int64_t bytes) {
    struct Here {
        bool& flag;
        explicit Here(bool& f) : flag(f) { flag = true; }
        ~Here() { flag = false; }
    } here(busy);
    Shared memory = take(x, bytes);
    nb::object out = another(*memory, x);
    memories.push_back(memory);
    kept += memory->bytes;
    while (kept > limit) { // whoever holds the forgotten one keeps it; else it is freed
        const Shared oldest = memories.front();
        memories.erase(memories.begin());
        kept -= oldest->bytes;
    }
    return out;
}

// Memory of that size which nobody holds any more, or fresh one; what is not ours any more goes.
Recycler::Shared Recycler::take(nb::handle x, int64_t bytes) {
    for (size_t i = memories.size(); i--;) { // the latest may still be in cache
        if (i >= memories.size()) continue;  // forgotten meanwhile
        const Shared memory = memories[i];
        if (memory->bytes != bytes || references(*memory) != memory->alone) continue;
        if (i >= memories.size() || memories[i] != memory) continue;
        memories.erase(memories.begin() + int64_t(i));
        kept -= bytes;
        if (is_unchanged(*memory)) return memory;
    }
    const Shared memory = std::make_shared<Memory>(fresh(x, Array(x, "x", Array::Use::shape)));
    memory->storage = call_method(memory->tensor, names().untyped_storage);
    memory->number = get(memory->storage, names().cdata);
    memory->address = call_method(memory->storage, names().data_ptr);
    memory->alone = references(*memory);
    return memory;
}

// Somebody may have resized its storage, or moved it to memory that another process reads. (If somebody shares it until
// it is written, asking for the address moves it.)
bool Recycler::is_unchanged(const Memory& memory) const {
    return memory.address.equal(call_method(memory.storage, names().data_ptr)) &&
           whole(call_method(memory.storage, names().nbytes)) == memory.bytes &&
           !is_true(call_method(memory.storage, names().is_shared));
}

Recycler::References Recycler::references(const Memory& memory) const {
    return {whole(call(use_count, memory.number)), int64_t(Py_REFCNT(memory.storage.ptr()))};
}

// A tensor of its own, so that who resizes, views or frees it does nothing to the remembered one.
nb::object Recycler::another(const Memory& memory, nb::handle x) const {
    const Array like(x, "x", Array::Use::shape);
    if (memory.element == like.element && memory.bytes == like.bytes())
        if (const Handle out = in_memory_of(memory.handle, like.ndim, like.shape)) return wrapped(out);
    return call(in_storage, memory.storage, x);
}

void Recycler::forget() {
    const std::vector<Shared> gone = std::move(memories); // goes last: it may run code of others, which comes here
    memories.clear();
    kept = 0;
    busy = false;
}

} // namespace lossless
