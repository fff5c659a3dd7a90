// Links: what a named loss does with the statistics of a row, and its partial derivatives. 16 rows at a time, in f64.
#pragma once

#include "kernels.h"
#include "math.h"

namespace {

// x^n for x >= 0: by multiplications for a small whole n, else the C library's, whichever instruction set is chosen.
__attribute__((noinline)) static Pack<double> power_by_library(Pack<double> x, double n) {
    double lanes[LANES];
    store(lanes, x);
    for (double& lane : lanes) lane = __builtin_pow(lane, n);
    return load(lanes);
}
LOSSLESS_INLINE Pack<double> power(Pack<double> x, double n) {
    return n == 0 ? broadcast(1.0) : n == 1 ? x : n == 2 ? x * x : power_by_library(x, n);
}

// Cross-entropy with class weights, label smoothing, z-loss and a focal factor:
//     f = nll_scale w[y] q^gamma nll + prior_scale prior + z lse^2,   q = 1 - e^-nll
struct Link {
    double nll_scale, prior_scale, gamma, z;

    LOSSLESS_INLINE_MEMBER Pack<double> value(Pack<double> weight, Pack<double> nll, Pack<double> q, Pack<double> prior,
                                              Pack<double> lse) const {
        Pack<double> loss = broadcast(prior_scale) * prior; // all of it at nll_scale = 0, even where nll is inf
        if (nll_scale != 0) loss = broadcast(nll_scale) * weight * (focal(q) * nll) + loss;
        if (z != 0) loss = broadcast(z) * (lse * lse) + loss;
        return loss;
    }
    // q^gamma (1 + gamma p nll / q); its limits are 0 at nll = 0 and 1 at nll = inf.
    LOSSLESS_INLINE_MEMBER Pack<double> slope_of_nll(Pack<double> weight, Pack<double> nll, Pack<double> q,
                                                     Pack<double> p) const {
        Pack<double> slope = broadcast(nll_scale) * weight;
        if (gamma != 0) {
            const Pack<double> zero = broadcast(0.0), one = broadcast(1.0);
            const Pack<double> curve = focal(q) * (one + broadcast(gamma) * p * nll / q);
            slope = slope * select(nll == zero, zero, select(nll == broadcast(__builtin_inf()), one, curve));
        }
        return slope;
    }
    LOSSLESS_INLINE_MEMBER Pack<double> slope_of_lse(Pack<double> lse) const {
        return z == 0 ? broadcast(0.0) : broadcast(2 * z) * lse; // where lse is infinite too
    }

  private:
    LOSSLESS_INLINE_MEMBER Pack<double> focal(Pack<double> q) const { return power(q, gamma); }
};

} // namespace
