// The kernels of one instruction set. CMake compiles this file once per set, with LOSSLESS_ISA_NAME naming it and
// LOSSLESS_ISA_SYMBOL the one symbol that leaves it: everything else is in anonymous namespaces, so no copy compiled
// for one machine can be picked by the linker for another.
#include "outbox.h"
#include "pointwise.h"
#include "rows.h"
#include "scores.h"
#include "sums.h"

namespace {

// ---------------------------------------------------------------------------------------------- rows in memory

// Up to so many classes a row fills too few vectors, and 16 rows are transposed instead: where labels are looked for,
// and elsewhere, where rows of 60 to 64 classes are quicker as they lie. The bits are the same.
constexpr int64_t TRANSPOSED_WITH_LABELS = 64, TRANSPOSED = 59;
constexpr int64_t transposed_with(Target target) {
    return target == Target::index ? TRANSPOSED_WITH_LABELS : TRANSPOSED;
}

// So many bytes ahead the memory is asked at most: further, and they would have left the cache before their turn.
constexpr int64_t FARTHEST = 1 << 17;

// How often a kernel goes over its rows. What is gone over again should be in cache; where there is little arithmetic
// (`light`), in the first one.
enum class Passes { one, several, light };

// So many logits, of whole rows, are done together: fewer, and what is done once a group costs too much of it; more,
// and the second cache (of LIGHT_NUMBERS the first) has no room for what comes next. Of CACHED_NUMBERS half as many
// where a cotangent comes with them, as it always does where passes are light.
constexpr int64_t CACHED_NUMBERS = 8192, LIGHT_NUMBERS = 2048;
static int rows_together(const RowProblem& p, Passes passes) {
    const int64_t cached = p.cotangent ? CACHED_NUMBERS / 2 : CACHED_NUMBERS;
    const int64_t rows = (passes == Passes::light ? LIGHT_NUMBERS : cached) / p.classes;
    return rows >= ROWS ? ROWS : rows >= LANES ? int(rows / LANES * LANES) : rows < 1 ? 1 : int(rows);
}

// Results of longer rows would leave the second cache before they are sent.
constexpr int64_t LONGEST_SENT = 1 << 18;

template <class D> struct Data<ClassLanes<D>> {
    const D *x = nullptr, *t = nullptr, *cotangent = nullptr;
    D* out = nullptr;
    Compute<D>* e = nullptr;
    int64_t ahead = 0; // so many numbers on the memory is asked: up to the row in this one's place of a later group
    Outbox<D> outbox;
    Buffer spare;
    bool no_memory = false;

    bool limit_where_infinite(const ClassLanes<D>& view, Group<Compute<D>>& g) {
        double& peak = g.peak[view.row];
        if (peak != INF && peak != -INF) return false;
        D* limited = spare.template get<D>(view.classes);
        no_memory |= !limited;
        if (!limited) return false;
        peak = limit(limited, x, view.classes, 1, peak);
        if (peak == INF) x = limited;
        return peak == INF;
    }
    Parcel<D> parcel(const ClassLanes<D>& view) { return outbox.next(view.classes); }
    // In a later stage, which finds the row as it was.
    void limit_again(const ClassLanes<D>& view, Group<Compute<D>>& g) {
        if (g.peak[view.row] == INF) limit_where_infinite(view, g);
    }
};

template <class T> struct Data<RowLanes<T>> {
    T *x = nullptr, *t = nullptr, *cotangent = nullptr, *out = nullptr, *e = nullptr;
    static constexpr int64_t ahead = 0;

    NoParcel parcel(const RowLanes<T>&) const { return {}; }
    bool limit_where_infinite(const RowLanes<T>& view, Group<T>& g) {
        double* const peak = g.peak + view.row;
        if (!any(abs(load(peak)) == broadcast(INF))) return false;
        for (int i = 0; i < LANES; i++)
            if (peak[i] == INF || peak[i] == -INF) peak[i] = limit(x + i, x + i, view.classes, LANES, peak[i]);
        return true;
    }
    void limit_again(const RowLanes<T>&, const Group<T>&) {}
};

template <class D> bool open_outbox(Outbox<D>& outbox, const RowProblem& p, int most_rows) {
    return outbox.open(most_rows * p.classes, p.out, p.x, p.cotangent ? p.cotangent : p.soft);
}
// Where the results of the row that starts at `start` are left, less that.
template <class D> D* origin_of(const Outbox<D>& outbox, const RowProblem& p, int64_t start) {
    D* const out = static_cast<D*>(p.out);
    return outbox.is_open()
               ? reinterpret_cast<D*>(uintptr_t(outbox.place_of(out + start)) - uintptr_t(start) * sizeof(D))
               : out;
}

// Rows read where they lie.
template <class D> struct RowsInPlace {
    using T = Compute<D>;
    const RowProblem& p;
    Data<ClassLanes<D>> data;
    Buffer room;
    const int most_rows;
    const int64_t padded;

    RowsInPlace(const RowProblem& problem, Passes passes)
        : p(problem), most_rows(passes == Passes::one ? LANES : rows_together(p, passes)),
          padded((p.classes + LANES - 1) / LANES * LANES) {
        const int64_t farthest = FARTHEST / int64_t(sizeof(D));
        data.ahead = (passes == Passes::light ? 1 : 2) * most_rows * p.classes;
        if (data.ahead > farthest) data.ahead = farthest;
        if (passes == Passes::one) return; // and nothing is sent: there is no stage beside which it would go
        data.no_memory = !room.template get<T>(most_rows * padded);
        if (p.past_caches && p.classes <= LONGEST_SENT) data.no_memory |= !open_outbox(data.outbox, p, most_rows);
    }
    bool ready() const { return !data.no_memory; }
    void open(const Group<T>&) {}
    // Where row i of the group starts in memory.
    int64_t start_of(const Group<T>& g, int i) const { return (g.first_row + i) * p.classes; }
    template <class F> LOSSLESS_INLINE_MEMBER void each(Group<T>& g, F&& f) {
        for (int i = 0; i < g.rows; i++) {
            if (g.ignored[i]) continue;
            const int64_t start = start_of(g, i);
            data.x = static_cast<const D*>(p.x) + start;
            if (p.soft) data.t = static_cast<const D*>(p.soft) + start;
            if (p.cotangent) data.cotangent = static_cast<const D*>(p.cotangent) + start;
            if (p.out) data.out = results(g) + start;
            if (room.memory) data.e = static_cast<T*>(room.memory) + i * padded;
            f(ClassLanes<D>{p.classes, i}, data);
        }
    }
    // The stage that leaves results: in p.out, or in the outbox.
    template <class F> LOSSLESS_INLINE_MEMBER void write(Group<T>& g, F&& f) {
        if (data.outbox.is_open()) data.outbox.fill(static_cast<D*>(p.out) + start_of(g, 0), g.rows * p.classes);
        each(g, f);
    }
    void close(const Group<T>& g) {
        for (int i = 0; i < g.rows; i++)
            if (g.ignored[i]) memset(results(g) + start_of(g, i), 0, p.classes * sizeof(D));
        data.outbox.seal();
    }
    void finish() {
        if (data.outbox.is_open()) data.outbox.close();
    }
    // What a row of the group starts in at start_of().
    D* results(const Group<T>& g) const { return origin_of(data.outbox, p, start_of(g, 0)); }
};

// Four floats of each of four rows as four floats of each of four classes, or back; a register holds several such
// squares.
template <class V> LOSSLESS_INLINE void transpose_squares(V (&v)[4]) {
    const V low02 = interleave_low(v[0], v[2]), high02 = interleave_high(v[0], v[2]),
            low13 = interleave_low(v[1], v[3]), high13 = interleave_high(v[1], v[3]);
    v[0] = interleave_low(low02, low13);
    v[1] = interleave_high(low02, low13);
    v[2] = interleave_low(high02, high13);
    v[3] = interleave_high(high02, high13);
}

// A register of four floats from each of the rows 0, 4, 8, 12 of `start`, as far as it goes; and back.
template <class V> LOSSLESS_INLINE V load_fours(const float* rows, const int64_t* start) {
    if constexpr (sizeof(V) == 16) {
        V v;
        memcpy(&v, rows + start[0], sizeof(v));
        return v;
    } else {
        using Half = typename Register<float, sizeof(V) / 2>::type;
        return join(load_fours<Half>(rows, start), load_fours<Half>(rows, start + sizeof(V) / 8));
    }
}
template <class V> LOSSLESS_INLINE void store_fours(float* rows, const int64_t* start, V v) {
    if constexpr (sizeof(V) == 16) {
        memcpy(rows + start[0], &v, sizeof(v));
    } else {
        store_fours(rows, start, lower(v));
        store_fours(rows, start + sizeof(V) / 8, upper(v));
    }
}

// Floats of 16 rows, row i from rows + start[i], to scratch[class][row] or back, four classes at a time, since single
// numbers cost more than the arithmetic of a small row. The last four classes may be done twice.
template <bool back, class Row>
LOSSLESS_INLINE void transpose(float* scratch, Row* rows, const int64_t* start, int64_t classes) {
    using V = typename Register<float>::type;
    constexpr int lanes = sizeof(V) / sizeof(float);
    for (int64_t j = 0;; j = j + 8 <= classes ? j + 4 : classes - 4) {
        for (int i = 0; i < LANES; i += lanes) {
            float* const at = scratch + j * LANES + i;
            const auto from = [&](int k) __attribute__((always_inline)) {
                V v;
                if constexpr (back)
                    memcpy(&v, at + k * LANES, sizeof(V));
                else
                    v = load_fours<V>(rows + j, start + i + k);
                return v;
            };
            const auto to = [&](int k, V v) __attribute__((always_inline)) {
                if constexpr (back)
                    store_fours(rows + j, start + i + k, v);
                else
                    memcpy(at + k * LANES, &v, sizeof(V));
            };
            V v[4] = {from(0), from(1), from(2), from(3)}; // no loop: it would keep them in memory
            transpose_squares(v);
            to(0, v[0]), to(1, v[1]), to(2, v[2]), to(3, v[3]);
        }
        if (j + 4 >= classes) return;
    }
}

int64_t start_of(const RowProblem& p, int64_t row) { return row / p.inner * p.classes * p.inner + row % p.inner; }

// Where one row after another starts: a division is 20 additions.
struct Starts {
    int64_t block, inner; // numbers in a block of (classes, inner), and the rows in it
    int64_t of_block, at; // where the row's block starts, and which of its rows it is
    Starts(const RowProblem& p, int64_t row)
        : block(p.classes * p.inner), inner(p.inner), of_block(row / p.inner * block), at(row % p.inner) {}
    int64_t next() {
        const int64_t start = of_block + at;
        if (++at == inner) {
            at = 0;
            of_block += block;
        }
        return start;
    }
};

// 16 rows transposed into scratch, and back.
template <class D> struct RowsTransposed {
    using T = Compute<D>;
    const RowProblem& p;
    const int most_rows;
    Buffer memory;
    Data<RowLanes<T>> all; // of the whole group
    T* halves = nullptr;   // 16 rows of halves as floats, one after another
    Outbox<D> outbox;
    const bool streams; // 16 rows side by side go past the caches without a box
    bool no_memory;
    int64_t start[ROWS];

    RowsTransposed(const RowProblem& problem, Passes)
        : p(problem), most_rows(rows_together(p, Passes::several) < LANES ? LANES : rows_together(p, Passes::several)),
          streams(p.past_caches && p.inner % LANES == 0 && begins_sixteen(static_cast<D*>(p.out))) {
        const int64_t size = p.classes * most_rows;
        const int64_t of_halves = by_fours() && sizeof(D) == 2 ? LANES * p.classes : 0;
        T* room = memory.template get<T>(size * (2 + !!p.soft + !!p.cotangent + !!p.out) + of_halves);
        const auto take = [&](int64_t numbers) {
            T* const taken = room && numbers ? room : nullptr;
            if (taken) room += numbers;
            return taken;
        };
        all = {take(size), take(size * !!p.soft), take(size * !!p.cotangent), take(size * !!p.out), take(size)};
        halves = take(of_halves);
        no_memory = !room;
        if (p.past_caches && p.inner == 1) no_memory |= !open_outbox(outbox, p, most_rows);
    }
    bool ready() const { return !no_memory; }
    void open(const Group<T>& g) {
        Starts starts(p, g.first_row);
        for (int i = 0; i < g.rows || i % LANES; i++)
            start[i] = i < g.rows ? starts.next() : start[i - 1]; // idle lanes repeat the last row
        gather(g, all.x, p.x, p.out);
        if (p.soft) gather(g, all.t, p.soft);
        if (p.cotangent) gather(g, all.cotangent, p.cotangent);
    }
    int64_t start_of(const Group<T>&, int i) const { return start[i]; }
    template <class F> LOSSLESS_INLINE_MEMBER void each(Group<T>& g, F&& f) {
        for (int r = 0; r < g.rows; r += LANES) {
            const auto from = [&](T* scratch) { return scratch ? number(scratch, r, 0) : nullptr; };
            Data<RowLanes<T>> data = {from(all.x), from(all.t), from(all.cotangent), from(all.out), from(all.e)};
            f(RowLanes<T>{p.classes, r}, data);
        }
    }
    template <class F> LOSSLESS_INLINE_MEMBER void write(Group<T>& g, F&& f) { each(g, f); }
    D* results(const Group<T>&) const { return origin_of(outbox, p, start[0]); }
    void close(const Group<T>& g) {
        if (outbox.is_open()) outbox.fill(static_cast<D*>(p.out) + start[0], g.rows * p.classes);
        D* const target = results(g);
        for (int i = 0; g.any_ignored && i < g.rows; i++)
            for (int64_t j = 0; g.ignored[i] && j < p.classes; j++) *number(all.out, i, j) = 0;
        for (int r = 0; r < g.rows; r += LANES) {
            if constexpr (std::is_same_v<T, float>)
                if (by_fours() && g.rows - r >= LANES) {
                    scatter_by_fours(number(all.out, r, 0), target, start + r);
                    continue;
                }
            if (side_by_side(g, r)) {
                for (int64_t j = 0; j < p.classes; j++) {
                    D* const sixteen = target + start[r] + j * p.inner;
                    const auto values = load(number(all.out, r, j));
                    streams ? stream_data(sixteen, values) : store_data(sixteen, values);
                }
            } else {
                for (int i = r; i < g.rows && i < r + LANES; i++)
                    for (int64_t j = 0; j < p.classes; j++)
                        target[start[i] + j * p.inner] = from_compute<D>(*number(all.out, i, j));
            }
        }
        outbox.seal();
    }

    void finish() {
        if (outbox.is_open()) outbox.close();
        if (streams) end_stream();
    }

  private:
    bool by_fours() const { return p.inner == 1 && p.classes >= 4; }
    void gather_by_fours(float* scratch, const D* source, const int64_t* start) {
        if constexpr (std::is_same_v<D, float>) {
            transpose<false>(scratch, source, start, p.classes);
        } else {
            const Spaced rows(start);
            const ClassLanes<D> all_as_one{rows.start[LANES - 1] + p.classes, 0};
            all_as_one.each([&](Block b) __attribute__((always_inline)) {
                all_as_one.keep(halves, b, all_as_one.load(source + start[0], b, 0.0f));
            });
            transpose<false>(scratch, halves, rows.start, p.classes);
        }
    }
    void scatter_by_fours(float* scratch, D* target, const int64_t* start) {
        if constexpr (std::is_same_v<D, float>) {
            transpose<true>(scratch, target, start, p.classes);
        } else {
            transpose<true>(scratch, halves, Spaced(start).start, p.classes);
            const ClassLanes<D> all_as_one{LANES * p.classes, 0};
            all_as_one.each([&](Block b) __attribute__((always_inline)) {
                all_as_one.store(target + start[0], b, all_as_one.kept(halves, b));
            });
        }
    }
    // Where 16 rows start after the first of them.
    struct Spaced {
        int64_t start[LANES];
        explicit Spaced(const int64_t* rows) {
            for (int i = 0; i < LANES; i++) start[i] = rows[i] - rows[0];
        }
    };
    bool side_by_side(const Group<T>& g, int r) const {
        return g.rows - r >= LANES && start[r + LANES - 1] - start[r] == LANES - 1;
    }
    // Class j of row i, in scratch.
    T* number(T* scratch, int i, int64_t j) const { return scratch + (i / LANES * p.classes + j) * LANES + i % LANES; }
    // The memory is asked for the next group, and for where this one's results go, which a core does not foresee: they
    // come in bursts, or as more streams than it follows.
    void gather(const Group<T>& g, T* scratch, const void* from, const void* to = nullptr) {
        const D *const source = static_cast<const D*>(from), *const results = static_cast<const D*>(to);
        for (int r = 0; r < g.rows; r += LANES) {
            if (p.inner == 1) {
                fetch<Cache::second>(source, start[r] + most_rows * p.classes, LANES * p.classes);
                if (results && outbox.is_open())
                    outbox.next(LANES * p.classes).send();
                else if (results)
                    fetch<Cache::second>(results, start[r], LANES * p.classes);
            }
            if constexpr (std::is_same_v<T, float>)
                if (by_fours()) {
                    gather_by_fours(number(scratch, r, 0), source, start + r);
                    continue;
                }
            if (side_by_side(g, r)) {
                const int64_t ahead = ::start_of(p, g.first_row + r + most_rows) - start[r];
                for (int64_t j = 0; j < p.classes; j++) {
                    const int64_t rows = start[r] + j * p.inner;
                    fetch<Cache::second>(source, rows + ahead, LANES);
                    if (results && !streams) fetch<Cache::second>(results, rows, LANES);
                    store(number(scratch, r, j), load_data(source + rows));
                }
            } else {
                for (int i = r; i < r + LANES; i++)
                    for (int64_t j = 0; j < p.classes; j++)
                        *number(scratch, i, j) = to_compute(source[start[i] + j * p.inner]);
            }
        }
    }
};

// ---------------------------------------------------------------------------------------------- groups of rows

// Targets and weights of a group. Returns its first row whose index is out of range, or -1: such a row is passed over.
template <class D> int64_t open_group(const RowProblem& p, Group<Compute<D>>& g, int64_t first_row, int rows) {
    int64_t bad = -1;
    if (!(g.ordinary && rows == g.rows)) {
        for (int i = 0; i < ROWS; i++) {
            g.target[i] = -1;
            g.ignored[i] = false;
            g.weight[i] = 1;
            g.counts[i] = i < rows;
        }
        g.any_ignored = false;
        g.ordinary = true;
    }
    g.first_row = first_row;
    g.rows = rows;
    if (p.target != Target::index) return bad;
    const auto* const weight = static_cast<const Compute<D>*>(p.weight);
    for (int r = 0; r < rows; r += LANES) {
        const int count = rows - r < LANES ? rows - r : LANES;
        if (count == LANES) {
            const Pack<int64_t> y = load(p.index + first_row + r);
            auto odd = (y < broadcast(int64_t(0))) | (y > broadcast(p.classes - 1));
            if (p.ignores) odd = odd | (y == broadcast(p.ignore_index));
            if (!any(odd)) {
                store(g.target + r, y);
                for (int i = r; weight && i < r + LANES; i++) g.weight[i] = weight[g.target[i]];
                continue;
            }
        }
        for (int i = r; i < r + count; i++) {
            const int64_t y = p.index[first_row + i];
            const bool in_range = y >= 0 && y < p.classes, ignore = p.ignores && y == p.ignore_index;
            g.ignored[i] = ignore || !in_range;
            g.any_ignored |= g.ignored[i];
            g.ordinary &= !g.ignored[i];
            if (!in_range && !ignore && bad < 0) bad = first_row + i;
            g.counts[i] = !g.ignored[i];
            g.target[i] = g.ignored[i] ? -1 : y;
            g.weight[i] = weight && !g.ignored[i] ? weight[y] : 1;
        }
    }
    return bad;
}

// Runs `f(chunk, begin, end)` over the chunks of [begin, end), as far as it returns no NO_MEMORY; what it returned
// first that is not -1.
template <class F> int64_t each_chunk(const RowProblem& p, int64_t begin, int64_t end, F f) {
    int64_t first_bad = -1, chunk = begin / p.chunk;
    for (int64_t from = begin, to; from < end && first_bad != NO_MEMORY; from = to) {
        to = (chunk + 1) * p.chunk < end ? (chunk + 1) * p.chunk : end;
        const int64_t bad = f(chunk++, from, to);
        if (first_bad == -1 || bad == NO_MEMORY) first_bad = bad;
    }
    return first_bad;
}

// Runs `body(group, rows)` over the groups of [begin, end), and `end_chunk(chunk)` after those of each chunk.
template <class D, class Rows, class Body, class End>
int64_t each_group(Rows&& rows, int64_t begin, int64_t end, Body body, End end_chunk) {
    if (!rows.ready()) return NO_MEMORY;
    Group<Compute<D>> g = {};
    g.sharpness = Sharpness<Compute<D>>(rows.p.temperature);
    const int most = rows.most_rows;
    const int64_t bad = each_chunk(rows.p, begin, end, [&](int64_t chunk, int64_t from, int64_t to) {
        int64_t first_bad = -1;
        for (int64_t r = from; r < to; r += most) {
            const int64_t bad = open_group<D>(rows.p, g, r, int(to - r < most ? to - r : most));
            if (bad >= 0 && first_bad < 0) first_bad = bad;
            rows.open(g);
            body(g, rows);
            if (!rows.ready()) return NO_MEMORY;
        }
        end_chunk(chunk);
        return first_bad;
    });
    if (bad != NO_MEMORY) rows.finish();
    return bad;
}

// Chooses the view: rows of up to `transposed` classes are.
template <class D, class Body, class End> int64_t over_rows(const RowProblem& p, int64_t begin, int64_t end,
                                                            Passes passes, int64_t transposed, Body body,
                                                            End end_chunk) {
    if (p.inner == 1 && p.classes > transposed)
        return each_group<D>(RowsInPlace<D>(p, passes), begin, end, body, end_chunk);
    return each_group<D>(RowsTransposed<D>(p, passes), begin, end, body, end_chunk);
}
template <class D, class Body>
int64_t over_rows(const RowProblem& p, int64_t begin, int64_t end, Passes passes, int64_t transposed, Body body) {
    return over_rows<D>(p, begin, end, passes, transposed, body, [](int64_t) {});
}

// A quantity of rows r .. r + 15 of the group into its array; `write`: 0 for ignored rows.
template <class D, class T> LOSSLESS_INLINE void put_rows(D* target, const Group<T>& g, int r, Pack<Compute<D>> value) {
    D* const rows = target + g.first_row + r;
    g.rows - r >= LANES ? store_data(rows, value) : store_part(rows, g.rows - r, value);
}
template <class D, class T> LOSSLESS_INLINE void write(void* target, const Group<T>& g, int r, Pack<double> value) {
    if (!target) return;
    const Pack<double> nan = broadcast(__builtin_nan("")); // of one sign, whichever operand it came from
    const Pack<double> counted =
        select(load(g.counts + r) == broadcast(0.0), broadcast(0.0), select(value == value, value, nan));
    put_rows(static_cast<D*>(target), g, r, narrow<Compute<D>>(counted));
}

// Of a quantity that is one number for all rows, that number.
template <class D, class T>
LOSSLESS_INLINE Pack<double> read(const Upstream& u, double divisor, const Group<T>& g, int r) {
    if (!u.values) return broadcast(0.0);
    if (!u.per_row) return broadcast(number<D>(u, 0) / divisor);
    double lanes[LANES] = {};
    for (int i = 0; i < LANES && r + i < g.rows; i++) lanes[i] = number<D>(u, g.first_row + r + i) / divisor;
    return load(lanes);
}

// What divides a gradient over x.
double divisor_of_gradient(const RowProblem& p) { return p.divisor * p.temperature; }

Link link_of(const RowProblem& p) { return {p.nll_scale, p.prior_scale, p.gamma, p.z}; }

// The first of the largest logits of row i of the group; -1 if the row holds a NaN, which no target equals. The pass
// cannot tell it of several +inf, or of nothing but -inf.
template <class D> int64_t largest_class(const RowProblem& p, const Group<Compute<D>>& g, int i) {
    if (g.log_sum[i] == g.log_sum[i]) return g.largest[i];
    const int64_t row = g.first_row + i;
    const D* x = static_cast<const D*>(p.x) + start_of(p, row);
    int64_t largest = 0;
    for (int64_t j = 0; j < p.classes; j++) {
        const auto value = to_compute(x[j * p.inner]), best = to_compute(x[largest * p.inner]);
        if (value != value) return -1;
        if (value > best) largest = j;
    }
    return largest;
}

// ---------------------------------------------------------------------------------------------- the kernels

// What the sweep needs, of the slopes a, b, c, d.
template <Target target, bool extra, class T> void prepare(const RowProblem& p, Group<T>& g, Slopes<T>& s) {
    s.lifted = false;
    by_sixteens(g, [&](int r) __attribute__((always_inline)) { prepare<target, extra>(p, g, s, r); });
}

// Writes the gradient of a group. `kept`: its exponentials are.
template <Target target, bool extra, bool kept, class T, class Rows>
__attribute__((noinline)) void sweep(const RowProblem& p, Group<T>& g, const Slopes<T>& s, Rows& rows) {
    rows.write(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
        data.limit_again(view, g);
        const Frame<T> exponentials(view.get(g.shift), view.get(g.place) + view.get(s.lift), g.sharpness);
        const auto* const x = data.x;
        const T* const kept_e = data.e;
        const auto e = [=](Block b) __attribute__((always_inline)) {
            return kept ? view.kept(kept_e, b) : exponentials(view.load(x, b, T(-INF)));
        };
        sweep_row<target, extra>(p, view, data, e, g, s);
    });
    rows.close(g);
}

template <Target target, bool extra, class T, class Rows>
LOSSLESS_INLINE void write_gradient(const RowProblem& p, Group<T>& g, Slopes<T>& s, Rows& rows) {
    prepare<target, extra>(p, g, s);
    s.lifted ? sweep<target, extra, false>(p, g, s, rows) : sweep<target, extra, true>(p, g, s, rows);
}

// The slopes of the loss, for its upstream gradient.
template <class D, class T> void slopes_of_loss(const RowProblem& p, const Group<T>& g, Slopes<T>& s) {
    by_sixteens(g, [&](int r) __attribute__((always_inline)) {
        const Pack<double> upstream = read<D>(p.d_loss, divisor_of_gradient(p), g, r);
        store(s.a + r, upstream * load(g.slope_of_nll + r));
        store(s.b + r, upstream * load(g.slope_of_lse + r));
        if (p.prior) store(s.d + r, upstream * broadcast(p.prior_scale * p.prior_unit));
    });
}

// The slopes of the statistics, for theirs. The slope of the entropy is made of distances, which the temperature
// divides too: a power of two of it at once, so that the narrow ones are as normal as the result.
template <class D, class T> void slopes_of_statistics(const RowProblem& p, const Group<T>& g, Slopes<T>& s) {
    s.unit = __builtin_ldexp(1.0, -__builtin_ilogb(p.temperature));
    const double divisor = divisor_of_gradient(p), of_entropy = divisor * p.temperature * s.unit;
    by_sixteens(g, [&](int r) __attribute__((always_inline)) {
        store(s.a + r, read<D>(p.d_nll, divisor, g, r));
        store(s.b + r, read<D>(p.d_lse, divisor, g, r));
        store(s.c + r, read<D>(p.d_entropy, of_entropy, g, r));
        store(s.d + r, read<D>(p.d_prior, divisor, g, r) * broadcast(p.prior_unit));
        store(s.mean_below + r, narrow<T>(load(g.mean_below + r) * broadcast(s.unit)));
    });
}

// The four stages of the pass.
template <Target target, bool extra, bool numbers = false, class T, class Rows>
LOSSLESS_INLINE void sum_up(const RowProblem& p, Group<T>& g, Rows& rows) {
    rows.each(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
        find_largest(view, data, g);
        if constexpr (target == Target::index) view.pick(g.x_target, data.x, view.get_class(g.target));
    });
    place_exponentials<target>(g);
    rows.each(g, [&](const auto& view, auto& data)
                     __attribute__((always_inline)) { exponentiate<target, extra, numbers>(p, view, data, g); });
    finish<target>(g);
}

// What is said of 16 rows: statistics and loss. Returns the loss, 0 for rows that do not count.
template <class D, Target target, bool extra, bool numbers>
LOSSLESS_INLINE Pack<double> conclude(const RowProblem& p, const Link& link, Group<Compute<D>>& g, int r) {
    Pack<double> counted = broadcast(0.0);
    const Pack<double> zero = broadcast(0.0), log_sum = load(g.log_sum + r), m = load(g.m + r);
    Pack<double> nll = zero, prior = zero, mean_below = zero;
    if constexpr (numbers) {
        nll = log_sum;
        write<double>(p.squares, g, r, load(g.squares + r) / (load(g.all + r) * load(g.all + r)));
        for (int i = r; i < g.rows && i < r + LANES; i++) p.largest[g.first_row + i] = largest_class<D>(p, g, i);
    }
    const auto tempered = [&](Pack<double> x) __attribute__((always_inline)) {
        return p.temperature == 1 ? x : x / broadcast(p.temperature);
    };
    if (target == Target::index) nll = tempered(m - load(g.x_target + r)) + log_sum;
    if constexpr (target == Target::soft) {
        const Pack<double> total = load(g.soft_rest + r) + soft_top<Compute<D>>(p, g, r);
        nll = tempered(load(g.soft_cost + r)) + total * log_sum;
    }
    if (extra && p.prior)
        prior = (tempered(load(g.prior_cost + r)) + broadcast(p.prior_total) * log_sum) * broadcast(p.prior_unit);
    if (extra) {
        mean_below = load(g.below + r) / load(g.all + r);
        store(g.mean_below + r, mean_below);
    }
    const auto write_statistic = [&](void* to, Pack<double> value) __attribute__((always_inline)) {
        p.wide ? write<double>(to, g, r, value) : write<D>(to, g, r, value);
    };
    write_statistic(p.nll, nll);
    const Pack<double> peak = load(g.peak + r);
    const Pack<double> lse = select(abs(peak) == broadcast(INF), peak, tempered(peak) + log_sum);
    write_statistic(p.lse, lse);
    write_statistic(p.entropy, log_sum + tempered(mean_below));
    write_statistic(p.prior_cost, prior);
    if (p.correct)
        for (int i = r; i < g.rows && i < r + LANES; i++)
            p.correct[g.first_row + i] = !g.ignored[i] && g.target[i] == largest_class<D>(p, g, i);
    if (p.is_loss()) {
        const Pack<double> weight = load(g.weight + r);
        Pack<double> q = zero, p_y = zero;
        if (p.gamma != 0) {
            q = load(g.but_target + r) / load(g.all + r);
            p_y = select(is_correct(g, r), load(g.top + r), load(g.at_target + r)) / load(g.all + r);
        }
        const Pack<double> loss = link.value(weight, nll, q, prior, lse);
        write<D>(p.loss, g, r, loss);
        counted = select(load(g.counts + r) == zero, zero, loss);
        store(g.slope_of_nll + r, link.slope_of_nll(weight, nll, q, p_y));
        store(g.slope_of_lse + r, link.slope_of_lse(lse));
    }
    return counted;
}

// A quantity of each row of a group for a backward pass, and back.
template <class T> void keep(const RowProblem& p, int row, const Group<T>& g, const Column& column) {
    memcpy(p.state + row * p.rows() + g.first_row, column, g.rows * sizeof(double));
}
template <class T> void restore(const RowProblem& p, int row, const Group<T>& g, Column& column) {
    memcpy(column, p.state + row * p.rows() + g.first_row, g.rows * sizeof(double));
}

template <class D, Target target, bool extra, bool numbers = false>
int64_t forward(const RowProblem& p, int64_t begin, int64_t end) {
    Sum<double> loss_sum(broadcast(0.0));
    Slopes<Compute<D>> s = {};
    const Link link = link_of(p);
    const auto of_group = [&](auto& g, auto& rows) {
        sum_up<target, extra, numbers>(p, g, rows);
        by_sixteens(g, [&](int r) __attribute__((always_inline)) {
            loss_sum.add(conclude<D, target, extra, numbers>(p, link, g, r));
        });
        if (p.state) {
            keep(p, 0, g, g.peak);
            keep(p, 1, g, g.all);
            keep(p, 2, g, g.but_target);
            keep(p, 3, g, g.but_top);
            keep(p, 4, g, p.is_loss() ? g.slope_of_nll : g.mean_below);
            keep(p, 5, g, g.slope_of_lse);
        }
        if constexpr (!numbers && (extra || target != Target::none))
            if (p.out) {
                p.is_loss() ? slopes_of_loss<D>(p, g, s) : slopes_of_statistics<D>(p, g, s);
                write_gradient<target, extra>(p, g, s, rows);
            }
    };
    return over_rows<D>(p, begin, end, Passes::several, transposed_with(target), of_group, [&](int64_t chunk) {
        const double total = sum_lanes(loss_sum);
        if (p.loss_sums) p.loss_sums[chunk] = total == total ? total : __builtin_nan(""); // of one sign
        loss_sum = Sum<double>(broadcast(0.0));
    });
}

// The weights of the rows that count.
template <class D> int64_t weigh(const RowProblem& p, int64_t chunk, int64_t begin, int64_t end) {
    Sum<double> sum(broadcast(0.0));
    Group<Compute<D>> g = {};
    int64_t first_bad = -1;
    for (int64_t first = begin; first < end; first += ROWS) {
        const int64_t bad = open_group<D>(p, g, first, int(end - first < ROWS ? end - first : ROWS));
        if (bad >= 0 && first_bad < 0) first_bad = bad;
        by_sixteens(g, [&](int r) { sum.add(load(g.counts + r) * load(g.weight + r)); });
    }
    p.weight_sums[chunk] = sum_lanes(sum);
    return first_bad;
}

template <class D, Target target, bool extra> int64_t backward(const RowProblem& p, int64_t begin, int64_t end) {
    Slopes<Compute<D>> s = {};
    return over_rows<D>(p, begin, end, Passes::one, transposed_with(target), [&](auto& g, auto& rows) {
        restore(p, 0, g, g.peak);
        restore(p, 1, g, g.all);
        restore(p, 2, g, g.but_target);
        restore(p, 3, g, g.but_top);
        if (p.is_loss()) {
            restore(p, 4, g, g.slope_of_nll);
            restore(p, 5, g, g.slope_of_lse);
            slopes_of_loss<D>(p, g, s);
        } else {
            restore(p, 4, g, g.mean_below);
            slopes_of_statistics<D>(p, g, s);
        }
        rows.each(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
            target == Target::soft || (extra && p.prior) ? find_again(view, data, g) : find_limit(view, data, g);
            if constexpr (target == Target::index) view.pick(g.x_target, data.x, view.get_class(g.target));
            if constexpr (target == Target::soft) sum_target(p, view, data, g);
        });
        place_exponentials<target>(g);
        prepare<target, extra>(p, g, s);
        sweep<target, extra, false>(p, g, s, rows);
    });
}

// p times a unit is e times these two, rounded once.
template <class T> struct Shares {
    ColumnOf<T> high, low;
};
template <class T> void prepare_shares(const Group<T>& g, double unit, Shares<T>& s) {
    by_sixteens(g, [&](int r) __attribute__((always_inline)) {
        const Pack<double> all = load(g.all + r), inverse = broadcast(unit) / all;
        const Pack<T> high = narrow<T>(inverse);
        const Pack<double> rest = fma(broadcast(0.0) - to_f64(high), all, broadcast(unit));
        store(s.high + r, high);
        store(s.low + r, narrow<T>(rest * (inverse * broadcast(1 / unit))));
    });
}

template <class D> int64_t softmax(const RowProblem& p, int64_t begin, int64_t end) {
    using T = Compute<D>;
    Shares<T> s;
    return over_rows<D>(p, begin, end, Passes::several, TRANSPOSED, [&](auto& g, auto& rows) {
        rows.each(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
            const auto logits = [&](Block b) __attribute__((always_inline)) { return view.load(data.x, b, T(-INF)); };
            view.put(g.peak, view.largest(logits));
            find_limit(view, data, g);
        });
        place_exponentials<Target::none>(g);
        rows.each(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
            typename std::remove_cvref_t<decltype(view)>::Total sum(view);
            each_exponential(view, data, g, [&](Block b, Pack<T>, Pack<T> e, Pack<T>) __attribute__((always_inline)) {
                sum.add(b, e);
            });
            view.put(g.all, sum.value());
        });
        prepare_shares(g, 1.0, s);
        rows.write(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
            const Pack<T> high = view.get(s.high), low = view.get(s.low);
            const T* const kept = data.e;
            auto* const out = data.out;
            view.cover([&](Block b) __attribute__((always_inline)) {
                const Pack<T> e = view.kept(kept, b);
                view.store(out, b, fma(e, high, e * low));
            });
        });
        rows.close(g);
        if (p.state) {
            keep(p, 0, g, g.peak);
            keep(p, 1, g, g.all);
        }
    });
}

template <class D> int64_t log_softmax(const RowProblem& p, int64_t begin, int64_t end) {
    return over_rows<D>(p, begin, end, Passes::several, TRANSPOSED, [&](auto& g, auto& rows) {
        sum_up<Target::none, false>(p, g, rows);
        rows.write(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
            using T = typename std::remove_cvref_t<decltype(view)>::T;
            data.limit_again(view, g);
            const auto m = view.get(g.m), log_sum = view.get(g.log_sum);
            const Sharpness<T> sharpness = g.sharpness;
            const Pack<T> high = broadcast(sharpness.high), low = broadcast(sharpness.low);
            view.each([&](Block b) __attribute__((always_inline)) {
                const Pack<T> d = view.load(data.x, b, 0) - m;
                Pack<T> log_p = d - log_sum;
                if (!sharpness.is_one) // not inf * 0
                    log_p =
                        select(abs(d) < broadcast(T(INF)), fma(d, high, fma(d, low, broadcast(T(0)) - log_sum)), log_p);
                view.store(data.out, b, log_p);
            });
        });
        rows.close(g);
        if (p.state) {
            keep(p, 0, g, g.peak);
            keep(p, 1, g, g.all);
            keep(p, 3, g, g.but_top);
        }
    });
}

// The mean of the slopes of a row, in two parts: its rounding would be an error of every class.
template <class T> struct Mean {
    ColumnOf<T> high, low;
    LOSSLESS_INLINE_MEMBER void put(int r, Pack<double> mean) {
        const Pack<T> first = narrow<T>(mean);
        const Pack<double> rest = mean - to_f64(first);
        store(high + r, first);
        store(low + r, narrow<T>(select(abs(rest) < broadcast(INF), rest, broadcast(0.0))));
    }
};

// Whether slopes of this size go without a unit of their own.
template <class T> LOSSLESS_INLINE Mask<T> is_moderate(Pack<T> most) {
    return (most < broadcast(T(0x1p40))) & ((most > broadcast(T(0x1p-40))) | (most == broadcast(T(0))));
}

// dx_j = p_j ((g_j - g_k) - sum_i p_i (g_i - g_k)), k the largest class: differences of g alone, so that what a
// confident row leaves of them is not lost in g_k. Very large and very small cotangents are brought near 1 together.
template <class D> int64_t softmax_backward(const RowProblem& p, int64_t begin, int64_t end) {
    using T = Compute<D>;
    Shares<T> s; // times 2^64, so that a small p meets a large slope before it gets denormal
    ColumnOf<T> at_top = {}, up, down;
    Column sum = {};
    Mean<T> mean;
    return over_rows<D>(p, begin, end, Passes::several, TRANSPOSED, [&](auto& g, auto& rows) {
        if (p.state) {
            restore(p, 0, g, g.peak);
            restore(p, 1, g, g.all);
        }
        rows.each(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
            p.state ? find_again(view, data, g) : find_largest(view, data, g);
            view.pick(at_top, data.cotangent, view.get_class(g.largest));
        });
        place_exponentials<Target::none>(g);
        rows.each(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
            using View = std::remove_cvref_t<decltype(view)>;
            const auto* const cotangent = data.cotangent;
            const auto add_up = [&](Pack<T> scale) __attribute__((always_inline)) {
                const Pack<T> top = view.get(at_top) * scale;
                typename View::Total all(view), slopes(view);
                Most<View> size;
                each_exponential(view, data, g,
                                 [&](Block b, Pack<T>, Pack<T> e, Pack<T>) __attribute__((always_inline)) {
                                     view.fetch(cotangent, b, data.ahead);
                                     const Pack<T> slope = view.load(cotangent, b, T(0));
                                     if (!p.state) all.add(b, e);
                                     slopes.add(b, e * (slope * scale - top));
                                     size.add(abs(slope));
                                 });
                if (!p.state) view.put(g.all, all.value());
                view.put(sum, slopes.value());
                return size.value();
            };
            Unit<T> unit = {broadcast(T(1)), broadcast(T(1))};
            const Pack<T> size = add_up(unit.second), one = unit.first;
            const auto moderate = is_moderate(size);
            if (any(~moderate)) {
                const Unit<T> below = unit_below(size);
                unit = {select(moderate, one, below.first), select(moderate, one, below.second)};
                add_up(unit.second);
            }
            view.put(up, unit.first);
            view.put(down, unit.second);
        });
        prepare_shares(g, 0x1p64 / p.temperature, s);
        by_sixteens(g, [&](int r) { mean.put(r, load(sum + r) / load(g.all + r)); });
        rows.write(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
            const Pack<T> high = view.get(s.high), low = view.get(s.low), scale = view.get(down), back = view.get(up);
            const Pack<T> top = view.get(at_top) * scale, mean_high = view.get(mean.high),
                          mean_low = view.get(mean.low);
            // 2^-64 times `back`, a small one as the last, so that what is in between is no denormal
            const Pack<T> one = broadcast(T(1)), whole = broadcast(T(0x1p-64));
            const auto large = back > one;
            const Pack<T> first = select(large, whole * back, whole), last = select(large, one, back);
            const auto* const cotangent = data.cotangent;
            const T* const kept = data.e;
            auto* const out = data.out;
            view.each([&](Block b) __attribute__((always_inline)) {
                const Pack<T> e = view.kept(kept, b);
                const Pack<T> slope = ((view.load(cotangent, b, T(0)) * scale - top) - mean_high) - mean_low;
                view.store(out, b, slope * fma(e, high, e * low) * first * last);
            });
        });
        rows.close(g);
    });
}

// The logits of a block of the result, where `wanted`; else any number or -inf.
template <class D> Pack<D> logits_of(const RowProblem& p, const RowsInPlace<D>& rows, const Group<D>& g,
                                     const ClassLanes<D>& view, Block b, Mask<D>) {
    return view.load(static_cast<const D*>(p.x) + rows.start_of(g, view.row), b, D(-INF));
}
template <class T> Pack<T> logits_of(const RowProblem& p, const RowsTransposed<T>& rows, const Group<T>& g,
                                     const RowLanes<T>& view, Block b, Mask<T> wanted) {
    const T* const x = static_cast<const T*>(p.x) + b.j * p.inner;
    const Pack<T> one = broadcast(T(1));
    T lanes[LANES];
    store(lanes, broadcast(T(-INF)));
    for (uint32_t bits = equal_bits(select(wanted, one, broadcast(T(0))), one); bits; bits &= bits - 1) {
        const int i = __builtin_ctz(bits);
        lanes[i] = x[rows.start_of(g, view.row + i)];
    }
    return load(lanes);
}

template <class T> constexpr double LEAST_NORMAL = sizeof(T) == 4 ? 0x1p-126 : 0x1p-1022;

// Of fewer classes, rows that are done again cost more than the others gain; of more, more roundings add up than 2^-24
// below allows for.
constexpr int64_t LEAST_AT_ONCE = 48, MOST_AT_ONCE = 4096;

// dx_j = p_j (g_j - sum_i p_i g_i / sum_i p_i) of floats p and g, whose products f64 holds exactly: of so many classes
// their sum is off by less than 2^-45 of the largest slope. Where no slope is nearer to the mean than 2^-24 of that, it
// is better than a mean of rounded differences. Into `again`: the rows where one is (the top of a confident row, equal
// slopes), or which are not ordinary; whether there are any. Both stages ask for what is needed next: all of it at once
// would have to wait.
template <class Rows> bool write_at_once(Group<float>& g, Rows& rows, ColumnOf<float>& again) {
    Column sum;
    ColumnOf<float> size = {}, tiny = {}, near_mean;
    Mean<float> mean;
    bool any_again = false;
    const Pack<float> zero = broadcast(0.0f), one = broadcast(1.0f),
                      least_normal = broadcast(float(LEAST_NORMAL<float>));
    rows.each(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
        using View = std::remove_cvref_t<decltype(view)>;
        const float *const probabilities = data.x, *const cotangent = data.cotangent;
        float* const out = data.out;
        typename View::WideTotal all(view), slopes(view);
        Most<View> most;
        Least<View> least;
        const int64_t ahead = data.ahead; // a local, as in each_exponential
        const auto parcel = data.parcel(view);
        view.each([&](Block b) __attribute__((always_inline)) {
            view.fetch(probabilities, b, ahead);
            if (!parcel.send(b)) view.fetch(out, b);
            const Pack<double> q = view.wide(probabilities, b);
            all.add(b, q);
            slopes.add_product(b, q, view.wide(cotangent, b));
            most.add(abs(view.load(cotangent, b, 0.0f)));
            least.add(view.load(probabilities, b, 1.0f));
        });
        view.put(g.all, all.value());
        view.put(sum, slopes.value());
        view.put(size, most.value());
        if (least.any_below(least_normal)) view.put(tiny, select(least.is_below(least_normal), one, zero));
    });
    by_sixteens(g, [&](int r) __attribute__((always_inline)) { // what is decided row by row costs more than the sums
        mean.put(r, load(sum + r) / load(g.all + r));
        const Pack<float> most = load(size + r);
        const auto lost = (load(tiny + r) == one) & (most > broadcast(0.5f)), asked = lost | ~is_moderate(most);
        store(again + r, select(asked, one, zero));
        store(near_mean + r, most * broadcast(0x1p-24f));
        any_again |= any(asked);
    });
    rows.write(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
        const Pack<float> mean_high = view.get(mean.high), mean_low = view.get(mean.low);
        const float *const probabilities = data.x, *const cotangent = data.cotangent;
        float* const out = data.out;
        const int64_t ahead = data.ahead;
        Least<std::remove_cvref_t<decltype(view)>> nearest;
        view.cover([&](Block b) __attribute__((always_inline)) {
            view.fetch(cotangent, b, ahead);
            const Pack<float> slope = (view.load(cotangent, b, float(INF)) - mean_high) - mean_low;
            nearest.add(abs(slope));
            view.store(out, b, slope * view.load(probabilities, b, 0.0f));
        });
        const Pack<float> bound = view.get(near_mean);
        if (!nearest.any_below(bound)) return;
        view.put(again, select(nearest.is_below(bound), one, view.get(again)));
        any_again = true;
    });
    return any_again;
}

// The same of the probabilities as they were rounded, without exponentials. One below the least normal number has lost
// digits, or all of them (but not where its logit is so far from the largest, or -inf, that it has none). It shows
// where a large cotangent meets it, or where many of them are all that the mean consists of: such rows are made of
// their logits, as are those whose cotangents want a unit of their own. What is decided for a row looks at that row
// alone, so that its bits do not hang on others. `at_once`: first all without the largest class, then some again.
template <class T, bool at_once> int64_t softmax_backward_of_result(const RowProblem& p, int64_t begin, int64_t end) {
    constexpr double LEAST = LEAST_NORMAL<T>;
    constexpr double REACH = sizeof(T) == 4 ? 133 : 754;       // the exponentials of logits further below are 0
    constexpr double LIFT = sizeof(T) == 4 ? 0x1p64 : 0x1p512; // so that a product of small factors is no denormal
    RowProblem of_result = p, of_logits = p;
    of_result.x = p.result;
    of_logits.result = nullptr;
    of_logits.past_caches = false;
    ColumnOf<T> at_top = {}, from_logits = {}, doubtful = {}, top_logit = {}, again = {};
    Column sum = {};
    Mean<T> mean;
    int64_t failed = -1;
    // Little arithmetic: even few classes are quicker as they lie, unless floats are searched for the largest.
    constexpr int64_t transposed = at_once || sizeof(T) == 8 ? 0 : TRANSPOSED;
    constexpr Passes passes = at_once ? Passes::light : Passes::several;
    const int64_t bad = over_rows<T>(of_result, begin, end, passes, transposed, [&](auto& g, auto& rows) {
        bool any_doubtful = false, any_from_logits = false;
        if constexpr (at_once)
            if (!write_at_once(g, rows, again)) return rows.close(g);
        const auto asked = [&](const auto& view) __attribute__((always_inline)) {
            const Pack<T> zero = broadcast(T(0));
            return at_once ? view.get(again) != zero : zero == zero;
        };
        rows.each(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
            if (at_once && !any(asked(view))) return;
            const auto largest = view.first_largest(
                [&](Block b) __attribute__((always_inline)) { return view.load(data.x, b, T(-INF)); });
            view.put_class(g.largest, largest.at);
            view.pick(at_top, data.cotangent, largest.at);
        });
        rows.each(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
            using View = std::remove_cvref_t<decltype(view)>;
            const Pack<T> zero = broadcast(T(0)), one = broadcast(T(1));
            view.put(from_logits, zero);
            view.put(doubtful, zero);
            if (at_once && !any(asked(view))) return;
            const Pack<T> lift = broadcast(T(LIFT)), top = zero - view.get(at_top) * lift;
            const T fill = T(at_top[view.row]); // beyond the last class: no slope of its own
            const auto *const probabilities = data.x, *const cotangent = data.cotangent;
            auto* const out = data.out;
            typename View::Total all(view), slopes(view);
            Most<View> size, below;
            const auto parcel = data.parcel(view);
            view.each([&](Block b) __attribute__((always_inline)) {
                view.fetch(probabilities, b, data.ahead);
                if (!parcel.send(b)) view.fetch(out, b);
                const Pack<T> q = view.load(probabilities, b, T(1)), slope = view.load(cotangent, b, fill);
                all.add(b, view.load(probabilities, b, T(0)));
                slopes.add(b, q * fma(slope, lift, top));
                size.add(abs(slope));
                below.add(zero - q);
            });
            view.put(g.all, all.value());
            view.put(sum, slopes.value());
            const Pack<T> most = size.value(), least = zero - below.value();
            const auto would_show = (abs(view.get(sum)) < most * broadcast(T(8 * LEAST * LIFT * double(p.classes)))) |
                                    (most > broadcast(T(0.5)));
            const auto extreme = asked(view) & ~is_moderate(most);
            const auto doubt = asked(view) & is_moderate(most) & would_show & (least < broadcast(T(LEAST)));
            view.put(from_logits, select(extreme, one, zero));
            view.put(doubtful, select(doubt, one, zero));
            any_doubtful |= any(doubt);
            any_from_logits |= any(doubt | extreme);
        });
        for (int i = 0; any_doubtful && i < g.rows; i++)
            if (doubtful[i] != 0)
                top_logit[i] = static_cast<const T*>(p.x)[rows.start_of(g, i) + g.largest[i] * p.inner];
        if (any_doubtful)
            rows.each(g, [&](const auto& view, auto& data) {
                const Pack<T> zero = broadcast(T(0)), one = broadcast(T(1));
                const auto asked = view.get(doubtful) != zero;
                if (!any(asked)) return;
                const Pack<T> reach = view.get(top_logit) - broadcast(T(REACH));
                Most<std::remove_cvref_t<decltype(view)>> lost;
                view.each([&](Block b) {
                    const Pack<T> q = view.load(data.x, b, T(1));
                    const auto none = asked & (q == zero), few = asked & (q > zero) & (q < broadcast(T(LEAST)));
                    const auto gone = any(none) ? none & (logits_of(p, rows, g, view, b, none) > reach) : none;
                    lost.add(select(few | gone, one, zero));
                });
                view.put(from_logits, select(asked, lost.value(), view.get(from_logits)));
            });
        // Over the sum of the rounded probabilities: those of equal logits are all off the same way.
        by_sixteens(g, [&](int r) { mean.put(r, load(sum + r) * broadcast(1 / LIFT) / load(g.all + r)); });
        rows.write(g, [&](const auto& view, auto& data) __attribute__((always_inline)) {
            if (at_once && !any(asked(view))) return;
            const Pack<T> top = view.get(at_top), mean_high = view.get(mean.high), mean_low = view.get(mean.low);
            const auto *const probabilities = data.x, *const cotangent = data.cotangent;
            auto* const out = data.out;
            view.each([&](Block b) __attribute__((always_inline)) {
                view.fetch(cotangent, b, data.ahead);
                const Pack<T> slope = ((view.load(cotangent, b, T(0)) - top) - mean_high) - mean_low;
                const Pack<T> dx = slope * view.load(probabilities, b, T(0));
                view.store(out, b, at_once ? select(asked(view), dx, view.load(out, b, T(0))) : dx);
            });
        });
        rows.close(g);
        for (int i = 0, next; any_from_logits && i < g.rows; i = next) {
            const auto same = [&](int j) { return (from_logits[j] != 0) == (from_logits[i] != 0); };
            for (next = i + 1; next < g.rows && same(next);) next++;
            if (from_logits[i] == 0) continue;
            const int64_t first = g.first_row + i;
            of_logits.out = rows.results(g); // parts of chunks will do, since it adds nothing up over rows
            if (softmax_backward<T>(of_logits, first, first + next - i) == NO_MEMORY) failed = NO_MEMORY;
        }
    });
    return failed == NO_MEMORY ? failed : bad;
}

// Of log-probabilities: -w x of the label's class, and the sums of both.
template <class D> int64_t nll(const RowProblem& p, int64_t chunk, int64_t begin, int64_t end) {
    Sum<double> losses(broadcast(0.0)), weights(broadcast(0.0));
    const D* const x = static_cast<const D*>(p.x);
    Group<Compute<D>> g = {};
    Column loss = {};
    Starts starts(p, begin);
    int64_t first_bad = -1;
    for (int64_t first = begin; first < end; first += ROWS) {
        const int64_t bad = open_group<D>(p, g, first, int(end - first < ROWS ? end - first : ROWS));
        if (bad >= 0 && first_bad < 0) first_bad = bad;
        for (int i = 0; i < g.rows; i++) {
            const int64_t start = starts.next();
            loss[i] = g.ignored[i] ? 0.0 : 0.0 - g.weight[i] * to_compute(x[start + g.target[i] * p.inner]);
        }
        by_sixteens(g, [&](int r) {
            const Pack<double> counts = load(g.counts + r), zero = broadcast(0.0);
            losses.add(select(counts == zero, zero, load(loss + r)));
            weights.add(counts * load(g.weight + r));
            write<D>(p.loss, g, r, load(loss + r));
        });
    }
    const double total = sum_lanes(losses);
    p.loss_sums[chunk] = total == total ? total : __builtin_nan(""); // of one sign
    p.weight_sums[chunk] = sum_lanes(weights);
    return first_bad;
}

template <class D> int64_t nll_backward(const RowProblem& p, int64_t begin, int64_t end) {
    D* const out = static_cast<D*>(p.out);
    for (int64_t row = begin, rows; row < end; row += rows) { // whole blocks of (classes, inner), or columns of one
        D* const at = out + start_of(p, row);
        const int64_t inner = row % p.inner, left = end - row, blocks = left / p.inner;
        rows = inner || !blocks ? (p.inner - inner < left ? p.inner - inner : left) : blocks * p.inner;
        if (rows >= p.inner)
            memset(at, 0, rows * p.classes * sizeof(D));
        else
            for (int64_t j = 0; j < p.classes; j++) memset(at + j * p.inner, 0, rows * sizeof(D));
    }
    Group<Compute<D>> g = {};
    Starts starts(p, begin);
    for (int64_t first = begin; first < end; first += ROWS) {
        open_group<D>(p, g, first, int(end - first < ROWS ? end - first : ROWS));
        by_sixteens(g, [&](int r) {
            Column slope;
            store(slope, broadcast(0.0) - load(g.weight + r) * read<D>(p.d_loss, p.divisor, g, r));
            for (int i = r; i < g.rows && i < r + LANES; i++) {
                const int64_t start = starts.next();
                if (!g.ignored[i]) out[start + g.target[i] * p.inner] = from_compute<D>(Compute<D>(slope[i - r]));
            }
        });
    }
    return -1;
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

int64_t forward_any(const RowProblem& p, int64_t begin, int64_t end) {
    const bool extra = p.prior || p.entropy;
    if (p.squares)
        return by_dtype(p.dtype, [&](auto d) {
            return numbers<decltype(d)>(forward<double, Target::none, true, true>, p, begin, end);
        });
    return by_dtype(p.dtype, [&](auto d) {
        using D = decltype(d);
        switch (p.target) {
        case Target::none:
            return (extra ? forward<D, Target::none, true> : forward<D, Target::none, false>)(p, begin, end);
        case Target::index:
            return (extra ? forward<D, Target::index, true> : forward<D, Target::index, false>)(p, begin, end);
        default: return (extra ? forward<D, Target::soft, true> : forward<D, Target::soft, false>)(p, begin, end);
        }
    });
}

int64_t backward_any(const RowProblem& p, int64_t begin, int64_t end) {
    const bool extra = p.prior || p.d_entropy.values;
    return by_dtype(p.dtype, [&](auto d) {
        using D = decltype(d);
        switch (p.target) {
        case Target::none:
            return (extra ? backward<D, Target::none, true> : backward<D, Target::none, false>)(p, begin, end);
        case Target::index:
            return (extra ? backward<D, Target::index, true> : backward<D, Target::index, false>)(p, begin, end);
        default: return (extra ? backward<D, Target::soft, true> : backward<D, Target::soft, false>)(p, begin, end);
        }
    });
}

int64_t weigh_any(const RowProblem& p, int64_t begin, int64_t end) {
    return each_chunk(p, begin, end, [&](int64_t chunk, int64_t from, int64_t to) {
        return by_dtype(p.dtype, [&](auto d) { return weigh<decltype(d)>(p, chunk, from, to); });
    });
}
int64_t softmax_any(const RowProblem& p, int64_t begin, int64_t end) {
    return by_dtype(p.dtype, [&](auto d) { return softmax<decltype(d)>(p, begin, end); });
}
int64_t log_softmax_any(const RowProblem& p, int64_t begin, int64_t end) {
    return by_dtype(p.dtype, [&](auto d) { return log_softmax<decltype(d)>(p, begin, end); });
}
int64_t softmax_backward_any(const RowProblem& p, int64_t begin, int64_t end) {
    if (p.result && p.dtype == lossless::DType::f64) return softmax_backward_of_result<double, false>(p, begin, end);
    if (p.result) {
        const bool at_once = p.classes >= LEAST_AT_ONCE && p.classes <= MOST_AT_ONCE;
        return (at_once ? softmax_backward_of_result<float, true> : softmax_backward_of_result<float, false>)(p, begin,
                                                                                                              end);
    }
    return by_dtype(p.dtype, [&](auto d) { return softmax_backward<decltype(d)>(p, begin, end); });
}

int64_t nll_any(const RowProblem& p, int64_t begin, int64_t end) {
    return each_chunk(p, begin, end, [&](int64_t chunk, int64_t from, int64_t to) {
        return by_dtype(p.dtype, [&](auto d) { return nll<decltype(d)>(p, chunk, from, to); });
    });
}
int64_t nll_backward_any(const RowProblem& p, int64_t begin, int64_t end) {
    return by_dtype(p.dtype, [&](auto d) { return nll_backward<decltype(d)>(p, begin, end); });
}

void pointwise_any(const lossless::PointwiseProblem& p, int64_t chunk, int64_t begin, int64_t end) {
    by_dtype(p.dtype, [&](auto d) { pointwise<decltype(d)>(p, chunk, begin, end); });
}

} // namespace

extern "C" const lossless::Kernels LOSSLESS_ISA_SYMBOL;
const lossless::Kernels LOSSLESS_ISA_SYMBOL = {
    LOSSLESS_ISA_NAME,    weigh_any, forward_any,      backward_any,  softmax_any, log_softmax_any,
    softmax_backward_any, nll_any,   nll_backward_any, pointwise_any, temper,      add_exactly};
