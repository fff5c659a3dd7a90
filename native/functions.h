// The autograd Functions of `_torch/eager.py`: their forward and backward passes where kernels serve.
#pragma once

#include <nanobind/nanobind.h>

namespace lossless::functions {

void define(nanobind::module_& m);

} // namespace lossless::functions
