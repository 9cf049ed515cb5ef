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
#define SEGDEPLOY_KERNELS_ABI 2

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

/* One frame of a video to steady: [height, width] arrays, at least 16 a side; pictures as three
 * planes, one after the other. `motion` holds, for each cell of `cell` x `cell` pixels, how far
 * to its right and below it that part of the picture lay in the frame before. */
typedef struct {
    const uint8_t *picture;
    const uint8_t *picture_before;
    const void *given;       /* the new class map: bytes, or int32 where `wide` */
    const void *shown;       /* the class map shown before */
    const uint8_t *evidence; /* that it has gathered */
    const int16_t *motion;   /* [.., motion_width, 2] */
    void *voted;             /* what the vote gives, of the type of `given` */
    uint8_t *out_evidence;
    void *out;               /* the class map to show: `voted` without its specks */
    int32_t height;
    int32_t width;
    int32_t cell;
    int32_t motion_width;
    int32_t wide;
    int32_t reach;         /* 1..255 */
    int32_t past;          /* 0..255, in sixteenths of the new map's weight */
    int32_t trust;         /* 0..255, added to `past` for each piece of evidence */
    int32_t most_evidence; /* 1..255 */
} Stabilise;

INLINE float min_of(float a, float b) { return a < b ? a : b; }
INLINE float max_of(float a, float b) { return a > b ? a : b; }

/* The one formula of this package for an interpolated logit, in its two steps. */
INLINE float mix(float w0, float a, float w1, float b) {
    const float first = w0 * a;
    const float second = w1 * b;
    return first + second;
}

#endif
