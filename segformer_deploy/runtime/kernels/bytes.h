/* Vectors of bytes without sign: what processors do in one instruction and C has no word for. */
#ifndef SEGDEPLOY_BYTES_H
#define SEGDEPLOY_BYTES_H

#include "kernels.h"

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

typedef uint8_t Bytes __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(4 * LANES)));

enum { ROWS_PER_VECTOR = LANES / 4 }; /* of 16 bytes */

INLINE Bytes bytes(uint8_t value) { return (Bytes){0} + value; }

/* greater_of, lesser_of; excess_of: how much `a` is above `b`, at least 0; rows_of_16: one or
 * two rows of 16 bytes, `stride` apart. */
#if defined(__AVX2__)
INLINE Bytes greater_of(Bytes a, Bytes b) {
    return (Bytes)_mm256_max_epu8((__m256i)a, (__m256i)b);
}
INLINE Bytes lesser_of(Bytes a, Bytes b) { return (Bytes)_mm256_min_epu8((__m256i)a, (__m256i)b); }
INLINE Bytes excess_of(Bytes a, Bytes b) {
    return (Bytes)_mm256_subs_epu8((__m256i)a, (__m256i)b);
}
INLINE Bytes rows_of_16(const uint8_t *from, ptrdiff_t stride) {
    const __m128i first = _mm_loadu_si128((const __m128i *)from);
    const __m128i second = _mm_loadu_si128((const __m128i *)(from + stride));
    return (Bytes)_mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
}
#else
#if defined(__SSE2__)
INLINE Bytes greater_of(Bytes a, Bytes b) { return (Bytes)_mm_max_epu8((__m128i)a, (__m128i)b); }
INLINE Bytes lesser_of(Bytes a, Bytes b) { return (Bytes)_mm_min_epu8((__m128i)a, (__m128i)b); }
INLINE Bytes excess_of(Bytes a, Bytes b) { return (Bytes)_mm_subs_epu8((__m128i)a, (__m128i)b); }
#elif defined(__aarch64__)
INLINE Bytes greater_of(Bytes a, Bytes b) { return (Bytes)vmaxq_u8((uint8x16_t)a, (uint8x16_t)b); }
INLINE Bytes lesser_of(Bytes a, Bytes b) { return (Bytes)vminq_u8((uint8x16_t)a, (uint8x16_t)b); }
INLINE Bytes excess_of(Bytes a, Bytes b) { return (Bytes)vqsubq_u8((uint8x16_t)a, (uint8x16_t)b); }
#else
INLINE Bytes greater_of(Bytes a, Bytes b) {
    const Bytes more = (Bytes)(a > b);
    return (more & a) | (~more & b);
}
INLINE Bytes lesser_of(Bytes a, Bytes b) { return a + b - greater_of(a, b); }
INLINE Bytes excess_of(Bytes a, Bytes b) { return (Bytes)(a > b) & (a - b); }
#endif
INLINE Bytes rows_of_16(const uint8_t *from, ptrdiff_t stride) {
    Bytes row;
    (void)stride;
    memcpy(&row, from, sizeof row);
    return row;
}
#endif

INLINE Bytes difference_of(Bytes a, Bytes b) { return greater_of(a, b) - lesser_of(a, b); }

/* The sum of `count` vectors, at most 255 times 256 bytes. */
INLINE int32_t sum_of(const Bytes *values, int32_t count) {
#ifdef __AVX2__
    __m256i sums = _mm256_setzero_si256();
    for (int32_t v = 0; v < count; v++)
        sums = _mm256_add_epi64(sums,
                                _mm256_sad_epu8((__m256i)values[v], _mm256_setzero_si256()));
    const __m128i half =
        _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    return _mm_cvtsi128_si32(half) + _mm_extract_epi32(half, 2);
#else
    /* Sums of 16 bits, four of which the product adds up in its highest 16. */
    Halves sums = {0};
    for (int32_t v = 0; v < count; v++)
        sums += ((Halves)values[v] & 0xff) + ((Halves)values[v] >> 8);
    const Longs words = (Longs)sums;
    uint64_t total = 0;
    for (int32_t k = 0; k < LANES / 2; k++) total += (uint64_t)words[k];
    return (int32_t)(total * 0x0001000100010001u >> 48);
#endif
}

#endif
