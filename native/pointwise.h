// Losses of one number and its target: a functor a loss (value and slope), one driver.
#pragma once

#include "kernels.h"
#include "views.h"

namespace {

using lossless::Pointwise;
using lossless::PointwiseProblem;

// L = A softplus(-x) + B softplus(x), A = w w_pos t, B = w (1 - t), with softplus(+-x) = max(+-x, 0) + log1p(e^-|x|):
// terms of one sign for t in [0, 1]. The exponentials carry a factor 2^64 until the end, so that a weight meets them
// before they get too small to be exact. A term whose weight is 0 is 0, whatever x.
template <class T> struct BinaryCrossEntropy {
    using Term = T;
    static constexpr T HEADROOM = T(0x1p64);
    Pack<T> positive, negative; // A, B
    LOSSLESS_INLINE_MEMBER BinaryCrossEntropy(Pack<T> t, Pack<T> weight, Pack<T> pos_weight)
        : positive(weight * pos_weight * t), negative(weight * (broadcast(T(1)) - t)) {}

    static LOSSLESS_INLINE_MEMBER Pack<T> tail(Pack<T> x) { // 2^64 e^-|x|
        const auto e = exponential(max(broadcast(T(-65536)), broadcast(T(0)) - abs(x)));
        const Pack<T> scale = power_of_two(e.exponent + broadcast(T(64)));
        return fma(scale, e.fraction, scale);
    }
    static LOSSLESS_INLINE_MEMBER Pack<T> times(Pack<T> weight, Pack<T> value) {
        const Pack<T> zero = broadcast(T(0));
        return select(weight == zero, zero, weight * value);
    }
    LOSSLESS_INLINE_MEMBER Pack<T> value(Pack<T> x) const {
        const Pack<T> zero = broadcast(T(0)), e = tail(x), down = broadcast(T(1) / HEADROOM),
                      weight = positive + negative;
        const Pack<T> l =
            select(e < broadcast(T(16)), weight * e * down, weight * log1p(e * down)); // log1p(e) = e below 2^-60
        return times(negative, max(zero, x)) + times(positive, max(zero, zero - x)) + l;
    }
    // B sigmoid(x) - A sigmoid(-x)
    LOSSLESS_INLINE_MEMBER Pack<T> slope(Pack<T> x, Pack<T> factor) const {
        const Pack<T> zero = broadcast(T(0)), one = broadcast(T(1)), down = broadcast(T(1) / HEADROOM);
        const Pack<T> e = tail(x), whole = one + e * down;
        const auto right = x > zero, tiny = e < broadcast(T(16));
        const Pack<T> most = select(right, negative, zero - positive) * factor,
                      least = select(right, zero - positive, negative) * factor;
        return most / whole + least * (select(tiny, e, e * down) / whole) * select(tiny, down, one);
    }
};

// w (x - t)^2, in f64; 0 where the weight is 0, whatever the difference.
template <class T> struct SquaredError {
    using Term = double;
    Pack<double> target, weight;
    LOSSLESS_INLINE_MEMBER SquaredError(Pack<T> t, Pack<T> w, Pack<T>) : target(to_f64(t)), weight(to_f64(w)) {}
    LOSSLESS_INLINE_MEMBER Pack<double> value(Pack<T> x) const {
        const Pack<double> zero = broadcast(0.0), d = to_f64(x) - target;
        return select((weight == zero) & (abs(d) == broadcast(INF)), zero, weight * (d * d));
    }
    LOSSLESS_INLINE_MEMBER Pack<double> slope(Pack<T> x, Pack<double> factor) const {
        const Pack<double> zero = broadcast(0.0), d = to_f64(x) - target;
        return select((weight == zero) & (abs(d) == broadcast(INF)), zero, weight * (broadcast(2.0) * d) * factor);
    }
};

// Calls f(first, count) for each 16 numbers of [begin, end).
template <class F> LOSSLESS_INLINE void each_pack(int64_t begin, int64_t end, F&& f) {
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
    each_pack(begin, end, [&](int64_t i, int n) __attribute__((always_inline)) {
        const Loss<T> loss(load_some<D>(p.target, i, n, 0), load_some<D>(p.weight, i, n, 1),
                           load_some<D>(p.pos_weight, i, n, 1));
        Pack<Term> value = loss.value(load_some<D>(p.x, i, n, 0));
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
    const Pack<Term> common = broadcast(Term((p.g.per_row ? 1.0 : upstream(0)) / p.divisor));
    each_pack(begin, end, [&](int64_t i, int n) __attribute__((always_inline)) {
        const Loss<T> loss(load_some<D>(p.target, i, n, 0), load_some<D>(p.weight, i, n, 1),
                           load_some<D>(p.pos_weight, i, n, 1));
        Pack<Term> factor = common;
        if (p.g.per_row) {
            Column g = {};
            for (int k = 0; k < n; k++) g[k] = upstream(i + k);
            factor = factor * narrow<Term>(load(g));
        }
        store_some<D>(p.dx, i, n, narrow<T>(loss.slope(load_some<D>(p.x, i, n, 0), factor)));
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
