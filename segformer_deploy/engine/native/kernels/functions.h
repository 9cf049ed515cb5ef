/* exp and the exact GELU, a vector at a time. */
#ifndef SEGDEPLOY_FUNCTIONS_H
#define SEGDEPLOY_FUNCTIONS_H

#include "network.h"

INLINE Floats chosen(Ints where, Floats yes, Floats no) {
    return (Floats)(((Ints)yes & where) | ((Ints)no & ~where));
}

/* e^x for x <= 0, to 2 units in the last place; 0 below -87, NaN for NaN. */
INLINE Floats exp_of(Floats x) {
    const Floats low = splat(-87.0f);
    const Ints tiny = x < low;
    x = chosen(tiny, low, x);
    /* x = n log 2 + r, |r| <= log 2 / 2; adding 1.5 * 2^23 rounds to the nearest integer. */
    const Floats shifted = x * 1.44269504088896341f + 12582912.0f;
    const Floats n = shifted - 12582912.0f;
    const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    /* Taylor's series; its first term left out is 1.4e-8 at the border. */
    Floats p = splat(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    /* The low bits of `shifted` hold n: moved to the exponent they multiply by 2^n. */
    const Floats power = (Floats)(((Ints)shifted << 23) + (127 << 23));
    return chosen(tiny, (Floats){0}, p * power);
}

/* x (1 + erf(x / sqrt 2)) / 2, the exact GELU of ONNX and PyTorch.
 *
 * erf(z) = z P(z^2) / Q(z^2) for |z| <= 3.95, where 1 - erf is below half a unit in the last
 * place of 1. P and Q: a weighted least-squares fit in float64, largest error 1.8e-8; rounding
 * in float32 makes it 3.5e-7. */
INLINE Floats gelu_of(Floats x) {
    const Floats limit = splat(3.95f);
    Floats z = x * 0.70710678118654752f;
    z = chosen(z > limit, limit, z);
    z = chosen(z < -limit, -limit, z);
    const Floats t = z * z;
    Floats p = splat(2.011845115e-06f);
    p = p * t + 2.875851954e-04f;
    p = p * t + 3.916668247e-03f;
    p = p * t + 5.320505636e-02f;
    p = p * t + 1.940206035e-01f;
    p = p * t + 1.128379007e+00f;
    Floats q = splat(3.783997424e-05f);
    q = q * t + 1.198041818e-03f;
    q = q * t + 1.526940368e-02f;
    q = q * t + 1.155845059e-01f;
    q = q * t + 5.052777757e-01f;
    q = q * t + 1.0f;
    const Floats half = x * 0.5f;
    return half + half * (z * p / q);
}

#endif
