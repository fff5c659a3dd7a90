// The kernels of one instruction set. CMake compiles this file once per set, with LOSSLESS_ISA_NAME naming it and
// LOSSLESS_ISA_SYMBOL the one symbol that leaves it: everything else is in anonymous namespaces, so no copy compiled
// for one machine can be picked by the linker for another.
#include "pointwise.h"
#include "rows.h"
#include "scores.h"

namespace {

// ---------------------------------------------------------------------------------------------- rows in memory

// Below this many classes a row fills too few vectors, and 16 rows are transposed instead. The bits are the same.
constexpr int64_t ROW_LANES_CLASSES = 64;

template <class D> struct Data<ClassLanes<D>> {
    const D *x = nullptr, *t = nullptr, *cotangent = nullptr;
    D* out = nullptr;
    Buffer spare;
    bool no_memory = false;

    Pack<Compute<D>> limit_where_infinite(const ClassLanes<D>& view, Pack<Compute<D>> peak, Column& reported) {
        const double m = lane(peak, 0);
        if (m != INF && m != -INF) return peak;
        D* limited = spare.template get<D>(view.classes);
        if (!limited) {
            no_memory = true;
            return peak;
        }
        reported[view.row] = limit(limited, x, view.classes, 1, m);
        if (m == INF && reported[view.row] == INF) x = limited;
        return view.maximum(x);
    }
};

template <class T> struct Data<RowLanes<T>> {
    T *x = nullptr, *t = nullptr, *cotangent = nullptr, *out = nullptr;

    Pack<T> limit_where_infinite(const RowLanes<T>& view, Pack<T> peak, Column& reported) {
        if (!any(abs(peak) == broadcast(T(INF)))) return peak;
        T lanes[LANES];
        store(lanes, peak);
        for (int i = 0; i < LANES; i++)
            if (lanes[i] == T(INF) || lanes[i] == T(-INF))
                reported[i] = limit(x + i, x + i, view.classes, LANES, lanes[i]);
        return view.maximum(x);
    }
};

// Rows read where they lie.
template <class D> struct RowsInPlace {
    const RowProblem& p;
    Data<ClassLanes<D>> data;

    explicit RowsInPlace(const RowProblem& problem) : p(problem) {}
    bool ready() const { return !data.no_memory; }
    int most_rows(bool twice) const { // that stay in cache between two passes
        const int64_t rows = 65536 / p.classes;
        return !twice || rows >= LANES ? LANES : rows < 1 ? 1 : int(rows);
    }
    void open(const Group&) {}
    template <class F> LOSSLESS_INLINE_MEMBER void each(Group& g, F&& f) {
        for (int i = 0; i < g.rows; i++) {
            if (g.ignored[i]) continue;
            const int64_t start = (g.first_row + i) * p.classes;
            data.x = static_cast<const D*>(p.x) + start;
            if (p.soft) data.t = static_cast<const D*>(p.soft) + start;
            if (p.cotangent) data.cotangent = static_cast<const D*>(p.cotangent) + start;
            if (p.out) data.out = static_cast<D*>(p.out) + start;
            f(ClassLanes<D>{p.classes, i}, data);
        }
    }
    void close(const Group& g) {
        for (int i = 0; i < g.rows; i++)
            if (g.ignored[i]) memset(static_cast<D*>(p.out) + (g.first_row + i) * p.classes, 0, p.classes * sizeof(D));
    }
};

// Floats of 16 rows, row i from rows + start[i], to scratch[class][row] or back: 4 x 4 at a time, since single numbers
// cost more than the arithmetic of a small row. The last four classes may be done twice.
template <bool back, class Row>
LOSSLESS_INLINE void transpose(float* scratch, Row* rows, const int64_t* start, int64_t classes) {
    using Quad = Register<float, 16>::type;
    for (int64_t j = 0;; j = j + 8 <= classes ? j + 4 : classes - 4) {
        for (int i = 0; i < LANES; i += 4) {
            Quad in[4], out[4];
            for (int k = 0; k < 4; k++)
                memcpy(&in[k], back ? scratch + (j + k) * LANES + i : rows + start[i + k] + j, sizeof(Quad));
            const Quad low01 = __builtin_shufflevector(in[0], in[1], 0, 4, 1, 5),
                       high01 = __builtin_shufflevector(in[0], in[1], 2, 6, 3, 7),
                       low23 = __builtin_shufflevector(in[2], in[3], 0, 4, 1, 5),
                       high23 = __builtin_shufflevector(in[2], in[3], 2, 6, 3, 7);
            out[0] = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
            out[1] = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
            out[2] = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
            out[3] = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
            for (int k = 0; k < 4; k++) {
                if constexpr (back)
                    memcpy(rows + start[i + k] + j, &out[k], sizeof(Quad));
                else
                    memcpy(scratch + (j + k) * LANES + i, &out[k], sizeof(Quad));
            }
        }
        if (j + 4 >= classes) return;
    }
}

// 16 rows transposed into scratch, and back.
template <class D> struct RowsTransposed {
    using T = Compute<D>;
    const RowProblem& p;
    Data<RowLanes<T>> data;
    Buffer x, t, cotangent, out;
    int64_t start[LANES];
    bool contiguous; // the 16 rows lie side by side

    explicit RowsTransposed(const RowProblem& problem) : p(problem) {
        const int64_t size = p.classes * LANES;
        data.x = x.template get<T>(size);
        if (p.soft) data.t = t.template get<T>(size);
        if (p.cotangent) data.cotangent = cotangent.template get<T>(size);
        if (p.out) data.out = out.template get<T>(size);
    }
    bool ready() const {
        return data.x && (!p.soft || data.t) && (!p.cotangent || data.cotangent) && (!p.out || data.out);
    }
    int most_rows(bool) const { return LANES; }
    void open(const Group& g) {
        int64_t outer = g.first_row / p.inner, inner = g.first_row % p.inner; // once: a division is 20 additions
        for (int i = 0; i < LANES; i++) {
            start[i] = outer * p.classes * p.inner + inner;
            if (i + 1 >= g.rows) continue; // idle lanes repeat the last row
            if (++inner == p.inner) {
                inner = 0;
                outer++;
            }
        }
        contiguous = g.rows == LANES && start[LANES - 1] - start[0] == LANES - 1;
        gather(data.x, p.x);
        if (p.soft) gather(data.t, p.soft);
        if (p.cotangent) gather(data.cotangent, p.cotangent);
    }
    template <class F> LOSSLESS_INLINE_MEMBER void each(Group&, F&& f) { f(RowLanes<T>{p.classes}, data); }
    void close(const Group& g) {
        D* target = static_cast<D*>(p.out);
        if (g.any_ignored)
            for (int i = 0; i < g.rows; i++)
                for (int64_t j = 0; g.ignored[i] && j < p.classes; j++) data.out[j * LANES + i] = 0;
        if constexpr (std::is_same_v<D, float>)
            if (by_fours() && g.rows == LANES) return transpose<true>(data.out, target, start, p.classes);
        if (contiguous) {
            for (int64_t j = 0; j < p.classes; j++)
                store_data(target + start[0] + j * p.inner, load(data.out + j * LANES));
        } else {
            for (int i = 0; i < g.rows; i++)
                for (int64_t j = 0; j < p.classes; j++)
                    target[start[i] + j * p.inner] = from_compute<D>(data.out[j * LANES + i]);
        }
    }

  private:
    bool by_fours() const { return p.inner == 1 && p.classes >= 4; }
    void gather(T* scratch, const void* from) {
        const D* source = static_cast<const D*>(from);
        if constexpr (std::is_same_v<D, float>)
            if (by_fours()) return transpose<false>(scratch, source, start, p.classes);
        if (contiguous) {
            for (int64_t j = 0; j < p.classes; j++)
                store(scratch + j * LANES, load_data(source + start[0] + j * p.inner));
        } else {
            for (int i = 0; i < LANES; i++)
                for (int64_t j = 0; j < p.classes; j++)
                    scratch[j * LANES + i] = to_compute(source[start[i] + j * p.inner]);
        }
    }
};

// ---------------------------------------------------------------------------------------------- groups of rows

// Targets and weights of a group. Returns its first row whose index is out of range, or -1: such a row is passed over.
template <class D> int64_t open_group(const RowProblem& p, Group& g, int64_t first_row, int rows) {
    int64_t bad = -1;
    g.first_row = first_row;
    g.rows = rows;
    if (!(g.ordinary && rows == LANES)) {
        for (int i = 0; i < LANES; i++) {
            g.target[i] = -1;
            g.ignored[i] = false;
            g.weight[i] = 1;
            g.counts[i] = i < rows;
        }
        g.any_ignored = false;
        g.ordinary = rows == LANES;
    }
    if (p.target != Target::index) return bad;
    if (rows == LANES) {
        const Pack<int64_t> y = load(p.index + first_row);
        auto odd = (y < broadcast(int64_t(0))) | (y > broadcast(p.classes - 1));
        if (p.ignores) odd = odd | (y == broadcast(p.ignore_index));
        if (!any(odd)) {
            store(g.target, y);
            for (int i = 0; p.weight && i < LANES; i++)
                g.weight[i] = static_cast<const Compute<D>*>(p.weight)[g.target[i]];
            return bad;
        }
    }
    g.ordinary = false;
    for (int i = 0; i < rows; i++) {
        const int64_t y = p.index[first_row + i];
        const bool in_range = y >= 0 && y < p.classes, ignore = p.ignores && y == p.ignore_index;
        g.ignored[i] = ignore || !in_range;
        g.any_ignored |= g.ignored[i];
        if (!in_range && !ignore && bad < 0) bad = first_row + i;
        g.counts[i] = !g.ignored[i];
        g.target[i] = g.ignored[i] ? -1 : y;
        g.weight[i] = p.weight && !g.ignored[i] ? static_cast<const Compute<D>*>(p.weight)[y] : 1;
    }
    return bad;
}

// Runs `body(group, rows)` over the groups of [begin, end).
template <class D, class Rows, class Body>
int64_t each_group(Rows& rows, int64_t begin, int64_t end, bool twice, Body body) {
    if (!rows.ready()) return NO_MEMORY;
    Group g = {};
    int64_t first_bad = -1;
    const int most = rows.most_rows(twice);
    for (int64_t r = begin; r < end; r += most) {
        const int64_t bad = open_group<D>(rows.p, g, r, int(end - r < most ? end - r : most));
        if (bad >= 0 && first_bad < 0) first_bad = bad;
        rows.open(g);
        body(g, rows);
        if (!rows.ready()) return NO_MEMORY;
    }
    return first_bad;
}

// Chooses the view. `twice`: the body goes over its rows twice, and wants them in cache.
template <class D, class Body>
int64_t over_rows(const RowProblem& p, int64_t begin, int64_t end, bool twice, Body body) {
    if (p.inner == 1 && p.classes > ROW_LANES_CLASSES) {
        RowsInPlace<D> rows(p);
        return each_group<D>(rows, begin, end, twice, body);
    }
    RowsTransposed<D> rows(p);
    return each_group<D>(rows, begin, end, twice, body);
}

// A quantity of the group's rows into its array; 0 for ignored rows.
template <class D> void write(void* target, const Group& g, Pack<double> value) {
    if (!target) return;
    const Pack<double> counted = select(load(g.counts) == broadcast(0.0), broadcast(0.0), value);
    D* const rows = static_cast<D*>(target) + g.first_row;
    g.rows == LANES ? store_data(rows, narrow<Compute<D>>(counted))
                    : store_part(rows, g.rows, narrow<Compute<D>>(counted));
}

template <class D> Pack<double> read(const Upstream& u, double divisor, const Group& g) {
    if (!u.values) return broadcast(0.0);
    if (!u.per_row) return broadcast(number<D>(u, 0) / divisor);
    Column column = {};
    for (int i = 0; i < g.rows; i++) column[i] = number<D>(u, g.first_row + i) / divisor;
    return load(column);
}

Link link_of(const RowProblem& p) { return {p.nll_scale, p.prior_scale, p.gamma, p.z}; }

// The first of the largest logits, for rows that the pass cannot tell it of (several +inf, nothing but -inf); -1 if the
// row holds a NaN, which no target equals.
template <class D> int64_t largest_class(const RowProblem& p, int64_t row) {
    const D* x = static_cast<const D*>(p.x) + row / p.inner * p.classes * p.inner + row % p.inner;
    int64_t largest = 0;
    for (int64_t j = 0; j < p.classes; j++) {
        const auto value = to_compute(x[j * p.inner]), best = to_compute(x[largest * p.inner]);
        if (value != value) return -1;
        if (value > best) largest = j;
    }
    return largest;
}

// ---------------------------------------------------------------------------------------------- the kernels

// Writes the gradient of a group, of whose slopes a, b, c, d are set.
template <class D, Target target, bool plain, class Rows>
__attribute__((noinline)) void sweep(const RowProblem& p, Group& g, Slopes& s, Rows& rows) {
    if constexpr (target == Target::soft) {
        const auto unit = unit_below(narrow<Compute<D>>(load(g.soft_size)));
        store(s.a, load(s.a) * to_f64(unit.first));
        store(s.rest_total, load(g.soft_total) * to_f64(unit.second));
        store(s.rest_largest, load(g.soft_rest) * to_f64(unit.second));
    }
    plain ? prepare_plain<Compute<D>>(g, s) : prepare_general<Compute<D>>(g, s);
    rows.each(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
        view.put(g.m, data.limit_where_infinite(view, view.get(g.peak), g.peak));
        if constexpr (plain) {
            sweep_plain(view, data.x, data.out, g, s);
        } else {
            sweep_general<target>(p, view, data, g, s);
        }
    });
    rows.close(g);
}

// The slopes of the loss, for its upstream gradient.
template <class D> void slopes_of_loss(const RowProblem& p, const Group& g, Slopes& s) {
    const Pack<double> upstream = read<D>(p.d_loss, p.divisor, g);
    store(s.a, upstream * load(g.slope_of_nll));
    store(s.b, upstream * load(g.slope_of_lse));
    store(s.c, broadcast(0.0));
    store(s.d, upstream * broadcast(p.prior_scale * p.prior_unit));
}

template <class D, Target target, bool extra, bool numbers = false>
int64_t forward(const RowProblem& p, int64_t chunk, int64_t begin, int64_t end) {
    Sum<double> loss_sum(broadcast(0.0));
    Slopes s = {};
    const Link link = link_of(p);
    const int64_t n = p.rows();
    const int64_t bad = over_rows<D>(p, begin, end, p.out, [&](Group& g, auto& rows) {
        rows.each(g, [&](const auto& view, auto& data)
                         __attribute__((always_inline)) { reduce<target, extra, numbers>(p, view, data, g); });
        finish<target>(g);
        const Pack<double> zero = broadcast(0.0), log_sum = load(g.log_sum), m = load(g.m);
        Pack<double> nll = zero, prior = zero, mean_below = zero;
        if constexpr (numbers) {
            nll = log_sum;
            write<double>(p.squares, g, load(g.squares) / (load(g.all) * load(g.all)));
            for (int i = 0; i < g.rows; i++) p.largest[g.first_row + i] = g.largest[i];
        }
        if (target == Target::index) nll = (m - load(g.x_target)) + log_sum;
        if (target == Target::soft) nll = load(g.soft_cost) + load(g.soft_total) * log_sum;
        if (extra && p.prior)
            prior = (load(g.prior_cost) + broadcast(p.prior_total) * log_sum) * broadcast(p.prior_unit);
        if (extra) mean_below = load(g.below) / load(g.all);
        const auto write_statistic = [&](void* to, Pack<double> value) {
            p.wide ? write<double>(to, g, value) : write<D>(to, g, value);
        };
        write_statistic(p.nll, nll);
        const Pack<double> peak = load(g.peak);
        const Pack<double> lse = select(abs(peak) == broadcast(INF), peak, peak + log_sum);
        write_statistic(p.lse, lse);
        write_statistic(p.entropy, log_sum + mean_below);
        write_statistic(p.prior_cost, prior);
        if (p.correct)
            for (int i = 0; i < g.rows; i++)
                p.correct[g.first_row + i] =
                    !g.ignored[i] &&
                    (g.log_sum[i] == g.log_sum[i] ? g.correct[i] != 0
                                                  : g.target[i] == largest_class<D>(p, g.first_row + i));
        if (p.is_loss()) {
            const Pack<double> weight = load(g.weight);
            Pack<double> q = zero, p_y = zero;
            if (p.gamma != 0) {
                q = load(g.but_target) / load(g.all);
                p_y = select(load(g.correct) == zero, load(g.at_target), load(g.top)) / load(g.all);
            }
            const Pack<double> loss = link.value(weight, nll, q, prior, lse);
            write<D>(p.loss, g, loss);
            loss_sum.add(select(load(g.counts) == zero, zero, loss));
            store(g.slope_of_nll, link.slope_of_nll(weight, nll, q, p_y));
            store(g.slope_of_lse, link.slope_of_lse(lse));
        }
        if (p.state) {
            const auto keep = [&](int row, Pack<double> value) {
                double* const rows = p.state + row * n + g.first_row;
                g.rows == LANES ? store(rows, value) : store_part(rows, g.rows, value);
            };
            keep(0, load(g.peak));
            keep(1, load(g.all));
            keep(2, load(g.but_target));
            keep(3, load(g.but_top));
            keep(4, p.is_loss() ? load(g.slope_of_nll) : mean_below);
            keep(5, p.is_loss() ? load(g.slope_of_lse) : zero);
        }
        if constexpr (target != Target::none)
            if (p.out) {
                slopes_of_loss<D>(p, g, s);
                if (target == Target::index && !extra && p.z == 0)
                    sweep<D, target, target == Target::index>(p, g, s, rows);
                else
                    sweep<D, target, false>(p, g, s, rows);
            }
    });
    if (p.loss_sums) p.loss_sums[chunk] = sum_lanes(loss_sum);
    return bad;
}

// The weights of the rows that count.
template <class D> int64_t weigh(const RowProblem& p, int64_t chunk, int64_t begin, int64_t end) {
    Sum<double> sum(broadcast(0.0));
    Group g = {};
    int64_t first_bad = -1;
    for (int64_t r = begin; r < end; r += LANES) {
        const int64_t bad = open_group<D>(p, g, r, int(end - r < LANES ? end - r : LANES));
        if (bad >= 0 && first_bad < 0) first_bad = bad;
        sum.add(load(g.counts) * load(g.weight));
    }
    p.weight_sums[chunk] = sum_lanes(sum);
    return first_bad;
}

template <class D, Target target, bool plain>
int64_t backward(const RowProblem& p, int64_t, int64_t begin, int64_t end) {
    const int64_t n = p.rows();
    Slopes s = {};
    return over_rows<D>(p, begin, end, false, [&](Group& g, auto& rows) {
        const auto kept = [&](int row, Column& column) {
            const double* const rows = p.state + row * n + g.first_row;
            store(column, g.rows == LANES ? load(rows) : load_part(rows, g.rows, 0.0));
        };
        kept(0, g.peak);
        kept(1, g.all);
        kept(2, g.but_target);
        kept(3, g.but_top);
        if (p.is_loss()) {
            kept(4, g.slope_of_nll);
            kept(5, g.slope_of_lse);
            slopes_of_loss<D>(p, g, s);
        } else {
            kept(4, s.mean_below);
            store(s.a, read<D>(p.d_nll, p.divisor, g));
            store(s.b, read<D>(p.d_lse, p.divisor, g));
            store(s.c, read<D>(p.d_entropy, p.divisor, g));
            store(s.d, read<D>(p.d_prior, p.divisor, g) * broadcast(p.prior_unit));
        }
        if constexpr (target == Target::soft)
            rows.each(g, [&](const auto& view, auto& data)
                             __attribute__((always_inline)) { reduce_target(p, view, data, g); });
        sweep<D, target, plain>(p, g, s, rows);
    });
}

// The exponentials of a row, kept in `e`, which `scratch` shows as the view shows x; their sum, and its inverse in two
// parts, times `unit`. `visit` sees what x, m and the exponentials are.
template <class View> struct Shares {
    using T = typename View::T;
    Pack<double> all;
    Pack<T> high, low;

    template <class Scratch, class F>
    LOSSLESS_INLINE_MEMBER Shares(const View& view, Data<View>& data, Group& g, const Scratch& scratch,
                                  typename Scratch::Element* e, double unit, F&& visit) {
        const Pack<T> peak = view.maximum(data.x);
        view.put(g.peak, peak);
        const Pack<T> m = data.limit_where_infinite(view, peak, g.peak);
        const Frame<T> exponentials(m);
        typename View::Total sum(view);
        const auto* x = data.x;
        view.each([&](Block b) __attribute__((always_inline)) {
            const Pack<T> v = view.load(x, b, T(-INF)), share = exponentials(v);
            scratch.store(e, b, share);
            sum.add(b, share);
            visit(b, v, m);
        });
        all = View::spread(sum.value());
        const Pack<double> inverse = broadcast(unit) / all;
        high = narrow<T>(inverse);
        low = narrow<T>(fma(broadcast(0.0) - to_f64(high), all, broadcast(unit)) * (inverse * broadcast(1 / unit)));
    }
    // p times the unit, of an exponential: rounded once.
    LOSSLESS_INLINE_MEMBER Pack<T> operator()(Pack<T> share) const { return fma(share, high, share * low); }
};

// Runs f(view, data, scratch, e) for each row of the group, or for 16 at once, with room for exponentials: in the
// output, or in `wide` where that holds halves.
template <class D, class Rows, class F> LOSSLESS_INLINE void with_room(Rows& rows, Group& g, Buffer& wide, F&& f) {
    using T = Compute<D>;
    rows.each(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
        if constexpr (std::is_same_v<decltype(data.out), T*>)
            f(view, data, view, data.out);
        else
            f(view, data, ClassLanes<T>{view.classes, view.row}, wide.get<T>(view.classes));
    });
    rows.close(g);
}

template <class D> int64_t softmax(const RowProblem& p, int64_t, int64_t begin, int64_t end) {
    using T = Compute<D>;
    Buffer wide;
    if (sizeof(D) < sizeof(T) && !wide.get<T>(p.classes)) return NO_MEMORY;
    return over_rows<D>(p, begin, end, true, [&](Group& g, auto& rows) {
        with_room<D>(rows, g, wide,
                     [&](const auto& view, auto& data, const auto& scratch, T* e) __attribute__((always_inline)) {
                         using View = std::remove_cvref_t<decltype(view)>;
                         const Shares<View> p_of(view, data, g, scratch, e, 1.0, [](Block, Pack<T>, Pack<T>) {});
                         view.each([&](Block b) __attribute__((always_inline)) {
                             view.store(data.out, b, p_of(scratch.load(e, b, T(0))));
                         });
                     });
    });
}

template <class D> int64_t log_softmax(const RowProblem& p, int64_t, int64_t begin, int64_t end) {
    return over_rows<D>(p, begin, end, true, [&](Group& g, auto& rows) {
        rows.each(g, [&](const auto& view, auto& data)
                         __attribute__((always_inline)) { reduce<Target::none, false>(p, view, data, g); });
        finish<Target::none>(g);
        rows.each(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
            data.limit_where_infinite(view, view.get(g.peak), g.peak);
            const auto m = view.get(g.m), log_sum = view.get(g.log_sum);
            view.each([&](Block b) __attribute__((always_inline)) {
                view.store(data.out, b, (view.load(data.x, b, 0) - m) - log_sum);
            });
        });
        rows.close(g);
    });
}

// dx_j = p_j ((g_j - g_k) - sum_i p_i (g_i - g_k)), k the largest class: differences of g alone, so that what a
// confident row leaves of them is not lost in g_k. The cotangents are brought near 1 together.
template <class D> int64_t softmax_backward(const RowProblem& p, int64_t, int64_t begin, int64_t end) {
    using T = Compute<D>;
    Buffer wide;
    if (sizeof(D) < sizeof(T) && !wide.get<T>(p.classes)) return NO_MEMORY;
    return over_rows<D>(p, begin, end, true, [&](Group& g, auto& rows) {
        with_room<D>(
            rows, g, wide, [&](const auto& view, auto& data, const auto& scratch, T* e) __attribute__((always_inline)) {
                using View = std::remove_cvref_t<decltype(view)>;
                const Pack<T> zero = broadcast(T(0));
                typename View::First first;
                Pack<T> at_top = zero, largest = zero;
                const Shares<View> p_of( // times 2^64, so that a small p meets a large slope before it gets denormal
                    view, data, g, scratch, e, 0x1p64,
                    [&](Block b, Pack<T> x, Pack<T> m) __attribute__((always_inline)) {
                        const Pack<T> cotangent = view.load(data.cotangent, b, T(0));
                        largest = max(abs(cotangent), largest);
                        if (first.may_be_in(b, x, m)) at_top = select(first.in(b, x, m), cotangent, at_top);
                    });
                const auto unit = unit_below(View::largest(largest));
                const Pack<T> top = View::same(View::only(at_top * unit.second));
                typename View::Total sum(view);
                view.each([&](Block b) __attribute__((always_inline)) {
                    sum.add(b, scratch.load(e, b, T(0)) * (view.load(data.cotangent, b, T(0)) * unit.second - top));
                });
                const Pack<T> mean = narrow<T>(View::spread(sum.value()) / p_of.all);
                view.each([&](Block b) __attribute__((always_inline)) {
                    const Pack<T> slope = (view.load(data.cotangent, b, T(0)) * unit.second - top) - mean;
                    view.store(data.out, b,
                               slope * p_of(scratch.load(e, b, T(0))) * broadcast(T(0x1p-64)) * unit.first);
                });
            });
    });
}

// ---------------------------------------------------------------------------------------------- choosing by dtype

template <class F> auto by_dtype(lossless::DType dtype, F f) {
    switch (dtype) {
    case lossless::DType::f16: return f(F16{});
    case lossless::DType::bf16: return f(BF16{});
    case lossless::DType::f32: return f(float{});
    default: return f(double{});
    }
}

int64_t forward_any(const RowProblem& p, int64_t chunk, int64_t begin, int64_t end) {
    const bool extra = p.prior || p.entropy;
    if (p.squares)
        return by_dtype(p.dtype, [&](auto d) {
            return numbers<decltype(d)>(forward<double, Target::none, true, true>, p, chunk, begin, end);
        });
    return by_dtype(p.dtype, [&](auto d) {
        using D = decltype(d);
        switch (p.target) {
        case Target::none:
            return (extra ? forward<D, Target::none, true> : forward<D, Target::none, false>)(p, chunk, begin, end);
        case Target::index:
            return (extra ? forward<D, Target::index, true> : forward<D, Target::index, false>)(p, chunk, begin, end);
        default:
            return (extra ? forward<D, Target::soft, true> : forward<D, Target::soft, false>)(p, chunk, begin, end);
        }
    });
}

int64_t backward_any(const RowProblem& p, int64_t chunk, int64_t begin, int64_t end) {
    const bool bare = !p.prior && !p.d_entropy.values;
    return by_dtype(p.dtype, [&](auto d) {
        using D = decltype(d);
        switch (p.target) {
        case Target::none:
            return (bare ? backward<D, Target::none, true> : backward<D, Target::none, false>)(p, chunk, begin, end);
        case Target::index:
            return (bare && !p.d_lse.values && p.z == 0 ? backward<D, Target::index, true>
                                                        : backward<D, Target::index, false>)(p, chunk, begin, end);
        default: return backward<D, Target::soft, false>(p, chunk, begin, end);
        }
    });
}

int64_t weigh_any(const RowProblem& p, int64_t chunk, int64_t begin, int64_t end) {
    return by_dtype(p.dtype, [&](auto d) { return weigh<decltype(d)>(p, chunk, begin, end); });
}
int64_t softmax_any(const RowProblem& p, int64_t chunk, int64_t begin, int64_t end) {
    return by_dtype(p.dtype, [&](auto d) { return softmax<decltype(d)>(p, chunk, begin, end); });
}
int64_t log_softmax_any(const RowProblem& p, int64_t chunk, int64_t begin, int64_t end) {
    return by_dtype(p.dtype, [&](auto d) { return log_softmax<decltype(d)>(p, chunk, begin, end); });
}
int64_t softmax_backward_any(const RowProblem& p, int64_t chunk, int64_t begin, int64_t end) {
    return by_dtype(p.dtype, [&](auto d) { return softmax_backward<decltype(d)>(p, chunk, begin, end); });
}

void pointwise_any(const lossless::PointwiseProblem& p, int64_t chunk, int64_t begin, int64_t end) {
    by_dtype(p.dtype, [&](auto d) { pointwise<decltype(d)>(p, chunk, begin, end); });
}

} // namespace

extern "C" const lossless::Kernels LOSSLESS_ISA_SYMBOL;
const lossless::Kernels LOSSLESS_ISA_SYMBOL = {LOSSLESS_ISA_NAME, weigh_any,       forward_any,          backward_any,
                                               softmax_any,       log_softmax_any, softmax_backward_any, pointwise_any};
