// Exact sums of numbers >= 0, as in sums.py: v = sum_k q_k 2^(-32 k) with integers |q_k| <= 2^31, which are added.
#pragma once

#include "kernels.h"
#include "math.h"

namespace {

using lossless::Limbs;

constexpr int MOST_LEVELS = 36; // the least number of all is 2^-1074

// Cuts 16 numbers, and returns into how many limbs each: 0 if one is not in [0, 2^31), or has more than `levels`.
LOSSLESS_INLINE int64_t cut(Pack<double> rest, int64_t levels, int64_t (*limb)[LANES]) {
    const Pack<double> zero = broadcast(0.0), magic = broadcast(Float<double>::magic);
    if (any((rest < zero) | ~(rest < broadcast(0x1p31)))) return 0;
    for (int64_t level = 0; level < levels; level++) {
        const Pack<double> moved = rest + magic;
        store(limb[level], bit_cast<int64_t>(moved) - bit_cast<int64_t>(magic));
        rest = rest - (moved - magic);
        if (!any(rest != zero)) return level + 1;
        rest = rest * broadcast(0x1p32);
    }
    return 0;
}

// Adds numbers while they fit, and returns how many; -1 where a group is none.
inline int64_t add_exactly(const Limbs& p, const double* values, const int64_t* group, int64_t count) {
    const int64_t levels = p.levels < MOST_LEVELS ? p.levels : MOST_LEVELS;
    Pack<int64_t> total[MOST_LEVELS];
    int64_t limb[MOST_LEVELS][LANES];
    for (int64_t level = 0; level < levels; level++) total[level] = broadcast(int64_t(0));
    int64_t i = 0;
    for (; i < count; i += LANES) {
        const int n = count - i < LANES ? int(count - i) : LANES;
        const int64_t used = cut(n == LANES ? load(values + i) : load_part(values + i, n, 0.0), levels, limb);
        if (!used) break;
        for (int64_t level = 0; !group && level < used; level++) total[level] = total[level] + load(limb[level]);
        for (int lane = 0; group && lane < n; lane++) {
            const int64_t g = group[i + lane];
            if (uint64_t(g) >= uint64_t(p.groups)) return -1;
            for (int64_t level = 0; level < used; level++) p.limbs[level * p.groups + g] += limb[level][lane];
        }
    }
    for (int64_t level = 0; !group && level < levels; level++) p.limbs[level * p.groups] += sum_of(total[level]);
    return i < count ? i : count;
}

} // namespace
