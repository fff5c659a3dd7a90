// Losses of one number and its target: a functor a loss (value and slope), one driver.
#pragma once

#include "kernels.h"
#include "links.h"
#include "outbox.h"
#include "views.h"

#include <type_traits>

namespace {

using lossless::Pointwise;
using lossless::PointwiseProblem;
using lossless::Upstream;

// A value and a slope, in the type in which values are added up. The functors are inlined: what is not asked for is not
// computed.
template <class Term> struct Point {
    Pack<Term> value, slope;
};

// Losses of a sigmoid are made of z = e^-|x|, log(1 + z) and 1 / (1 + z). From this |x| on, in any dtype, the logarithm
// is z and the quotient 1; and only there is x infinite, z denormal or, since NaN counts as far, either not a number.
constexpr double FAR = 41.0;
template <class T> LOSSLESS_INLINE Mask<T> is_far(Pack<T> size) { return ~(size < broadcast(T(FAR))); }

template <class T> struct SigmoidParts {
    const Pack<T> size, z; // |x|; z only where it is not far
    const Mask<T> right, far;
    explicit LOSSLESS_INLINE_MEMBER SigmoidParts(Pack<T> x)
        : size(abs(x)), z(exponential(broadcast(T(0)) - size)), right(x > broadcast(T(0))), far(is_far(size)) {}
};

// log(1 + z), z in [0, 1].
LOSSLESS_INLINE Pack<float> log1p_of(Pack<float> z) { return log1p_for_float(z); }
LOSSLESS_INLINE Pack<double> log1p_of(Pack<double> z) { return log1p(z); }

// z where |x| is far, times 2^64: a factor meets it before it gets too small to be exact, and a large one only after
// that is undone.
template <class T> struct Far {
    Pack<T> lifted;
    explicit LOSSLESS_INLINE_MEMBER Far(Pack<T> size) { lifted = exponential_or_zero(broadcast(T(0)) - size, 64); }
    LOSSLESS_INLINE_MEMBER Pack<T> times(Pack<T> factor) const {
        const Pack<T> one = broadcast(T(1)), down = broadcast(T(0x1p-64));
        const auto large = abs(factor) > one;
        return select(large, factor * down, factor) * lifted * select(large, one, down);
    }
};

// a, or 0 where b is 0, whatever a.
template <class T> LOSSLESS_INLINE Pack<T> if_any(Pack<T> b, Pack<T> a) {
    const Pack<T> zero = broadcast(T(0));
    return select(b == zero, zero, a);
}

// L = A softplus(-x) + B softplus(x), A = w w_pos t, B = w (1 - t), with softplus(+-x) = max(+-x, 0) + log1p(e^-|x|):
// terms of one sign for t in [0, 1]. A term whose weight is 0 is 0, whatever x. dL = B sigmoid(x) - A sigmoid(-x).
template <class T> struct BinaryCrossEntropy {
    using Term = T;
    Pack<T> positive, negative; // A, B
    LOSSLESS_INLINE_MEMBER BinaryCrossEntropy(const PointwiseProblem&, Pack<T> t, Pack<T> weight, Pack<T> pos_weight)
        : positive(weight * pos_weight * t), negative(weight * (broadcast(T(1)) - t)) {}

    LOSSLESS_INLINE_MEMBER Point<T> operator()(Pack<T> x, Pack<T> factor) const {
        const Pack<T> zero = broadcast(T(0)), one = broadcast(T(1)), weight = positive + negative;
        const auto [size, z, right, far] = SigmoidParts<T>(x);
        const Pack<T> large = select(right, negative, positive);
        const Pack<T> of_one = select(right, negative, zero - positive) * factor,
                      of_z = select(right, zero - positive, negative) * factor;
        Point<T> at = {fma(large, size, weight * log1p_of(z)), fma(of_z, z, of_one) / (one + z)};
        if (any(far)) {
            const Far<T> tail(size);
            at.value = select(far, if_any(large, large * size) + tail.times(weight), at.value);
            at.slope = select(far, of_one + tail.times(of_z), at.slope);
        }
        return at;
    }
};

// alpha_t q^gamma ce, q = t sigmoid(-x) + (1 - t) sigmoid(x) the probability of being wrong, ce the binary
// cross-entropy, alpha_t = alpha t + (1 - alpha) (1 - t), or 1 if alpha < 0. Powers double errors: of floats in f64.
template <class T> struct SigmoidFocal {
    using Term = double;
    Pack<double> yes, balance;
    const double gamma;
    LOSSLESS_INLINE_MEMBER SigmoidFocal(const PointwiseProblem& p, Pack<double> t, Pack<double>, Pack<double>)
        : yes(t), gamma(p.gamma) {
        balance = p.alpha < 0 ? broadcast(1.0) : fma(broadcast(2.0 * p.alpha - 1.0), yes, broadcast(1.0 - p.alpha));
    }

    LOSSLESS_INLINE_MEMBER Point<double> operator()(Pack<double> x, Pack<double> factor) const {
        const Pack<double> size = abs(x), zero = broadcast(0.0), one = broadcast(1.0);
        const Side side(*this, x > zero);
        const Pack<double> z = exponential(zero - size, place_of(zero), ForFloat::exp_coefficients);
        Point<double> at = side.point(size, z, log1p_for_float(z), one / (one + z), factor);
        if (const Mask<double> far = is_far(size); any(far)) {
            const Pack<double> tail = exponential(max(broadcast(-700.0), zero - size));
            // 0 inf is 0 where nothing of the distance counts, and z |x|, which tends to 0, is not inf in a slope
            const Pack<double> counted = if_any(balance, if_any(side.large, size)), most = broadcast(0x1p200);
            at.value = select(far, side.point(counted, tail, tail, one, factor).value, at.value);
            at.slope =
                select(far, side.point(select(counted < most, counted, most), tail, tail, one, factor).slope, at.slope);
        }
        return at;
    }

  private:
    // The formulas for both signs of x as one: q = (large + small z) / (1 + z).
    struct Side {
        Mask<double> right;
        Pack<double> small, large, balance;
        double gamma;
        LOSSLESS_INLINE_MEMBER Side(const SigmoidFocal& loss, Mask<double> right)
            : right(right), small(select(right, loss.yes, broadcast(1.0) - loss.yes)),
              large(select(right, broadcast(1.0) - loss.yes, loss.yes)), balance(loss.balance), gamma(loss.gamma) {}

        // Of |x|, z, log(1 + z), 1 / (1 + z). The slope is, but for a sign, alpha_t times
        //     q^gamma (large - small z) / (1 + z) + gamma q^(gamma - 1) (large - small) z / (1 + z)^2 ce
        LOSSLESS_INLINE_MEMBER Point<double> point(Pack<double> size, Pack<double> z, Pack<double> tail,
                                                   Pack<double> inverse, Pack<double> factor) const {
            const Pack<double> zero = broadcast(0.0), q = fma(small, z, large) * inverse;
            const Pack<double> cost = fma(large, size, tail), power = ::power(q, gamma);
            const Pack<double> growth = broadcast(gamma) * (large - small) * (z * inverse) * cost;
            const Pack<double> less = gamma == 2 ? q : gamma == 1 ? broadcast(1.0) : if_any(q, power / q);
            const Pack<double> slope = fma(q, fma(zero - small, z, large), growth) * less * inverse;
            return {balance * power * cost, balance * slope * select(right, factor, zero - factor)};
        }
    };
};

// sigma(x) = 1 / (1 + e^-x), near 1 from its complement. Its slope is sigma(x) sigma(-x) = z / (1 + z)^2.
template <class T> struct Sigmoid {
    using Term = T;
    LOSSLESS_INLINE_MEMBER Sigmoid(const PointwiseProblem&, Pack<T>, Pack<T>, Pack<T>) {}

    LOSSLESS_INLINE_MEMBER Point<T> operator()(Pack<T> x, Pack<T> factor) const {
        const auto [size, z, right, far] = SigmoidParts<T>(x);
        const Pack<T> one = broadcast(T(1)), two = broadcast(T(2)), small = z / (one + z);
        Point<T> at = {select(right, one - small, small), factor * (z / fma(z, two + z, one))};
        if (any(far)) {
            const Far<T> tail(size);
            at.value = select(far, select(right, one, tail.times(one)), at.value);
            at.slope = select(far, tail.times(factor), at.slope);
        }
        return at;
    }
};

// log sigma(x) = min(x, 0) - log1p(e^-|x|). Its slope is sigma(-x).
template <class T> struct LogSigmoid {
    using Term = T;
    LOSSLESS_INLINE_MEMBER LogSigmoid(const PointwiseProblem&, Pack<T>, Pack<T>, Pack<T>) {}

    LOSSLESS_INLINE_MEMBER Point<T> operator()(Pack<T> x, Pack<T> factor) const {
        const auto [size, z, right, far] = SigmoidParts<T>(x);
        const Pack<T> zero = broadcast(T(0)), one = broadcast(T(1));
        Point<T> at = {select(right, zero, x) - log1p_of(z), factor * (select(right, z, one) / (one + z))};
        if (any(far)) {
            const Far<T> tail(size);
            at.value = select(far, select(right, zero - tail.times(one), x), at.value);
            const Pack<T> slope = select(right, tail.times(factor), factor);
            at.slope = select(far, select(x == x, slope, x), at.slope);
        }
        return at;
    }
};

// t (log t - x), 0 where t = 0, in f64 from floats: there 1 - t has lost nothing.
template <class T> struct KLDivergence {
    using Term = double;
    Pack<double> share;
    LOSSLESS_INLINE_MEMBER KLDivergence(const PointwiseProblem&, Pack<double> t, Pack<double>, Pack<double>)
        : share(t) {}

    LOSSLESS_INLINE_MEMBER Point<double> operator()(Pack<double> at, Pack<double> factor) const {
        const Pack<double> zero = broadcast(0.0), one = broadcast(1.0), nan = broadcast(__builtin_nan(""));
        const Mask<double> below = share < one;
        const Pack<double> log = log1p(select(below, (one - share) / share, share - one)); // of t or of 1 / t
        const Pack<double> gap = select(share < zero, nan, select(below, zero - log, log)) - at;
        return {select((share == zero) & (at == at), zero, share * gap), zero - share * factor};
    }
};

// w (x - t)^2, in f64; 0 where the weight is 0, whatever the difference.
template <class T> struct SquaredError {
    using Term = double;
    Pack<double> target, weight;
    LOSSLESS_INLINE_MEMBER SquaredError(const PointwiseProblem&, Pack<double> t, Pack<double> w, Pack<double>)
        : target(t), weight(w) {}
    LOSSLESS_INLINE_MEMBER Point<double> operator()(Pack<double> x, Pack<double> factor) const {
        const Pack<double> d = x - target;
        return {if_counted(d, weight * (d * d)), if_counted(d, weight * (d + d) * factor)};
    }

  private:
    LOSSLESS_INLINE_MEMBER Pack<double> if_counted(Pack<double> d, Pack<double> a) const {
        const Pack<double> zero = broadcast(0.0);
        return select((weight == zero) & (abs(d) == broadcast(INF)), zero, a);
    }
};

template <class D> LOSSLESS_INLINE Pack<Compute<D>> load_some(const void* from, int64_t i, int n, Compute<D> fill) {
    if (!from) return broadcast(fill);
    const D* source = static_cast<const D*>(from) + i;
    return n == LANES ? load_data(source) : load_part(source, n, fill);
}
// In the type of a loss's terms.
template <class D, class Term>
LOSSLESS_INLINE Pack<Term> load_term(const void* from, int64_t i, int n, Compute<D> fill = 0) {
    if constexpr (std::is_same_v<D, float> && sizeof(Term) == 8)
        if (from && n == LANES) return load_wide(static_cast<const float*>(from) + i);
    const Pack<Compute<D>> some = load_some<D>(from, i, n, fill);
    if constexpr (sizeof(Term) == sizeof(Compute<D>))
        return some;
    else
        return to_f64(some);
}
template <class D> LOSSLESS_INLINE void store_some(void* to, int64_t i, int n, Pack<Compute<D>> value) {
    D* target = static_cast<D*>(to) + i;
    n == LANES ? store_data(target, value) : store_part(target, n, value);
}

template <class D, class Term> LOSSLESS_INLINE Pack<Term> load_upstream(const Upstream& g, int64_t i, int n) {
    return g.is_f64 ? narrow<Term>(load_some<double>(g.values, i, n, 0.0)) : load_term<D, Term>(g.values, i, n);
}

// The 16 numbers that are 2 KB ahead: memory is slower than the arithmetic, and begins no sooner than asked.
template <class D> LOSSLESS_INLINE void fetch_ahead(const void* numbers, int64_t i) {
    fetch<Cache::first>(static_cast<const D*>(numbers), i + int64_t(2048 / sizeof(D)), LANES);
}

// Fewer slopes than that are done before it matters where they lie.
constexpr int64_t LEAST_DELAYED = 8192;

// Values with their sum, slopes, or both in one pass, where they share their parts.
template <class D, template <class> class Loss, bool weighted, bool values, bool slopes>
void each_point(const PointwiseProblem& problem, int64_t chunk, int64_t begin, int64_t end) {
    using T = Compute<D>;
    using Term = typename Loss<T>::Term;
    const PointwiseProblem p = problem; // a copy, which no store of a number can change
    Sum<T> sum(broadcast(T(0)));
    const auto from_begin = [=](const void* numbers) {
        return numbers ? static_cast<const D*>(numbers) + begin : nullptr;
    };
    Delay<D> delay(from_begin(p.dx), from_begin(p.x), from_begin(p.target), p.past_caches);
    const bool delayed = slopes && end - begin >= LEAST_DELAYED && delay.serves();
    Pack<Term> common = broadcast(Term(1));
    if (slopes) common = broadcast(Term((p.g.per_row ? 1.0 : number<D>(p.g, 0)) / p.divisor));
    const auto sixteen = [&](int64_t i, int n) __attribute__((always_inline)) {
        fetch_ahead<D>(p.x, i);
        fetch_ahead<D>(p.target, i);
        if (slopes && !(p.past_caches && delayed)) fetch_ahead<D>(p.dx, i);
        const Pack<Term> one = broadcast(Term(1)), weight = weighted ? load_term<D, Term>(p.weight, i, n, 1) : one;
        const Pack<Term> pos_weight = weighted ? load_term<D, Term>(p.pos_weight, i, n, 1) : one;
        const Loss<T> loss(p, load_term<D, Term>(p.target, i, n), weight, pos_weight);
        Pack<Term> factor = common;
        if (slopes && !values && p.g.per_row) factor = factor * load_upstream<D, Term>(p.g, i, n);
        Point<Term> point = loss(load_term<D, Term>(p.x, i, n), factor);
        if constexpr (values) {
            if (p.value) store_some<D>(p.value, i, n, narrow<T>(point.value));
            if (n < LANES)
                point.value = select(iota<Bits<Term>>() < broadcast(Bits<Term>(n)), point.value, broadcast(Term(0)));
            sum.add(point.value);
        }
        if constexpr (slopes) {
            D* const to = static_cast<D*>(p.dx) + i;
            const Pack<T> slope = narrow<T>(point.slope);
            if (n < LANES)
                store_part(to, n, slope);
            else if (delayed)
                delay.put(to, slope);
            else
                store_data(to, slope);
        }
    };
    int64_t i = begin;
    for (; i + LANES <= end; i += LANES) sixteen(i, LANES);
    if (delayed) delay.close(static_cast<D*>(p.dx) + i);
    if (i < end) sixteen(i, int(end - i));
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
    case Pointwise::sigmoid: return points<D, Sigmoid>(p, chunk, begin, end);
    case Pointwise::log_sigmoid: return points<D, LogSigmoid>(p, chunk, begin, end);
    case Pointwise::kl_divergence:
        if constexpr (sizeof(Compute<D>) == 4) return points<D, KLDivergence>(p, chunk, begin, end);
        return;
    case Pointwise::sigmoid_focal:
        if constexpr (sizeof(Compute<D>) == 4) return points<D, SigmoidFocal>(p, chunk, begin, end);
    }
}

} // namespace
