// The kernels on PyTorch's tensors: outputs allocated, results rounded, labels that are no class named. No autograd.
// All tensors arrive contiguous in memory and, but for labels, of one dtype (class weights: the accumulation dtype).
#pragma once

#include "entries.h"
#include "torch.h"

namespace lossless::tensors {

inline const nb::handle NONE(Py_None);

// The attributes of `_torch/kernels.py`, which are asked for what is rare, or long in C++.
void set_kernels(nb::handle side);

enum class Reduction { none, mean, sum };

// What the kernels ask of a RowPlan.
struct RowForm {
    explicit RowForm(nb::handle plan);
    nb::object plan, rows, shape; // `shape`: of one number a row
    int64_t outer, classes, inner;
    std::optional<int64_t> ignore_index;
    Link link;
    double temperature;
    Reduction reduction;
    bool inplace;
};

// What they ask of an ElementPlan, or of its `loss` and a reduction.
struct ElementForm {
    explicit ElementForm(nb::handle plan);
    ElementForm(nb::handle functor, nb::handle reduction);
    nb::object plan;
    std::string kernel;
    std::tuple<double, double> parameters;
    Reduction reduction;
    bool inplace;
};

// A loss, reduced and rounded; what a mean was divided by; and its gradient, if one was asked for.
struct Computed {
    nb::object loss;
    double divisor;
    nb::object dx;
};

using MaybeNumber = std::optional<double>;

nb::object empty_state(nb::handle x, const RowForm& form);
nb::object in_memory(nb::handle tensor);
// The number that all of an upstream gradient share, as it comes from a sum or a mean.
MaybeNumber shared(nb::handle g);

// Whether softmax has its gradient from its result: where that is as precise as the arithmetic, and, of more than a few
// classes, so much quicker that a second tensor is kept for it.
bool result_serves(bool log, nb::handle x, const RowForm& form);
nb::object transform(bool log, nb::handle x, const RowForm& form, nb::handle state);
// `found`: softmax's result where it serves; elsewhere what the forward pass left of each row; or None.
nb::object transform_backward(bool log, nb::handle x, const RowForm& form, nb::handle g, nb::handle found);

Computed entropy(nb::handle x, const RowForm& form, nb::handle state, MaybeNumber g);
nb::object entropy_backward(nb::handle x, const RowForm& form, nb::handle state, nb::handle g);

Computed class_loss(nb::handle x, nb::handle target, nb::handle weight, const RowForm& form, MaybeNumber divisor,
                    nb::handle state, MaybeNumber g);
nb::object class_loss_backward(nb::handle x, nb::handle target, nb::handle weight, nb::handle state,
                               const RowForm& form, double divisor, nb::handle g, nb::handle dx);

Computed nll(nb::handle x, nb::handle target, nb::handle weight, const RowForm& form);
nb::object nll_backward(nb::handle x, nb::handle target, nb::handle weight, const RowForm& form, double divisor,
                        nb::handle g);

Computed pointwise(nb::handle x, nb::handle target, nb::handle weight, nb::handle pos_weight, const ElementForm& form,
                   double divisor, MaybeNumber g);
nb::object elementwise(nb::handle x, const ElementForm& form);
nb::object pointwise_backward(nb::handle x, nb::handle target, nb::handle weight, nb::handle pos_weight,
                              const ElementForm& form, double divisor, nb::handle g, nb::handle dx);

void define(nb::module_& m);

} // namespace lossless::tensors
