// What the 16 lanes of a row kernel are.
//   ClassLanes   16 classes of one row     (long rows, class dimension last): data read where it lies
//   RowLanes     one class of 16 rows      (few classes, or the class dimension not last): data transposed into scratch
// A quantity of a row is then the same value in all lanes, or one row a lane. Sums are taken in one order, a function
// of the class index alone (class j in partial sum j mod 16, then a fixed tree), so both views return the same bits.
#pragma once

#include "kernels.h"
#include "math.h"

namespace {

constexpr double INF = __builtin_inf();

// So many rows go through the stages of a kernel together, sixteen at a time: arithmetic that waits for itself waits
// side by side.
constexpr int ROWS = 3 * LANES;

// A quantity of so many rows (in f64, or in the type that the rows are computed in), and an index of each.
template <class Number> using ColumnOf = Number[ROWS];
using Column = ColumnOf<double>;
using Indices = int64_t[ROWS];

// Number i of an upstream gradient, beside data of type D.
template <class D> LOSSLESS_INLINE double number(const lossless::Upstream& u, int64_t i) {
    return u.is_f64 ? static_cast<const double*>(u.values)[i] : double(to_compute(static_cast<const D*>(u.values)[i]));
}

struct Block {
    int64_t j; // first class
    int lanes; // classes in it
};

// ---------------------------------------------------------------------------------------------- sums

// 16 partial sums: in f64 for f32 data, compensated (TwoSum) for f64 data.
template <class T> struct Sum;

template <> struct Sum<float> {
    Pack<double> high;
    LOSSLESS_INLINE_MEMBER Sum() {} // no sum yet: of the many of a small problem most are never used
    explicit LOSSLESS_INLINE_MEMBER Sum(Pack<float> first) : Sum(to_f64(first)) {}
    explicit LOSSLESS_INLINE_MEMBER Sum(Pack<double> first) : high(broadcast(0.0) + first) {}
    LOSSLESS_INLINE_MEMBER void add(Pack<float> term) { high = high + to_f64(term); }
    LOSSLESS_INLINE_MEMBER void add(Pack<double> term) { high = high + term; }
    // Of numbers that were floats.
    LOSSLESS_INLINE_MEMBER void add_product(Pack<double> a, Pack<double> b) { high = add_exact_product(a, b, high); }
    LOSSLESS_INLINE_MEMBER void add(const Sum& other) { high = high + other.high; }
    LOSSLESS_INLINE_MEMBER Pack<double> value() const { return high; }
};

template <> struct Sum<double> {
    Pack<double> high, low;
    LOSSLESS_INLINE_MEMBER Sum() {}
    explicit LOSSLESS_INLINE_MEMBER Sum(Pack<double> first) : high(broadcast(0.0) + first), low(broadcast(0.0)) {}
    LOSSLESS_INLINE_MEMBER void add(Pack<double> term) {
        const Pack<double> sum = high + term, back = sum - high;
        low = low + ((high - (sum - back)) + (term - back));
        high = sum;
    }
    LOSSLESS_INLINE_MEMBER void add(const Sum& other) {
        add(other.high);
        low = low + other.low;
    }
    // Once a sum is infinite its compensation is NaN and no longer counts.
    LOSSLESS_INLINE_MEMBER Pack<double> value() const { return select(low == low, high + low, high); }
};

// Of f64 data too, where an error in the last digits is of no account: a third of the operations.
using PlainSum = Sum<float>;

// All lanes as one number: folds lanes i and i + half, for half = 8, 4, 2, 1.
LOSSLESS_INLINE double sum_lanes(const Sum<float>& sum) { return sum_of(sum.high); }
template <class V> LOSSLESS_INLINE double sum_lanes(V high, V low) {
    const auto both = [](auto a, auto b, auto low_a, auto low_b) __attribute__((always_inline)) {
        const auto sum = a + b, back = sum - a;
        return sum_lanes(sum, (low_a + ((a - (sum - back)) + (b - back))) + low_b);
    };
    if constexpr (requires { high.lo; })
        return both(high.lo, high.hi, low.lo, low.hi);
    else if constexpr (requires { high.v; })
        return sum_lanes(high.v, low.v);
    else if constexpr (sizeof(V) > 2 * sizeof(double))
        return both(lower(high), upper(high), lower(low), upper(low));
    else if constexpr (sizeof(V) > sizeof(double))
        return both(high[0], high[1], low[0], low[1]);
    else
        return low == low ? high + low : high;
}
LOSSLESS_INLINE double sum_lanes(const Sum<double>& sum) { return sum_lanes(sum.high, sum.low); }

// The largest of a row's numbers, and the first class that has it.
template <class View> struct Largest {
    Pack<typename View::T> value;
    typename View::Class at;
};

// The largest of what is added; NaN are passed over.
template <class View> struct Most {
    using T = typename View::T;
    Pack<T> lanes;
    LOSSLESS_INLINE_MEMBER Most() : lanes(broadcast(T(-INF))) {}
    LOSSLESS_INLINE_MEMBER void add(Pack<T> value) { lanes = max(value, lanes); }
    LOSSLESS_INLINE_MEMBER Pack<T> value() const { return View::in_all_lanes(lanes); }
};

// Whether some of what is added is below a bound that may be known last; NaN are passed over.
template <class View> struct Least {
    using T = typename View::T;
    Pack<T> lanes;
    LOSSLESS_INLINE_MEMBER Least() : lanes(broadcast(T(INF))) {}
    LOSSLESS_INLINE_MEMBER void add(Pack<T> value) { lanes = min(value, lanes); }
    // In any row, and in which: asked in this order, since it is rare.
    LOSSLESS_INLINE_MEMBER bool any_below(Pack<T> bound) const { return any(lanes < bound); }
    LOSSLESS_INLINE_MEMBER Mask<T> is_below(Pack<T> bound) const { return View::any_lane(lanes < bound); }
};

// Stands for the total of what nobody asked for.
struct NoTotal {
    template <class View> explicit LOSSLESS_INLINE_MEMBER NoTotal(const View&) {}
    template <class T> LOSSLESS_INLINE_MEMBER void add(Block, Pack<T>) {}
};

// ---------------------------------------------------------------------------------------------- 16 classes of one row

template <class D> struct ClassLanes {
    using Element = D;
    using T = Compute<D>;

    int64_t classes;
    int row; // within its group

    template <class F> LOSSLESS_INLINE_MEMBER void each(F&& f) const {
        int64_t j = 0;
        for (; j + LANES <= classes; j += LANES) f(Block{j, LANES});
        if (j < classes) f(Block{j, int(classes - j)});
    }
    // Of whole blocks if there is one: the last two overlap, for what may be done twice.
    template <class F> LOSSLESS_INLINE_MEMBER void cover(F&& f) const {
        if (classes < LANES) return f(Block{0, int(classes)});
        int64_t j = 0;
        for (; j + LANES <= classes; j += LANES) f(Block{j, LANES});
        if (j < classes) f(Block{classes - LANES, LANES});
    }
    // Two blocks together, of an odd number the first alone: operations that wait for each other fill a core's
    // schedulers, and two chains of them in turn do not. Where a block is several registers it has several chains
    // anyway.
    template <class Two, class One> LOSSLESS_INLINE_MEMBER void in_pairs(Two&& two, One&& one) const {
        if constexpr (Pack<T>::fits) {
            int64_t j = (classes + LANES - 1) / LANES % 2 * LANES;
            if (j) one(block(0));
            for (; j < classes; j += 2 * LANES) two(Block{j, LANES}, block(j + LANES));
        } else {
            each(one);
        }
    }
    // Whether looking for a class in each block costs less than two branches that are guessed wrong.
    LOSSLESS_INLINE_MEMBER bool few() const { return classes <= 512; }
    LOSSLESS_INLINE_MEMBER Pack<T> load(const D* source, Block b, T fill) const {
        return b.lanes == LANES ? load_data(source + b.j) : load_part(source + b.j, b.lanes, fill);
    }
    // The largest of `value(block)`; NaN are passed over.
    template <class F> LOSSLESS_INLINE_MEMBER Pack<T> largest(F&& value) const {
        Pack<T> most[2] = {broadcast(T(-INF)), broadcast(T(-INF))};
        in_two_chains([&](Block b, int chain)
                          __attribute__((always_inline)) { most[chain] = max(value(b), most[chain]); });
        return in_all_lanes(max(most[0], most[1]));
    }
    // And the first class that has it: each lane remembers its block.
    template <class F> LOSSLESS_INLINE_MEMBER Largest<ClassLanes> first_largest(F&& value) const {
        Pack<T> most[2] = {broadcast(T(-INF)), broadcast(T(-INF))};
        Pack<Bits<T>> at[2] = {broadcast(Bits<T>(0)), broadcast(Bits<T>(0))};
        in_two_chains([&](Block b, int chain) __attribute__((always_inline)) {
            const Pack<T> v = value(b);
            at[chain] = select(v > most[chain], broadcast(Bits<T>(b.j / LANES)), at[chain]);
            most[chain] = max(v, most[chain]);
        });
        const auto second = (most[1] > most[0]) | ((most[1] == most[0]) & (at[1] < at[0]));
        const Pack<T> lanes = max(most[0], most[1]), all = in_all_lanes(lanes);
        return {all, {first(equal_bits(lanes, all), select(second, at[1], at[0]))}};
    }
    // The first class whose `value(block)` is this one, the same in all lanes; any if there is none.
    template <class F> LOSSLESS_INLINE_MEMBER auto first_equal(Pack<T> wanted, F&& value) const {
        for (int64_t j = 0; j < classes; j += LANES)
            if (const uint32_t bits = equal_bits(value(block(j)), wanted)) return Class{j + __builtin_ctz(bits)};
        return Class{0};
    }
    // Floats in f64, 0 beyond the last class.
    LOSSLESS_INLINE_MEMBER Pack<double> wide(const float* source, Block b) const {
        return b.lanes == LANES ? load_wide(source + b.j) : to_f64(load_part(source + b.j, b.lanes, 0.0f));
    }
    LOSSLESS_INLINE_MEMBER Pack<T> load_class(const T* source, Block b) const {
        return b.lanes == LANES ? ::load(source + b.j) : load_part(source + b.j, b.lanes, T(0));
    }
    LOSSLESS_INLINE_MEMBER void store(D* target, Block b, Pack<T> value) const {
        b.lanes == LANES ? store_data(target + b.j, value) : store_part(target + b.j, b.lanes, value);
    }
    // Asks the memory for a block that a later stage reads or writes.
    LOSSLESS_INLINE_MEMBER void fetch(const D* data, Block b, int64_t ahead = 0) const {
        ::fetch<Cache::second>(data, b.j + ahead, LANES);
    }
    // Exponentials, in scratch of whole blocks.
    LOSSLESS_INLINE_MEMBER void keep(T* scratch, Block b, Pack<T> e) const { ::store(scratch + b.j, e); }
    LOSSLESS_INLINE_MEMBER Pack<T> kept(const T* scratch, Block b) const { return ::load(scratch + b.j); }

    // A quantity of the row, out of its column and into it.
    template <class Number> LOSSLESS_INLINE_MEMBER Pack<T> get(const ColumnOf<Number>& column) const {
        return broadcast(T(column[row]));
    }
    LOSSLESS_INLINE_MEMBER void put(Column& column, double value) const { column[row] = value; }
    template <class Number> LOSSLESS_INLINE_MEMBER void put(ColumnOf<Number>& column, Pack<T> same_in_all_lanes) const {
        column[row] = lane(same_in_all_lanes, 0);
    }

    template <class Lanes> struct TotalOf {
        Lanes lanes;
        explicit LOSSLESS_INLINE_MEMBER TotalOf(const ClassLanes&) : lanes(broadcast(T(0))) {}
        template <class U> LOSSLESS_INLINE_MEMBER void add(Block, Pack<U> term) { lanes.add(term); }
        LOSSLESS_INLINE_MEMBER void add_product(Block, Pack<double> a, Pack<double> b) { lanes.add_product(a, b); }
        LOSSLESS_INLINE_MEMBER double value() const { return sum_lanes(lanes); }
    };
    using Total = TotalOf<Sum<T>>;
    using PlainTotal = TotalOf<PlainSum>;
    using WideTotal = Total; // of terms in f64
    // The largest of the lanes, which all belong to the row.
    static LOSSLESS_INLINE_MEMBER Pack<T> in_all_lanes(Pack<T> a) {
        return broadcast(fold(a, [](auto a, auto b) __attribute__((always_inline)) { return a > b ? a : b; }));
    }
    static LOSSLESS_INLINE_MEMBER Mask<T> any_lane(Mask<T> mask) { return broadcast(Bits<T>(any(mask) ? -1 : 0)); }
    // A class of the row by its index; -1 is none.
    struct Class {
        int64_t j;
        LOSSLESS_INLINE_MEMBER bool may_be_in(Block b) const { return uint64_t(j - b.j) < uint64_t(LANES); }
        // Its lane in the block, if that has it.
        LOSSLESS_INLINE_MEMBER uint32_t bits(Block b) const {
            return uint32_t(may_be_in(b)) << (uint64_t(j - b.j) % LANES);
        }
    };
    // A block with 0 at some classes, or with another number at one.
    template <class... Some> static LOSSLESS_INLINE_MEMBER Pack<T> leave_out(Pack<T> a, Block b, Some... some) {
        return select_bits((some.bits(b) | ...), broadcast(T(0)), a);
    }
    static LOSSLESS_INLINE_MEMBER Pack<T> replace(Pack<T> a, Block b, Class c, Pack<T> by) {
        return select_bits(c.bits(b), by, a);
    }
    LOSSLESS_INLINE_MEMBER Class get_class(const Indices& column) const { return {column[row]}; }
    LOSSLESS_INLINE_MEMBER void put_class(Indices& column, Class c) const { column[row] = c.j; }
    // The number of that class, into a column.
    template <class Number> LOSSLESS_INLINE_MEMBER void pick(ColumnOf<Number>& column, const D* x, Class at) const {
        column[row] = to_compute(x[at.j]);
    }

  private:
    LOSSLESS_INLINE_MEMBER Block block(int64_t j) const { return {j, classes - j < LANES ? int(classes - j) : LANES}; }
    // Blocks in turn for two chains of operations, which hide their latency.
    template <class F> LOSSLESS_INLINE_MEMBER void in_two_chains(F&& f) const {
        int64_t j = 0;
        for (; j + 2 * LANES <= classes; j += 2 * LANES) {
            f(Block{j, LANES}, 0);
            f(Block{j + LANES, LANES}, 1);
        }
        for (; j < classes; j += LANES) f(block(j), 0);
    }
    // The first class of the lanes named by `bits`, lane i of block at[i].
    static LOSSLESS_INLINE_MEMBER int64_t first(uint32_t bits, Pack<Bits<T>> at) {
        Bits<T> block[LANES];
        ::store(block, at);
        const auto class_of = [&](int lane) { return int64_t(block[lane]) * LANES + lane; };
        int64_t least = class_of(__builtin_ctz(bits));
        for (bits &= bits - 1; bits; bits &= bits - 1) {
            const int64_t j = class_of(__builtin_ctz(bits));
            least = j < least ? j : least;
        }
        return least;
    }
};

// ---------------------------------------------------------------------------------------------- one class of 16 rows

template <class C> struct RowLanes {
    using Element = C; // scratch holds the compute type
    using T = C;

    int64_t classes;
    int row; // the first, within its group

    LOSSLESS_INLINE_MEMBER bool few() const { return true; }
    template <class F> LOSSLESS_INLINE_MEMBER void each(F&& f) const {
        for (int64_t j = 0; j < classes; j++) f(Block{j, 1});
    }
    template <class F> LOSSLESS_INLINE_MEMBER void cover(F&& f) const { each(f); }
    template <class Two, class One> LOSSLESS_INLINE_MEMBER void in_pairs(Two&&, One&& one) const { each(one); }
    LOSSLESS_INLINE_MEMBER Pack<T> load(const T* scratch, Block b, T) const { return ::load(scratch + b.j * LANES); }
    LOSSLESS_INLINE_MEMBER Pack<double> wide(const float* scratch, Block b) const {
        return load_wide(scratch + b.j * LANES);
    }
    template <class F> LOSSLESS_INLINE_MEMBER Pack<T> largest(F&& value) const {
        Most<RowLanes> most;
        each([&](Block b) __attribute__((always_inline)) { most.add(value(b)); });
        return most.value();
    }
    template <class F> LOSSLESS_INLINE_MEMBER Largest<RowLanes> first_largest(F&& value) const {
        Pack<T> most = broadcast(T(-INF));
        Pack<Bits<T>> at = broadcast(Bits<T>(0));
        each([&](Block b) __attribute__((always_inline)) {
            const Pack<T> v = value(b);
            at = select(v > most, broadcast(Bits<T>(b.j)), at);
            most = max(v, most);
        });
        return {most, {at}};
    }
    template <class F> LOSSLESS_INLINE_MEMBER auto first_equal(Pack<T> wanted, F&& value) const {
        Pack<Bits<T>> at = broadcast(Bits<T>(0));
        for (int64_t j = classes; j--;) at = select(value(Block{j, 1}) == wanted, broadcast(Bits<T>(j)), at);
        return Class{at};
    }
    LOSSLESS_INLINE_MEMBER Pack<T> load_class(const T* source, Block b) const { return broadcast(source[b.j]); }
    LOSSLESS_INLINE_MEMBER void store(T* scratch, Block b, Pack<T> value) const {
        ::store(scratch + b.j * LANES, value);
    }
    LOSSLESS_INLINE_MEMBER void fetch(const T*, Block, int64_t = 0) const {} // scratch is in cache
    LOSSLESS_INLINE_MEMBER void keep(T* scratch, Block b, Pack<T> e) const { store(scratch, b, e); }
    LOSSLESS_INLINE_MEMBER Pack<T> kept(const T* scratch, Block b) const { return load(scratch, b, T(0)); }

    template <class Number> LOSSLESS_INLINE_MEMBER Pack<T> get(const ColumnOf<Number>& column) const {
        return narrow<T>(::load(column + row));
    }
    template <class Number, class U> LOSSLESS_INLINE_MEMBER void put(ColumnOf<Number>& column, Pack<U> value) const {
        if constexpr (sizeof(Number) == sizeof(U))
            ::store(column + row, value);
        else
            ::store(column + row, to_f64(value));
    }

    template <class Lanes, class U = T> struct TotalOf {
        const int64_t classes;
        Pack<U> first[LANES]; // the first term of each partial sum, as it came: a float takes half the memory of a sum
        Lanes lanes[LANES];   // sums of more
        explicit LOSSLESS_INLINE_MEMBER TotalOf(const RowLanes& view) : classes(view.classes) {}
        LOSSLESS_INLINE_MEMBER void add(Block b, Pack<U> term) {
            if (b.j < LANES)
                first[b.j] = term;
            else
                lane(b).add(term);
        }
        // Of a WideTotal.
        LOSSLESS_INLINE_MEMBER void add_product(Block b, Pack<double> x, Pack<double> y) {
            b.j < LANES ? add(b, x * y) : lane(b).add_product(x, y);
        }
        LOSSLESS_INLINE_MEMBER Pack<double> value() const { return fold<0, 1>().value(); }

      private:
        // Of the partial sums i, i + step, i + 2 step, ... as far as there are any: in registers, not as a loop.
        template <int i, int step> LOSSLESS_INLINE_MEMBER Lanes fold() const {
            if constexpr (step == LANES) {
                return i + LANES < classes ? lanes[i] : Lanes(first[i]);
            } else {
                Lanes sum = fold<i, 2 * step>();
                if (i + step < classes) sum.add(fold<i + step, 2 * step>());
                return sum;
            }
        }
        LOSSLESS_INLINE_MEMBER Lanes& lane(Block b) {
            Lanes& lane = lanes[b.j % LANES];
            if (b.j < 2 * LANES) lane = Lanes(first[b.j % LANES]);
            return lane;
        }
    };
    using Total = TotalOf<Sum<T>>;
    using PlainTotal = TotalOf<PlainSum>;
    using WideTotal = TotalOf<Sum<T>, double>; // of terms in f64

    static LOSSLESS_INLINE_MEMBER Pack<T> in_all_lanes(Pack<T> a) { return a; } // each is a row of its own
    static LOSSLESS_INLINE_MEMBER Mask<T> any_lane(Mask<T> mask) { return mask; }
    struct Class {
        Pack<Bits<T>> j;
        LOSSLESS_INLINE_MEMBER bool may_be_in(Block) const { return true; }
        LOSSLESS_INLINE_MEMBER Mask<T> in(Block b) const { return j == broadcast(Bits<T>(b.j)); }
    };
    template <class... Some> static LOSSLESS_INLINE_MEMBER Pack<T> leave_out(Pack<T> a, Block b, Some... some) {
        return select((some.in(b) | ...), broadcast(T(0)), a);
    }
    static LOSSLESS_INLINE_MEMBER Pack<T> replace(Pack<T> a, Block b, Class c, Pack<T> by) {
        return select(c.in(b), by, a);
    }
    LOSSLESS_INLINE_MEMBER Class get_class(const Indices& column) const {
        Bits<T> lanes[LANES];
        for (int i = 0; i < LANES; i++) lanes[i] = Bits<T>(column[row + i]);
        return {::load(lanes)};
    }
    LOSSLESS_INLINE_MEMBER void put_class(Indices& column, Class c) const {
        Bits<T> lanes[LANES];
        ::store(lanes, c.j);
        for (int i = 0; i < LANES; i++) column[row + i] = lanes[i];
    }

    template <class Number> LOSSLESS_INLINE_MEMBER void pick(ColumnOf<Number>& column, const T* x, Class at) const {
        if (classes <= 2 * LANES) { // looking at every class costs less than sixteen numbers one by one
            Pack<T> picked = broadcast(T(0));
            each([&](Block b) __attribute__((always_inline)) { picked = select(at.in(b), load(x, b, T(0)), picked); });
            return put(column, picked);
        }
        Bits<T> lanes[LANES];
        ::store(lanes, at.j);
        for (int i = 0; i < LANES; i++) column[row + i] = x[(lanes[i] < 0 ? 0 : lanes[i]) * LANES + i];
    }
};

} // namespace
