#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#if defined(__x86_64__)
extern "C" const lossless::Kernels lossless_x86_64_v2, lossless_x86_64_v3, lossless_x86_64_v4;
#else
extern "C" const lossless::Kernels lossless_neon;
#endif

namespace lossless {

#if defined(__x86_64__)
namespace {

// Asked by hand: __builtin_cpu_supports("x86-64-v4") answers 0 under some clang builds.
int level() {
    const auto has = [](unsigned word, std::initializer_list<int> bits) {
        for (int bit : bits)
            if (!(word >> bit & 1)) return false;
        return true;
    };
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 1;
    if (!has(c, {0 /*SSE3*/, 9 /*SSSE3*/, 13 /*CMPXCHG16B*/, 19 /*SSE4.1*/, 20 /*SSE4.2*/, 23 /*POPCNT*/})) return 1;
    if (!has(c, {12 /*FMA*/, 22 /*MOVBE*/, 26 /*XSAVE*/, 27 /*OSXSAVE*/, 28 /*AVX*/, 29 /*F16C*/})) return 2;
    unsigned saved, high;
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0)); // what the system saves at a context switch
    if ((saved & 0x6) != 0x6) return 2;
    unsigned b7, c7, d7, c81;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return 2;
    if (!has(b7, {3 /*BMI1*/, 5 /*AVX2*/, 8 /*BMI2*/})) return 2;
    if (!__get_cpuid(0x80000001, &a, &b, &c81, &d) || !has(c81, {5 /*LZCNT*/})) return 2;
    if ((saved & 0xe6) != 0xe6) return 3;
    return has(b7, {16 /*F*/, 17 /*DQ*/, 28 /*CD*/, 30 /*BW*/, 31 /*VL*/}) ? 4 : 3;
}

} // namespace

std::vector<const Kernels*> usable_kernels() {
    const int n = level();
    std::vector<const Kernels*> usable;
    if (n >= 4) usable.push_back(&lossless_x86_64_v4);
    if (n >= 3) usable.push_back(&lossless_x86_64_v3);
    if (n >= 2) usable.push_back(&lossless_x86_64_v2);
    return usable;
}
#else
std::vector<const Kernels*> usable_kernels() { return {&lossless_neon}; }
#endif

} // namespace lossless
