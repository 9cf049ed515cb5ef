/* frame uint8 [H, W, 3] -> uint8 [h, w, 3]: antialiased separable resampling in the integer
 * arithmetic of Pillow, bit for bit, with red and blue swapped on the way where asked.
 *
 * One axis first, rounded to bytes, then the other; the caller says which, since it decides
 * the rounding. Columns first: only as many resampled input rows are kept as one output row
 * needs (a ring), so the frame passes through the cache once. */
#include "kernels.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

/* 32 bits less 8 for the value and 2 for weights that overshoot one. */
enum { PRECISION_BITS = 32 - 8 - 2, HALF = 1 << (PRECISION_BITS - 1), CHUNK = 64 };

INLINE uint8_t byte_of(int32_t sum) {
    const int32_t value = sum >> PRECISION_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* As many pixels of a row as can be done four bytes at a time: not those that would read or
 * write the byte after the row. Returns how many. */
INLINE int32_t resample_most_columns(const uint8_t *from, const Taps *columns, int red,
                                     uint8_t *to) {
    int32_t x = 0;
#ifdef __AVX2__
    const int32_t last = columns->outputs - 1;
    for (; x < last && columns->first[x] + columns->stride < columns->inputs; x++) {
        const uint8_t *pixel = from + 3 * (ptrdiff_t)columns->first[x];
        const int32_t *weights = columns->weights + (ptrdiff_t)x * columns->stride;
        __m128i sum = _mm_set1_epi32(HALF);
        /* Weights beyond the count are zero; a loop of one length is well predicted. */
        for (int32_t i = 0; i < columns->stride; i++, pixel += 3) {
            int32_t four;
            memcpy(&four, pixel, 4);
            const __m128i values = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(four));
            sum = _mm_add_epi32(sum, _mm_mullo_epi32(values, _mm_set1_epi32(weights[i])));
        }
        sum = _mm_srai_epi32(sum, PRECISION_BITS);
        if (red) sum = _mm_shuffle_epi32(sum, _MM_SHUFFLE(3, 0, 1, 2));
        sum = _mm_packs_epi32(sum, sum); /* both packings saturate */
        const int32_t four = _mm_cvtsi128_si32(_mm_packus_epi16(sum, sum));
        memcpy(to + 3 * x, &four, 4);
    }
#else
    (void)from, (void)columns, (void)red, (void)to;
#endif
    return x;
}

INLINE void resample_columns(const uint8_t *from, const Taps *columns, int red, uint8_t *to) {
    for (int32_t x = resample_most_columns(from, columns, red, to); x < columns->outputs; x++) {
        const uint8_t *pixel = from + 3 * (ptrdiff_t)columns->first[x];
        const int32_t *weights = columns->weights + (ptrdiff_t)x * columns->stride;
        int32_t r = HALF, g = HALF, b = HALF;
        for (int32_t i = 0; i < columns->count[x]; i++, pixel += 3) {
            r += pixel[red] * weights[i];
            g += pixel[1] * weights[i];
            b += pixel[2 - red] * weights[i];
        }
        to[3 * x] = byte_of(r);
        to[3 * x + 1] = byte_of(g);
        to[3 * x + 2] = byte_of(b);
    }
}

INLINE void copy_row(const uint8_t *from, int32_t width, int red, uint8_t *to) {
    if (red == 0) {
        memcpy(to, from, 3 * (size_t)width);
        return;
    }
    for (ptrdiff_t x = 0; x < width; x++) {
        to[3 * x] = from[3 * x + 2];
        to[3 * x + 1] = from[3 * x + 1];
        to[3 * x + 2] = from[3 * x];
    }
}

/* `n` bytes of one output row from `count` rows. */
INLINE void resample_rows(const uint8_t *const *rows, const int32_t *weights, int32_t count,
                          int32_t n, uint8_t *to) {
    int32_t sums[CHUNK];
    int32_t x = 0;
    for (; x + CHUNK <= n; x += CHUNK) {
        for (int i = 0; i < CHUNK; i++) sums[i] = HALF;
        for (int32_t k = 0; k < count; k++)
            for (int i = 0; i < CHUNK; i++) sums[i] += rows[k][x + i] * weights[k];
        for (int i = 0; i < CHUNK; i++) to[x + i] = byte_of(sums[i]);
    }
    for (; x < n; x++) {
        int32_t sum = HALF;
        for (int32_t k = 0; k < count; k++) sum += rows[k][x] * weights[k];
        to[x] = byte_of(sum);
    }
}

typedef struct {
    const uint8_t *frame;
    int32_t width;       /* of the frame */
    const Taps *columns; /* NULL: the width stays */
    const Taps *rows;    /* NULL: the height stays */
    int32_t red;         /* where red lies in a pixel of the frame: 0 or 2 */
    uint8_t *out;
} Job;

/* One row, resampled along x where the width changes, and swapped where asked. */
INLINE void finish_row(const Job *job, const uint8_t *from, uint8_t *to) {
    if (job->columns)
        resample_columns(from, job->columns, job->red, to);
    else
        copy_row(from, job->width, job->red, to);
}

INLINE void input_row(const Job *job, int32_t y, uint8_t *to) {
    finish_row(job, job->frame + 3 * (ptrdiff_t)y * job->width, to);
}

/* lines: room for one pointer per tap; scratch: as many output rows. */
static void columns_first(const Job *job, int32_t y0, int32_t y1, const uint8_t **lines,
                                 uint8_t *scratch) {
    const ptrdiff_t line = 3 * (ptrdiff_t)(job->columns ? job->columns->outputs : job->width);
    const Taps *rows = job->rows;
    if (!rows) {
        for (int32_t y = y0; y < y1; y++) input_row(job, y, job->out + y * line);
        return;
    }
    const int32_t slots = rows->stride;
    int32_t next = 0;
    for (int32_t y = y0; y < y1; y++) {
        const int32_t first = rows->first[y], count = rows->count[y];
        for (next = next > first ? next : first; next < first + count; next++)
            input_row(job, next, scratch + next % slots * line);
        for (int32_t k = 0; k < count; k++) lines[k] = scratch + (first + k) % slots * line;
        resample_rows(lines, rows->weights + (ptrdiff_t)y * slots, count, (int32_t)line,
                      job->out + y * line);
    }
}

/* lines: room for one pointer per tap; scratch: one row as wide as the frame. */
static void rows_first(const Job *job, int32_t y0, int32_t y1, const uint8_t **lines,
                              uint8_t *scratch) {
    const ptrdiff_t line = 3 * (ptrdiff_t)(job->columns ? job->columns->outputs : job->width);
    const Taps *rows = job->rows;
    for (int32_t y = y0; y < y1; y++) {
        for (int32_t k = 0; k < rows->count[y]; k++)
            lines[k] = job->frame + 3 * (ptrdiff_t)(rows->first[y] + k) * job->width;
        resample_rows(lines, rows->weights + (ptrdiff_t)y * rows->stride, rows->count[y],
                      3 * job->width, scratch);
        finish_row(job, scratch, job->out + y * line);
    }
}

/* Output rows y0..y1, written at their place in the whole output. `vertical_first` is for
 * frames whose height changes; `swap` exchanges the first and third channel. */
SEGDEPLOY_API int KERNEL(segdeploy_resample)(
    const uint8_t *frame, int32_t width, const Taps *columns, const Taps *rows,
    int32_t vertical_first, int32_t swap, int32_t y0, int32_t y1, uint8_t *out) {
    const Job job = {frame, width, columns, rows, swap ? 2 : 0, out};
    const size_t taps = rows ? (size_t)rows->stride : 0;
    const size_t line = 3 * (size_t)(columns ? columns->outputs : width);
    const size_t scratch = vertical_first ? 3 * (size_t)width : taps * line;
    const uint8_t **lines = malloc((taps + 1) * sizeof *lines + scratch);
    if (!lines) return STATUS_NO_MEMORY;
    (vertical_first ? rows_first : columns_first)(&job, y0, y1, lines, (uint8_t *)(lines + taps));
    free(lines);
    return STATUS_OK;
}
