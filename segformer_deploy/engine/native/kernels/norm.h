/* LayerNorm, and what else a product's left side needs before it. */
#ifndef SEGDEPLOY_NORM_H
#define SEGDEPLOY_NORM_H

#include "grid.h"

/* `rows` rows at once, so that one's sums are made while another waits for its own. To float32,
 * or, as `kind` says, to steps of a grid, of bytes `offset` further up. It and `rows` are
 * constants. */
INLINE void norm_together(const int kind, const int rows, const Norm *norm, const float *from,
                          void *to, float inverse, int32_t offset) {
    float *floats = to;
    int16_t *steps = to;
    uint8_t *bytes = to;
    const size_t width = (size_t)norm->width, whole = width / LANES * LANES;
    const float share = 1.0f / (float)norm->width;
    Floats sums[4], squares[4];
    float mean[4], scale[4], sum[4];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) sums[r] = squares[r] = (Floats){0}, sum[r] = 0;
    for (size_t c = 0; c < whole; c += LANES)
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) sums[r] += load(from + r * width + c);
    for (size_t c = whole; c < width; c++)
        for (int r = 0; r < rows; r++) sum[r] += from[r * width + c];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) mean[r] = (sum[r] + sum_of(sums[r])) * share, sum[r] = 0;
    /* The squares of differences, not the difference of squares: that one cancels. */
    for (size_t c = 0; c < whole; c += LANES)
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const Floats x = load(from + r * width + c) - mean[r];
            squares[r] += x * x;
        }
    for (size_t c = whole; c < width; c++)
        for (int r = 0; r < rows; r++) {
            const float x = from[r * width + c] - mean[r];
            sum[r] += x * x;
        }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        const float variance = (sum[r] + sum_of(squares[r])) * share;
        scale[r] = 1.0f / __builtin_sqrtf(variance + norm->eps);
    }
    for (size_t c = 0; c < whole; c += LANES) {
        const Floats gamma = load(norm->gamma + c), beta = load(norm->beta + c);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const Floats x = load(from + r * width + c) - mean[r];
            const Floats y = x * scale[r] * gamma + beta;
            if (kind == FLOATS) store(floats + r * width + c, y);
            else if (kind == SHORTS) store_steps(steps + r * width + c, y, inverse);
            else store_bytes(bytes + r * width + c, y, inverse, offset);
        }
    }
    for (size_t c = whole; c < width; c++)
        for (int r = 0; r < rows; r++) {
            const float y =
                (from[r * width + c] - mean[r]) * scale[r] * norm->gamma[c] + norm->beta[c];
            if (kind == FLOATS) floats[r * width + c] = y;
            else if (kind == SHORTS) steps_of(&y, 1, inverse, steps + r * width + c);
            else bytes_of(&y, 1, inverse, offset, bytes + r * width + c);
        }
}

/* `rows` rows of norm->width; in place where from == to. */
INLINE void norm_rows(const Norm *norm, const float *from, float *to, int32_t rows) {
    const size_t width = (size_t)norm->width;
    int32_t row = 0;
    for (; row + 4 <= rows; row += 4)
        norm_together(FLOATS, 4, norm, from + row * width, to + row * width, 0, 0);
    for (; row < rows; row++)
        norm_together(FLOATS, 1, norm, from + row * width, to + row * width, 0, 0);
}

/* The same to the steps of a grid. */
INLINE void norm_steps(
    const Norm *norm, const float *from, int16_t *to, int32_t rows, float inverse) {
    const size_t width = (size_t)norm->width;
    int32_t row = 0;
    for (; row + 4 <= rows; row += 4)
        norm_together(SHORTS, 4, norm, from + row * width, to + row * width, inverse, 0);
    for (; row < rows; row++)
        norm_together(SHORTS, 1, norm, from + row * width, to + row * width, inverse, 0);
}

/* As bytes, so many steps further up. */
INLINE void norm_bytes(const Norm *norm, const float *from, uint8_t *to, int32_t rows,
                       float inverse, int32_t offset) {
    const size_t width = (size_t)norm->width;
    int32_t row = 0;
    for (; row + 4 <= rows; row += 4)
        norm_together(LEFT_BYTES, 4, norm, from + row * width, to + row * width, inverse, offset);
    for (; row < rows; row++)
        norm_together(LEFT_BYTES, 1, norm, from + row * width, to + row * width, inverse, offset);
}

/* The left side of a product with `linear`: `rows` rows of `width` after `norm` (NULL or without
 * gamma: none), as integers where it is quantised. In `room`, of so many floats, unless `from` will
 * do. */
INLINE const void *left_side(
    const Linear *linear, const Norm *norm, const float *from, int32_t rows, int32_t width,
    void *room) {
    const int normed = norm && norm->gamma;
    if (!linear->scale) {
        if (!normed) return from;
        norm_rows(norm, from, room, rows);
        return room;
    }
    const float inverse = 1.0f / linear->input_step;
    if (!normed) integers_of(linear, from, (size_t)rows * width, room);
    else if (linear->start) norm_bytes(norm, from, room, rows, inverse, linear->offset);
    else norm_steps(norm, from, room, rows, inverse);
    return room;
}

#endif
