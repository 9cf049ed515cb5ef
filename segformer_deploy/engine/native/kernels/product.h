/* c = a @ b, the one matrix product of the network, and the LayerNorm in front of it. */
#ifndef SEGDEPLOY_PRODUCT_H
#define SEGDEPLOY_PRODUCT_H

#include "network.h"

enum { DEPTH = 256 }; /* of one pass: a panel of this depth stays in the first-level cache */

typedef struct {
    const float *a; /* [rows, depth], row stride a_stride */
    size_t a_stride;
    const float *b; /* panels */
    float *c;       /* [rows, columns], row stride c_stride */
    size_t c_stride;
    const float *column_bias; /* padded to whole panels; or NULL */
    const float *row_bias;    /* [rows]; or NULL */
    const float *residual;    /* added to the result, stride c_stride; or NULL */
    int32_t rows, depth, columns;
    int32_t relu;
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
    const float *a = p->a + (size_t)row * p->a_stride;
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
    for (int32_t k = begin; k < end; k++, b += PANEL) {
        const Floats b0 = load(b), b1 = load(b + LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const Floats x = splat(a[(size_t)r * p->a_stride + k]);
            sum[r][0] += x * b0;
            sum[r][1] += x * b1;
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

static void product(const Product *p) {
    const int32_t panels = tiles_of(p->columns, PANEL);
    for (int32_t begin = 0; begin < p->depth; begin += DEPTH) {
        const int32_t end = smaller(begin + DEPTH, p->depth);
        for (int32_t panel = 0; panel < panels; panel++) {
            int32_t row = 0;
            for (; row + ROWS <= p->rows; row += ROWS)
                product_tile(ROWS, p, row, panel, begin, end);
            switch (p->rows - row) {
#if defined(__aarch64__)
            case 7: product_tile(7, p, row, panel, begin, end); break;
            case 6: product_tile(6, p, row, panel, begin, end); break;
#endif
            case 5: product_tile(5, p, row, panel, begin, end); break;
            case 4: product_tile(4, p, row, panel, begin, end); break;
            case 3: product_tile(3, p, row, panel, begin, end); break;
            case 2: product_tile(2, p, row, panel, begin, end); break;
            case 1: product_tile(1, p, row, panel, begin, end); break;
            default: break;
            }
        }
    }
}

INLINE Product product_of(
    const float *a, size_t a_stride, int32_t rows, const Linear *linear, float *c) {
    return (Product){
        .a = a, .a_stride = a_stride, .b = linear->weight, .c = c,
        .c_stride = (size_t)linear->outputs, .column_bias = linear->bias,
        .rows = rows, .depth = linear->inputs, .columns = linear->outputs,
    };
}

INLINE float sum_of(Floats x) {
    float total = 0;
    for (int lane = 0; lane < LANES; lane++) total += x[lane];
    return total;
}

INLINE void norm_row(const Norm *norm, const float *from, float *to) {
    const int32_t width = norm->width, whole = width / LANES * LANES;
    Floats sums = {0};
    float sum = 0;
    for (int32_t c = 0; c < whole; c += LANES) sums += load(from + c);
    for (int32_t c = whole; c < width; c++) sum += from[c];
    const float mean = (sum + sum_of(sums)) / (float)width;
    /* The squares of differences, not the difference of squares: that one cancels. */
    Floats squares = {0};
    float square = 0;
    for (int32_t c = 0; c < whole; c += LANES) {
        const Floats x = load(from + c) - mean;
        squares += x * x;
    }
    for (int32_t c = whole; c < width; c++) square += (from[c] - mean) * (from[c] - mean);
    const float variance = (square + sum_of(squares)) / (float)width;
    const float scale = 1.0f / __builtin_sqrtf(variance + norm->eps);
    for (int32_t c = 0; c < whole; c += LANES)
        store(to + c,
              (load(from + c) - mean) * scale * load(norm->gamma + c) + load(norm->beta + c));
    for (int32_t c = whole; c < width; c++)
        to[c] = (from[c] - mean) * scale * norm->gamma[c] + norm->beta[c];
}

/* `rows` rows of norm->width; in place where from == to. */
INLINE void norm_rows(const Norm *norm, const float *from, float *to, int32_t rows) {
    for (int32_t row = 0; row < rows; row++)
        norm_row(norm, from + (size_t)row * norm->width, to + (size_t)row * norm->width);
}

#endif
