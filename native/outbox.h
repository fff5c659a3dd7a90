// Results on their way past the caches. A store brings the line that it writes to into a cache first, unless it passes
// the caches by; such stores wait for the memory, though, and the results of a group of rows come all at once. They are
// left in a box, and sent while the next group is computed.
//
// A core takes a read for one of a number that it is still writing where the last 12 bits of their addresses say so and
// the one covers the other in part, and waits: for memory, if the number is on its way there. So what is sent lies
// apart, by those bits, from what is read meanwhile.
#pragma once

#include "buffer.h"
#include "views.h"

namespace {

constexpr uintptr_t ALIKE = 4096; // addresses that are as far apart, or a multiple of it, look alike

// Whether writing goes on so far from reading, in bytes, that no read meets what was written just before.
LOSSLESS_INLINE bool is_apart(uintptr_t write, uintptr_t read) {
    const uintptr_t ahead = (write - read) % ALIKE;
    return ahead >= ALIKE / 4 && ahead < ALIKE - ALIKE / 8;
}
constexpr uintptr_t SHIFTS[] = {0, ALIKE / 2, ALIKE / 4, 3 * ALIKE / 4}; // of the one to the other: some will do

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
    void send() const {
        for (int64_t j = 0; j < numbers; j += LANES) stream(to + j, from + j);
    }
};
struct NoParcel {
    constexpr bool send(Block) const { return false; }
};

template <class D> class Outbox {
  public:
    // For up to so many numbers at a time, of results that go to `out` while `x` and `beside`, if it is not null, are
    // read, as far ahead in theirs; false: no memory.
    bool open(int64_t most, const void* out, const void* x, const void* beside) {
        box = memory.template get<D>(most + 2 * LANES);
        of_x = uintptr_t(x) - uintptr_t(out);
        of_beside = beside ? uintptr_t(beside) - uintptr_t(out) : of_x;
        return is_open();
    }
    bool is_open() const { return box; }

    // Where the results are left that go to `to`: as far from a boundary of 16 numbers as there.
    D* place_of(const D* to) const { return box + uintptr_t(to) / sizeof(D) % LANES; }

    // Makes room for so many, which follow those before without a gap. A second stage that writes the same group finds
    // the room made.
    void fill(D* to, int64_t count) {
        if (to == latest) return;
        send_rest();
        const int64_t lead = place_of(to) - box;
        for (int64_t i = whole(); i < filled; i++) box[i - whole()] = box[i];
        begin = !latest ? lead : whole() ? 0 : begin; // before it are numbers of somebody else
        latest = to;
        target = reinterpret_cast<D*>(uintptr_t(to) - uintptr_t(lead) * sizeof(D));
        filled = lead + count;
    }
    // They will not change any more, once the next group begins.
    void seal() {
        if (!is_open()) return;
        const uintptr_t reads = uintptr_t(target + filled);
        int64_t first = begin;
        for (uintptr_t shift : SHIFTS) {
            const uintptr_t writes = uintptr_t(target) + shift;
            if (!is_apart(writes, reads + of_x) || !is_apart(writes, reads + of_beside)) continue;
            first = int64_t(shift / sizeof(D));
            break;
        }
        if (first < begin || first > whole()) first = begin;
        now = {first, whole()};
        later = {begin, first};
    }

    // The next results to be sent, for who goes over so many numbers.
    Parcel<D> next(int64_t count) {
        if (now.from >= now.to) now = take(later);
        send_odd(now);
        const int64_t most = (count + LANES - 1) / LANES * LANES, left = now.to - now.from;
        return part(now, most < left ? most : left);
    }

    void close() {
        send_rest();
        Span last = {whole() > begin ? whole() : begin, filled};
        send_odd(last);
        end_stream();
    }

  private:
    struct Span {
        int64_t from = 0, to = 0; // numbers of the box; to a boundary of 16
    };
    static Span take(Span& span) {
        const Span taken = span;
        span = {};
        return taken;
    }
    int64_t whole() const { return filled / LANES * LANES; } // as far as sixteens go
    // The first so many numbers of a span, taken off it.
    Parcel<D> part(Span& span, int64_t count) {
        if (count < LANES) return {};
        const int64_t from = span.from;
        span.from += count;
        return {target + from, box + from, count};
    }
    // A part of 16 numbers, whose others are somebody else's.
    void send_odd(Span& span) {
        for (; span.from < span.to && (span.from % LANES || span.to - span.from < LANES); span.from++)
            target[span.from] = box[span.from];
    }
    void send_rest() {
        const Span left[] = {take(now), take(later)};
        for (Span span : left) {
            send_odd(span);
            part(span, span.to - span.from).send();
        }
    }

    Buffer memory;
    D *box = nullptr, *target = nullptr; // where its first number goes
    const D* latest = nullptr;
    uintptr_t of_x = 0, of_beside = 0; // how far from the results lie what is read
    int64_t begin = 0, filled = 0;     // the numbers of the box
    Span now, later;                   // those still to be sent
};

// Results that go on one after another, kept back where they would be taken for what is read next.
template <class D> class Delay {
  public:
    // Of results at `to` and after it, while `x` and `beside`, if it is not null, are read.
    Delay(const D* to, const void* x, const void* beside, bool past_caches) : first(to), past_caches(past_caches) {
        const auto is_clear = [&](const void* read) {
            const uintptr_t write = uintptr_t(to) - lag;
            return !read || (write - uintptr_t(read)) % (LANES * sizeof(D)) == 0 || is_apart(write, uintptr_t(read));
        };
        for (uintptr_t shift : SHIFTS) {
            lag = shift;
            if (is_clear(x) && is_clear(beside)) return;
        }
        lag = 0;
    }
    // Whether it can, and is of use.
    bool serves() const { return first && begins_sixteen(first) && (past_caches || lag); }
    LOSSLESS_INLINE_MEMBER void put(D* to, Pack<Compute<D>> value) {
        if (!lag) return past_caches ? stream_data(to, value) : store_data(to, value);
        store_data(slot(to), value);
        if (uintptr_t(to) - uintptr_t(first) >= lag) send(to - int64_t(lag / sizeof(D)));
    }
    // Those that are kept, up to `end`.
    void close(D* end) {
        const uintptr_t kept = uintptr_t(end) - uintptr_t(first);
        for (D* at = end - int64_t((kept < lag ? kept : lag) / sizeof(D)); at < end; at += LANES) send(at);
        if (past_caches) end_stream();
    }

  private:
    LOSSLESS_INLINE_MEMBER D* slot(D* to) { return reinterpret_cast<D*>(ring + (uintptr_t(to) - lag) % ALIKE); }
    LOSSLESS_INLINE_MEMBER void send(D* to) {
        past_caches ? stream(to, slot(to)) : void(memcpy(to, slot(to), LANES * sizeof(D)));
    }
    alignas(ALIKE) char ring[ALIKE]; // a slot looks like where the number goes that makes room for it
    const D* const first;
    const bool past_caches;
    uintptr_t lag = 0; // bytes
};

} // namespace
