#include "bins.h"

#include <algorithm>
#include <limits>
#include <string.h>
#include <vector>

namespace lossless::bins {
namespace {

constexpr uint64_t SIGN = uint64_t(1) << 63;
constexpr int EXPONENTS = 1 << 11;

int exponent_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return int(bits >> 52) & (EXPONENTS - 1);
}

// Calls add(i, cell, is_new, difference from the key before) for each key. Without branches on the keys, which nobody
// could foresee. False if there are other than so many cells.
template <class Add> bool for_cells(const uint64_t* key, int64_t count, int level, int64_t cells, Add add) {
    int64_t cell = -1;
    uint64_t before = count ? ~key[0] : 0;
    for (int64_t i = 0; i < count; i++) {
        const uint64_t difference = key[i] ^ before;
        const bool is_new = difference >> level;
        cell += is_new;
        if (cell >= cells || !add(i, cell, is_new, difference)) return false;
        before = key[i];
    }
    return cell + 1 == cells;
}

} // namespace

void count_changes(const uint64_t* key, int64_t count, int64_t* changes) {
    for (int64_t i = 1; i < count; i++) {
        const uint64_t difference = key[i] ^ key[i - 1];
        changes[difference ? 64 - __builtin_clzll(difference) : 0]++;
    }
}

bool cells_of_both(const uint64_t* key, int64_t count, int level, const Cells& to) {
    uint64_t least = 0;
    return for_cells(key, count, level, to.cells, [&](int64_t i, int64_t cell, bool is_new, uint64_t difference) {
        least = is_new ? key[i] : least;
        // The order of negative numbers is that of their complements, which end in 1.
        to.key[cell] = (least & ~uint64_t(1)) | (least < SIGN);
        to.several[cell] |= !is_new & (difference > 1);
        to.counts[int64_t(key[i] & 1) * to.cells + cell]++;
        return true;
    });
}

bool join_cells(const uint64_t* key, const int64_t* order, int64_t count, const Cells& from, int level,
                const Cells& to) {
    uint64_t least = 0;
    return for_cells(key, count, level, to.cells, [&](int64_t i, int64_t cell, bool is_new, uint64_t difference) {
        const int64_t home = order[i];
        if (uint64_t(home) >= uint64_t(from.cells)) return false;
        least = is_new ? key[i] : least;
        to.key[cell] = least;
        to.several[cell] |= from.several[home] | (!is_new & (difference > 0));
        for (int64_t g = 0; g < to.groups; g++) to.counts[g * to.cells + cell] += from.counts[g * from.cells + home];
        return true;
    });
}

void count_between(const double* edge, int64_t edges, const double* value, int64_t count, int64_t* counts) {
    // By exponent, how many edges have a smaller one; and at most how many share one.
    int64_t first[EXPONENTS], alike = 0;
    for (int64_t exponent = 0, i = 0; exponent < EXPONENTS; exponent++) {
        first[exponent] = i;
        while (i < edges && exponent_of(edge[i]) <= exponent) i++;
        alike = std::max(alike, i - first[exponent]);
    }
    std::vector<double> padded(edge, edge + edges);
    padded.resize(size_t(edges + alike), std::numeric_limits<double>::quiet_NaN());
    for (int64_t i = 0; i < count; i++) {
        int64_t bin = first[exponent_of(value[i])];
        // As many comparisons for each value, though one fails all that come after it: the processor foresees them.
        for (const double *next = padded.data() + bin, *end = next + alike; next < end; next++)
            bin += value[i] >= *next;
        counts[bin]++;
    }
}

void count_marked(double scale, int64_t bins, const double* value, const uint8_t* mark, int64_t count, int64_t* bin,
                  int64_t* counts) {
    for (int64_t i = 0; i < count; i++) {
        const double place = scale * value[i];
        int64_t k = bins - 1;
        if (place <= double(bins)) {
            k = place > 0 ? int64_t(place) : 0;
            k -= k > 0 && double(k) == place; // an edge lies in the bin below it
        }
        bin[i] = k;
        counts[(mark[i] ? bins : 0) + k]++;
    }
}

bool count_each(const int64_t* index, int64_t count, int64_t* counts, int64_t kinds) {
    for (int64_t i = 0; i < count; i++) {
        if (uint64_t(index[i]) >= uint64_t(kinds)) return false;
        counts[index[i]]++;
    }
    return true;
}

} // namespace lossless::bins
