/* Values rounded to a grid, for products of integers: multiples of a step, -128 to 127 of them.
 *
 * They are kept as int16: a multiplication of such pairs that adds their products (x86's pmaddwd)
 * is the fastest exact one where there are no dot products of int8. Where there are, or where one
 * side is known to lie above 0, or little below, both are kept as bytes. */
#ifndef SEGDEPLOY_GRID_H
#define SEGDEPLOY_GRID_H

#include "network.h"

/* What both sides of a product consist of: float32, int16, or bytes, unsigned on one side. */
enum { FLOATS, SHORTS, LEFT_BYTES, RIGHT_BYTES };
#define SIZE(kind) ((size_t)((kind) == FLOATS ? 4 : (kind) == SHORTS ? 2 : 1))

INLINE int kind_of(const Linear *linear) {
    return linear->start ? LEFT_BYTES : linear->scale ? SHORTS : FLOATS;
}

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

#if defined(__AVX512VNNI__)
INLINE __m512i steps_within(Floats x, float inverse) {
    return _mm512_cvtps_epi32((__m512)within_grid(x, inverse));
}
INLINE void store_some_steps(int16_t *to, Floats x, float inverse, size_t left) {
    const __m256i steps = _mm512_cvtepi32_epi16(steps_within(x, inverse));
    _mm256_mask_storeu_epi16(to, lanes_of(left), steps);
}
INLINE void store_steps(int16_t *to, Floats x, float inverse) {
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(steps_within(x, inverse)));
}
/* As bytes, so many steps further up; `offset` leaves none below 0. */
INLINE void store_some_bytes(uint8_t *to, Floats x, float inverse, int32_t offset, size_t left) {
    const __m512i moved = _mm512_add_epi32(steps_within(x, inverse), _mm512_set1_epi32(offset));
    const __m512i least = _mm512_max_epi32(moved, _mm512_setzero_si512());
    _mm_mask_storeu_epi8(to, lanes_of(left), _mm512_cvtepi32_epi8(least));
}
INLINE void store_bytes(uint8_t *to, Floats x, float inverse, int32_t offset) {
    store_some_bytes(to, x, inverse, offset, LANES);
}
/* Four vectors of values that are not below 0. */
INLINE void store_positive_bytes(uint8_t *to, const Floats x[4], float inverse) {
    __m512i steps[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        steps[i] = _mm512_cvtps_epi32((__m512)lesser_of(x[i] * inverse, splat(127.0f)));
    const __m512i low = _mm512_packs_epi32(steps[0], steps[1]);
    const __m512i high = _mm512_packs_epi32(steps[2], steps[3]);
    /* Packing goes by quarters of a vector. */
    const __m512i order =
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
    _mm512_storeu_si512(to, bytes);
}
#elif defined(__AVX2__)
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

#if !defined(__AVX512VNNI__)
/* As `store_some`: these vectors are always whole. */
INLINE void store_some_steps(int16_t *to, Floats x, float inverse, size_t left) {
    (void)left, store_steps(to, x, inverse);
}
INLINE void store_some_bytes(uint8_t *to, Floats x, float inverse, int32_t offset, size_t left) {
    (void)left, store_bytes(to, x, inverse, offset);
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

/* The same as bytes, so many steps further up. */
INLINE void bytes_of(
    const float *from, size_t count, float inverse, int32_t offset, uint8_t *to) {
    const size_t whole = count / LANES * LANES;
    for (size_t i = 0; i < whole; i += LANES) store_bytes(to + i, load(from + i), inverse, offset);
    for (size_t i = whole; i < count; i++) {
        uint8_t bytes[LANES];
        store_bytes(bytes, splat(from[i]), inverse, offset);
        to[i] = bytes[0];
    }
}

/* Values to the left side of a product with `linear`, which is one of integers. */
INLINE void integers_of(const Linear *linear, const float *from, size_t count, void *to) {
    const float inverse = 1.0f / linear->input_step;
    if (linear->start) bytes_of(from, count, inverse, linear->offset, to);
    else steps_of(from, count, inverse, to);
}

/* Operands of a product: two int16 or four bytes per lane. `sum_pairs`: sum + the two products of
 * each lane. `sum_quads`: sum + the four of unsigned and signed bytes. Where BYTES is FITTING they
 * must be such that no two neighbours' products leave int16: AVX2 adds those first. */
enum { NONE, FITTING, ANY };
#if defined(__AVX512VNNI__)
#define BYTES ANY /* half the instructions that int16 takes */
typedef __m512i Packed;
INLINE Packed load_packed(const void *from) { return _mm512_loadu_si512(from); }
INLINE Packed splat_packed(int32_t lane) { return _mm512_set1_epi32(lane); }
INLINE Ints sum_pairs(Ints sum, Packed a, Packed b) {
    return (Ints)_mm512_dpwssd_epi32((__m512i)sum, a, b);
}
INLINE Ints sum_quads(Ints sum, Packed positive, Packed any) {
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, positive, any);
}
#elif defined(__AVX2__)
#define BYTES FITTING /* two thirds of the instructions that int16 takes */
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
#define BYTES NONE
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
