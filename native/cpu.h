// Which of the compiled instruction sets this machine runs, and what it has of caches.
#pragma once

#include "kernels.h"

#include <vector>

namespace lossless {

// The kernels this machine can run, best first. Empty on a processor older than x86-64-v2.
std::vector<const Kernels*> usable_kernels();

// Bytes in the last cache before memory; 32 MB where the system does not say.
int64_t last_cache();

} // namespace lossless
