/* What the kernels share: export, variants per instruction set, the tables Python hands over.
 *
 * All arithmetic that decides an answer is written in a fixed order and compiled without
 * contraction (-ffp-contract=off), so that every instruction set gives the same bits.
 *
 * On x86-64 each kernel is compiled twice, as `name_baseline` and as `name_avx2`; elsewhere
 * once, as `name_baseline`. native.py picks. (Not GCC's target_clones: those are cloned after
 * vector types have been lowered for the oldest processor.) */
#ifndef SEGDEPLOY_KERNELS_H
#define SEGDEPLOY_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Raised whenever a signature or a struct below changes; native.py refuses another number. */
#define SEGDEPLOY_KERNELS_ABI 1

#define SEGDEPLOY_API __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

#ifdef __AVX2__
#define KERNEL(name) name##_avx2
enum { LANES = 8 };
#else
#define KERNEL(name) name##_baseline
enum { LANES = 4 }; /* SSE2, NEON */
#endif

/* A vector register of floats, of integers, and as 64-bit words. */
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef int64_t Longs __attribute__((vector_size(4 * LANES)));

enum { STATUS_OK = 0, STATUS_NO_MEMORY = 1 };

/* One axis of a bilinear upsampling, per output position; the four arrays of length
 * `outputs` are followed by at least 16 readable elements, so that a vector may overshoot. */
typedef struct {
    const int32_t *lower;  /* input position at or before the sample */
    const int32_t *upper;  /* the one after it; the same one at the far border */
    const float *w_lower;  /* weight of `lower`, rounded to float32 */
    const float *w_upper;
    const int32_t *start;  /* [inputs + 1]: the first output whose `lower` is >= k */
    int32_t inputs;
    int32_t outputs;
} Axis;

/* One axis of an antialiased resampling: output i is the sum of `count[i]` inputs from
 * `first[i]` on, times the fixed-point weights at `weights + i * stride`. */
typedef struct {
    const int32_t *first;
    const int32_t *count;
    const int32_t *weights;
    int32_t stride; /* = the largest count */
    int32_t inputs;
    int32_t outputs;
} Taps;

INLINE float min_of(float a, float b) { return a < b ? a : b; }
INLINE float max_of(float a, float b) { return a > b ? a : b; }

/* The one formula of this package for an interpolated logit, in its two steps. */
INLINE float mix(float w0, float a, float w1, float b) {
    const float first = w0 * a;
    const float second = w1 * b;
    return first + second;
}

#endif
