/* Values rounded to a grid, for products of integers: multiples of a step, -128 to 127 of them.
 *
 * They are kept as int16: a multiplication of such pairs that adds their products (x86's pmaddwd)
 * is the fastest exact one where there are no dot products of int8. Where one side is known to lie
 * above 0, or little below, both are kept as bytes. */
#ifndef SEGDEPLOY_GRID_H
#define SEGDEPLOY_GRID_H

#include "network.h"

typedef int16_t Shorts __attribute__((vector_size(2 * LANES)));
typedef Shorts LooseShorts __attribute__((aligned(2), may_alias));

/* x / step within the grid, not yet rounded; what is no number becomes some number of it. Times
 * the inverse, not divided: at most one rounding of float32 away from the quotient. */
INLINE Floats within_grid(Floats x, float inverse) {
    return lesser_of(greater_of(x * inverse, splat(-128.0f)), splat(127.0f));
}

/* The value itself, rounded half to even: above 1.5 * 2^23 no bits are left behind the point. */
INLINE Floats on_grid(Floats x, float step, float inverse) {
    return (within_grid(x, inverse) + 12582912.0f - 12582912.0f) * step;
}

#if defined(__AVX2__)
INLINE __m128i steps_within(Floats x, float inverse) {
    const __m256i steps = _mm256_cvtps_epi32((__m256)within_grid(x, inverse));
    return _mm_packs_epi32(_mm256_castsi256_si128(steps), _mm256_extracti128_si256(steps, 1));
}
INLINE void store_steps(int16_t *to, Floats x, float inverse) {
    _mm_storeu_si128((__m128i *)to, steps_within(x, inverse));
}
/* As bytes, so many steps further up; `offset` leaves none below 0. */
INLINE void store_bytes(uint8_t *to, Floats x, float inverse, int32_t offset) {
    const __m128i steps = steps_within(x, inverse);
    const __m128i moved = _mm_add_epi16(steps, _mm_set1_epi16((int16_t)offset));
    _mm_storel_epi64((__m128i *)to, _mm_packus_epi16(moved, moved));
}
/* Four vectors of values that are not below 0. */
INLINE void store_positive_bytes(uint8_t *to, const Floats x[4], float inverse) {
    __m256i steps[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        steps[i] = _mm256_cvtps_epi32((__m256)lesser_of(x[i] * inverse, splat(127.0f)));
    const __m256i low = _mm256_packs_epi32(steps[0], steps[1]);
    const __m256i high = _mm256_packs_epi32(steps[2], steps[3]);
    /* Packing goes by halves of a vector. */
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
    _mm256_storeu_si256((__m256i *)to, bytes);
}
#else
INLINE Ints steps_within(Floats x, float inverse) {
    /* Of 1.5 * 2^23 + n the low bits are those of n. */
    return ((Ints)(within_grid(x, inverse) + 12582912.0f) << 16) >> 16;
}
INLINE void store_steps(int16_t *to, Floats x, float inverse) {
    *(LooseShorts *)to = __builtin_convertvector(steps_within(x, inverse), Shorts);
}
INLINE void store_bytes(uint8_t *to, Floats x, float inverse, int32_t offset) {
    const Ints steps = steps_within(x, inverse);
    for (int i = 0; i < LANES; i++) to[i] = (uint8_t)(steps[i] + offset);
}
INLINE void store_positive_bytes(uint8_t *to, const Floats x[4], float inverse) {
    for (int i = 0; i < 4; i++) store_bytes(to + i * LANES, x[i], inverse, 0);
}
#endif

/* `count` values that lie one after another. */
INLINE void steps_of(const float *from, size_t count, float inverse, int16_t *to) {
    const size_t whole = count / LANES * LANES;
    for (size_t i = 0; i < whole; i += LANES) store_steps(to + i, load(from + i), inverse);
    for (size_t i = whole; i < count; i++) {
        int16_t steps[LANES];
        store_steps(steps, splat(from[i]), inverse);
        to[i] = steps[0];
    }
}

/* Operands of a product: two int16 or four bytes per lane. `sum_pairs`: sum + the two products of
 * each lane. `sum_quads`: sum + the four of unsigned and signed bytes, which must be such that no
 * two neighbours' products leave int16: x86 adds those first. */
#if defined(__AVX2__)
enum { BYTES = 1 }; /* two thirds of the instructions that int16 takes */
typedef __m256i Packed;
INLINE Packed load_packed(const void *from) { return _mm256_loadu_si256((const __m256i *)from); }
INLINE Packed splat_packed(int32_t lane) { return _mm256_set1_epi32(lane); }
INLINE Ints sum_pairs(Ints sum, Packed a, Packed b) {
    return (Ints)_mm256_add_epi32((__m256i)sum, _mm256_madd_epi16(a, b));
}
INLINE Ints sum_quads(Ints sum, Packed positive, Packed any) {
    return sum_pairs(sum, _mm256_maddubs_epi16(positive, any), _mm256_set1_epi16(1));
}
#else
enum { BYTES = 0 };
#if defined(__SSE2__)
typedef __m128i Packed;
INLINE Packed load_packed(const void *from) { return _mm_loadu_si128((const __m128i *)from); }
INLINE Packed splat_packed(int32_t lane) { return _mm_set1_epi32(lane); }
INLINE Ints sum_pairs(Ints sum, Packed a, Packed b) {
    return (Ints)_mm_add_epi32((__m128i)sum, _mm_madd_epi16(a, b));
}
#else
typedef Ints Packed;
typedef Ints LoosePacked __attribute__((aligned(1), may_alias));
INLINE Packed load_packed(const void *from) { return *(const LoosePacked *)from; }
INLINE Packed splat_packed(int32_t lane) { return lane - (Packed){0}; }
INLINE Ints sum_pairs(Ints sum, Packed a, Packed b) {
    return sum + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
}
#endif
INLINE Ints sum_quads(Ints sum, Packed positive, Packed any) {
    for (int at = 0; at < 32; at += 8)
        sum += (((Ints)positive >> at) & 255) * (((Ints)any << (24 - at)) >> 24);
    return sum;
}
#endif

#endif
