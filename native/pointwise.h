// Losses of one number and its target: a functor a loss (value and slope), one driver.
#pragma once

#include "kernels.h"
#include "links.h"
#include "views.h"

namespace {

using lossless::Pointwise;
using lossless::PointwiseProblem;

// The logarithm and the reciprocal that sigmoids need, of z = e^-|x| and 1 + z.
LOSSLESS_INLINE Pack<float> log1p_of(Pack<float> z) { return log1p_of_fraction(z); }
LOSSLESS_INLINE Pack<double> log1p_of(Pack<double> z) { return log1p(z); }
LOSSLESS_INLINE Pack<float> reciprocal_of(Pack<float> u) { return reciprocal_to_two(u); }
LOSSLESS_INLINE Pack<double> reciprocal_of(Pack<double> u) { return broadcast(1.0) / u; }

// share * cost, 0 where there is no share, whatever the cost.
template <class T> LOSSLESS_INLINE Pack<T> times(Pack<T> share, Pack<T> cost) {
    const Pack<T> zero = broadcast(T(0));
    return select(share == zero, zero, share * cost);
}

// L = A softplus(-x) + B softplus(x), A = w w_pos t, B = w (1 - t), with softplus(+-x) = max(+-x, 0) + log1p(e^-|x|):
// terms of one sign for t in [0, 1]. The exponentials carry a factor 2^64 until the end, so that a weight meets them
// before they get too small to be exact. A term whose weight is 0 is 0, whatever x.
template <class T> struct BinaryCrossEntropy {
    using Term = T;
    static constexpr T HEADROOM = T(0x1p64);
    Pack<T> positive, negative; // A, B
    LOSSLESS_INLINE_MEMBER BinaryCrossEntropy(const PointwiseProblem&, Pack<T> t, Pack<T> weight, Pack<T> pos_weight)
        : positive(weight * pos_weight * t), negative(weight * (broadcast(T(1)) - t)) {}

    static LOSSLESS_INLINE_MEMBER Pack<T> tail(Pack<T> x) { // 2^64 e^-|x|
        const auto e = exponential(max(broadcast(T(-65536)), broadcast(T(0)) - abs(x)));
        const Pack<T> scale = power_of_two(e.exponent + broadcast(T(64)));
        return fma(scale, e.fraction, scale);
    }
    LOSSLESS_INLINE_MEMBER Pack<T> value(Pack<T> x) const {
        const Pack<T> zero = broadcast(T(0)), e = tail(x), down = broadcast(T(1) / HEADROOM),
                      weight = positive + negative;
        const Pack<T> l =
            select(e < broadcast(T(16)), weight * e * down, weight * log1p_of(e * down)); // log1p(e) = e below 2^-60
        return times(negative, max(zero, x)) + times(positive, max(zero, zero - x)) + l;
    }
    // B sigmoid(x) - A sigmoid(-x)
    LOSSLESS_INLINE_MEMBER Pack<T> slope(Pack<T> x, Pack<T> factor) const {
        const Pack<T> zero = broadcast(T(0)), one = broadcast(T(1)), down = broadcast(T(1) / HEADROOM);
        const Pack<T> e = tail(x), inverse = reciprocal_of(one + e * down);
        const auto right = x > zero, tiny = e < broadcast(T(16));
        const Pack<T> most = select(right, negative, zero - positive) * factor,
                      least = select(right, zero - positive, negative) * factor;
        return most * inverse + least * (select(tiny, e, e * down) * inverse) * select(tiny, down, one);
    }
};

// alpha_t q^gamma ce, q = t sigmoid(-x) + (1 - t) sigmoid(x) the probability of being wrong, ce the binary
// cross-entropy, alpha_t = alpha t + (1 - alpha) (1 - t), or 1 if alpha < 0. Powers double errors: of floats in f64.
template <class T> struct SigmoidFocal {
    using Term = double;
    Pack<double> yes, no, balance;
    double gamma;
    LOSSLESS_INLINE_MEMBER SigmoidFocal(const PointwiseProblem& p, Pack<T> t, Pack<T>, Pack<T>)
        : yes(to_f64(t)), no(broadcast(1.0) - yes), gamma(p.gamma) {
        balance = p.alpha < 0 ? broadcast(1.0) : broadcast(p.alpha) * yes + broadcast(1.0 - p.alpha) * no;
    }

    struct Parts {
        Mask<double> right;
        Pack<double> e, inverse, q, power, cost; // e^-|x|, 1 / (1 + e), q, q^gamma, ce
    };
    LOSSLESS_INLINE_MEMBER Parts parts(Pack<double> x) const {
        const Pack<double> zero = broadcast(0.0), one = broadcast(1.0);
        Parts s;
        s.right = ~(x < zero);
        const auto exp = exponential(max(broadcast(-65536.0), zero - abs(x)), ForFloat<double>::exp_coefficients);
        const Pack<double> scale = power_of_two(exp.exponent), far = select(s.right, yes, no);
        s.e = fma(scale, exp.fraction, scale);
        s.inverse = reciprocal_to_two(one + s.e);
        s.q = fma(far, s.e, select(s.right, no, yes)) * s.inverse;
        s.power = ::power(s.q, gamma);
        const Pack<double> tail = log1p_of_fraction(s.e), size = abs(x);
        s.cost = times(far, tail) + times(select(s.right, no, yes), size + tail);
        return s;
    }
    LOSSLESS_INLINE_MEMBER Pack<double> value(Pack<T> x) const {
        const Parts s = parts(to_f64(x));
        return select(s.e == s.e, times(balance * s.power, s.cost), s.e); // a NaN is not hidden by a balance of 0
    }
    // alpha_t (gamma q^(gamma - 1) (1 - 2 t) e / (1 + e)^2 ce + q^gamma ((1 - t) sigmoid(x) - t sigmoid(-x)))
    LOSSLESS_INLINE_MEMBER Pack<double> slope(Pack<T> x, Pack<double> factor) const {
        const Parts s = parts(to_f64(x));
        const Pack<double> zero = broadcast(0.0), one = broadcast(1.0);
        Pack<double> slope = s.power * ((select(s.right, no, no * s.e) - select(s.right, yes * s.e, yes)) * s.inverse);
        if (gamma != 0) {
            const Pack<double> less = gamma == 1 ? one : gamma == 2 ? s.q : s.power / s.q;
            const Pack<double> growth = less * (no - yes) * (s.e * s.inverse * s.inverse) * s.cost;
            slope = fma(broadcast(gamma), select(s.e == zero, zero, growth), slope);
        }
        return balance * slope * factor;
    }
};

// w (x - t)^2, in f64; 0 where the weight is 0, whatever the difference.
template <class T> struct SquaredError {
    using Term = double;
    Pack<double> target, weight;
    LOSSLESS_INLINE_MEMBER SquaredError(const PointwiseProblem&, Pack<T> t, Pack<T> w, Pack<T>)
        : target(to_f64(t)), weight(to_f64(w)) {}
    LOSSLESS_INLINE_MEMBER Pack<double> value(Pack<T> x) const {
        const Pack<double> d = to_f64(x) - target;
        return times_finite(d, weight * (d * d));
    }
    LOSSLESS_INLINE_MEMBER Pack<double> slope(Pack<T> x, Pack<double> factor) const {
        const Pack<double> d = to_f64(x) - target;
        return times_finite(d, weight * (broadcast(2.0) * d) * factor);
    }

  private:
    LOSSLESS_INLINE_MEMBER Pack<double> times_finite(Pack<double> d, Pack<double> product) const {
        const Pack<double> zero = broadcast(0.0);
        return select((weight == zero) & (abs(d) == broadcast(INF)), zero, product);
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

// Values with their sum, slopes, or both in one pass, where they share their parts.
template <class D, template <class> class Loss, bool weighted, bool values, bool slopes>
void each_point(const PointwiseProblem& p, int64_t chunk, int64_t begin, int64_t end) {
    using T = Compute<D>;
    using Term = typename Loss<T>::Term;
    Sum<T> sum(broadcast(T(0)));
    Pack<Term> common = broadcast(Term(1));
    if (slopes) common = broadcast(Term((p.g.per_row ? 1.0 : number<D>(p.g, 0)) / p.divisor));
    each_pack(begin, end, [&](int64_t i, int n) __attribute__((always_inline)) {
        const Pack<T> weight = weighted ? load_some<D>(p.weight, i, n, 1) : broadcast(T(1));
        const Pack<T> pos_weight = weighted ? load_some<D>(p.pos_weight, i, n, 1) : broadcast(T(1));
        const Loss<T> loss(p, load_some<D>(p.target, i, n, 0), weight, pos_weight);
        const Pack<T> x = load_some<D>(p.x, i, n, 0);
        if constexpr (values) {
            Pack<Term> value = loss.value(x);
            if (p.value) store_some<D>(p.value, i, n, narrow<T>(value));
            if (n < LANES) value = select(iota<Bits<Term>>() < broadcast(Bits<Term>(n)), value, broadcast(Term(0)));
            sum.add(value);
        }
        if constexpr (slopes) {
            Pack<Term> factor = common;
            if (!values && p.g.per_row) {
                Column g = {};
                for (int k = 0; k < n; k++) g[k] = number<D>(p.g, i + k);
                factor = factor * narrow<Term>(load(g));
            }
            store_some<D>(p.dx, i, n, narrow<T>(loss.slope(x, factor)));
        }
    });
    if (values) p.sums[chunk] = sum_lanes(sum);
}

template <class D, template <class> class Loss>
void points(const PointwiseProblem& p, int64_t chunk, int64_t begin, int64_t end) {
    const bool values = p.sums, slopes = p.dx;
    if (p.weight || p.pos_weight) {
        if (values) each_point<D, Loss, true, true, false>(p, chunk, begin, end);
        if (slopes) each_point<D, Loss, true, false, true>(p, chunk, begin, end);
    } else if (values && slopes) {
        each_point<D, Loss, false, true, true>(p, chunk, begin, end);
    } else {
        (values ? each_point<D, Loss, false, true, false> : each_point<D, Loss, false, false, true>)(p, chunk, begin,
                                                                                                     end);
    }
}

template <class D> void pointwise(const PointwiseProblem& p, int64_t chunk, int64_t begin, int64_t end) {
    switch (p.kind) {
    case Pointwise::bce_with_logits: return points<D, BinaryCrossEntropy>(p, chunk, begin, end);
    case Pointwise::squared_error: return points<D, SquaredError>(p, chunk, begin, end);
    case Pointwise::sigmoid_focal:
        if constexpr (sizeof(Compute<D>) == 4) return points<D, SigmoidFocal>(p, chunk, begin, end);
    }
}

} // namespace
