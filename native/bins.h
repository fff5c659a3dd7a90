// What numbers fall into, counted: cells of ranked keys, bins of losses and confidences, classes. Only integers and
// comparisons decide, so this is compiled once for all instruction sets.
#pragma once

#include <stdint.h>

namespace lossless::bins {

// Cells of ascending keys, as in ranking.py: one holds the keys that differ in their lowest `level` bits alone.
struct Cells {
    uint64_t* key;    // (cells) the least of each
    uint8_t* several; // (cells) whether there is another
    int64_t* counts;  // (groups, cells) rows
    int64_t groups, cells;
};

// Adds to changes[b], b from 0 to 64, how many ascending keys first differ in bit b from the one before; the lowest bit
// is 1, and equal ones count as 0.
void count_changes(const uint64_t* key, int64_t count, int64_t* changes);

// The cells of ascending keys whose last bit is the group of each, or of finer cells that have these keys in the order
// `order`; of cells that hold zeros. False if there are others than so many, or if `order` points elsewhere.
bool cells_of_both(const uint64_t* key, int64_t count, int level, const Cells& to);
bool join_cells(const uint64_t* key, const int64_t* order, int64_t count, const Cells& from, int level,
                const Cells& to);

// Adds to counts[i] how many values >= 0 lie in [edge[i - 1], edge[i]); edges are > 0 and ascend.
void count_between(const double* edge, int64_t edges, const double* value, int64_t count, int64_t* counts);

// Puts each value >= 0 into the bin k with k < scale * value <= k + 1, or into the nearest one, and counts them by it:
// counts[k] those without a mark, and counts[bins + k] those with one.
void count_marked(double scale, int64_t bins, const double* value, const uint8_t* mark, int64_t count, int64_t* bin,
                  int64_t* counts);

// Adds to counts[i] how often i occurs. False if an index is not in [0, kinds).
bool count_each(const int64_t* index, int64_t count, int64_t* counts, int64_t kinds);

} // namespace lossless::bins
