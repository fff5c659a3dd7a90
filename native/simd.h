// Pack<T, W>: W numbers of type T that are computed together, whatever the register width of the target.
//
// Every kernel works on 16 lanes. On AVX-512 that is one register of floats, on AVX2 two, on SSE and NEON four: a Pack
// wider than a register is a pair of halves. So lane j holds the same class on every target, all sums are taken in the
// same order, and all targets return the same bits. What differs per target are the few functions of section 2.
//
// Included only by kernels.cpp, inside a namespace of its own per target, and free of std:: (the linker may merge
// inline functions compiled with different flags and keep the copy that does not run here).
#pragma once

#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int REGISTER_BYTES = 64;
#elif defined(__AVX2__)
constexpr int REGISTER_BYTES = 32;
#else
constexpr int REGISTER_BYTES = 16;
#endif

constexpr int LANES = 16;

// ---------------------------------------------------------------------------------------------- 1. the type

template <class T> struct BitsOf;
template <> struct BitsOf<float> {
    using type = int32_t;
};
template <> struct BitsOf<double> {
    using type = int64_t;
};
template <> struct BitsOf<int32_t> {
    using type = int32_t;
};
template <> struct BitsOf<int64_t> {
    using type = int64_t;
};
template <class T> using Bits = typename BitsOf<T>::type;
template <class B> struct UnsignedOf;
template <> struct UnsignedOf<int32_t> {
    using type = uint32_t;
};
template <> struct UnsignedOf<int64_t> {
    using type = uint64_t;
};

template <class T, int Bytes = REGISTER_BYTES> struct Register {
    typedef T type __attribute__((vector_size(Bytes)));
};

template <class T, int W = LANES, bool Fits = (W * sizeof(T) == REGISTER_BYTES)> struct Pack {
    static constexpr bool fits = false;
    Pack<T, W / 2> lo, hi;
};
template <class T, int W> struct Pack<T, W, true> {
    static constexpr bool fits = true;
    typename Register<T>::type v;
};

// Packs must stay in registers: a call that is not inlined passes them through memory, at twice the time.
#define LOSSLESS_INLINE static inline __attribute__((always_inline))
#define LOSSLESS_INLINE_MEMBER inline __attribute__((always_inline))

template <class T, int W = LANES> LOSSLESS_INLINE Pack<T, W> broadcast(T value) {
    if constexpr (Pack<T, W>::fits) {
        typename Register<T>::type v;
        for (int i = 0; i < W; i++) v[i] = value;
        return {v};
    } else {
        const auto half = broadcast<T, W / 2>(value);
        return {half, half};
    }
}

template <class T, int W = LANES> LOSSLESS_INLINE Pack<T, W> load(const T* source) {
    if constexpr (Pack<T, W>::fits) {
        Pack<T, W> out;
        memcpy(&out.v, source, sizeof(out.v));
        return out;
    } else {
        return {load<T, W / 2>(source), load<T, W / 2>(source + W / 2)};
    }
}

template <class T, int W> LOSSLESS_INLINE void store(T* target, Pack<T, W> a) {
    if constexpr (Pack<T, W>::fits) {
        memcpy(target, &a.v, sizeof(a.v));
    } else {
        store(target, a.lo);
        store(target + W / 2, a.hi);
    }
}

// Asks the memory for so many numbers, `ahead` of a place in their array or beyond its end: nothing is read. A core
// waits for few lines of its first cache at a time, so what is needed later goes to the second.
enum class Cache : int { second = 2, first = 3 };
template <Cache cache, class D> LOSSLESS_INLINE void fetch(const D* place, int64_t ahead, int64_t numbers) {
    const uintptr_t from = uintptr_t(place) + uintptr_t(ahead) * sizeof(D);
    for (uintptr_t line = 0; line < uintptr_t(numbers) * sizeof(D); line += 64)
        __builtin_prefetch(reinterpret_cast<const void*>(from + line), 0, int(cache));
}

// Lane numbers 0 .. 15.
template <class T> LOSSLESS_INLINE Pack<T> iota() {
    T lanes[LANES];
    for (int i = 0; i < LANES; i++) lanes[i] = T(i);
    return load(lanes);
}

#define LOSSLESS_BINARY(op)                                                                                            \
    template <class T, int W> LOSSLESS_INLINE Pack<T, W> operator op(Pack<T, W> a, Pack<T, W> b) {                     \
        if constexpr (Pack<T, W>::fits)                                                                                \
            return {a.v op b.v};                                                                                       \
        else                                                                                                           \
            return {a.lo op b.lo, a.hi op b.hi};                                                                       \
    }
LOSSLESS_BINARY(+)
LOSSLESS_BINARY(-)
LOSSLESS_BINARY(*)
LOSSLESS_BINARY(/)
LOSSLESS_BINARY(&)
LOSSLESS_BINARY(|)
#undef LOSSLESS_BINARY

// Comparisons give a Mask: all bits set in the lanes where they hold. A NaN compares false, but with != true.
template <class T, int W = LANES> using Mask = Pack<Bits<T>, W>;

#define LOSSLESS_COMPARE(op)                                                                                           \
    template <class T, int W> LOSSLESS_INLINE Mask<T, W> operator op(Pack<T, W> a, Pack<T, W> b) {                     \
        if constexpr (Pack<T, W>::fits)                                                                                \
            return {(typename Register<Bits<T>>::type)(a.v op b.v)};                                                   \
        else                                                                                                           \
            return {a.lo op b.lo, a.hi op b.hi};                                                                       \
    }
LOSSLESS_COMPARE(<)
LOSSLESS_COMPARE(>)
LOSSLESS_COMPARE(==)
LOSSLESS_COMPARE(!=)
#undef LOSSLESS_COMPARE

template <class B, int W> LOSSLESS_INLINE Pack<B, W> operator~(Pack<B, W> m) {
    if constexpr (Pack<B, W>::fits)
        return {~m.v};
    else
        return {~m.lo, ~m.hi};
}

template <class T, int W> LOSSLESS_INLINE Pack<T, W> select(Pack<Bits<T>, W> mask, Pack<T, W> yes, Pack<T, W> no) {
    if constexpr (Pack<T, W>::fits)
        return {mask.v ? yes.v : no.v};
    else
        return {select(mask.lo, yes.lo, no.lo), select(mask.hi, yes.hi, no.hi)};
}

template <class To, class From, int W> LOSSLESS_INLINE Pack<To, W> bit_cast(Pack<From, W> a) {
    static_assert(sizeof(To) == sizeof(From));
    if constexpr (Pack<From, W>::fits)
        return {(typename Register<To>::type)a.v};
    else
        return {bit_cast<To>(a.lo), bit_cast<To>(a.hi)};
}

template <class B, int W> LOSSLESS_INLINE Pack<B, W> shift_left(Pack<B, W> a, int n) {
    if constexpr (Pack<B, W>::fits)
        return {a.v << n};
    else
        return {shift_left(a.lo, n), shift_left(a.hi, n)};
}

// Shift of a non-negative number.
template <class B, int W> LOSSLESS_INLINE Pack<B, W> shift_right(Pack<B, W> a, int n) {
    if constexpr (Pack<B, W>::fits) {
        using Unsigned = typename Register<typename UnsignedOf<B>::type>::type;
        return {(typename Register<B>::type)((Unsigned)a.v >> n)};
    } else {
        return {shift_right(a.lo, n), shift_right(a.hi, n)};
    }
}

template <class T, int W> LOSSLESS_INLINE Pack<T, W> abs(Pack<T, W> a) {
    constexpr Bits<T> magnitude = ~(Bits<T>(1) << (8 * sizeof(T) - 1));
    return bit_cast<T>(bit_cast<Bits<T>>(a) & broadcast<Bits<T>, W>(magnitude));
}

// 16 lanes as often as it takes for W.
template <int W, class T> LOSSLESS_INLINE Pack<T, W> repeat(Pack<T> a) {
    if constexpr (W == LANES) {
        return a;
    } else {
        const auto half = repeat<W / 2>(a);
        return {half, half};
    }
}

// The halves of a vector, and the vector of two halves.
template <class V> LOSSLESS_INLINE auto lower(V v) {
    constexpr int lanes = sizeof(V) / sizeof(v[0]);
    if constexpr (lanes == 16)
        return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
    else if constexpr (lanes == 8)
        return __builtin_shufflevector(v, v, 0, 1, 2, 3);
    else
        return __builtin_shufflevector(v, v, 0, 1);
}
template <class V> LOSSLESS_INLINE auto upper(V v) {
    constexpr int lanes = sizeof(V) / sizeof(v[0]);
    if constexpr (lanes == 16)
        return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    else if constexpr (lanes == 8)
        return __builtin_shufflevector(v, v, 4, 5, 6, 7);
    else
        return __builtin_shufflevector(v, v, 2, 3);
}
template <class V> LOSSLESS_INLINE auto join(V a, V b) {
    if constexpr (sizeof(V) / sizeof(a[0]) == 8)
        return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    else
        return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7);
}

// Of each four lanes of two vectors of floats: a0 b0 a1 b1, and a2 b2 a3 b3.
template <class V> LOSSLESS_INLINE V interleave_low(V a, V b) {
    if constexpr (sizeof(V) == 64)
        return __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    else if constexpr (sizeof(V) == 32)
        return __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13);
    else
        return __builtin_shufflevector(a, b, 0, 4, 1, 5);
}
template <class V> LOSSLESS_INLINE V interleave_high(V a, V b) {
    if constexpr (sizeof(V) == 64)
        return __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    else if constexpr (sizeof(V) == 32)
        return __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    else
        return __builtin_shufflevector(a, b, 2, 6, 3, 7);
}

// All lanes as one number: f(lane i, lane i + half) for half = W / 2, W / 4, .. 1.
template <class V, class F> LOSSLESS_INLINE auto fold_register(V v, F f) {
    if constexpr (sizeof(V) / sizeof(v[0]) == 2)
        return f(v[0], v[1]);
    else
        return fold_register(f(lower(v), upper(v)), f);
}
template <class T, int W, class F> LOSSLESS_INLINE Pack<T, W> combine(Pack<T, W> a, Pack<T, W> b, F f) {
    if constexpr (Pack<T, W>::fits)
        return {f(a.v, b.v)};
    else
        return {combine(a.lo, b.lo, f), combine(a.hi, b.hi, f)};
}
template <class T, int W, class F> LOSSLESS_INLINE T fold(Pack<T, W> a, F f) {
    if constexpr (Pack<T, W>::fits)
        return fold_register(a.v, f);
    else
        return fold(combine(a.lo, a.hi, f), f);
}

template <class T, int W> LOSSLESS_INLINE T sum_of(Pack<T, W> a) {
    return fold(a, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
}

template <class T, int W> LOSSLESS_INLINE T lane(Pack<T, W> a, int i) {
    T lanes[W];
    store(lanes, a);
    return lanes[i];
}

// ---------------------------------------------------------------------------------------------- 2. per target

#if defined(__x86_64__) && !defined(__AVX2__)
// x86-64-v2 has no fma instruction. For floats: the product is exact in double, and the sum is rounded to odd, so that
// the last rounding sees on which side of a tie it lies. For doubles the C library's, exact everywhere, slow here.
__attribute__((noinline)) static __m128 fma_without_instruction(__m128 a, __m128 b, __m128 c) {
    const auto half = [](__m128 a, __m128 b, __m128 c) __attribute__((always_inline)) {
        const __m128d product = _mm_cvtps_pd(a) * _mm_cvtps_pd(b), addend = _mm_cvtps_pd(c);
        const __m128d sum = product + addend, back = sum - product;
        const __m128d error = (product - (sum - back)) + (addend - back);
        const __m128i inexact = (__m128i)((error > 0.0) | (error < 0.0)), even = ((__m128i)sum & 1) == 0;
        const __m128i away =
            (__m128i)((error > 0.0) == (sum > 0.0)); // towards the error: a larger or a smaller magnitude
        const __m128i step = (away & 1) | (~away & -1);
        return _mm_cvtpd_ps((__m128d)((__m128i)sum + (step & inexact & even)));
    };
    return _mm_movelh_ps(half(a, b, c), half(_mm_movehl_ps(a, a), _mm_movehl_ps(b, b), _mm_movehl_ps(c, c)));
}
__attribute__((noinline)) static __m128d fma_without_instruction(__m128d a, __m128d b, __m128d c) {
    return __m128d{__builtin_fma(a[0], b[0], c[0]), __builtin_fma(a[1], b[1], c[1])};
}
#endif

// a*b + c with one rounding.
template <class T, int W> LOSSLESS_INLINE Pack<T, W> fma(Pack<T, W> a, Pack<T, W> b, Pack<T, W> c) {
    if constexpr (!Pack<T, W>::fits) {
        return {fma(a.lo, b.lo, c.lo), fma(a.hi, b.hi, c.hi)};
    } else {
#if defined(__AVX512F__)
        if constexpr (sizeof(T) == 4)
            return {_mm512_fmadd_ps(a.v, b.v, c.v)};
        else
            return {_mm512_fmadd_pd(a.v, b.v, c.v)};
#elif defined(__AVX2__)
        if constexpr (sizeof(T) == 4)
            return {_mm256_fmadd_ps(a.v, b.v, c.v)};
        else
            return {_mm256_fmadd_pd(a.v, b.v, c.v)};
#elif defined(__aarch64__)
        if constexpr (sizeof(T) == 4)
            return {vfmaq_f32(c.v, a.v, b.v)};
        else
            return {vfmaq_f64(c.v, a.v, b.v)};
#else
        return {fma_without_instruction(a.v, b.v, c.v)};
#endif
    }
}

// a * b + c of products that have no more digits than T: rounded once either way, by whatever instruction is there.
template <class T, int W> LOSSLESS_INLINE Pack<T, W> add_exact_product(Pack<T, W> a, Pack<T, W> b, Pack<T, W> c) {
#if defined(__x86_64__) && !defined(__AVX2__)
    return a * b + c;
#else
    return fma(a, b, c);
#endif
}

// The larger lane; where b is NaN the result is b, where only a is NaN it is b too (the rule of the x86 instruction).
template <class T, int W> LOSSLESS_INLINE Pack<T, W> max(Pack<T, W> a, Pack<T, W> b) {
    if constexpr (!Pack<T, W>::fits) {
        return {max(a.lo, b.lo), max(a.hi, b.hi)};
    } else {
#if defined(__AVX512F__)
        if constexpr (sizeof(T) == 4)
            return {_mm512_max_ps(a.v, b.v)};
        else
            return {_mm512_max_pd(a.v, b.v)};
#elif defined(__AVX2__)
        if constexpr (sizeof(T) == 4)
            return {_mm256_max_ps(a.v, b.v)};
        else
            return {_mm256_max_pd(a.v, b.v)};
#elif defined(__x86_64__)
        if constexpr (sizeof(T) == 4)
            return {_mm_max_ps(a.v, b.v)};
        else
            return {_mm_max_pd(a.v, b.v)};
#else
        return {(a.v > b.v) ? a.v : b.v};
#endif
    }
}

// The smaller lane; where b is NaN the result is b, where only a is NaN it is b too (as for max).
template <class T, int W> LOSSLESS_INLINE Pack<T, W> min(Pack<T, W> a, Pack<T, W> b) {
    if constexpr (!Pack<T, W>::fits) {
        return {min(a.lo, b.lo), min(a.hi, b.hi)};
    } else {
#if defined(__AVX512F__)
        if constexpr (sizeof(T) == 4)
            return {_mm512_min_ps(a.v, b.v)};
        else
            return {_mm512_min_pd(a.v, b.v)};
#elif defined(__AVX2__)
        if constexpr (sizeof(T) == 4)
            return {_mm256_min_ps(a.v, b.v)};
        else
            return {_mm256_min_pd(a.v, b.v)};
#elif defined(__x86_64__)
        if constexpr (sizeof(T) == 4)
            return {_mm_min_ps(a.v, b.v)};
        else
            return {_mm_min_pd(a.v, b.v)};
#else
        return {(a.v < b.v) ? a.v : b.v};
#endif
    }
}

// One bit a lane: where a == b.
template <class T, int W> LOSSLESS_INLINE uint32_t equal_bits(Pack<T, W> a, Pack<T, W> b) {
    if constexpr (!Pack<T, W>::fits) {
        return equal_bits(a.lo, b.lo) | equal_bits(a.hi, b.hi) << (W / 2);
    } else {
#if defined(__AVX512F__)
        if constexpr (sizeof(T) == 4)
            return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ);
        else
            return _mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ);
#elif defined(__AVX2__)
        if constexpr (sizeof(T) == 4)
            return _mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ));
        else
            return _mm256_movemask_pd(_mm256_cmp_pd(a.v, b.v, _CMP_EQ_OQ));
#elif defined(__x86_64__)
        if constexpr (sizeof(T) == 4)
            return _mm_movemask_ps(_mm_cmpeq_ps(a.v, b.v));
        else
            return _mm_movemask_pd(_mm_cmpeq_pd(a.v, b.v));
#else
        const auto equal = a.v == b.v;
        uint32_t bits = 0;
        for (int i = 0; i < W; i++) bits |= uint32_t(equal[i] & 1) << i;
        return bits;
#endif
    }
}

// select() by a bit a lane, the first lane's lowest; bits above the last lane are of no account.
template <class T, int W> LOSSLESS_INLINE Pack<T, W> select_bits(uint32_t bits, Pack<T, W> yes, Pack<T, W> no) {
    if constexpr (!Pack<T, W>::fits) {
        return {select_bits(bits, yes.lo, no.lo), select_bits(bits >> (W / 2), yes.hi, no.hi)};
    } else {
#if defined(__AVX512F__)
        if constexpr (sizeof(T) == 4)
            return {_mm512_mask_mov_ps(no.v, __mmask16(bits), yes.v)};
        else
            return {_mm512_mask_mov_pd(no.v, __mmask8(bits), yes.v)};
#else
        Bits<T> lanes[W];
        for (int i = 0; i < W; i++) lanes[i] = Bits<T>(1) << i;
        const Pack<Bits<T>, W> bit = load<Bits<T>, W>(lanes);
        return select((bit & broadcast<Bits<T>, W>(Bits<T>(bits))) == bit, yes, no);
#endif
    }
}

// Whether any lane of a mask is set.
template <class B, int W> LOSSLESS_INLINE bool any(Pack<B, W> mask) {
    if constexpr (!Pack<B, W>::fits) {
        return any(mask.lo | mask.hi);
    } else {
#if defined(__AVX512F__)
        return _mm512_test_epi64_mask((__m512i)mask.v, (__m512i)mask.v) != 0;
#elif defined(__AVX2__)
        return !_mm256_testz_si256((__m256i)mask.v, (__m256i)mask.v);
#else
        typename Register<int64_t>::type words = (typename Register<int64_t>::type)mask.v;
        return (words[0] | words[1]) != 0;
#endif
    }
}

template <int W> LOSSLESS_INLINE Pack<double, W> to_f64(Pack<float, W> a) {
    if constexpr (!Pack<float, W>::fits) {
        return {to_f64(a.lo), to_f64(a.hi)};
    } else {
        Pack<double, W> out;
#if defined(__AVX512F__)
        out.lo.v = _mm512_cvtps_pd(_mm512_castps512_ps256(a.v));
        out.hi.v = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1));
#elif defined(__AVX2__)
        out.lo.v = _mm256_cvtps_pd(_mm256_castps256_ps128(a.v));
        out.hi.v = _mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1));
#elif defined(__x86_64__)
        out.lo.v = _mm_cvtps_pd(a.v);
        out.hi.v = _mm_cvtps_pd(_mm_movehl_ps(a.v, a.v));
#else
        out.lo.v = vcvt_f64_f32(vget_low_f32(a.v));
        out.hi.v = vcvt_high_f64_f32(a.v);
#endif
        return out;
    }
}
template <int W> LOSSLESS_INLINE Pack<double, W> to_f64(Pack<double, W> a) { return a; }

template <int W> LOSSLESS_INLINE Pack<float, W> to_f32(Pack<double, W> a) {
    if constexpr (!Pack<float, W>::fits) {
        return {to_f32(a.lo), to_f32(a.hi)};
    } else {
#if defined(__AVX512F__)
        return {_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(a.lo.v)), _mm512_cvtpd_ps(a.hi.v), 1)};
#elif defined(__AVX2__)
        return {_mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(a.lo.v)), _mm256_cvtpd_ps(a.hi.v), 1)};
#elif defined(__x86_64__)
        return {_mm_movelh_ps(_mm_cvtpd_ps(a.lo.v), _mm_cvtpd_ps(a.hi.v))};
#else
        return {vcvt_high_f32_f64(vcvt_f32_f64(a.lo.v), a.hi.v)};
#endif
    }
}

// To the type T, rounded if that is narrower.
template <class T> LOSSLESS_INLINE Pack<T> narrow(Pack<double> a) {
    if constexpr (sizeof(T) == 4)
        return to_f32(a);
    else
        return a;
}
template <class T> LOSSLESS_INLINE Pack<T> narrow(Pack<float> a) { return a; }

// ---------------------------------------------------------------------------------------------- 3. data in memory

// How numbers of a dtype are stored, and the type they are computed in.
struct F16 {
    uint16_t bits;
    using compute = float;
};
struct BF16 {
    uint16_t bits;
    using compute = float;
};
template <class D> struct ComputeOf {
    using type = typename D::compute;
};
template <> struct ComputeOf<float> {
    using type = float;
};
template <> struct ComputeOf<double> {
    using type = double;
};
template <class D> using Compute = typename ComputeOf<D>::type;

LOSSLESS_INLINE float to_compute(float x) { return x; }
LOSSLESS_INLINE double to_compute(double x) { return x; }
LOSSLESS_INLINE float to_compute(BF16 x) { return __builtin_bit_cast(float, uint32_t(x.bits) << 16); }
LOSSLESS_INLINE float to_compute(F16 x) {
#if defined(__F16C__)
    return _cvtsh_ss(x.bits);
#elif defined(__aarch64__)
    return (float)__builtin_bit_cast(__fp16, x.bits);
#else
    // Exponent and mantissa moved into place, then rescaled by 2^112: exact, denormals included.
    const uint32_t magnitude = uint32_t(x.bits & 0x7fff) << 13, sign = uint32_t(x.bits & 0x8000) << 16;
    const float value = __builtin_bit_cast(float, magnitude) * 0x1p112f;
    const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
    return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, value) | special | sign);
#endif
}

template <class D> LOSSLESS_INLINE D from_compute(Compute<D> x);
template <> inline __attribute__((always_inline)) float from_compute<float>(float x) { return x; }
template <> inline __attribute__((always_inline)) double from_compute<double>(double x) { return x; }
template <> inline __attribute__((always_inline)) BF16 from_compute<BF16>(float x) {
    const uint32_t b = __builtin_bit_cast(uint32_t, x);
    if (x != x) return {uint16_t((b >> 16) | 0x40)};
    return {uint16_t((b + 0x7fff + ((b >> 16) & 1)) >> 16)}; // round to nearest, ties to even
}
template <> inline __attribute__((always_inline)) F16 from_compute<F16>(float x) {
#if defined(__F16C__)
    return {uint16_t(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT))};
#elif defined(__aarch64__)
    return {__builtin_bit_cast(uint16_t, (__fp16)x)};
#else
    const uint32_t b = __builtin_bit_cast(uint32_t, x), magnitude = b & 0x7fffffffu;
    const uint16_t sign = uint16_t((b >> 16) & 0x8000);
    if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7e00)};
    if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00)}; // 65520 and above round to infinity
    if (magnitude < 0x38800000u) { // below 2^-14: adding 2^-1 leaves 2^-24 as the last bit
        const float shifted = __builtin_bit_cast(float, magnitude) + 0.5f;
        return {uint16_t(sign | (__builtin_bit_cast(uint32_t, shifted) - 0x3f000000u))};
    }
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1);
    return {uint16_t(sign | ((rounded - 0x38000000u) >> 13))};
#endif
}

// 16 numbers in their compute type.
LOSSLESS_INLINE Pack<float> load_data(const float* x) { return load(x); }
LOSSLESS_INLINE Pack<double> load_data(const double* x) { return load(x); }
LOSSLESS_INLINE void store_data(float* y, Pack<float> a) { store(y, a); }
LOSSLESS_INLINE void store_data(double* y, Pack<double> a) { store(y, a); }

template <int W> LOSSLESS_INLINE Pack<float, W> widen_f16(const uint16_t* x) {
    if constexpr (!Pack<float, W>::fits) {
        return {widen_f16<W / 2>(x), widen_f16<W / 2>(x + W / 2)};
    } else {
#if defined(__AVX512F__)
        return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)x))};
#elif defined(__AVX2__)
        return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)x))};
#else
        Pack<float, W> out;
        for (int i = 0; i < W; i++) out.v[i] = to_compute(F16{x[i]});
        return out;
#endif
    }
}
LOSSLESS_INLINE Pack<float> load_data(const F16* x) { return widen_f16<LANES>(&x->bits); }

template <int W> LOSSLESS_INLINE void narrow_f16(uint16_t* y, Pack<float, W> a) {
    if constexpr (!Pack<float, W>::fits) {
        narrow_f16(y, a.lo);
        narrow_f16(y + W / 2, a.hi);
    } else {
#if defined(__AVX512F__)
        _mm256_storeu_si256((__m256i*)y, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
        _mm_storeu_si128((__m128i*)y, _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
#else
        for (int i = 0; i < W; i++) y[i] = from_compute<F16>(a.v[i]).bits;
#endif
    }
}
LOSSLESS_INLINE void store_data(F16* y, Pack<float> a) { narrow_f16(&y->bits, a); }

template <int W> LOSSLESS_INLINE Pack<float, W> widen_bf16(const uint16_t* x) {
    if constexpr (!Pack<float, W>::fits) {
        return {widen_bf16<W / 2>(x), widen_bf16<W / 2>(x + W / 2)};
    } else {
        using Half = typename Register<uint16_t, 2 * W>::type;
        using Whole = typename Register<uint32_t>::type;
        Half half;
        memcpy(&half, x, sizeof(half));
        return {(typename Register<float>::type)(__builtin_convertvector(half, Whole) << 16)};
    }
}
LOSSLESS_INLINE Pack<float> load_data(const BF16* x) { return widen_bf16<LANES>(&x->bits); }

template <int W> LOSSLESS_INLINE void narrow_bf16(uint16_t* y, Pack<float, W> a) {
    if constexpr (!Pack<float, W>::fits) {
        narrow_bf16(y, a.lo);
        narrow_bf16(y + W / 2, a.hi);
    } else {
        using Half = typename Register<uint16_t, 2 * W>::type;
        using Whole = typename Register<uint32_t>::type;
        const Whole bits = (Whole)a.v;
        const Whole rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16, quiet = (bits >> 16) | 0x40;
        const Half half = __builtin_convertvector((a.v != a.v) ? quiet : rounded, Half);
        memcpy(y, &half, sizeof(half));
    }
}
LOSSLESS_INLINE void store_data(BF16* y, Pack<float> a) { narrow_bf16(&y->bits, a); }

// 16 floats in f64, each register from memory: taking them out of a register of floats costs more.
template <int W = LANES> LOSSLESS_INLINE Pack<double, W> load_wide(const float* x) {
    if constexpr (!Pack<double, W>::fits) {
        return {load_wide<W / 2>(x), load_wide<W / 2>(x + W / 2)};
    } else {
#if defined(__AVX512F__)
        return {_mm512_cvtps_pd(_mm256_loadu_ps(x))};
#elif defined(__AVX2__)
        return {_mm256_cvtps_pd(_mm_loadu_ps(x))};
#else
        Pack<double, W> out;
        for (int i = 0; i < W; i++) out.v[i] = x[i];
        return out;
#endif
    }
}

// The first n < 16 of them; the other lanes hold `fill`.
template <class D> LOSSLESS_INLINE Pack<Compute<D>> load_part(const D* x, int n, Compute<D> fill) {
    using T = Compute<D>;
#if defined(__AVX512F__)
    if constexpr (sizeof(D) == 4) return {_mm512_mask_loadu_ps(_mm512_set1_ps(fill), __mmask16((1u << n) - 1), x)};
    if constexpr (sizeof(D) == 8) {
        const uint32_t bits = (1u << n) - 1;
        return {{_mm512_mask_loadu_pd(_mm512_set1_pd(fill), __mmask8(bits), x)},
                {_mm512_mask_loadu_pd(_mm512_set1_pd(fill), __mmask8(bits >> 8), x + 8)}};
    }
#endif
    T lanes[LANES];
    for (int i = 0; i < LANES; i++) lanes[i] = fill;
    for (int i = 0; i < n; i++) lanes[i] = to_compute(x[i]);
    return load(lanes);
}

template <class D> LOSSLESS_INLINE void store_part(D* y, int n, Pack<Compute<D>> a) {
#if defined(__AVX512F__)
    if constexpr (sizeof(D) == 4) return _mm512_mask_storeu_ps(y, __mmask16((1u << n) - 1), a.v);
    if constexpr (sizeof(D) == 8) {
        const uint32_t bits = (1u << n) - 1;
        _mm512_mask_storeu_pd(y, __mmask8(bits), a.lo.v);
        return _mm512_mask_storeu_pd(y + 8, __mmask8(bits >> 8), a.hi.v);
    }
#endif
    Compute<D> lanes[LANES];
    store(lanes, a);
    for (int i = 0; i < n; i++) y[i] = from_compute<D>(lanes[i]);
}

// ---------------------------------------------------------------------------------------------- past the caches

template <class D> LOSSLESS_INLINE bool begins_sixteen(const D* place) {
    return uintptr_t(place) % (LANES * sizeof(D)) == 0;
}

// 16 numbers into memory past the caches, where there are such stores; `to` begins sixteen.
template <class D> LOSSLESS_INLINE void stream(D* to, const D* from) {
    constexpr int bytes = LANES * sizeof(D);
#if defined(__x86_64__)
    constexpr int step = bytes < REGISTER_BYTES ? bytes : REGISTER_BYTES;
    for (int i = 0; i < bytes; i += step) {
        void* const place = reinterpret_cast<char*>(to) + i;
        const void* const source = reinterpret_cast<const char*>(from) + i;
        if constexpr (step == 64)
            _mm512_stream_si512(static_cast<__m512i*>(place), _mm512_loadu_si512(source));
        else if constexpr (step == 32)
            _mm256_stream_si256(static_cast<__m256i*>(place), _mm256_loadu_si256(static_cast<const __m256i*>(source)));
        else
            _mm_stream_si128(static_cast<__m128i*>(place), _mm_loadu_si128(static_cast<const __m128i*>(source)));
    }
#else
    memcpy(to, from, bytes);
#endif
}
template <class D> LOSSLESS_INLINE void stream_data(D* to, Pack<Compute<D>> a) {
    D sixteen[LANES];
    store_data(sixteen, a);
    stream(to, sixteen);
}

// After the last of them: who is told of the results sees them.
LOSSLESS_INLINE void end_stream() {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

} // namespace
