// The kernels as functions over contiguous arrays from Python (module.cpp): what NumPy's backend calls, and
// tensors.cpp.
#pragma once

#include "array.h"

#include <optional>
#include <string>
#include <tuple>

namespace lossless {

using Link = std::tuple<double, double, double, double>; // factors of nll and of the prior, gamma, z
using Loss = std::tuple<int64_t, double, double>; // the first row with a bad label or -1, the sum, what divides it

void softmax(nb::handle x, int64_t outer, int64_t classes, int64_t inner, nb::handle out, double temperature,
             nb::handle state);
void log_softmax(nb::handle x, int64_t outer, int64_t classes, int64_t inner, nb::handle out, double temperature,
                 nb::handle state);
void softmax_backward(nb::handle x, int64_t outer, int64_t classes, int64_t inner, nb::handle g, nb::handle dx,
                      double temperature, nb::handle state, nb::handle result);
void log_softmax_backward(nb::handle x, int64_t outer, int64_t classes, int64_t inner, nb::handle g, nb::handle dx,
                          double temperature, nb::handle state);

void entropy(nb::handle x, int64_t outer, int64_t classes, int64_t inner, nb::handle entropy, nb::handle state,
             double g, nb::handle dx, double temperature);
void row_statistics_backward(nb::handle x, int64_t outer, int64_t classes, int64_t inner, nb::handle target,
                             nb::handle weight, nb::handle prior, std::optional<int64_t> ignore_index, nb::handle state,
                             nb::handle d_nll, nb::handle d_lse, nb::handle d_entropy, nb::handle d_prior,
                             nb::handle dx, double temperature);

Loss row_loss(nb::handle x, int64_t outer, int64_t classes, int64_t inner, nb::handle target, nb::handle weight,
              std::optional<int64_t> ignore_index, Link link, nb::handle loss, nb::handle state,
              std::optional<double> divisor, double g, nb::handle dx, double temperature);
void row_loss_backward(nb::handle x, int64_t outer, int64_t classes, int64_t inner, nb::handle target,
                       nb::handle weight, std::optional<int64_t> ignore_index, Link link, nb::handle state,
                       nb::handle g, double divisor, nb::handle dx, double temperature);
Loss nll(nb::handle x, int64_t outer, int64_t classes, int64_t inner, nb::handle target, nb::handle weight,
         std::optional<int64_t> ignore_index, nb::handle loss);
void nll_backward(nb::handle dx, int64_t outer, int64_t classes, int64_t inner, nb::handle target, nb::handle weight,
                  std::optional<int64_t> ignore_index, nb::handle g, double divisor);

double pointwise(const std::string& kind, nb::handle x, nb::handle target, nb::handle weight, nb::handle pos_weight,
                 std::tuple<double, double> focal, nb::handle value, double g, double divisor, nb::handle dx);
void pointwise_backward(const std::string& kind, nb::handle x, nb::handle target, nb::handle weight,
                        nb::handle pos_weight, std::tuple<double, double> focal, nb::handle g, double divisor,
                        nb::handle dx);

} // namespace lossless
