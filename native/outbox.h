// Results on their way past the caches. A store brings the line that it writes to into a cache first, unless it passes
// the caches by; such stores wait for the memory, though, and the results of a group of rows come all at once. They are
// left in a box, and sent while the next group is computed.
#pragma once

#include "buffer.h"
#include "views.h"

namespace {

// Results that a stage sends on the side, block by block, as it goes over a row or over anything else.
template <class D> struct Parcel {
    D* to = nullptr;
    const D* from = nullptr;
    int64_t numbers = 0;
    LOSSLESS_INLINE_MEMBER bool send(Block b) const {
        if (b.j >= numbers) return false;
        stream(to + b.j, from + b.j);
        return true;
    }
};
struct NoParcel {
    constexpr bool send(Block) const { return false; }
};

template <class D> class Outbox {
  public:
    // For up to so many numbers at a time; false: no memory.
    bool open(int64_t most) {
        box = memory.template get<D>(most + 2 * LANES);
        return is_open();
    }
    bool is_open() const { return box; }

    // Where the results are left that go to `to`: as far from a boundary of 16 numbers as there.
    D* place_of(const D* to) const { return box + uintptr_t(to) / sizeof(D) % LANES; }

    // Makes room for so many, which follow those before; nothing if there is.
    void fill(D* to, int64_t count) {
        if (to == latest) return;
        const int64_t whole = sealed / LANES * LANES, rest = sealed - whole, lead = place_of(to) - box;
        send(whole);
        for (int64_t i = 0; i < rest; i++) box[i] = box[whole + i];
        sent = latest ? sent - whole : lead;
        sealed = 0;
        latest = to;
        target = reinterpret_cast<D*>(uintptr_t(to) - uintptr_t(lead) * sizeof(D));
        filled = lead + count;
    }
    // They will not change any more, once the next group begins.
    void seal() { sealed = filled; }

    // The next results to be sent, for who goes over so many numbers.
    Parcel<D> next(int64_t count) {
        if (sent % LANES && sealed) send(sent / LANES * LANES + LANES);
        const int64_t from = sent, whole = sealed / LANES * LANES;
        if (whole <= from) return {};
        const int64_t most = (count + LANES - 1) / LANES * LANES, left = whole - from;
        sent = from + (most < left ? most : left);
        return {target + from, box + from, sent - from};
    }

    void close() {
        send(sealed);
        end_stream();
    }

  private:
    void send(int64_t end) {
        if (end > sealed) end = sealed;
        while (sent < end)
            if (sent % LANES == 0 && sent + LANES <= end) {
                stream(target + sent, box + sent);
                sent += LANES;
            } else { // a part of 16 numbers, whose others are somebody else's
                target[sent] = box[sent];
                sent++;
            }
    }

    Buffer memory;
    D *box = nullptr, *target = nullptr; // where its first number goes
    const D* latest = nullptr;
    int64_t filled = 0, sealed = 0, sent = 0; // so many numbers of the box are
};

} // namespace
