// lossless._native: the kernels as Python functions over contiguous arrays. Every argument is checked here again, so
// that a mistake above raises and never reaches memory that is not ours.
#include "bins.h"
#include "cpu.h"
#include "entries.h"
#include "functions.h"
#include "straight.h"
#include "tensors.h"
#include "threads.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <map>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

namespace lossless {
namespace {

// ---------------------------------------------------------------------------------------------- which kernels

const Kernels* active = nullptr;

void use_isa(const std::string& name) {
    std::string known;
    for (const Kernels* kernels : usable_kernels()) {
        if (name == kernels->isa) {
            active = kernels;
            return;
        }
        known += std::string(known.empty() ? "" : ", ") + kernels->isa;
    }
    throw nb::value_error(("instruction set " + name + " is not one this machine can run: " + known).c_str());
}

const Kernels& kernels() { return *active; }

// ---------------------------------------------------------------------------------------------- running

// Work is cut into chunks by the problem alone, so results do not depend on the number of threads.
constexpr int64_t CHUNK_ELEMENTS = 1 << 15;
// Below this, releasing the GIL costs more than it gives.
constexpr int64_t RELEASE_ELEMENTS = 1 << 14;

int64_t chunks_of(int64_t count, int64_t step) { return (count + step - 1) / step; }

// f(first, last) for runs of chunks.
template <class F> void in_parallel(int64_t elements, int64_t chunks, F f) {
    const auto run = [&] {
        parallel_for(
            chunks, [](void* context, int64_t first, int64_t last) { (*static_cast<F*>(context))(first, last); }, &f);
    };
    if (elements < RELEASE_ELEMENTS) {
        run();
    } else {
        nb::gil_scoped_release released;
        run();
    }
}

// Results go past the caches where a kernel reads and writes so many bytes in all. Of less, they may still be in the
// last cache when somebody reads them, and come out of it faster than out of memory.
constexpr int64_t LARGE_TRAFFIC = int64_t(18) << 20;
std::atomic<int64_t> least_past_caches{LARGE_TRAFFIC};

int64_t row_step(const RowProblem& p) { // a multiple of the 16 rows that a kernel takes at once
    const int64_t groups = CHUNK_ELEMENTS / (p.classes * 16);
    return groups < 1 ? 16 : groups * 16;
}

// In chunk order, with the rounding errors carried along.
double total(const std::vector<double>& parts) {
    double sum = 0, error = 0;
    for (double part : parts) {
        const double next = sum + part, back = next - sum;
        error += (sum - (next - back)) + (part - back);
        sum = next;
    }
    return error == error ? sum + error : sum;
}

// ---------------------------------------------------------------------------------------------- arguments

DType dtype_of(const Array& x) {
    switch (x.element) {
    case Element::f16: return DType::f16;
    case Element::bf16: return DType::bf16;
    case Element::f32: return DType::f32;
    case Element::f64: return DType::f64;
    default: throw nb::type_error((x.name + ": must be floating").c_str());
    }
}
Element compute_element(DType dtype) { return dtype == DType::f64 ? Element::f64 : Element::f32; }

// Whether results like x, made of it and of so many arrays beside it, go past the caches: not over x itself, whose
// lines are in one already.
bool go_past_caches(const void* out, const Array& x, int beside) {
    if (!out || out == x.data || x.bytes() * (2 + beside) < least_past_caches) return false;
    return uintptr_t(out) % uintptr_t(x.bytes() / x.size) == 0;
}

struct Rows {
    Array x;
    RowProblem p;
    Rows(nb::handle logits, int64_t outer, int64_t classes, int64_t inner, double temperature = 1) : x(logits, "x") {
        constexpr int64_t MOST_CLASSES = int64_t(1) << 40;
        if (outer < 0 || classes < 1 || classes > MOST_CLASSES || inner < 0)
            throw nb::value_error("outer, inner >= 0 and classes in [1, 2^40] expected");
        x.required();
        int64_t rows = 0, size = 0;
        if (__builtin_mul_overflow(outer, inner, &rows) || __builtin_mul_overflow(rows, classes, &size) ||
            x.size != size)
            throw nb::value_error("x: size is not outer * classes * inner");
        if (rows > x.size) throw nb::value_error("x: more rows than numbers");
        p = {};
        p.dtype = dtype_of(x);
        p.x = x.data;
        p.outer = outer;
        p.classes = classes;
        p.inner = inner;
        p.chunk = row_step(p);
        p.temperature = temperature;
        if (!(temperature >= 0x1p-20 && temperature <= 0x1p20)) // a float has digits for both parts of its inverse
            throw nb::value_error("temperature: expected a number in [2^-20, 2^20]");
    }
    int64_t rows() const { return p.rows(); }
    Array& like(Array& a) { return a.expect(x.element, x.size); }
    Array& per_row(Array& a) { return a.expect(x.element, rows()); }
    // A statistic of every row: in the dtype of x, or all of them in f64.
    void* statistic(Array& a) { return a.expect(p.wide ? Element::f64 : x.element, rows()).data; }
    Array& per_class(Array& a) { return a.expect(compute_element(p.dtype), p.classes); }

    void set_target(Array& target, std::optional<int64_t> ignore_index) {
        if (!target) return;
        if (target.element == Element::i64) {
            p.target = Target::index;
            p.index = target.expect(Element::i64, rows()).as<int64_t>();
            p.ignores = ignore_index.has_value();
            p.ignore_index = ignore_index.value_or(0);
        } else {
            p.target = Target::soft;
            p.soft = like(target).data;
        }
    }
    Upstream upstream(Array& g) {
        if (!g) return {};
        if (g.size != 1 && g.size != rows()) throw nb::value_error((g.name + ": one number, or one a row").c_str());
        if (g.element != Element::f64) g.expect(x.element, g.size);
        return {g.data, g.element == Element::f64, g.size != 1};
    }
    double* state(Array& a) { return a.expect(Element::f64, STATE_ROWS * rows()).as<double>(); }

    // The first row whose index is out of range, or -1.
    int64_t run(RowKernel kernel) {
        p.past_caches = go_past_caches(p.out, x, !!p.soft + !!p.cotangent);
        std::atomic<int64_t> first_bad{INT64_MAX};
        std::atomic<bool> no_memory{false};
        in_parallel(x.size, chunks_of(rows(), p.chunk), [&](int64_t first, int64_t last) {
            const int64_t bad = kernel(p, first * p.chunk, std::min(last * p.chunk, rows()));
            if (bad == NO_MEMORY) no_memory = true;
            if (bad < 0) return;
            for (int64_t seen = first_bad; bad < seen && !first_bad.compare_exchange_weak(seen, bad);) {
            }
        });
        if (no_memory) throw std::bad_alloc();
        return first_bad == INT64_MAX ? -1 : int64_t(first_bad);
    }
};

// A prior and, for each class, the sum of its other classes: from running sums of both ends, never a total less a term,
// in a wider type than the data.
class Prior {
  public:
    Prior(RowProblem& p, const void* weights) {
        if (p.dtype == DType::f64)
            fill(p, static_cast<const double*>(weights), wide);
        else
            fill(p, static_cast<const float*>(weights), narrow);
    }

  private:
    template <class T> void fill(RowProblem& p, const T* weights, std::vector<T>& table) {
        using Wide = std::conditional_t<sizeof(T) == 4, double, long double>;
        const int64_t n = p.classes;
        table.resize(size_t(2 * n));
        std::vector<Wide> after(size_t(n) + 1, Wide(0));
        T largest = 0;
        for (int64_t j = 0; weights && j < n; j++) largest = std::fmax(largest, std::fabs(weights[j]));
        if (largest > 0 && std::isfinite(largest)) p.prior_unit = std::ldexp(1.0, std::ilogb(largest));
        for (int64_t j = 0; j < n; j++) table[size_t(j)] = weights ? T(double(weights[j]) / p.prior_unit) : T(1);
        for (int64_t j = n; j-- > 0;) after[size_t(j)] = after[size_t(j) + 1] + Wide(table[size_t(j)]);
        Wide before = 0;
        for (int64_t j = 0; j < n; j++) {
            table[size_t(n + j)] = T(before + after[size_t(j) + 1]);
            before += Wide(table[size_t(j)]);
        }
        p.prior = table.data();
        p.prior_others = table.data() + n;
        p.prior_total = double(before);
    }
    std::vector<float> narrow;
    std::vector<double> wide;
};

const Link NLL = {1, 0, 0, 0};

// A loss of rows: logits, a target, and the link.
struct RowLoss {
    Rows rows;
    Array target, weight;
    std::optional<Prior> table;
    RowLoss(nb::handle x_, int64_t outer, int64_t classes, int64_t inner, nb::handle target_, nb::handle weight_,
            std::optional<int64_t> ignore_index, Link link, double temperature)
        : rows(x_, outer, classes, inner, temperature), target(target_, "target"), weight(weight_, "weight") {
        RowProblem& p = rows.p;
        rows.set_target(target.required(), ignore_index);
        p.weight = rows.per_class(weight).data;
        std::tie(p.nll_scale, p.prior_scale, p.gamma, p.z) = link;
        if (p.gamma != 0 && p.target != Target::index) throw nb::value_error("gamma: only with an index");
        if (p.prior_scale != 0) table.emplace(p, p.weight);
    }
    RowProblem& with_labels() {
        if (rows.p.target != Target::index) throw nb::value_error("target: labels expected");
        return rows.p;
    }
};

void transform(RowKernel kernel, nb::handle x_, int64_t outer, int64_t classes, int64_t inner, nb::handle out_,
               double temperature, nb::handle state_) {
    Rows rows(x_, outer, classes, inner, temperature);
    Array out(out_, "out", Array::Use::output), state(state_, "state", Array::Use::output);
    rows.p.out = rows.like(out.required()).data;
    rows.p.state = rows.state(state);
    rows.run(kernel);
}

Pointwise kind_of(const std::string& name) {
    static const std::map<std::string, Pointwise> kinds = {{"bce_with_logits", Pointwise::bce_with_logits},
                                                           {"squared_error", Pointwise::squared_error},
                                                           {"sigmoid_focal", Pointwise::sigmoid_focal},
                                                           {"kl_divergence", Pointwise::kl_divergence},
                                                           {"sigmoid", Pointwise::sigmoid},
                                                           {"log_sigmoid", Pointwise::log_sigmoid}};
    const auto found = kinds.find(name);
    if (found == kinds.end()) throw nb::value_error(("unknown pointwise function: " + name).c_str());
    return found->second;
}

struct Points {
    Array x, target, weight, pos_weight;
    PointwiseProblem p;
    Points(const std::string& kind, nb::handle x_, nb::handle target_, nb::handle weight_, nb::handle pos_weight_,
           std::tuple<double, double> focal)
        : x(x_, "x"), target(target_, "target"), weight(weight_, "weight"), pos_weight(pos_weight_, "pos_weight") {
        x.required();
        p = {};
        p.kind = kind_of(kind);
        if (p.kind == Pointwise::sigmoid || p.kind == Pointwise::log_sigmoid ? bool(target) : !target)
            throw nb::value_error((kind + ": a target where there is none, or none where there is one").c_str());
        if (p.kind != Pointwise::bce_with_logits && p.kind != Pointwise::squared_error && (weight || pos_weight))
            throw nb::value_error((kind + ": takes no weights").c_str());
        if ((p.kind == Pointwise::sigmoid_focal || p.kind == Pointwise::kl_divergence) && x.element == Element::f64)
            throw nb::value_error((kind + ": takes no float64").c_str());
        std::tie(p.alpha, p.gamma) = focal;
        p.dtype = dtype_of(x);
        p.size = x.size;
        p.x = x.data;
        p.target = target.expect(x.element, x.size).data;
        p.weight = weight.expect(x.element, x.size).data;
        p.pos_weight = pos_weight.expect(x.element, x.size).data;
    }
    void run() {
        p.past_caches =
            go_past_caches(p.dx, x, bool(target) + bool(weight) + bool(pos_weight) + !!p.value + p.g.per_row);
        in_parallel(p.size, chunks_of(p.size, CHUNK_ELEMENTS), [&](int64_t first, int64_t last) {
            for (int64_t chunk = first; chunk < last; chunk++) {
                const int64_t begin = chunk * CHUNK_ELEMENTS;
                kernels().pointwise(p, chunk, begin, std::min(begin + CHUNK_ELEMENTS, p.size));
            }
        });
    }
};

} // namespace

// ---------------------------------------------------------------------------------------------- rows

int64_t row_statistics(nb::handle x_, int64_t outer, int64_t classes, int64_t inner, nb::handle target_,
                       nb::handle weight_, nb::handle prior_, std::optional<int64_t> ignore_index, nb::handle nll_,
                       nb::handle lse_, nb::handle entropy_, nb::handle prior_cost_, nb::handle correct_,
                       nb::handle state_, double temperature) {
    Rows rows(x_, outer, classes, inner, temperature);
    RowProblem& p = rows.p;
    Array target(target_, "target"), weight(weight_, "weight"), prior(prior_, "prior"),
        nll(nll_, "nll", Array::Use::output), lse(lse_, "lse", Array::Use::output),
        entropy(entropy_, "entropy", Array::Use::output), prior_cost(prior_cost_, "prior_cost", Array::Use::output),
        correct(correct_, "correct", Array::Use::output), state(state_, "state", Array::Use::output);
    rows.set_target(target, ignore_index);
    if (p.target == Target::soft) p.weight = rows.per_class(weight).data;
    std::optional<Prior> table;
    if (rows.per_class(prior)) table.emplace(p, prior.data);
    for (const Array* a : {&nll, &lse, &entropy, &prior_cost}) p.wide = p.wide || (*a && a->element == Element::f64);
    p.nll = rows.statistic(nll);
    p.lse = rows.statistic(lse);
    p.entropy = rows.statistic(entropy);
    p.prior_cost = rows.statistic(prior_cost);
    p.correct = correct.expect(Element::byte, rows.rows()).as<uint8_t>();
    p.state = rows.state(state);
    return rows.run(kernels().forward);
}

// What an evaluation asks of a row of logits, in f64: -log p of the largest class, lse, entropy, the sum of all other
// p^2, and the class; the lead of its logit over that of the label, the label's rank, the logit, and a hash of the row.
void row_numbers(nb::handle x_, int64_t rows_, int64_t classes, nb::handle label_, nb::handle surprise_,
                 nb::handle lse_, nb::handle entropy_, nb::handle squares_, nb::handle largest_, nb::handle lead_,
                 nb::handle rank_, nb::handle peak_, nb::handle hash_) {
    Rows rows(x_, rows_, classes, 1);
    RowProblem& p = rows.p;
    Array surprise(surprise_, "surprise", Array::Use::output), lse(lse_, "lse", Array::Use::output),
        entropy(entropy_, "entropy", Array::Use::output), squares(squares_, "squares", Array::Use::output),
        largest(largest_, "largest", Array::Use::output), lead(lead_, "lead", Array::Use::output),
        rank(rank_, "rank", Array::Use::output), peak(peak_, "peak", Array::Use::output),
        hash(hash_, "hash", Array::Use::output), label(label_, "label");
    const auto column = [&](Array& a) { return a.required().expect(Element::f64, rows_).as<double>(); };
    p.nll = column(surprise);
    p.lse = column(lse);
    p.entropy = column(entropy);
    p.squares = column(squares);
    p.lead = column(lead);
    p.peak = column(peak);
    p.largest = largest.required().expect(Element::i64, rows_).as<int64_t>();
    p.rank = rank.required().expect(Element::i64, rows_).as<int64_t>();
    p.hash = hash.required().expect(Element::i64, rows_).as<uint64_t>();
    p.label = label.required().expect(Element::i64, rows_).as<int64_t>();
    p.wide = true;
    if (rows.run(kernels().forward) >= 0) throw nb::value_error("label: not in [0, classes)");
}

// See Tempered.
void temper(nb::handle d_, int64_t rows_, int64_t classes, double beta, nb::handle total_, nb::handle mean_,
            nb::handle square_) {
    Rows rows(d_, rows_, classes, 1);
    Array total(total_, "total", Array::Use::output), mean(mean_, "mean", Array::Use::output),
        square(square_, "square", Array::Use::output);
    const auto column = [&](Array& a) { return a.required().expect(Element::f64, rows_).as<double>(); };
    const Tempered p = {rows.x.expect(Element::f64, rows_ * classes).as<double>(),
                        rows_,
                        classes,
                        beta,
                        column(total),
                        column(mean),
                        column(square)};
    const int64_t step = rows.p.chunk;
    in_parallel(rows_ * classes, chunks_of(rows_, step),
                [&](int64_t first, int64_t last) { kernels().temper(p, first * step, std::min(last * step, rows_)); });
}

// How many of the values were added: see SumKernel.
int64_t add_exactly(nb::handle limbs_, int64_t groups, nb::handle values_, nb::handle group_) {
    Array limbs(limbs_, "limbs", Array::Use::output), values(values_, "values"), group(group_, "group");
    if (groups < 1) throw nb::value_error("groups >= 1 expected");
    const int64_t levels = limbs.required().size / groups, count = values.required().size;
    const Limbs to = {limbs.expect(Element::i64, levels * groups).as<int64_t>(), levels, groups};
    const double* from = values.expect(Element::f64, count).as<double>();
    const int64_t* sum = group.expect(Element::i64, count).as<int64_t>();
    int64_t added = 0;
    in_parallel(count * levels, 1, [&](int64_t, int64_t) { added = kernels().add_exactly(to, from, sum, count); });
    if (added < 0) throw nb::value_error("group: not in [0, groups)");
    return added;
}

// Whether all numbers of an array, of which there are some, have the same bits.
bool is_one_number(nb::handle array_) {
    Array array(array_, "array");
    if (!array.required().size) return false;
    const int64_t each = array.bytes() / array.size;
    return std::memcmp(array.data, array.as<char>() + each, size_t(array.bytes() - each)) == 0;
}

void row_statistics_backward(nb::handle x_, int64_t outer, int64_t classes, int64_t inner, nb::handle target_,
                             nb::handle weight_, nb::handle prior_, std::optional<int64_t> ignore_index,
                             nb::handle state_, nb::handle d_nll_, nb::handle d_lse_, nb::handle d_entropy_,
                             nb::handle d_prior_, nb::handle dx_, double temperature) {
    Rows rows(x_, outer, classes, inner, temperature);
    RowProblem& p = rows.p;
    Array target(target_, "target"), weight(weight_, "weight"), prior(prior_, "prior"), state(state_, "state"),
        d_nll(d_nll_, "d_nll"), d_lse(d_lse_, "d_lse"), d_entropy(d_entropy_, "d_entropy"),
        d_prior(d_prior_, "d_prior"), dx(dx_, "dx", Array::Use::output);
    rows.set_target(target, ignore_index);
    if (p.target == Target::soft) p.weight = rows.per_class(weight).data;
    std::optional<Prior> table;
    if (d_prior && rows.per_class(prior)) table.emplace(p, prior.data);
    p.state = rows.state(state.required());
    p.d_nll = rows.upstream(d_nll);
    p.d_lse = rows.upstream(d_lse);
    p.d_entropy = rows.upstream(d_entropy);
    p.d_prior = rows.upstream(d_prior);
    p.out = rows.like(dx.required()).data;
    rows.run(kernels().backward);
}

// With dx, its gradient too, for an upstream gradient g that all rows share.
void entropy(nb::handle x_, int64_t outer, int64_t classes, int64_t inner, nb::handle entropy_, nb::handle state_,
             double g, nb::handle dx_, double temperature) {
    Rows rows(x_, outer, classes, inner, temperature);
    RowProblem& p = rows.p;
    Array entropy(entropy_, "entropy", Array::Use::output), state(state_, "state", Array::Use::output),
        dx(dx_, "dx", Array::Use::output);
    p.entropy = rows.statistic(entropy.required());
    p.state = rows.state(state);
    p.out = rows.like(dx).data;
    p.d_entropy = {&g, true, false};
    rows.run(kernels().forward);
}

// (the first row whose index is out of range or -1, the sum of the losses, what divides it). `divisor`: given, else the
// weights of the rows that count. With dx, its gradient too, for an upstream gradient g.
Loss row_loss(nb::handle x, int64_t outer, int64_t classes, int64_t inner, nb::handle target, nb::handle weight,
              std::optional<int64_t> ignore_index, Link link, nb::handle loss_, nb::handle state_,
              std::optional<double> divisor, double g, nb::handle dx_, double temperature) {
    RowLoss of(x, outer, classes, inner, target, weight, ignore_index, link, temperature);
    RowProblem& p = of.rows.p;
    Array loss(loss_, "loss", Array::Use::output), state(state_, "state", Array::Use::output),
        dx(dx_, "dx", Array::Use::output);
    std::vector<double> sums(size_t(chunks_of(p.rows(), p.chunk)));
    if (!divisor && p.target == Target::soft) divisor = double(p.rows());
    if (!divisor) {
        p.weight_sums = sums.data();
        const int64_t bad = of.rows.run(kernels().weigh);
        divisor = total(sums);
        p.weight_sums = nullptr;
        if (bad >= 0) return {bad, 0.0, *divisor};
    }
    p.loss = of.rows.per_row(loss).data;
    p.state = of.rows.state(state);
    p.loss_sums = sums.data();
    p.out = of.rows.like(dx).data;
    p.d_loss = {&g, true, false};
    p.divisor = *divisor == 0 ? std::nan("") : *divisor;
    const int64_t bad = of.rows.run(kernels().forward);
    return {bad, total(sums), *divisor};
}

void row_loss_backward(nb::handle x, int64_t outer, int64_t classes, int64_t inner, nb::handle target,
                       nb::handle weight, std::optional<int64_t> ignore_index, Link link, nb::handle state_,
                       nb::handle g_, double divisor, nb::handle dx_, double temperature) {
    RowLoss of(x, outer, classes, inner, target, weight, ignore_index, link, temperature);
    RowProblem& p = of.rows.p;
    Array state(state_, "state"), g(g_, "g"), dx(dx_, "dx", Array::Use::output);
    p.state = of.rows.state(state.required());
    p.d_loss = of.rows.upstream(g.required());
    p.divisor = divisor;
    p.out = of.rows.like(dx.required()).data;
    of.rows.run(kernels().backward);
}

// Labels of log-probabilities. As `row_loss`, divided by nothing: (the first bad row or -1, the sum, that of the
// weights).
Loss nll(nb::handle x, int64_t outer, int64_t classes, int64_t inner, nb::handle target, nb::handle weight,
         std::optional<int64_t> ignore_index, nb::handle loss_) {
    RowLoss of(x, outer, classes, inner, target, weight, ignore_index, NLL, 1);
    RowProblem& p = of.with_labels();
    Array loss(loss_, "loss", Array::Use::output);
    std::vector<double> sums(size_t(chunks_of(p.rows(), p.chunk))), weights(sums.size());
    p.loss = of.rows.per_row(loss).data;
    p.loss_sums = sums.data();
    p.weight_sums = weights.data();
    const int64_t bad = of.rows.run(kernels().nll);
    return {bad, total(sums), total(weights)};
}

// Of the log-probabilities their shape and format alone count, which the gradient has too.
void nll_backward(nb::handle dx_, int64_t outer, int64_t classes, int64_t inner, nb::handle target, nb::handle weight,
                  std::optional<int64_t> ignore_index, nb::handle g_, double divisor) {
    RowLoss of(dx_, outer, classes, inner, target, weight, ignore_index, NLL, 1);
    RowProblem& p = of.with_labels();
    Array g(g_, "g"), dx(dx_, "dx", Array::Use::output);
    p.d_loss = of.rows.upstream(g.required());
    p.divisor = divisor;
    p.out = of.rows.like(dx.required()).data;
    of.rows.run(kernels().nll_backward);
}

void softmax(nb::handle x, int64_t outer, int64_t classes, int64_t inner, nb::handle out, double temperature,
             nb::handle state) {
    transform(kernels().softmax, x, outer, classes, inner, out, temperature, state);
}
void log_softmax(nb::handle x, int64_t outer, int64_t classes, int64_t inner, nb::handle out, double temperature,
                 nb::handle state) {
    transform(kernels().log_softmax, x, outer, classes, inner, out, temperature, state);
}

void softmax_backward(nb::handle x_, int64_t outer, int64_t classes, int64_t inner, nb::handle g_, nb::handle dx_,
                      double temperature, nb::handle state_, nb::handle result_) {
    Rows rows(x_, outer, classes, inner, temperature);
    Array g(g_, "g"), dx(dx_, "dx", Array::Use::output), state(state_, "state"), result(result_, "result");
    rows.p.cotangent = rows.like(g.required()).data;
    rows.p.out = rows.like(dx.required()).data;
    rows.p.state = rows.state(state);
    if (result) {
        if (temperature != 1 || compute_element(rows.p.dtype) != rows.x.element)
            throw nb::value_error("result: for float32 and float64 without a temperature");
        if (dx.data && (dx.data == result.data || dx.data == g.data))
            throw nb::value_error("dx: over g or the result, which rows that are done again read again");
        rows.p.result = rows.like(result).data;
    }
    rows.run(kernels().softmax_backward);
}

// log_softmax with cotangent g has the gradient of a soft cross-entropy with target g, negated.
void log_softmax_backward(nb::handle x_, int64_t outer, int64_t classes, int64_t inner, nb::handle g_, nb::handle dx_,
                          double temperature, nb::handle state_) {
    Rows rows(x_, outer, classes, inner, temperature);
    RowProblem& p = rows.p;
    Array g(g_, "g"), dx(dx_, "dx", Array::Use::output), state(state_, "state");
    static const double minus_one = -1;
    p.target = Target::soft;
    p.soft = rows.like(g.required()).data;
    p.out = rows.like(dx.required()).data;
    p.state = rows.state(state);
    (p.state ? p.d_nll : p.d_loss) = {&minus_one, true, false};
    rows.run(p.state ? kernels().backward : kernels().forward);
}

// ---------------------------------------------------------------------------------------------- pointwise

// The sum of the values. With dx, its gradient too, for an upstream gradient g / divisor.
double pointwise(const std::string& kind, nb::handle x, nb::handle target, nb::handle weight, nb::handle pos_weight,
                 std::tuple<double, double> focal, nb::handle value_, double g, double divisor, nb::handle dx_) {
    Points points(kind, x, target, weight, pos_weight, focal);
    PointwiseProblem& p = points.p;
    Array value(value_, "value", Array::Use::output), dx(dx_, "dx", Array::Use::output);
    p.value = value.expect(points.x.element, p.size).data;
    p.dx = dx.expect(points.x.element, p.size).data;
    p.g = {&g, true, false};
    p.divisor = divisor;
    std::vector<double> sums(size_t(chunks_of(p.size, CHUNK_ELEMENTS)));
    p.sums = sums.data();
    points.run();
    return total(sums);
}

void pointwise_backward(const std::string& kind, nb::handle x, nb::handle target, nb::handle weight,
                        nb::handle pos_weight, std::tuple<double, double> focal, nb::handle g_, double divisor,
                        nb::handle dx_) {
    Points points(kind, x, target, weight, pos_weight, focal);
    Array g(g_, "g"), dx(dx_, "dx", Array::Use::output);
    g.required();
    if (g.size != 1 && g.size != points.p.size) throw nb::value_error("g: one number, or one an element");
    if (g.element != Element::f64) g.expect(points.x.element, g.size);
    points.p.g = {g.data, g.element == Element::f64, g.size != 1};
    points.p.divisor = divisor;
    points.p.dx = dx.required().expect(points.x.element, points.x.size).data;
    points.run();
}

namespace {

// ---------------------------------------------------------------------------------------------- counting

// One chunk: the batches of an evaluation are on threads already.
template <class F> void counted(int64_t count, F f) {
    in_parallel(count, 1, [&](int64_t, int64_t) { f(); });
}

template <class T> T* each(Array& a, Element element, int64_t count) {
    return a.required().expect(element, count).as<T>();
}

int64_t size_of(Array& a) { return a.required().size; }

int level_of(int64_t level) {
    if (level < 0 || level > 63) throw nb::value_error("level: expected 0 to 63");
    return int(level);
}

// The arrays of some cells.
struct CellArrays {
    Array key, several, counts;
    bins::Cells cells;
    CellArrays(nb::handle key_, nb::handle several_, nb::handle counts_, Array::Use use)
        : key(key_, "key", use), several(several_, "several", use), counts(counts_, "counts", use) {
        const int64_t n = size_of(key), groups = n ? size_of(counts) / n : 0;
        cells = {each<uint64_t>(key, Element::i64, n), each<uint8_t>(several, Element::byte, n),
                 each<int64_t>(counts, Element::i64, groups * n), groups, n};
    }
};

void count_changes(nb::handle key_, nb::handle changes_) {
    Array key(key_, "key"), changes(changes_, "changes", Array::Use::output);
    const int64_t count = size_of(key);
    const uint64_t* from = each<uint64_t>(key, Element::i64, count);
    int64_t* to = each<int64_t>(changes, Element::i64, 65);
    counted(count, [&] { bins::count_changes(from, count, to); });
}

void cells_of_both(nb::handle key_, int64_t level, nb::handle to_key, nb::handle several, nb::handle counts) {
    Array key(key_, "key");
    CellArrays to(to_key, several, counts, Array::Use::output);
    const int64_t count = size_of(key);
    const uint64_t* from = each<uint64_t>(key, Element::i64, count);
    if (count && to.cells.groups != 2) throw nb::value_error("counts: expected two groups");
    bool fits = true;
    counted(count, [&, level = level_of(level)] { fits = bins::cells_of_both(from, count, level, to.cells); });
    if (!fits) throw nb::value_error("key: other cells than expected");
}

void join_cells(nb::handle key_, nb::handle order_, nb::handle from_several, nb::handle from_counts, int64_t level,
                nb::handle to_key, nb::handle to_several, nb::handle to_counts) {
    Array key(key_, "key"), order(order_, "order");
    CellArrays from(key_, from_several, from_counts, Array::Use::input),
        to(to_key, to_several, to_counts, Array::Use::output);
    const int64_t count = size_of(key);
    const int64_t* home = each<int64_t>(order, Element::i64, count);
    if (from.cells.groups != to.cells.groups) throw nb::value_error("counts: expected as many groups");
    bool fits = true;
    counted(count, [&, level = level_of(level)] {
        fits = bins::join_cells(from.cells.key, home, count, from.cells, level, to.cells);
    });
    if (!fits) throw nb::value_error("order, or cells: other ones than expected");
}

void count_between(nb::handle edge_, nb::handle value_, nb::handle counts_) {
    Array edge(edge_, "edge"), value(value_, "value"), counts(counts_, "counts", Array::Use::output);
    const int64_t edges = size_of(edge), count = size_of(value);
    const double *bounds = each<double>(edge, Element::f64, edges), *from = each<double>(value, Element::f64, count);
    int64_t* to = each<int64_t>(counts, Element::i64, edges + 1);
    counted(count, [&] { bins::count_between(bounds, edges, from, count, to); });
}

void count_marked(double scale, nb::handle value_, nb::handle mark_, nb::handle bin_, nb::handle counts_) {
    Array value(value_, "value"), mark(mark_, "mark"), bin(bin_, "bin", Array::Use::output),
        counts(counts_, "counts", Array::Use::output);
    const int64_t count = size_of(value), places = size_of(counts) / 2;
    if (places < 1) throw nb::value_error("counts: expected a bin or more");
    const double* from = each<double>(value, Element::f64, count);
    const uint8_t* marks = each<uint8_t>(mark, Element::byte, count);
    int64_t *to = each<int64_t>(counts, Element::i64, 2 * places), *homes = each<int64_t>(bin, Element::i64, count);
    counted(count, [&] { bins::count_marked(scale, places, from, marks, count, homes, to); });
}

void count_each(nb::handle index_, nb::handle counts_) {
    Array index(index_, "index"), counts(counts_, "counts", Array::Use::output);
    const int64_t count = size_of(index), kinds = size_of(counts);
    const int64_t* from = each<int64_t>(index, Element::i64, count);
    int64_t* to = each<int64_t>(counts, Element::i64, kinds);
    bool fits = true;
    counted(count, [&] { fits = bins::count_each(from, count, to, kinds); });
    if (!fits) throw nb::value_error("index: not in [0, kinds)");
}

} // namespace
} // namespace lossless

NB_MODULE(_native, m) {
    using namespace lossless;
    namespace nb = nanobind;
    using nb::arg;
    nb::set_leak_warnings(false); // the core keeps what it was told of, and the system what follows a fork, for good

    const std::vector<const Kernels*> usable = usable_kernels();
    if (usable.empty())
        throw nb::import_error("this processor is older than x86-64-v2, for which the kernels are built");
    active = usable.front();
    if (const char* wanted = std::getenv("LOSSLESS_ISA"); wanted && *wanted) use_isa(wanted);

    m.attr("STATE_ROWS") = STATE_ROWS;
    m.def("row_statistics", row_statistics, arg("x"), arg("outer"), arg("classes"), arg("inner"), arg("target").none(),
          arg("weight").none(), arg("prior").none(), arg("ignore_index").none(), arg("nll").none(), arg("lse").none(),
          arg("entropy").none(), arg("prior_cost").none(), arg("correct").none(), arg("state").none(),
          arg("temperature") = 1.0);
    m.def("row_numbers", row_numbers, arg("x"), arg("rows"), arg("classes"), arg("label"), arg("surprise"), arg("lse"),
          arg("entropy"), arg("squares"), arg("largest"), arg("lead"), arg("rank"), arg("peak"), arg("hash"));
    m.def("temper", temper, arg("d"), arg("rows"), arg("classes"), arg("beta"), arg("total"), arg("mean"),
          arg("square"));
    m.def("add_exactly", add_exactly, arg("limbs"), arg("groups"), arg("values"), arg("group").none());
    m.def("count_changes", count_changes, arg("key"), arg("changes"));
    m.def("cells_of_both", cells_of_both, arg("key"), arg("level"), arg("to_key"), arg("several"), arg("counts"));
    m.def("join_cells", join_cells, arg("key"), arg("order"), arg("several"), arg("counts"), arg("level"),
          arg("to_key"), arg("to_several"), arg("to_counts"));
    m.def("count_between", count_between, arg("edge"), arg("value"), arg("counts"));
    m.def("count_marked", count_marked, arg("scale"), arg("value"), arg("mark"), arg("bin"), arg("counts"));
    m.def("count_each", count_each, arg("index"), arg("counts"));
    m.def("row_statistics_backward", row_statistics_backward, arg("x"), arg("outer"), arg("classes"), arg("inner"),
          arg("target").none(), arg("weight").none(), arg("prior").none(), arg("ignore_index").none(), arg("state"),
          arg("d_nll").none(), arg("d_lse").none(), arg("d_entropy").none(), arg("d_prior").none(), arg("dx"),
          arg("temperature") = 1.0);
    m.def("entropy", entropy, arg("x"), arg("outer"), arg("classes"), arg("inner"), arg("entropy"), arg("state").none(),
          arg("g"), arg("dx").none(), arg("temperature") = 1.0);
    m.def("row_loss", row_loss, arg("x"), arg("outer"), arg("classes"), arg("inner"), arg("target"),
          arg("weight").none(), arg("ignore_index").none(), arg("link"), arg("loss").none(), arg("state").none(),
          arg("divisor").none(), arg("g"), arg("dx").none(), arg("temperature") = 1.0);
    m.def("row_loss_backward", row_loss_backward, arg("x"), arg("outer"), arg("classes"), arg("inner"), arg("target"),
          arg("weight").none(), arg("ignore_index").none(), arg("link"), arg("state"), arg("g"), arg("divisor"),
          arg("dx"), arg("temperature") = 1.0);
    m.def("nll", nll, arg("x"), arg("outer"), arg("classes"), arg("inner"), arg("target"), arg("weight").none(),
          arg("ignore_index").none(), arg("loss").none());
    m.def("nll_backward", nll_backward, arg("dx"), arg("outer"), arg("classes"), arg("inner"), arg("target"),
          arg("weight").none(), arg("ignore_index").none(), arg("g"), arg("divisor"));
    m.def("softmax", softmax, arg("x"), arg("outer"), arg("classes"), arg("inner"), arg("out"),
          arg("temperature") = 1.0, arg("state") = nb::none());
    m.def("log_softmax", log_softmax, arg("x"), arg("outer"), arg("classes"), arg("inner"), arg("out"),
          arg("temperature") = 1.0, arg("state") = nb::none());
    m.def("softmax_backward", softmax_backward, arg("x"), arg("outer"), arg("classes"), arg("inner"), arg("g"),
          arg("dx"), arg("temperature") = 1.0, arg("state") = nb::none(), arg("result") = nb::none());
    m.def("log_softmax_backward", log_softmax_backward, arg("x"), arg("outer"), arg("classes"), arg("inner"), arg("g"),
          arg("dx"), arg("temperature") = 1.0, arg("state") = nb::none());
    m.def("pointwise", pointwise, arg("kind"), arg("x"), arg("target").none(), arg("weight").none(),
          arg("pos_weight").none(), arg("focal"), arg("value").none(), arg("g"), arg("divisor"), arg("dx").none());
    m.def("pointwise_backward", pointwise_backward, arg("kind"), arg("x"), arg("target").none(), arg("weight").none(),
          arg("pos_weight").none(), arg("focal"), arg("g"), arg("divisor"), arg("dx"));

    m.def("isa", [] { return std::string(kernels().isa); });
    m.def("available_isas", [] {
        std::vector<std::string> names;
        for (const Kernels* kernels : usable_kernels()) names.push_back(kernels->isa);
        return names;
    });
    m.def("use_isa", use_isa, arg("name"));
    m.attr("LARGE_TRAFFIC") = LARGE_TRAFFIC;
    m.def(
        "write_past_caches",
        [](int64_t bytes) {
            if (bytes < 1) throw nb::value_error("least: expected a number of bytes, 1 or more");
            least_past_caches = bytes;
        },
        arg("least"));
    m.def("get_num_threads", get_num_threads);
    m.def(
        "set_num_threads",
        [](int threads) {
            if (threads < 0 || threads > 4096) throw nb::value_error("threads: expected 0 (the default) to 4096");
            set_num_threads(threads);
        },
        arg("threads"));
    m.def(
        "use_torch_threads",
        [](uintptr_t parallel, uintptr_t number) {
            use_torch_threads(reinterpret_cast<void*>(parallel), reinterpret_cast<void*>(number));
        },
        arg("parallel_for"), arg("get_num_threads"));
    m.def("set_torch", set_torch, arg("side"));
    m.def("use_torch_libraries", use_torch_libraries, arg("cpu"), arg("python"));
    m.def("use_dispatch_keys", use_dispatch_keys, arg("c10"));
    m.def("has_usual_keys", has_usual_keys);
    m.def("ordinary", ordinary);
    m.def("call_form", call_form, arg("args"), arg("kwargs"), arg("taken"));
    m.def("go_straight", go_straight); // without names, which take time
    tensors::define(m);
    functions::define(m);
    m.def("is_one_number", is_one_number, arg("array"));
}
