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
        const Pack<double> smooth = broadcast(prior_scale) * prior; // all of it at nll_scale = 0, even where nll is inf
        return nll_scale == 0 ? smooth : broadcast(nll_scale) * weight * nll + smooth;
    }
    Pack<double> d_nll(Pack<double> g) const { return g * broadcast(nll_scale) * weight; }
    Pack<double> d_prior(Pack<double> g) const { return g * broadcast(prior_scale); }
};

} // namespace
