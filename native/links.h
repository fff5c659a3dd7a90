// Links: what a named loss does with the statistics of a row, and its partial derivatives. 16 rows at a time, in f64.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace {

// Cross-entropy with class weights and label smoothing:  f(nll, prior) = nll_scale w[y] nll + prior_scale prior.
// With nll_scale = prior_scale = w = 1 the partials pass the caller's own through: the statistics' backward pass.
struct CrossEntropyLink {
    Pack<double> weight;
    double nll_scale, prior_scale;

    Pack<double> value(Pack<double> nll, Pack<double> prior) const {
        return broadcast(nll_scale) * weight * nll + broadcast(prior_scale) * prior;
    }
    Pack<double> d_nll(Pack<double> g) const { return g * broadcast(nll_scale) * weight; }
    Pack<double> d_prior(Pack<double> g) const { return g * broadcast(prior_scale); }
};

} // namespace
