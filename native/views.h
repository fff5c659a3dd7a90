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

// A quantity of up to 16 rows, and an index of each.
using Column = double[LANES];
using Indices = int64_t[LANES];

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
    explicit LOSSLESS_INLINE_MEMBER Sum(Pack<float> first) : high(broadcast(0.0) + to_f64(first)) {}
    LOSSLESS_INLINE_MEMBER void add(Pack<float> term) { high = high + to_f64(term); }
    LOSSLESS_INLINE_MEMBER void add(Pack<double> term) { high = high + term; }
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

// 16 lanes in registers of 16 bytes, which every target has, to be folded.
template <class T> struct Halves {
    static constexpr int count = LANES * sizeof(T) / 16;
    typename Register<T, 16>::type pairs[count];
    explicit LOSSLESS_INLINE_MEMBER Halves(Pack<T> a) { memcpy(pairs, &a, sizeof(pairs)); }
};

// The sum of all lanes: folds lanes i and i + half, for half = 8, 4, 2, 1.
LOSSLESS_INLINE double sum_lanes(const Sum<float>& sum) {
    Halves<double> s(sum.high);
    for (int half = s.count / 2; half; half /= 2)
        for (int i = 0; i < half; i++) s.pairs[i] += s.pairs[i + half];
    return s.pairs[0][0] + s.pairs[0][1];
}
LOSSLESS_INLINE double sum_lanes(const Sum<double>& sum) {
    Column high, low;
    store(high, sum.high);
    store(low, sum.low);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) {
            const double a = high[i], b = high[i + half], s = a + b, back = s - a;
            low[i] = low[i] + ((a - (s - back)) + (b - back));
            low[i] = low[i] + low[i + half];
            high[i] = s;
        }
    return low[0] == low[0] ? high[0] + low[0] : high[0];
}

// Stands for the total of what nobody asked for.
struct NoTotal {
    template <class View> explicit LOSSLESS_INLINE_MEMBER NoTotal(const View&) {}
    template <class T> LOSSLESS_INLINE_MEMBER void add(Block, Pack<T>) {}
    LOSSLESS_INLINE_MEMBER Pack<double> value() const { return broadcast(0.0); }
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
    LOSSLESS_INLINE_MEMBER Pack<T> load(const D* source, Block b, T fill) const {
        return b.lanes == LANES ? load_data(source + b.j) : load_part(source + b.j, b.lanes, fill);
    }
    // The largest number of the row; NaN are passed over.
    LOSSLESS_INLINE_MEMBER Pack<T> maximum(const D* x) const {
        const Pack<T> nothing = broadcast(T(-INF));
        Pack<T> even = nothing, odd = nothing; // two chains hide the latency
        int64_t j = 0;
        for (; j + 2 * LANES <= classes; j += 2 * LANES) {
            even = max(load_data(x + j), even);
            odd = max(load_data(x + j + LANES), odd);
        }
        for (; j < classes; j += LANES)
            even = max(load(x, Block{j, classes - j < LANES ? int(classes - j) : LANES}, T(-INF)), even);
        return largest(max(even, odd));
    }
    LOSSLESS_INLINE_MEMBER Pack<T> load_class(const T* source, Block b) const {
        return b.lanes == LANES ? ::load(source + b.j) : load_part(source + b.j, b.lanes, T(0));
    }
    LOSSLESS_INLINE_MEMBER void store(D* target, Block b, Pack<T> value) const {
        b.lanes == LANES ? store_data(target + b.j, value) : store_part(target + b.j, b.lanes, value);
    }

    // A quantity of the row, out of its column and into it.
    LOSSLESS_INLINE_MEMBER Pack<T> get(const Column& column) const { return broadcast(T(column[row])); }
    LOSSLESS_INLINE_MEMBER void put(Column& column, double value) const { column[row] = value; }
    LOSSLESS_INLINE_MEMBER void put(Column& column, Pack<T> same_in_all_lanes) const {
        column[row] = lane(same_in_all_lanes, 0);
    }

    struct Total {
        Sum<T> lanes;
        explicit LOSSLESS_INLINE_MEMBER Total(const ClassLanes&) : lanes(broadcast(T(0))) {}
        LOSSLESS_INLINE_MEMBER void add(Block, Pack<T> term) { lanes.add(term); }
        LOSSLESS_INLINE_MEMBER double value() const { return sum_lanes(lanes); }
    };
    // Of lanes that are all 0 but one, the one: all bits of all lanes.
    static LOSSLESS_INLINE_MEMBER double only(Pack<T> a) {
        uint64_t words[LANES * sizeof(T) / 8], all = 0;
        memcpy(words, &a, sizeof(words));
        for (const uint64_t word : words) all |= word;
        if constexpr (sizeof(T) == 8) return __builtin_bit_cast(double, all);
        return __builtin_bit_cast(float, uint32_t(all | all >> 32));
    }
    // A quantity of the row, as a pass leaves it, in all lanes.
    static LOSSLESS_INLINE_MEMBER Pack<double> spread(double value) { return broadcast(value); }
    static LOSSLESS_INLINE_MEMBER Pack<T> same(double value) { return broadcast(T(value)); }
    static LOSSLESS_INLINE_MEMBER Pack<T> largest(Pack<T> a) {
        Halves<T> s(a);
        for (int half = s.count / 2; half; half /= 2)
            for (int i = 0; i < half; i++) s.pairs[i] = s.pairs[i + half] > s.pairs[i] ? s.pairs[i + half] : s.pairs[i];
        T most = s.pairs[0][0];
        for (int i = 1; i < int(16 / sizeof(T)); i++) most = s.pairs[0][i] > most ? s.pairs[0][i] : most;
        return broadcast(most);
    }

    // A class of the row by its index; -1 is none.
    struct Class {
        int64_t j;
        LOSSLESS_INLINE_MEMBER bool may_be_in(Block b) const { return uint64_t(j - b.j) < uint64_t(LANES); }
        LOSSLESS_INLINE_MEMBER Mask<T> in(Block b) const {
            return iota<Bits<T>>() == broadcast(may_be_in(b) ? Bits<T>(j - b.j) : Bits<T>(LANES));
        }
    };
    LOSSLESS_INLINE_MEMBER Class get_class(const Indices& column) const { return {column[row]}; }
    LOSSLESS_INLINE_MEMBER void put_class(Indices& column, Class c) const { column[row] = c.j; }

    // Finds the first class whose value equals `wanted`.
    struct First {
        Class found = {-1};
        uint32_t hits = 0;
        LOSSLESS_INLINE_MEMBER bool may_be_in(Block, Pack<T> value, Pack<T> wanted) {
            hits = found.j < 0 ? equal_bits(value, wanted) : 0;
            return hits != 0;
        }
        LOSSLESS_INLINE_MEMBER Mask<T> in(Block b, Pack<T>, Pack<T>) {
            found.j = b.j + __builtin_ctz(hits);
            return found.in(b);
        }
    };
};

// ---------------------------------------------------------------------------------------------- one class of 16 rows

template <class C> struct RowLanes {
    using Element = C; // scratch holds the compute type
    using T = C;

    int64_t classes;

    template <class F> LOSSLESS_INLINE_MEMBER void each(F&& f) const {
        for (int64_t j = 0; j < classes; j++) f(Block{j, 1});
    }
    LOSSLESS_INLINE_MEMBER Pack<T> load(const T* scratch, Block b, T) const { return ::load(scratch + b.j * LANES); }
    LOSSLESS_INLINE_MEMBER Pack<T> maximum(const T* x) const {
        Pack<T> m = broadcast(T(-INF));
        for (int64_t j = 0; j < classes; j++) m = max(::load(x + j * LANES), m);
        return m;
    }
    LOSSLESS_INLINE_MEMBER Pack<T> load_class(const T* source, Block b) const { return broadcast(source[b.j]); }
    LOSSLESS_INLINE_MEMBER void store(T* scratch, Block b, Pack<T> value) const {
        ::store(scratch + b.j * LANES, value);
    }

    LOSSLESS_INLINE_MEMBER Pack<T> get(const Column& column) const {
        if constexpr (sizeof(T) == 4)
            return to_f32(::load(column));
        else
            return ::load(column);
    }
    template <class U> LOSSLESS_INLINE_MEMBER void put(Column& column, Pack<U> value) const {
        ::store(column, to_f64(value));
    }

    struct Total {
        int used = 0; // with few classes, the lanes beyond them are 0
        Sum<T> lanes[LANES];
        explicit LOSSLESS_INLINE_MEMBER Total(const RowLanes&) {}
        LOSSLESS_INLINE_MEMBER void add(Block b, Pack<T> term) {
            if (b.j < LANES)
                lanes[used++] = Sum<T>(term);
            else
                lanes[b.j % LANES].add(term);
        }
        LOSSLESS_INLINE_MEMBER Pack<double> value() {
            for (int half = LANES / 2; half; half /= 2)
                for (int i = 0; i < half && i + half < used; i++) lanes[i].add(lanes[i + half]);
            return lanes[0].value();
        }
    };
    static LOSSLESS_INLINE_MEMBER Pack<T> only(Pack<T> a) { return a; }
    static LOSSLESS_INLINE_MEMBER Pack<double> spread(Pack<double> value) { return value; }
    static LOSSLESS_INLINE_MEMBER Pack<T> same(Pack<T> value) { return value; }
    static LOSSLESS_INLINE_MEMBER Pack<T> largest(Pack<T> a) { return a; }

    struct Class {
        Pack<Bits<T>> j;
        LOSSLESS_INLINE_MEMBER bool may_be_in(Block) const { return true; }
        LOSSLESS_INLINE_MEMBER Mask<T> in(Block b) const { return j == broadcast(Bits<T>(b.j)); }
    };
    LOSSLESS_INLINE_MEMBER Class get_class(const Indices& column) const {
        Bits<T> lanes[LANES];
        for (int i = 0; i < LANES; i++) lanes[i] = Bits<T>(column[i]);
        return {::load(lanes)};
    }
    LOSSLESS_INLINE_MEMBER void put_class(Indices& column, Class c) const {
        Bits<T> lanes[LANES];
        ::store(lanes, c.j);
        for (int i = 0; i < LANES; i++) column[i] = lanes[i];
    }

    struct First {
        Class found = {broadcast(Bits<T>(-1))};
        LOSSLESS_INLINE_MEMBER bool may_be_in(Block, Pack<T>, Pack<T>) { return true; }
        LOSSLESS_INLINE_MEMBER Mask<T> in(Block b, Pack<T> value, Pack<T> wanted) {
            const Mask<T> here = (value == wanted) & (found.j == broadcast(Bits<T>(-1)));
            found.j = select(here, broadcast(Bits<T>(b.j)), found.j);
            return here;
        }
    };
};

} // namespace
