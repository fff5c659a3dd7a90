// Losses of one number and its target: a functor a loss (value and slope), one driver.
#pragma once

#include "kernels.h"
#include "views.h"

namespace {

using lossless::Pointwise;
using lossless::PointwiseProblem;

// L = w_pos t softplus(-x) + (1 - t) softplus(x), with softplus(+-x) = max(+-x, 0) + log1p(e^-|x|): terms of one sign
// for t in [0, 1]. A term whose weight is 0 is 0, whatever x.
template <class T> struct BinaryCrossEntropy {
    using Term = T;
    static LOSSLESS_INLINE_MEMBER Pack<T> tail(Pack<T> x) { // e^-|x|, gradually to 0
        const auto e = exponential(max(broadcast(T(-65536)), broadcast(T(0)) - abs(x)));
        return e.mantissa * power_of_two(e.exponent + broadcast(T(64))) * broadcast(T(0x1p-64));
    }
    static LOSSLESS_INLINE_MEMBER Pack<T> times(Pack<T> weight, Pack<T> value) {
        const Pack<T> zero = broadcast(T(0));
        return select(weight == zero, zero, weight * value);
    }
    static LOSSLESS_INLINE_MEMBER Pack<T> value(Pack<T> x, Pack<T> t, Pack<T> pos_weight) {
        const Pack<T> zero = broadcast(T(0)), l = log1p(tail(x));
        const Pack<T> up = max(zero, x) + l, down = max(zero, zero - x) + l;
        return times(pos_weight * t, down) + times(broadcast(T(1)) - t, up);
    }
    // (1 - t) sigmoid(x) - w_pos t sigmoid(-x)
    static LOSSLESS_INLINE_MEMBER Pack<T> slope(Pack<T> x, Pack<T> t, Pack<T> pos_weight) {
        const Pack<T> one = broadcast(T(1)), e = tail(x), large = one / (one + e), small = e / (one + e);
        const auto positive = x > broadcast(T(0));
        return (one - t) * select(positive, large, small) - pos_weight * t * select(positive, small, large);
    }
};

// (x - t)^2, in f64: the difference and its square are exact for f32 data.
template <class T> struct SquaredError {
    using Term = double;
    static LOSSLESS_INLINE_MEMBER Pack<double> value(Pack<T> x, Pack<T> t, Pack<T>) {
        const Pack<double> d = to_f64(x) - to_f64(t);
        return d * d;
    }
    static LOSSLESS_INLINE_MEMBER Pack<double> slope(Pack<T> x, Pack<T> t, Pack<T>) {
        return broadcast(2.0) * (to_f64(x) - to_f64(t));
    }
};

template <class Term, class T> LOSSLESS_INLINE Pack<Term> widen(Pack<T> a) {
    if constexpr (sizeof(Term) == sizeof(T))
        return a;
    else
        return to_f64(a);
}

// Calls f(i, load, store) for each 16 numbers of [begin, end).
template <class D, class F> LOSSLESS_INLINE void each_pack(int64_t begin, int64_t end, F&& f) {
    for (int64_t i = begin; i < end; i += LANES) f(i, end - i < LANES ? int(end - i) : LANES);
}
template <class D> LOSSLESS_INLINE Pack<Compute<D>> load_some(const void* from, int64_t i, int n, Compute<D> fill) {
    if (!from) return broadcast(fill);
    const D* source = static_cast<const D*>(from) + i;
    return n == LANES ? load_data(source) : load_part(source, n, fill);
}
template <class D> LOSSLESS_INLINE void store_some(void* to, int64_t i, int n, Pack<Compute<D>> value) {
    D* target = static_cast<D*>(to) + i;
    n == LANES ? store_data(target, value) : store_part(target, n, value);
}

template <class D, template <class> class Loss>
void pointwise_values(const PointwiseProblem& p, int64_t chunk, int64_t begin, int64_t end) {
    using T = Compute<D>;
    using Term = typename Loss<T>::Term;
    Sum<Term> sum;
    each_pack<D>(begin, end, [&](int64_t i, int n) __attribute__((always_inline)) {
        const Pack<T> x = load_some<D>(p.x, i, n, 0), t = load_some<D>(p.target, i, n, 0);
        Pack<Term> value = Loss<T>::value(x, t, load_some<D>(p.pos_weight, i, n, 1));
        if (p.weight) value = value * widen<Term>(load_some<D>(p.weight, i, n, 0));
        if (p.value) store_some<D>(p.value, i, n, narrow<T>(value));
        if (n < LANES) value = select(iota<Bits<Term>>() < broadcast(Bits<Term>(n)), value, broadcast(Term(0)));
        sum.add(value);
    });
    p.sums[chunk] = sum_lanes(sum);
}

template <class D, template <class> class Loss>
void pointwise_slopes(const PointwiseProblem& p, int64_t begin, int64_t end) {
    using T = Compute<D>;
    using Term = typename Loss<T>::Term;
    const auto upstream = [&](int64_t i) {
        return p.g.is_f64 ? static_cast<const double*>(p.g.values)[i]
                          : double(to_compute(static_cast<const D*>(p.g.values)[i]));
    };
    const Pack<Term> common = broadcast(Term(p.g.per_row ? p.scale : upstream(0) * p.scale));
    each_pack<D>(begin, end, [&](int64_t i, int n) __attribute__((always_inline)) {
        const Pack<T> x = load_some<D>(p.x, i, n, 0), t = load_some<D>(p.target, i, n, 0);
        Pack<Term> factor = common;
        if (p.weight) factor = factor * widen<Term>(load_some<D>(p.weight, i, n, 0));
        if (p.g.per_row) {
            Column g = {};
            for (int k = 0; k < n; k++) g[k] = upstream(i + k);
            factor = factor * narrow<Term>(load(g));
        }
        store_some<D>(p.dx, i, n, narrow<T>(factor * Loss<T>::slope(x, t, load_some<D>(p.pos_weight, i, n, 1))));
    });
}

template <class D> void pointwise(const PointwiseProblem& p, int64_t chunk, int64_t begin, int64_t end) {
    if (p.kind == Pointwise::bce_with_logits)
        pointwise_values<D, BinaryCrossEntropy>(p, chunk, begin, end);
    else
        pointwise_values<D, SquaredError>(p, chunk, begin, end);
}

template <class D> void pointwise_backward(const PointwiseProblem& p, int64_t, int64_t begin, int64_t end) {
    if (p.kind == Pointwise::bce_with_logits)
        pointwise_slopes<D, BinaryCrossEntropy>(p, begin, end);
    else
        pointwise_slopes<D, SquaredError>(p, begin, end);
}

} // namespace
