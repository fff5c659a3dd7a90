// Exponential and logarithm on 16 lanes, in the forms the losses need. All are branch-free and use only fma, +, -, *, /
// and integer operations, so they give the same bits on every target. NaN in, NaN out.
//
// Coefficients: minimax (Remez exchange, 300 bits) for the stated relative error.
#pragma once

#include "simd.h"

namespace {

template <class T> struct Float; // the format's constants

template <> struct Float<float> {
    static constexpr int mantissa_bits = 23;
    static constexpr float bias = 127, magic = 0x1.8p23f; // x + magic puts the integer nearest to x into the low bits
    static constexpr float log2e = 0x1.715476p+0f;
    static constexpr float ln2_hi = 0x1.62e43p-1f, ln2_lo = -0x1.05c61p-29f; // n * ln2_hi is exact inside an fma
    static constexpr int32_t sqrt_half = 0x3f3504f3;
    // (e^r - 1 - r) / r^2 on |r| <= ln2/2 + 0.004; e^r to 2^-28
    static constexpr float exp_coefficients[] = {0x1.fffffcp-2f, 0x1.555488p-3f, 0x1.55591cp-5f, 0x1.1240b2p-7f,
                                                 0x1.6a18e6p-10f};
    // (2 atanh(s) - 2 s) / s^3 in s^2, for |s| <= 0.1716; log to 2^-37
    static constexpr float log_coefficients[] = {0x1.555554p-1f, 0x1.999a7cp-2f, 0x1.24387ap-2f, 0x1.e30544p-3f};
};

// As many digits as functions of a float need, for those that are computed in f64: at half the price of all.
struct ForFloat {
    // (log(1 + z) - z) / z^2 on [0, 1]; log(1 + z) to 2^-26, before rounding
    static constexpr float log1p_coefficients[] = {-0x1.fffff8p-2f, 0x1.5553a6p-2f, -0x1.ffc420p-3f, 0x1.97827ap-3f,
                                                   -0x1.4a5430p-3f, 0x1.fea74ap-4f, -0x1.54457ep-4f, 0x1.57e948p-5f,
                                                   -0x1.bead0ep-7f, 0x1.0fb474p-9f};
    // The same to 2^-30, in f64
    static constexpr double wide_log1p_coefficients[] = {
        -0x1.fffff7787d1f5p-2, 0x1.5553a570bbeb4p-2, -0x1.ffc41ed0d60f8p-3, 0x1.978277328a6e9p-3,
        -0x1.4a5428d00371cp-3, 0x1.fea736416d72cp-4, -0x1.54456efc427f2p-4, 0x1.57e93facd57b1p-5,
        -0x1.bead17eed8051p-7, 0x1.0fb490272cef9p-9};
    // e^r to 2^-32
    static constexpr double exp_coefficients[] = {0x1.0000000bc3067p-1, 0x1.5555555a8f13bp-3,  0x1.5554e7cfb8dd9p-5,
                                                  0x1.1110e0684c4bfp-7, 0x1.6d44d2021d74fp-10, 0x1.a1266f45c8e9bp-13};
};

template <> struct Float<double> {
    static constexpr int mantissa_bits = 52;
    static constexpr double bias = 1023, magic = 0x1.8p52;
    static constexpr double log2e = 0x1.71547652b82fep+0;
    static constexpr double ln2_hi = 0x1.62e42fefa39efp-1, ln2_lo = 0x1.abc9e3b39803fp-56;
    static constexpr int64_t sqrt_half = 0x3fe6a09e667f3bcd;
    // e^r to 2^-64
    static constexpr double exp_coefficients[] = {0x1.0000000000000p-1,  0x1.555555555555bp-3,  0x1.5555555555503p-5,
                                                  0x1.111111110ec65p-7,  0x1.6c16c16c30425p-10, 0x1.a01a01b37b330p-13,
                                                  0x1.a01a0136a585ep-16, 0x1.71ddf0287dd94p-19, 0x1.27e5b42736f91p-22,
                                                  0x1.af6bda425cf60p-26, 0x1.1e3d487b0e1b3p-29};
    // log to 2^-59 of the second-order term
    static constexpr double log_coefficients[] = {0x1.5555555555593p-1, 0x1.999999997f8a3p-2, 0x1.249249423e7e8p-2,
                                                  0x1.c71c51c64e28fp-3, 0x1.74664d7c5aa9ep-3, 0x1.39a02e584f528p-3,
                                                  0x1.2f15c10224813p-3};
};

// Horner's rule, unrolled by recursion: as a loop it stays one, and reads its coefficients from memory. Every `step`-th
// coefficient from `first` on.
template <int step = 1, int first = 0, class T, int W, class C, int N>
LOSSLESS_INLINE Pack<T, W> polynomial(Pack<T, W> x, const C (&coefficients)[N]) {
    if constexpr (first + step >= N)
        return broadcast<T, W>(T(coefficients[first]));
    else
        return fma(polynomial<step, first + step>(x, coefficients), x, broadcast<T, W>(T(coefficients[first])));
}
// Even and odd powers apart, for who has the square: half the wait.
template <class T, int W, class C, int N>
LOSSLESS_INLINE Pack<T, W> polynomial(Pack<T, W> x, Pack<T, W> square, const C (&coefficients)[N]) {
    return fma(polynomial<2, 1>(square, coefficients), x, polynomial<2, 0>(square, coefficients));
}

// e^x = (1 + fraction) 2^n, n the whole number nearest to x / ln 2, the fraction in [-0.3, 0.42]; here e^x 2^power for
// a whole `power`, where that is a normal number (and 0 where the exponent field comes out as 0). Range |x| <= 2^17.
// The fraction is off by at most 2^-25 (f32), and what is scaled rounds once. The maximum of a row is never subtracted
// before: rounding x - m would cost |x - m|/2 ulp; here the scale 2^-N of a row is exact.
// `place` is the power, biased, on top of magic: what is rounded there has the exponent field in its low bits.
template <class T, int W> LOSSLESS_INLINE Pack<T, W> place_of(Pack<T, W> power) {
    return power + broadcast<T, W>(Float<T>::magic + Float<T>::bias);
}
template <class T, int W, class Rest, int N>
LOSSLESS_INLINE Pack<T, W> exponential(Pack<T, W> x, Pack<T, W> place, Rest rest, const T (&coefficients)[N]) {
    const Pack<T, W> rounded = fma(x, broadcast<T, W>(Float<T>::log2e), place), n = rounded - place;
    Pack<T, W> r = fma(n, broadcast<T, W>(-Float<T>::ln2_hi), x);
    r = rest(fma(n, broadcast<T, W>(-Float<T>::ln2_lo), r));
    const Pack<T, W> square = r * r, fraction = fma(square, polynomial(r, square, coefficients), r);
    const Pack<T, W> scale = bit_cast<T>(shift_left(bit_cast<Bits<T>>(rounded), Float<T>::mantissa_bits));
    return fma(scale, fraction, scale);
}
template <class T, int W, int N>
LOSSLESS_INLINE Pack<T, W> exponential(Pack<T, W> x, Pack<T, W> place, const T (&coefficients)[N]) {
    return exponential(x, place, [](Pack<T, W> r) __attribute__((always_inline)) { return r; }, coefficients);
}
template <class T, int W> LOSSLESS_INLINE Pack<T, W> exponential(Pack<T, W> x, Pack<T, W> place) {
    return exponential(x, place, Float<T>::exp_coefficients);
}
// Of x + low, low far below the last digit of x.
template <class T, int W> LOSSLESS_INLINE Pack<T, W> exponential(Pack<T, W> x, Pack<T, W> low, Pack<T, W> place) {
    return exponential(
        x, place, [=](Pack<T, W> r) __attribute__((always_inline)) { return r + low; }, Float<T>::exp_coefficients);
}
// e^x where that is a normal number.
template <class T, int W> LOSSLESS_INLINE Pack<T, W> exponential(Pack<T, W> x) {
    return exponential(x, place_of(broadcast<T, W>(T(0))));
}
// The x at which the exponent field is 0, and so is the exponential: below it would be negative.
template <class T> LOSSLESS_INLINE Pack<T> least_of(Pack<T> place) {
    return (place - broadcast(Float<T>::magic)) * broadcast(-Float<T>::ln2_hi);
}
// e^x 2^lift, and 0 where that is below the normal numbers.
template <class T> LOSSLESS_INLINE Pack<T> exponential_or_zero(Pack<T> x, int lift) {
    const Pack<T> place = place_of(broadcast(T(lift)));
    return exponential(max(least_of(place), x), place);
}
// The n of e^x: the whole number nearest to x / ln 2.
template <class T> LOSSLESS_INLINE Pack<T> exponent_of_exponential(Pack<T> x) {
    const Pack<T> magic = broadcast(Float<T>::magic);
    return fma(x, broadcast(Float<T>::log2e), magic) - magic;
}

// A small whole number, out of an integer.
template <class T> LOSSLESS_INLINE Pack<T> whole_number(Pack<Bits<T>> n) {
    const Pack<T> magic = broadcast(Float<T>::magic);
    return bit_cast<T>(n + bit_cast<Bits<T>>(magic)) - magic;
}
// The exponent of x > 0; -bias where that is 0 or denormal, bias + 1 where it is not finite.
template <class T> LOSSLESS_INLINE Pack<T> exponent_field(Pack<T> x) {
    return whole_number<T>(shift_right(bit_cast<Bits<T>>(x), Float<T>::mantissa_bits)) - broadcast(Float<T>::bias);
}

// 2^n for an integral n <= bias; 0 where n <= -bias.
template <class T> LOSSLESS_INLINE Pack<T> power_of_two(Pack<T> n) {
    const Pack<T> biased = max(broadcast(-Float<T>::bias), n) + broadcast(Float<T>::magic + Float<T>::bias);
    return bit_cast<T>(shift_left(bit_cast<Bits<T>>(biased), Float<T>::mantissa_bits));
}

// log(1 + z) for z >= 0; < 1 ulp. z may be inf.
// 1 + z = 2^e (1 + f) with f in [-0.3, 0.42]; log(1 + f) = f - (f^2/2 - s (f^2/2 + R(s^2))), s = f / (2 + f); what
// rounding 1 + z drops comes back as a first-order term: over u = 2^e (1 + f), of which a few bits are enough.
template <class T> LOSSLESS_INLINE Pack<T> log1p(Pack<T> z) {
    using B = Bits<T>;
    constexpr int bits = Float<T>::mantissa_bits;
    const Pack<T> one = broadcast(T(1)), u = one + z;
    const Pack<B> e = shift_right(bit_cast<B>(u) - broadcast(Float<T>::sqrt_half), bits);
    const Pack<T> mantissa = bit_cast<T>(bit_cast<B>(u) - shift_left(e, bits));
    const auto unscaled = e == broadcast(B(0));
    const Pack<T> f = select(unscaled, z, mantissa - one);
    const Pack<T> n = whole_number<T>(e);
    const Pack<T> inverse =
        fma(fma(broadcast(T(0.78)), f, broadcast(T(-0.97))), f, one) * power_of_two(broadcast(T(0)) - n); // to 5 %
    const Pack<T> dropped = select(z < one, z - (u - one), one - (u - z)) * inverse;

    const Pack<T> s = f / (broadcast(T(2)) + f), s2 = s * s, half_f2 = broadcast(T(0.5)) * f * f;
    const Pack<T> r = s2 * polynomial(s2, Float<T>::log_coefficients);
    const Pack<T> low = fma(n, broadcast(Float<T>::ln2_lo), select(unscaled, broadcast(T(0)), dropped));
    const Pack<T> log = fma(n, broadcast(Float<T>::ln2_hi), f - (half_f2 - fma(s, half_f2 + r, low)));
    return select(z < broadcast(T(__builtin_inf())), log, z);
}

// log(1 + z) for z in [0, 1], as many digits as a float needs.
LOSSLESS_INLINE Pack<float> log1p_for_float(Pack<float> z) {
    const Pack<float> square = z * z;
    return fma(square, polynomial(z, square, ForFloat::log1p_coefficients), z);
}
LOSSLESS_INLINE Pack<double> log1p_for_float(Pack<double> z) {
    const Pack<double> square = z * z;
    return fma(square, polynomial(z, square, ForFloat::wide_log1p_coefficients), z);
}

} // namespace
