// The row kernels: one pass that leaves the statistics of a row, one sweep that writes its gradient, and the kernels
// made of them. Written once over a view (views.h).
//
// Letters: x logit, y target index, t soft target, u prior, w class weight, m the maximum of the row, e exponentials,
// p = e / S, q = 1 - p, S the sum of all e, T the sum of all but the target's, g the gradient.
#pragma once

#include "kernels.h"
#include "links.h"
#include "views.h"

#include <type_traits>

namespace {

using lossless::NO_MEMORY;
using lossless::RowProblem;
using lossless::Target;
using lossless::Upstream;

// 1 / temperature in two parts, so that a logit is divided without rounding.
template <class T> struct Sharpness {
    T high = 1, low = 0;
    bool is_one = true;
    Sharpness() {}
    explicit Sharpness(double temperature) : is_one(temperature == 1) {
        const double inverse = 1 / temperature, rest = __builtin_fma(-inverse, temperature, 1.0) * inverse;
        high = T(inverse);
        low = T((inverse - double(high)) + rest);
    }
};

// What the passes leave of a group of rows. Exponentials are relative to the power of two next to e^m.
template <class T> struct Group {
    Sharpness<T> sharpness;
    int64_t first_row;
    int rows;
    Indices target; // -1: none, or the row is ignored
    bool ignored[ROWS], any_ignored;
    bool ordinary; // all rows count; the weights are 1, or the classes'
    Column counts; // 1, or 0 where the row is ignored or there is none
    Column weight; // w[y], else 1

    Column peak, m;  // the maximum; where that is +inf, m is 0 (see limit())
    Indices largest; // its class, the first of equals
    Column x_target;
    ColumnOf<T> shift, place;              // the frame of the exponentials
    Column top, at_target, others;         // exponentials of the maximum, of the target, and of the rest
    Column below, mean_below;              // sum e (m - x), sum p (m - x)
    Column squares;                        // sum e^2 without the maximum
    Column soft_cost, prior_cost;          // sum t (m - x), sum u (m - x)
    Column soft_top, soft_rest, soft_size; // t of the class of the maximum without its weight, the sum of the others w
                                           // t; the largest |w t|

    Column all, but_target, but_top;   // S, T, and the sum without the maximum
    Column log_sum;                    // log(S / e^m) = lse - m
    Column slope_of_nll, slope_of_lse; // of the loss
};

// Runs f(r) for each 16 rows of a group: what is done once a row.
template <class T, class F> LOSSLESS_INLINE void by_sixteens(const Group<T>& g, F&& f) {
    for (int r = 0; r < g.rows; r += LANES) f(r);
}

// ---------------------------------------------------------------------------------------------- exponentials of a row

// Exponentials are e^(x - shift) 2^(64 - N), N the exponent of the maximum. The 64 keeps every class within e^-130 of
// the maximum a normal number, so that flush-to-zero modes change nothing inside; it cancels in ratios.
constexpr int HEADROOM = 64;

// Logits are shifted only where they are so large that no scale would do: there x - m is exact for every class that
// counts (Sterbenz).
template <class T> struct Frame {
    Pack<T> shift, place, least;
    const Sharpness<T> sharpness;
    LOSSLESS_INLINE_MEMBER Frame(Pack<T> shift, Pack<T> place, const Sharpness<T>& sharpness)
        : shift(shift), place(place), least(least_of(place)), sharpness(sharpness) {}
    // Of the logits of a row.
    static LOSSLESS_INLINE_MEMBER Frame of_largest(Pack<T> m, const Sharpness<T>& sharpness) {
        const Pack<T> high = broadcast(sharpness.high);
        const Pack<T> shift = select(abs(m * high) > broadcast(T(32768)), m, broadcast(T(0)));
        const Pack<T> exponent = exponent_of_exponential((m - shift) * high);
        return Frame(shift, place_of(broadcast(T(HEADROOM)) - exponent), sharpness);
    }
    // Nothing is shifted or divided.
    LOSSLESS_INLINE_MEMBER bool is_plain() const { return sharpness.is_one && !any(shift != broadcast(T(0))); }
    template <int W> LOSSLESS_INLINE_MEMBER Pack<T, W> clamped(Pack<T, W> d) const { return max(repeat<W>(least), d); }
    template <int W> LOSSLESS_INLINE_MEMBER Pack<T, W> plain(Pack<T, W> clamped_x) const {
        return exponential(clamped_x, repeat<W>(place));
    }
    LOSSLESS_INLINE_MEMBER Pack<T> operator()(Pack<T> x) const {
        const Pack<T> d = x - shift;
        return sharpness.is_one ? plain(clamped(d)) : tempered(d);
    }

  private:
    LOSSLESS_INLINE_MEMBER Pack<T> tempered(Pack<T> d) const {
        const Pack<T> zero = broadcast(T(0)), high = broadcast(sharpness.high), y = d * high;
        const Pack<T> low = fma(d, high, zero - y) + d * broadcast(sharpness.low);
        return exponential(clamped(y), select(y > least, low, zero), place);
    }
};

// ---------------------------------------------------------------------------------------------- the pass

// t (m - x), where a class without weight costs nothing even at x = -inf.
template <class T> LOSSLESS_INLINE Pack<T> cost(Pack<T> t, Pack<T> distance) {
    const Pack<T> zero = broadcast(T(0));
    return select(t == zero, zero, t * distance);
}

template <class View, class T = typename View::T>
LOSSLESS_INLINE Pack<T> soft_target(const RowProblem& p, const View& view, const typename View::Element* t, Block b) {
    const Pack<T> soft = view.load(t, b, T(0));
    return p.weight ? soft * view.load_class(static_cast<const T*>(p.weight), b) : soft;
}

// A row whose maximum is +inf is replaced by the limit of ever larger x there: all mass on that class, or NaN if there
// are several. Returns the maximum that lse reports: the infinite one, or NaN if the row holds a NaN.
template <class D> static double limit(D* target, const D* source, int64_t classes, int64_t stride, double peak) {
    using T = Compute<D>;
    int64_t infinite = 0;
    for (int64_t j = 0; j < classes; j++) {
        const T x = to_compute(source[j * stride]);
        if (x != x) return x;
        infinite += x == T(INF);
    }
    for (int64_t j = 0; infinite && j < classes; j++) {
        const T x = to_compute(source[j * stride]);
        const T limited = x != T(INF) ? T(-INF) : infinite == 1 ? T(0) : T(__builtin_nan(""));
        target[j * stride] = from_compute<D>(limited);
    }
    return peak;
}

// The data of a row, or of 16, as a view reads it, and the scratch that it may need.
template <class View> struct Data;

// A number of a table of classes for each of 16 rows; any where there is no class.
template <class T> LOSSLESS_INLINE Pack<double> look_up(const void* table, const int64_t* classes) {
    double lanes[LANES];
    for (int i = 0; i < LANES; i++) lanes[i] = classes[i] < 0 ? 0.0 : double(static_cast<const T*>(table)[classes[i]]);
    return load(lanes);
}

// w t of the class of the maximum, of 16 rows.
template <class T> LOSSLESS_INLINE Pack<double> soft_top(const RowProblem& p, const Group<T>& g, int r) {
    const Pack<double> top = load(g.soft_top + r);
    return p.weight ? to_f64(narrow<T>(top) * narrow<T>(look_up<T>(p.weight, g.largest + r))) : top;
}

// What the sweep needs of a soft target: nothing that is left out of a sum is ever subtracted from it.
template <class View> struct TargetSums {
    using T = typename View::T;
    typename View::Total rest;
    Most<View> size;
    explicit LOSSLESS_INLINE_MEMBER TargetSums(const View& view) : rest(view) {}
    LOSSLESS_INLINE_MEMBER void add(Block b, Pack<T> t, typename View::Class top) {
        rest.add(b, View::leave_out(t, b, top));
        size.add(abs(t));
    }
    LOSSLESS_INLINE_MEMBER void put(const View& view, const Data<View>& data, Group<T>& g) {
        view.put(g.soft_rest, rest.value());
        view.put(g.soft_size, size.value());
        view.pick(g.soft_top, data.t, view.get_class(g.largest));
    }
};

// m, of the peak.
template <class View> LOSSLESS_INLINE void find_limit(const View& view, Data<View>& data, Group<typename View::T>& g) {
    using T = typename View::T;
    if (data.limit_where_infinite(view, g))
        view.put(g.m,
                 view.largest([&](Block b) __attribute__((always_inline)) { return view.load(data.x, b, T(-INF)); }));
    else
        view.put(g.m, view.get(g.peak));
}

// First stage: the maximum of each row.
template <class View>
LOSSLESS_INLINE void find_largest(const View& view, Data<View>& data, Group<typename View::T>& g) {
    using T = typename View::T;
    const auto largest =
        view.first_largest([&](Block b) __attribute__((always_inline)) { return view.load(data.x, b, T(-INF)); });
    view.put(g.peak, largest.value);
    view.put_class(g.largest, largest.at);
    find_limit(view, data, g);
}

// And of a backward pass, which is told the peak.
template <class View> LOSSLESS_INLINE void find_again(const View& view, Data<View>& data, Group<typename View::T>& g) {
    using T = typename View::T;
    find_limit(view, data, g);
    view.put_class(g.largest, view.first_equal(view.get(g.m), [&](Block b) __attribute__((always_inline)) {
        return view.load(data.x, b, T(-INF));
    }));
}

template <class View> LOSSLESS_INLINE void sum_target(const RowProblem& p, const View& view, const Data<View>& data,
                                                      Group<typename View::T>& g) {
    TargetSums<View> sums(view);
    const auto top = view.get_class(g.largest);
    view.each([&](Block b) __attribute__((always_inline)) { sums.add(b, soft_target(p, view, data.t, b), top); });
    sums.put(view, data, g);
}

// Second stage: where the exponentials of each row lie, and those of the maximum and of the target.
template <Target target, class T> static void place_exponentials(Group<T>& g) {
    by_sixteens(g, [&](int r) __attribute__((always_inline)) {
        const Pack<T> m = narrow<T>(load(g.m + r));
        const Frame<T> exponentials = Frame<T>::of_largest(m, g.sharpness);
        store(g.shift + r, exponentials.shift);
        store(g.place + r, exponentials.place);
        store(g.top + r, to_f64(exponentials(m)));
        if constexpr (target == Target::index)
            store(g.at_target + r, to_f64(exponentials(narrow<T>(load(g.x_target + r)))));
    });
}

// Third stage: the exponentials of a row, kept in data.e; f(block, x, e, near). `near` is x, or some finite number
// where e is 0: who multiplies e by a distance need not look for 0 inf. Meanwhile the memory is asked for what the next
// stage and later groups need, and results of the group before are sent.
template <class View, class F>
LOSSLESS_INLINE void each_exponential(const View& view, Data<View>& data, Group<typename View::T>& g, F&& f) {
    using T = typename View::T;
    data.limit_again(view, g);
    const Frame<T> exponentials(view.get(g.shift), view.get(g.place), g.sharpness);
    const auto* const logits = data.x; // locals, which no store of a number can change
    auto* const out = data.out;
    T* const kept = data.e;
    const int64_t ahead = data.ahead;
    const auto parcel = data.parcel(view);
    const auto logit = [=](Block b) __attribute__((always_inline)) { return view.load(logits, b, T(-INF)); };
    const auto leave = [&](Block b, Pack<T> x, Pack<T> e, Pack<T> near) __attribute__((always_inline)) {
        view.keep(kept, b, e);
        view.fetch(logits, b, ahead);
        if (!parcel.send(b)) view.fetch(out, b);
        f(b, x, e, near);
    };
    if (exponentials.is_plain()) {
        const auto two = [&](Block a, Block b) __attribute__((always_inline)) {
            const Pack<T, 2 * LANES> x = {logit(a), logit(b)}, near = exponentials.clamped(x),
                                     e = exponentials.plain(near);
            leave(a, x.lo, e.lo, near.lo);
            leave(b, x.hi, e.hi, near.hi);
        };
        view.in_pairs(two, [&](Block b) __attribute__((always_inline)) {
            const Pack<T> x = logit(b), near = exponentials.clamped(x);
            leave(b, x, exponentials.plain(near), near);
        });
    } else {
        view.each([&](Block b) __attribute__((always_inline)) {
            const Pack<T> x = logit(b), e = exponentials(x), zero = broadcast(T(0));
            leave(b, x, e, select(e == zero, zero, x)); // what the exponential was clamped to is no logit
        });
    }
}

// And the sums of the row.
template <Target target, bool extra, bool numbers = false, class View>
LOSSLESS_INLINE void exponentiate(const RowProblem& p, const View& view, Data<View>& data, Group<typename View::T>& g) {
    using T = typename View::T;
    const Pack<T> m = view.get(g.m);
    const auto largest = view.get_class(g.largest), y = view.get_class(g.target);

    // What an evaluation averages over rows is rounded there: it adds up terms of one sign, which cannot cancel.
    using Total = std::conditional_t<numbers, typename View::PlainTotal, typename View::Total>;
    Total others(view);
    std::conditional_t<extra, Total, NoTotal> below(view), prior_cost(view);
    std::conditional_t<numbers, Total, NoTotal> squares(view);
    std::conditional_t<target == Target::soft, TargetSums<View>, NoTotal> target_sums(view);
    std::conditional_t<target == Target::soft, typename View::Total, NoTotal> soft_cost(view);
    each_exponential(view, data, g, [&](Block b, Pack<T> x, Pack<T> e, Pack<T> near) __attribute__((always_inline)) {
        const Pack<T> distance = m - x;
        if constexpr (target == Target::soft) view.fetch(data.t, b, data.ahead);
        if constexpr (extra) below.add(b, e * (m - near));
        Pack<T> other = e;
        if (target == Target::soft || view.few() || largest.may_be_in(b) ||
            (target == Target::index && y.may_be_in(b))) {
            if constexpr (target == Target::soft) {
                const Pack<T> t = soft_target(p, view, data.t, b);
                target_sums.add(b, t, largest);
                soft_cost.add(b, cost(t, distance));
            }
            if constexpr (target == Target::index)
                other = view.leave_out(e, b, largest, y);
            else
                other = view.leave_out(e, b, largest);
        }
        others.add(b, other);
        if constexpr (numbers) squares.add(b, other * other);
        if constexpr (extra)
            if (p.prior) prior_cost.add(b, cost(view.load_class(static_cast<const T*>(p.prior), b), distance));
    });

    view.put(g.others, others.value());
    if constexpr (target == Target::soft) {
        target_sums.put(view, data, g);
        view.put(g.soft_cost, soft_cost.value());
    }
    if constexpr (numbers) view.put(g.squares, squares.value());
    if constexpr (extra) {
        view.put(g.below, below.value());
        if (p.prior) view.put(g.prior_cost, prior_cost.value());
    }
}

// a / b as one division, 1 / b, shared by all quotients: less than an ulp off, and no better defined than a / b.
LOSSLESS_INLINE Pack<double> quotient(Pack<double> a, Pack<double> b, Pack<double> inverse) {
    const Pack<double> first = a * inverse, rest = fma(broadcast(0.0) - first, b, a);
    return select(abs(first) < broadcast(INF), fma(rest, inverse, first), first);
}

// Whether the target is the maximum.
template <class T> LOSSLESS_INLINE Mask<double> is_correct(const Group<T>& g, int r) {
    return load(g.target + r) == load(g.largest + r);
}

// Fourth stage: the sums of each row that leave a class out. Each is a sum of the terms it consists of, never a
// difference.
template <Target target, class T> static void finish(Group<T>& g) {
    by_sixteens(g, [&](int r) __attribute__((always_inline)) {
        const Pack<double> others = load(g.others + r), top = load(g.top + r);
        Pack<double> but_top = others, but_target = others, all = others + top;
        if constexpr (target == Target::index) {
            const auto correct = is_correct(g, r);
            const Pack<double> at_target = select(correct, broadcast(0.0), load(g.at_target + r));
            but_top = others + at_target;
            but_target = select(correct, others, all);
            all = all + at_target;
        }
        store(g.all + r, all);
        store(g.but_target + r, but_target);
        store(g.but_top + r, but_top);
        store(g.log_sum + r, log1p(but_top / top)); // all digits: lse subtracts it from m
    });
}

// The power of two next below a size, and its inverse; 1 where the size is 0 or not finite. Both are normal numbers.
template <class T> struct Unit {
    Pack<T> first, second;
};
template <class T> LOSSLESS_INLINE Unit<T> unit_below(Pack<T> size) {
    const Pack<T> zero = broadcast(T(0)), one = broadcast(T(1)), low = broadcast(T(2) - Float<T>::bias);
    const Pack<T> high = zero - low, huge = broadcast(T(INF));
    const auto usable = (size > zero) & (size < huge);
    const Pack<T> n = exponent_field(abs(size));
    const Pack<T> exponent = select(usable, select(n < low, low, select(n > high, high, n)), zero);
    return {select(usable, power_of_two(exponent), one), select(usable, power_of_two(zero - exponent), one)};
}

// ---------------------------------------------------------------------------------------------- the sweep

// The gradient of any link (a, b, c, d: partials of nll, lse, entropy, prior), tau the sum of all t:
//     g_j = (b + tau) p_j - t_j + c p_j (m - x_j - D),      t_j = a [j = y] + d u_j  or  a t_j + d u_j.
// It cancels where p_j and t_j are both near their whole, which is at the maximum or at the target of an index. There
// it is made of sums that leave the class out:
//     g_k = (b + tau - t_k) p_k - t_k q_k.
// All of it is brought near one size, so large that no part of it is denormal before the last step (but for upstream
// gradients above it, whose results lose digits: one at 1e31, all of an entropy's at 1e37).
template <class T> constexpr double SIZE = sizeof(T) == 4 ? 100 : 400; // its exponent

template <class T> struct Slopes {
    Column a, b, c, d;
    // (b + tau) p is e times these two, of which the second is what the first drops; and c p
    ColumnOf<T> factor, factor_low, entropy, entropy_low;
    ColumnOf<T> mean_below;        // D
    double unit;                   // of it and of the distances beside it
    ColumnOf<T> soft, prior;       // what a soft target, over the unit of its size, and the prior are multiplied by
    ColumnOf<T> soft_unit;         // the inverse of that unit
    ColumnOf<T> at_target, at_top; // g_k without the entropy
    ColumnOf<T> lift;              // 2^lift inside the exponentials
    ColumnOf<T> last;              // the last factor
    bool lifted;                   // some row is
};

// f / S for a row factor f, S the sum of the exponentials: in two parts, so that it costs no rounding.
template <class T> LOSSLESS_INLINE void divide_by_sum(Pack<double> f, Pack<double> all, Pack<double> inverse,
                                                      ColumnOf<T>& high, ColumnOf<T>& low, int r) {
    const Pack<double> zero = broadcast(0.0);
    Pack<T> first;
    Pack<double> rest;
    if constexpr (sizeof(T) == 4) { // a double holds both
        const Pack<double> p = f * inverse;
        first = narrow<T>(p);
        rest = p - to_f64(first);
    } else {
        first = quotient(f, all, inverse);
        rest = fma(zero - first, all, f) * inverse;
    }
    store(high + r, first);
    store(low + r, narrow<T>(select(abs(rest) < broadcast(INF), rest, zero))); // else f / S is not finite
}

// f p - t q, p and q = 1 - p given as parts of S. A quotient that is denormal has lost bits before it is multiplied;
// the product is not. Of floats none is so small.
template <class T> LOSSLESS_INLINE Pack<double> uncancelled(Pack<double> f, Pack<double> own, Pack<double> t,
                                                            Pack<double> others, Pack<double> all,
                                                            Pack<double> inverse) {
    const auto part = [=](Pack<double> e)
                          __attribute__((always_inline)) { return sizeof(T) == 4 ? e * inverse : e / all; };
    const Pack<double> q = part(others);
    Pack<double> given = t * q;
    if constexpr (sizeof(T) == 8) {
        const auto tiny = q < broadcast(0x1p-900);
        if (any(tiny)) given = select(tiny, t * others / all, given);
    }
    const Pack<double> less = broadcast(0.0) - given;
    return any(f != broadcast(0.0)) ? fma(f, part(own), less) : less;
}

template <Target target, bool extra, class T> void prepare(const RowProblem& p, Group<T>& g, Slopes<T>& s, int r) {
    const Pack<double> zero = broadcast(0.0), all = load(g.all + r), inverse = broadcast(1.0) / all;
    const bool entropy = extra && p.d_entropy.values, prior = extra && p.prior;
    const Pack<double> b = load(s.b + r);
    Pack<double> a = load(s.a + r), d = zero, c = zero, t_size = broadcast(1.0);
    if constexpr (target == Target::soft) {
        const Unit<T> unit = unit_below(narrow<T>(load(g.soft_size + r)));
        t_size = to_f64(unit.first);
        store(s.soft_unit + r, unit.second);
    }
    Pack<double> size = max(abs(b), abs(a) * t_size);
    if (prior) size = max(size, abs(d = load(s.d + r)));
    if (entropy) size = max(size, abs(c = load(s.c + r)));

    // Where a large factor meets an exponential that is 0 but for its size, the exponentials are lifted.
    const Pack<double> n = select(size < broadcast(INF), exponent_field(size), zero),
                       least = broadcast(SIZE<T> - (Float<T>::bias - 1)), most = broadcast(SIZE<T> + Float<T>::bias);
    const Pack<double> exponent = select(n < least, least, select(n > most, most, n));
    const Pack<double> lift = select(exponent > broadcast(39.0), broadcast(60.0), zero);
    const Pack<double> scale = power_of_two(broadcast(SIZE<T>) - exponent), lowered = power_of_two(zero - lift);
    s.lifted |= any(lift != zero);
    store(s.lift + r, narrow<T>(lift));
    store(s.last + r, power_of_two(narrow<T>(exponent - broadcast(SIZE<T>))));

    a = a * scale;
    Pack<double> f = b * scale, f_target = f, f_top = f, t_target = a, t_top = zero;
    if constexpr (target == Target::index) {
        f = f + a;
        f_top = f;
    }
    if constexpr (target == Target::soft) {
        const Pack<double> rest = load(g.soft_rest + r), top = soft_top<T>(p, g, r);
        f = fma(a, rest + top, f);
        f_top = fma(a, rest, f_top);
        t_top = a * top;
        store(s.soft + r, narrow<T>(zero - a * t_size));
    }
    if (prior) {
        d = d * scale;
        f = fma(d, broadcast(p.prior_total), f);
        f_target = fma(d, look_up<T>(p.prior_others, g.target + r), f_target);
        t_target = fma(d, look_up<T>(p.prior, g.target + r), t_target);
        f_top = fma(d, look_up<T>(p.prior_others, g.largest + r), f_top);
        t_top = fma(d, look_up<T>(p.prior, g.largest + r), t_top);
        store(s.prior + r, narrow<T>(zero - d));
    }
    if (entropy) divide_by_sum<T>(c * scale * lowered, all, inverse, s.entropy, s.entropy_low, r);
    divide_by_sum<T>(f * lowered, all, inverse, s.factor, s.factor_low, r);
    if constexpr (target == Target::index)
        store(s.at_target + r, narrow<T>(uncancelled<T>(f_target, load(g.at_target + r), t_target,
                                                        load(g.but_target + r), all, inverse)));
    if (target == Target::soft || prior)
        store(s.at_top + r,
              narrow<T>(uncancelled<T>(f_top, load(g.top + r), t_top, load(g.but_top + r), all, inverse)));
}

// Where a row is not a number all its gradients are the same NaN, whichever operand it came from.
template <class T> struct OneNan {
    const Mask<T> everywhere;
    LOSSLESS_INLINE_MEMBER OneNan(Pack<T> factor, Pack<T> other) : everywhere((factor != factor) | (other != other)) {}
    LOSSLESS_INLINE_MEMBER Pack<T> operator()(Pack<T> dx) const {
        return select(everywhere, broadcast(T(__builtin_nan(""))), dx);
    }
};

// `e` tells the exponentials: those that are kept, or made anew.
template <Target target, bool extra, class View, class E>
LOSSLESS_INLINE void sweep_row(const RowProblem& p, const View& view, const Data<View>& data, E e,
                               const Group<typename View::T>& g, const Slopes<typename View::T>& s) {
    using T = typename View::T;
    const T* const prior = extra ? static_cast<const T*>(p.prior) : nullptr;
    const bool entropy = extra && p.d_entropy.values, top = target == Target::soft || prior;
    const Pack<T> zero = broadcast(T(0)), m = view.get(g.m), unit = broadcast(T(s.unit));
    const Pack<T> factor = view.get(s.factor), factor_low = view.get(s.factor_low);
    const Pack<T> at_target = view.get(s.at_target), at_top = view.get(s.at_top);
    Pack<T> soft = zero, soft_unit = zero;
    if constexpr (target == Target::soft) {
        soft = view.get(s.soft);
        soft_unit = view.get(s.soft_unit);
    }
    const Pack<T> of_prior = view.get(s.prior), mean_below = view.get(s.mean_below);
    const Pack<T> of_entropy = entropy ? view.get(s.entropy) : zero, of_entropy_low = view.get(s.entropy_low);
    const OneNan<T> nan(factor, of_entropy);
    const Pack<T> last = view.get(s.last);
    const auto y = view.get_class(g.target), largest = view.get_class(g.largest);
    auto* const out = data.out;
    view.each([&](Block b) __attribute__((always_inline)) {
        const Pack<T> share = e(b);
        Pack<T> low = share * factor_low;
        if constexpr (target == Target::soft) low = fma(soft_target(p, view, data.t, b) * soft_unit, soft, low);
        if (prior) low = fma(view.load_class(prior, b), of_prior, low);
        Pack<T> dx = fma(share, factor, low);
        if (top && (view.few() || largest.may_be_in(b))) dx = view.replace(dx, b, largest, at_top);
        if (target == Target::index && (view.few() || y.may_be_in(b))) dx = view.replace(dx, b, y, at_target);
        if (entropy) {
            const Pack<T> distance = fma(m - view.load(data.x, b, T(-INF)), unit, zero - mean_below);
            const Pack<T> high = share * of_entropy, rest = fma(share, of_entropy, zero - high);
            const Pack<T> slope = fma(distance, high, fma(distance, fma(share, of_entropy_low, rest), dx));
            dx = select(share == zero, dx, slope); // not 0 inf
        }
        view.store(out, b, nan(dx * last));
    });
}

} // namespace
