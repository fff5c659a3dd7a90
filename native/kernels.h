// What the kernels are asked: plain data, the same for every instruction set.
#pragma once

#include <stdint.h>

namespace lossless {

enum class DType : int { f16, bf16, f32, f64 };
enum class Target : int { none, index, soft };

constexpr int STATE_ROWS = 6; // what backward is told about a row, in f64: see RowProblem::state

// One number a row that arrives from the caller's backward pass; null means zero.
struct Upstream {
    const void* values = nullptr;
    bool is_f64 = false;  // else the dtype of x
    bool per_row = false; // else one number for all rows
};

// A set of rows of logits with its targets. Row r = o * inner + i has its class j at x[(o * classes + j) * inner + i].
// "compute type" is float for f16, bf16 and f32 data, double for f64.
struct RowProblem {
    DType dtype;
    const void* x;
    int64_t outer, classes, inner;
    int64_t chunk; // rows in a chunk, whose losses are added up: what it is hangs on the problem alone

    double temperature = 1; // divides x; in [2^-20, 2^20]

    Target target = Target::none;
    const int64_t* index = nullptr; // (rows)
    const void* soft = nullptr;     // like x
    // (classes), compute type: multiplies soft targets, and in the link the row of an index
    const void* weight = nullptr;
    bool ignores = false;
    int64_t ignore_index = 0;

    // The prior u shared by all rows, its sums over the other classes, and its total. Null: no prior.
    const void *prior = nullptr, *prior_others = nullptr; // (classes), compute type
    double prior_total = 0,
           prior_unit = 1; // the table is the prior over this power of two, so that its largest is near 1

    // The link: loss = nll_scale w[y] q^gamma nll + prior_scale prior_cost + z lse^2, q the probability of the others.
    // gamma only with an index.
    double nll_scale = 1, prior_scale = 1, gamma = 0, z = 0;

    // Forward. Any pointer may be null.
    void *nll = nullptr, *lse = nullptr, *entropy = nullptr, *prior_cost = nullptr,
         *loss = nullptr;       // (rows), dtype of x
    bool wide = false;          // the statistics (not the loss) in f64: unrounded, for who computes on with them
    uint8_t* correct = nullptr; // (rows)
    // What an evaluation asks, in f64 of any data without a target, where nll is then -log p of the largest class: the
    // sum of all other p^2, and the first class of the largest x (-1 where there is a NaN). Of a label: by how much the
    // largest x exceeds its own, and how many classes come before it, of larger x or of equal x and smaller number. And
    // the largest x itself, and a hash of the row.
    double* squares = nullptr;      // (rows)
    int64_t* largest = nullptr;     // (rows)
    const int64_t* label = nullptr; // (rows)
    double* lead = nullptr;         // (rows)
    int64_t* rank = nullptr;        // (rows)
    double* peak = nullptr;         // (rows)
    uint64_t* hash = nullptr;       // (rows)
    // (STATE_ROWS, rows): the maximum m; with exponentials relative to the power of two next to e^m: their sum S, the
    // sum T without the target (without the maximum where there is no index), the sum without the maximum, the mean D
    // of m - x (of a loss: its slope over nll), and a loss's slope over lse, else 0. Softmax and its logarithm, which
    // may be asked for it too, write what their backward pass reads: m and S, and of the logarithm the sum without the
    // maximum.
    double* state = nullptr;
    double *loss_sums = nullptr, *weight_sums = nullptr; // one a chunk, of the rows that are not ignored; for `weigh`

    // Backward: of the statistics, or of the loss. Forward with `out` writes the gradient too, while the rows are in
    // cache.
    Upstream d_nll, d_lse, d_entropy, d_prior, d_loss;
    double divisor = 1;              // divides all of them
    void* out = nullptr;             // like x: dx, or the result of softmax and log_softmax
    bool past_caches = false;        // so much is read and written that little of out would be in a cache later
    const void* cotangent = nullptr; // like x: g of the softmax VJP
    const void* result = nullptr;    // like x, f32 or f64: the probabilities that softmax returned, for its VJP

    __attribute__((always_inline)) int64_t rows() const { return outer * inner; }
    __attribute__((always_inline)) bool is_loss() const { return loss || loss_sums || d_loss.values; }
};

enum class Pointwise : int { bce_with_logits, squared_error, sigmoid_focal, kl_divergence, sigmoid, log_sigmoid };

struct PointwiseProblem {
    DType dtype;
    Pointwise kind;
    int64_t size;
    // `size` numbers each, dtype of x; no target of a sigmoid, and weights of the first two alone
    const void *x, *target, *weight = nullptr, *pos_weight = nullptr;
    double alpha = -1, gamma = 0; // of sigmoid_focal; it and kl_divergence take no f64
    void* value = nullptr;
    double* sums = nullptr;   // one a chunk; null: no values
    Upstream g;               // per_row here: per element
    double divisor = 1;       // of the upstream gradient
    void* dx = nullptr;       // null: no gradient
    bool past_caches = false; // as of rows
};

// Exact sums of groups of numbers: limbs[level * groups + group] counts units of 2^(-32 level).
struct Limbs {
    int64_t* limbs;
    int64_t levels, groups;
};

// Rows of differences d <= 0 to their largest logit, at an inverse temperature: with e = exp(beta d) the sum of e, and
// the means of d and d^2 under p = e / sum e. Where d = -inf there is no mass at any temperature.
struct Tempered {
    const double* d; // (rows, classes)
    int64_t rows, classes;
    double beta;
    double *total, *mean, *square; // (rows)
};

// A kernel does the rows [begin, end) of a problem, which are chunks from their first row to their last, and returns
// the first row with an index out of range, or -1. NO_MEMORY: its scratch could not be allocated.
constexpr int64_t NO_MEMORY = -2;
using RowKernel = int64_t (*)(const RowProblem&, int64_t begin, int64_t end);
using TemperKernel = void (*)(const Tempered&, int64_t begin, int64_t end);
using PointwiseKernel = void (*)(const PointwiseProblem&, int64_t chunk, int64_t begin, int64_t end);
// Returns how many of the numbers it added: up to one that is not in [0, 2^31) or needs more levels. Without groups all
// are of the first; -1 where one is out of range.
using SumKernel = int64_t (*)(const Limbs&, const double* values, const int64_t* group, int64_t count);

// The kernels of one instruction set.
struct Kernels {
    const char* isa;
    RowKernel weigh, forward, backward, softmax, log_softmax, softmax_backward, nll, nll_backward;
    PointwiseKernel pointwise;
    TemperKernel temper;
    SumKernel add_exactly;
};

} // namespace lossless
