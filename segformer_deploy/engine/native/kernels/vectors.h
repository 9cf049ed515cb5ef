/* Vectors: how wide they are, a kernel's name, what is done to them lane by lane.
 *
 * GCC's vector types, which Clang has too; intrinsics only where an operation has no spelling in
 * them. */
#ifndef SEGDEPLOY_VECTORS_H
#define SEGDEPLOY_VECTORS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512VNNI__)
#define KERNEL(name) name##_avx512
enum { LANES = 16, ROWS = 12 }; /* 24 of 32 registers hold sums */
#elif defined(__AVX2__)
#define KERNEL(name) name##_avx2
enum { LANES = 8, ROWS = 6 }; /* 12 of 16 */
#elif defined(__aarch64__)
#define KERNEL(name) name##_baseline
enum { LANES = 4, ROWS = 8 }; /* 16 of 32 */
#else
#define KERNEL(name) name##_baseline
enum { LANES = 4, ROWS = 6 };
#endif
enum { PANEL = 2 * LANES };

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef Floats LooseFloats __attribute__((aligned(4), may_alias));

INLINE Floats load(const float *from) { return *(const LooseFloats *)from; }
INLINE void store(float *to, Floats value) { *(LooseFloats *)to = value; }
INLINE Floats splat(float value) { return value - (Floats){0}; }

#ifdef __clang__
#define SHUFFLED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLED(a, b, ...) __builtin_shuffle(a, b, (Ints){__VA_ARGS__})
#endif

/* The first `left` lanes. Maps are a multiple of eight wide: of vectors of 16 the last one may be
 * half a vector; narrower ones are always whole. */
#if defined(__AVX512VNNI__)
INLINE __mmask16 lanes_of(size_t left) {
    return left < LANES ? (__mmask16)((1u << left) - 1) : (__mmask16)0xffff;
}
INLINE Floats load_some(const float *from, size_t left) {
    return (Floats)_mm512_maskz_loadu_ps(lanes_of(left), from);
}
INLINE void store_some(float *to, Floats value, size_t left) {
    _mm512_mask_storeu_ps(to, lanes_of(left), (__m512)value);
}
#else
INLINE Floats load_some(const float *from, size_t left) { return (void)left, load(from); }
INLINE void store_some(float *to, Floats value, size_t left) { (void)left, store(to, value); }
#endif

/* The greater and the lesser of two; where `b` is not a number, not a number. */
#if defined(__AVX512VNNI__)
INLINE Floats greater_of(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE Floats lesser_of(Floats a, Floats b) { return (Floats)_mm512_min_ps((__m512)a, (__m512)b); }
#elif defined(__AVX2__)
INLINE Floats greater_of(Floats a, Floats b) { return (Floats)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE Floats lesser_of(Floats a, Floats b) { return (Floats)_mm256_min_ps((__m256)a, (__m256)b); }
#elif defined(__SSE2__)
INLINE Floats greater_of(Floats a, Floats b) { return (Floats)_mm_max_ps((__m128)a, (__m128)b); }
INLINE Floats lesser_of(Floats a, Floats b) { return (Floats)_mm_min_ps((__m128)a, (__m128)b); }
#elif defined(__aarch64__)
INLINE Floats greater_of(Floats a, Floats b) {
    return (Floats)vmaxq_f32((float32x4_t)a, (float32x4_t)b);
}
INLINE Floats lesser_of(Floats a, Floats b) {
    return (Floats)vminq_f32((float32x4_t)a, (float32x4_t)b);
}
#else
INLINE Floats chosen(Ints where, Floats yes, Floats no) {
    return (Floats)(((Ints)yes & where) | ((Ints)no & ~where));
}
INLINE Floats greater_of(Floats a, Floats b) { return chosen(a > b, a, b); }
INLINE Floats lesser_of(Floats a, Floats b) { return chosen(a < b, a, b); }
#endif

#if defined(__AVX512VNNI__)
/* Sixteen vectors: row i becomes column i. */
INLINE void transpose(Floats rows[LANES]) {
    __m512 t[LANES], v[LANES];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps((__m512)rows[i], (__m512)rows[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps((__m512)rows[i], (__m512)rows[i + 1]);
    }
    /* v[4 r + c]: of rows 4 r to 4 r + 3 the columns c, c + 4, c + 8, c + 12. */
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        v[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        v[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        v[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        const __m512 low0 = _mm512_shuffle_f32x4(v[c], v[c + 4], 0x44);
        const __m512 high0 = _mm512_shuffle_f32x4(v[c], v[c + 4], 0xee);
        const __m512 low1 = _mm512_shuffle_f32x4(v[c + 8], v[c + 12], 0x44);
        const __m512 high1 = _mm512_shuffle_f32x4(v[c + 8], v[c + 12], 0xee);
        rows[c] = (Floats)_mm512_shuffle_f32x4(low0, low1, 0x88);
        rows[c + 4] = (Floats)_mm512_shuffle_f32x4(low0, low1, 0xdd);
        rows[c + 8] = (Floats)_mm512_shuffle_f32x4(high0, high1, 0x88);
        rows[c + 12] = (Floats)_mm512_shuffle_f32x4(high0, high1, 0xdd);
    }
}
INLINE float sum_of(Floats x) { return _mm512_reduce_add_ps((__m512)x); }
INLINE float largest_of(Floats x) {
    x = greater_of(x, SHUFFLED(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    x = greater_of(x, SHUFFLED(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    x = greater_of(x, SHUFFLED(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    return x[0] > x[1] ? x[0] : x[1];
}
#elif defined(__AVX2__)
/* Eight vectors: row i becomes column i. */
INLINE void transpose(Floats v[LANES]) {
    Floats t[LANES];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        t[i] = SHUFFLED(v[i], v[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        t[i + 1] = SHUFFLED(v[i], v[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        v[i] = SHUFFLED(t[i], t[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        v[i + 1] = SHUFFLED(t[i], t[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        v[i + 2] = SHUFFLED(t[i + 1], t[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
        v[i + 3] = SHUFFLED(t[i + 1], t[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const Floats low = v[i], high = v[i + 4];
        v[i] = SHUFFLED(low, high, 0, 1, 2, 3, 8, 9, 10, 11);
        v[i + 4] = SHUFFLED(low, high, 4, 5, 6, 7, 12, 13, 14, 15);
    }
}
INLINE float sum_of(Floats x) {
    x += SHUFFLED(x, x, 4, 5, 6, 7, 0, 1, 2, 3);
    x += SHUFFLED(x, x, 2, 3, 0, 1, 6, 7, 4, 5);
    return x[0] + x[1];
}
INLINE float largest_of(Floats x) {
    x = greater_of(x, SHUFFLED(x, x, 4, 5, 6, 7, 0, 1, 2, 3));
    x = greater_of(x, SHUFFLED(x, x, 2, 3, 0, 1, 6, 7, 4, 5));
    return x[0] > x[1] ? x[0] : x[1];
}
#else
/* Four vectors: row i becomes column i. */
INLINE void transpose(Floats v[LANES]) {
    const Floats a = SHUFFLED(v[0], v[1], 0, 4, 1, 5), b = SHUFFLED(v[0], v[1], 2, 6, 3, 7);
    const Floats c = SHUFFLED(v[2], v[3], 0, 4, 1, 5), d = SHUFFLED(v[2], v[3], 2, 6, 3, 7);
    v[0] = SHUFFLED(a, c, 0, 1, 4, 5);
    v[1] = SHUFFLED(a, c, 2, 3, 6, 7);
    v[2] = SHUFFLED(b, d, 0, 1, 4, 5);
    v[3] = SHUFFLED(b, d, 2, 3, 6, 7);
}
INLINE float sum_of(Floats x) {
    x += SHUFFLED(x, x, 2, 3, 0, 1);
    return x[0] + x[1];
}
INLINE float largest_of(Floats x) {
    x = greater_of(x, SHUFFLED(x, x, 2, 3, 0, 1));
    return x[0] > x[1] ? x[0] : x[1];
}
#endif

#endif
