/* exp and the exact GELU, four vectors at a time: each step waits some cycles for the one before,
 * and a processor looks ahead no further than three or four vectors of one. */
#ifndef SEGDEPLOY_FUNCTIONS_H
#define SEGDEPLOY_FUNCTIONS_H

#include "network.h"

enum { TOGETHER = 4 };

#define TOGETHER_DO(statement)                                 \
    _Pragma("GCC unroll 4") for (int i = 0; i < TOGETHER; i++) \
        statement

/* p = p * t + constant */
INLINE void horner(Floats p[TOGETHER], const Floats t[TOGETHER], float constant) {
    TOGETHER_DO(p[i] = p[i] * t[i] + constant);
}

/* e^x for x <= 0, in place, NaN for NaN; below -60 as at -60, 9e-27: nothing beside a sum of 1 or
 * more, and large enough that its products are no denormal numbers, which take many times as
 * long.
 *
 * 2^(n + f) with |f| <= 1/2: the polynomial is the minimax one of degree 5 in relative error,
 * 7.5e-8. The product x log2(e) is not exact: the relative error grows by |x| 6e-8, while e^x
 * falls faster than that. */
INLINE void exp_of(Floats x[TOGETHER]) {
    Floats shifted[TOGETHER], p[TOGETHER];
    TOGETHER_DO(x[i] = greater_of(splat(-60.0f), x[i]));
    /* Adding 1.5 * 2^23 rounds to the nearest integer n; 127 is the exponent of 1. */
    const float shift = 12582912.0f + 127.0f;
    TOGETHER_DO(shifted[i] = x[i] * 1.44269504088896341f + shift);
    TOGETHER_DO(x[i] = x[i] * 1.44269504088896341f - (shifted[i] - shift));
    TOGETHER_DO(p[i] = x[i] * 1.327647953e-03f + 9.675541707e-03f);
    horner(p, x, 5.550713244e-02f);
    horner(p, x, 2.402211971e-01f);
    horner(p, x, 6.931469671e-01f);
    horner(p, x, 1.000000072f);
    /* The low bits of `shifted` hold n + 127: moved to the exponent they are 2^n. */
    TOGETHER_DO(x[i] = p[i] * (Floats)((Ints)shifted[i] << 23));
}

/* x (1 + erf(x / sqrt 2)) / 2, in place, the exact GELU of ONNX and PyTorch.
 *
 * erf(z) = z P(z^2) / Q(z^2) for |z| <= 3.95, where 1 - erf is below half a unit in the last
 * place of 1. P and Q: a weighted least-squares fit in float64, largest error 1.8e-8; rounding
 * in float32 makes it 3.5e-7. */
INLINE void gelu_of(Floats x[TOGETHER]) {
    Floats z[TOGETHER], t[TOGETHER], p[TOGETHER], q[TOGETHER];
    TOGETHER_DO(z[i] = x[i] * 0.70710678118654752f);
    TOGETHER_DO(z[i] = lesser_of(splat(3.95f), greater_of(splat(-3.95f), z[i])));
    TOGETHER_DO(t[i] = z[i] * z[i]);
    TOGETHER_DO(q[i] = t[i] * 3.783997424e-05f + 1.198041818e-03f);
    horner(q, t, 1.526940368e-02f);
    horner(q, t, 1.155845059e-01f);
    horner(q, t, 5.052777757e-01f);
    horner(q, t, 1.0f);
    TOGETHER_DO(p[i] = t[i] * 2.011845115e-06f + 2.875851954e-04f);
    horner(p, t, 3.916668247e-03f);
    horner(p, t, 5.320505636e-02f);
    horner(p, t, 1.940206035e-01f);
    horner(p, t, 1.128379007e+00f);
    TOGETHER_DO(x[i] = x[i] * 0.5f);
    /* The quotient may round to one beyond -1, where x is far below 0 and its GELU is 0. */
    TOGETHER_DO(z[i] = greater_of(splat(-1.0f), z[i] * p[i] / q[i]));
    TOGETHER_DO(x[i] = x[i] + x[i] * z[i]);
}

#endif
