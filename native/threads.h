// Threads: torch's pool where torch is loaded, else a small pool of our own. Never OpenMP, whose pool hangs in a forked
// child.
#pragma once

#include <stdint.h>

namespace lossless {

// Calls body(context, first, last) for runs of chunks [first, last) that are together [0, chunks), in any order and on
// any thread: long ones first, so that there is little to begin anew, and single ones last, for which no thread waits
// long. Nested calls run serially.
void parallel_for(int64_t chunks, void (*body)(void* context, int64_t first, int64_t last), void* context);

// An explicit number, else torch's, else LOSSLESS_NUM_THREADS, OMP_NUM_THREADS, or the cores this process may use.
int get_num_threads();
void set_num_threads(int threads); // 0: no explicit number

// torch_parallel_for and torch_get_num_threads of torch's stable C interface (torch >= 2.10); null to stop using them.
void use_torch_threads(void* parallel_for, void* get_num_threads);

} // namespace lossless
