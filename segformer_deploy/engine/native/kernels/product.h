/* c = a @ b, the one matrix product of the network, and the LayerNorm in front of it. */
#ifndef SEGDEPLOY_PRODUCT_H
#define SEGDEPLOY_PRODUCT_H

#include "network.h"

enum { DEPTH = 256 }; /* of one pass: a panel of this depth stays in the first-level cache */

typedef struct {
    const float *a; /* [rows, depth], row stride a_stride; see `segments` */
    size_t a_stride;
    const float *b; /* panels */
    float *c;       /* [rows, columns], row stride c_stride */
    size_t c_stride;
    const float *column_bias; /* padded to whole panels; or NULL */
    const float *row_bias;    /* [rows]; or NULL */
    const float *residual;    /* added to the result, stride c_stride; or NULL */
    int32_t rows, depth, columns;
    int32_t relu;
    /* Where a row of `a` is not in one piece: so many pieces of depth / segments floats, each
     * segment_stride behind the one before. 0: one piece. */
    int32_t segments;
    size_t segment_stride;
} Product;

/* NaN stays NaN. */
INLINE Floats relu_of(Floats x) { return (Floats)((Ints)x & ~(x < (Floats){0})); }

INLINE void load_row(const float *from, int32_t columns, Floats to[2]) {
    if (columns >= PANEL) {
        to[0] = load(from);
        to[1] = load(from + LANES);
        return;
    }
    float part[PANEL] = {0};
    memcpy(part, from, (size_t)columns * sizeof(float));
    to[0] = load(part);
    to[1] = load(part + LANES);
}

INLINE void store_row(float *to, int32_t columns, const Floats from[2]) {
    if (columns >= PANEL) {
        store(to, from[0]);
        store(to + LANES, from[1]);
        return;
    }
    float part[PANEL];
    store(part, from[0]);
    store(part + LANES, from[1]);
    memcpy(to, part, (size_t)columns * sizeof(float));
}

/* `rows` rows from `row` on, one panel, depth from `begin` to `end`. `rows` is a constant. */
INLINE void product_tile(
    const int rows, const Product *p, int32_t row, int32_t panel, int32_t begin, int32_t end) {
    const int32_t column = panel * PANEL, columns = smaller(PANEL, p->columns - column);
    const float *b = p->b + ((size_t)panel * p->depth + begin) * PANEL;
    float *c = p->c + (size_t)row * p->c_stride + column;
    Floats sum[ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        sum[r][0] = sum[r][1] = (Floats){0};
        if (begin > 0) {
            load_row(c + (size_t)r * p->c_stride, columns, sum[r]);
            continue;
        }
        if (p->column_bias) {
            sum[r][0] = load(p->column_bias + column);
            sum[r][1] = load(p->column_bias + column + LANES);
        } else if (p->row_bias) {
            sum[r][0] = sum[r][1] = splat(p->row_bias[row + r]);
        }
    }
    /* The sums are stored once the depth has been walked: by then their lines are here. */
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) __builtin_prefetch(c + (size_t)r * p->c_stride, 1);
    const float *a = p->a + (size_t)row * p->a_stride + begin;
    const int32_t pieces = larger(1, p->segments), length = (end - begin) / pieces;
    for (int32_t piece = 0; piece < pieces; piece++, a += p->segment_stride) {
        for (int32_t k = 0; k < length; k++, b += PANEL) {
            const Floats b0 = load(b), b1 = load(b + LANES);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                const Floats x = splat(a[(size_t)r * p->a_stride + k]);
                sum[r][0] += x * b0;
                sum[r][1] += x * b1;
            }
        }
    }
    const int last = end == p->depth;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        if (last && p->residual) {
            Floats more[2];
            const float *from = p->residual + (size_t)(row + r) * p->c_stride + column;
            load_row(from, columns, more);
            sum[r][0] += more[0];
            sum[r][1] += more[1];
        }
        if (last && p->relu) {
            sum[r][0] = relu_of(sum[r][0]);
            sum[r][1] = relu_of(sum[r][1]);
        }
        store_row(c + (size_t)r * p->c_stride, columns, sum[r]);
    }
}

/* One panel. The last rows are split in halves: a tile of one or two rows would wait for its own
 * sums, as fast as one of four. */
INLINE void product_panel(const Product *p, int32_t panel, int32_t begin, int32_t end) {
    int32_t row = 0;
    while (row < p->rows) {
        const int32_t left = p->rows - row;
        const int32_t rows = left >= 2 * ROWS || left == ROWS ? ROWS
                             : left > ROWS                    ? (left + 1) / 2
                                                              : left;
        switch (rows) {
#if defined(__aarch64__)
        case 8: product_tile(8, p, row, panel, begin, end); break;
        case 7: product_tile(7, p, row, panel, begin, end); break;
#endif
        case 6: product_tile(6, p, row, panel, begin, end); break;
        case 5: product_tile(5, p, row, panel, begin, end); break;
        case 4: product_tile(4, p, row, panel, begin, end); break;
        case 3: product_tile(3, p, row, panel, begin, end); break;
        case 2: product_tile(2, p, row, panel, begin, end); break;
        default: product_tile(1, p, row, panel, begin, end); break;
        }
        row += rows;
    }
}

static void product(const Product *p) {
    const int32_t panels = tiles_of(p->columns, PANEL);
    /* Pieces are walked in one pass: they are short. */
    const int32_t step = p->segments ? p->depth : DEPTH;
    for (int32_t begin = 0; begin < p->depth; begin += step)
        for (int32_t panel = 0; panel < panels; panel++)
            product_panel(p, panel, begin, smaller(begin + step, p->depth));
}

INLINE Product product_of(
    const float *a, size_t a_stride, int32_t rows, const Linear *linear, float *c) {
    return (Product){
        .a = a, .a_stride = a_stride, .b = linear->weight, .c = c,
        .c_stride = (size_t)linear->outputs, .column_bias = linear->bias,
        .rows = rows, .depth = linear->inputs, .columns = linear->outputs,
    };
}

/* `rows` rows at once, so that one's sums are made while another waits for its own. `rows` is a
 * constant. */
INLINE void norm_together(const int rows, const Norm *norm, const float *from, float *to) {
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
            store(to + r * width + c, x * scale[r] * gamma + beta);
        }
    }
    for (size_t c = whole; c < width; c++)
        for (int r = 0; r < rows; r++)
            to[r * width + c] =
                (from[r * width + c] - mean[r]) * scale[r] * norm->gamma[c] + norm->beta[c];
}

/* `rows` rows of norm->width; in place where from == to. */
INLINE void norm_rows(const Norm *norm, const float *from, float *to, int32_t rows) {
    const size_t width = (size_t)norm->width;
    int32_t row = 0;
    for (; row + 4 <= rows; row += 4) norm_together(4, norm, from + row * width, to + row * width);
    for (; row < rows; row++) norm_together(1, norm, from + row * width, to + row * width);
}

#endif
