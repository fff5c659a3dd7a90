// What an evaluation asks of rows of scores and their labels, in one pass: `forward` in f64 on a few rows at a time,
// which are widened into scratch that stays in cache, and while they are there how the label's score compares with the
// others, and a hash of the row.
#pragma once

#include "buffer.h"
#include "rows.h"

#include <type_traits>

namespace {

constexpr int64_t WIDE_ELEMENTS = 1 << 12; // 32 KB, or 16 rows if those are more

// How many of n numbers are above `one`, or equal to it too. NaN is neither.
template <bool or_equal> int64_t count_above(const double* x, int64_t n, double one) {
    const Pack<double> bound = broadcast(one);
    Pack<int64_t> count = broadcast(int64_t(0));
    const auto add = [&](Pack<double> v) __attribute__((always_inline)) {
        count = count - (or_equal ? (v > bound) | (v == bound) : v > bound);
    };
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES) add(load(x + j));
    if (j < n) add(load_part(x + j, int(n - j), __builtin_nan("")));
    return sum_of(count);
}

template <class D> void widen(double* to, const D* from, int64_t count) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store(to + i, to_f64(load_data(from + i)));
    for (; i < count; i++) to[i] = to_compute(from[i]);
}

// splitmix64 (Steele et al. 2014), as in hashing.py.
inline uint64_t mixed(uint64_t h) {
    h *= 0x9E3779B97F4A7C15u;
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9u;
    h = (h ^ (h >> 27)) * 0x94D049BB133111EBu;
    return h ^ (h >> 31);
}

template <int N> uint64_t hash_of(const double (&numbers)[N]) {
    uint64_t h = 0, bits;
    for (double number : numbers) {
        memcpy(&bits, &number, sizeof(bits));
        h = mixed(h ^ bits);
    }
    return h;
}

// Of f64 rows whose other numbers are there: lead, rank, peak and hash. The first row whose label is no class, or -1.
inline int64_t place_labels(const RowProblem& p, int64_t begin, int64_t end) {
    const double* const entropy = static_cast<const double*>(p.entropy);
    for (int64_t r = begin; r < end; r++) {
        const double* x = static_cast<const double*>(p.x) + r * p.classes;
        const int64_t label = p.label[r];
        if (label < 0 || label >= p.classes) return r;
        const int64_t top = p.largest[r];
        const bool first = label == top || top < 0;
        p.peak[r] = top < 0 ? x[0] : x[top];
        p.lead[r] = first ? 0.0 : p.peak[r] - x[label]; // not inf - inf
        p.rank[r] =
            first ? 0
                  : count_above<true>(x, label, x[label]) + count_above<false>(x + label, p.classes - label, x[label]);
        p.hash[r] = hash_of({double(label), x[0], x[p.classes - 1], p.peak[r], entropy[r]});
    }
    return -1;
}

// `forward` of f64 rows.
template <class D> int64_t numbers(lossless::RowKernel forward, const RowProblem& p, int64_t begin, int64_t end) {
    const int64_t groups = WIDE_ELEMENTS / (p.classes * LANES);
    const int64_t most = p.classes > WIDE_ELEMENTS ? 1 : groups > 1 ? groups * LANES : LANES;
    Buffer buffer;
    double* wide = std::is_same_v<D, double> ? nullptr : buffer.get<double>(most * p.classes);
    if (!std::is_same_v<D, double> && !wide) return NO_MEMORY;
    for (int64_t at = begin; at < end; at += most) {
        RowProblem part = p;
        part.dtype = lossless::DType::f64;
        part.outer = part.chunk = end - at < most ? end - at : most;
        part.x = static_cast<const D*>(p.x) + at * p.classes;
        if (wide) {
            widen(wide, static_cast<const D*>(part.x), part.outer * p.classes);
            part.x = wide;
        }
        part.nll = static_cast<double*>(p.nll) + at;
        part.lse = static_cast<double*>(p.lse) + at;
        part.entropy = static_cast<double*>(p.entropy) + at;
        part.squares += at;
        part.largest += at;
        part.label += at;
        part.lead += at;
        part.rank += at;
        part.peak += at;
        part.hash += at;
        if (forward(part, 0, part.outer) == NO_MEMORY) return NO_MEMORY;
        if (const int64_t bad = place_labels(part, 0, part.outer); bad >= 0) return at + bad;
    }
    return -1;
}

// See Tempered. What underflows has no mass.
inline void temper(const lossless::Tempered& p, int64_t begin, int64_t end) {
    const Pack<double> zero = broadcast(0.0), beta = broadcast(p.beta);
    for (int64_t r = begin; r < end; r++) {
        const double* row = p.d + r * p.classes;
        Pack<double> total = zero, first = zero, second = zero;
        const auto add = [&](Pack<double> d) __attribute__((always_inline)) {
            const Pack<double> w = exponential_or_zero(beta * d, 0), moment = select(w == zero, zero, w * d);
            total = total + w;
            first = first + moment;
            second = second + select(w == zero, zero, moment * d);
        };
        int64_t j = 0;
        for (; j + LANES <= p.classes; j += LANES) add(load(row + j));
        if (j < p.classes) add(load_part(row + j, int(p.classes - j), -INF));
        p.total[r] = sum_of(total);
        p.mean[r] = sum_of(first) / p.total[r];
        p.square[r] = sum_of(second) / p.total[r];
    }
}

} // namespace
