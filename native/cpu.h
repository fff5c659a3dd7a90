// Which of the compiled instruction sets this machine runs.
#pragma once

#include "kernels.h"

#include <vector>

namespace lossless {

// The kernels this machine can run, best first. Empty on a processor older than x86-64-v2.
std::vector<const Kernels*> usable_kernels();

} // namespace lossless
