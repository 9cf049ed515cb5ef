/* c = a @ b, the one matrix product of the network: of float32, or of integers. */
#ifndef SEGDEPLOY_PRODUCT_H
#define SEGDEPLOY_PRODUCT_H

#include "grid.h"

/* Of one pass, of shorter types more: a panel of this depth stays in the first-level cache. */
enum { DEPTH = 256 };

typedef struct {
    const void *a; /* [rows, depth], row stride a_stride; see `segments` */
    size_t a_stride;
    const void *b; /* panels */
    float *c;       /* [rows, columns], row stride c_stride */
    size_t c_stride;
    const float *column_bias; /* padded to whole panels; or NULL */
    const float *row_bias;    /* [rows]; or NULL */
    /* Where `a` and `b` are integers: one of them and its bias, or one scale for all and none. */
    const float *column_scale, *row_scale;
    float scale;
    /* int32, where the left side is bytes: what their offset adds to the sums, taken away; or
     * NULL: they have none. */
    const int32_t *column_start;
    float output_step, output_inverse; /* as in `Linear`; of integers only */
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

/* The bias, or what an earlier pass has stored. */
INLINE void begin_sums(const int kind, const int rows, const Product *p, int32_t row,
                       int32_t column, int32_t begin, Floats sum[ROWS][2]) {
    const float *c = p->c + (size_t)row * p->c_stride + column;
    const int32_t columns = smaller(PANEL, p->columns - column);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        sum[r][0] = sum[r][1] = (Floats){0};
        if (begin > 0) {
            load_row(c + (size_t)r * p->c_stride, columns, sum[r]);
        } else if (kind == FLOATS && p->column_bias) {
            sum[r][0] = load(p->column_bias + column);
            sum[r][1] = load(p->column_bias + column + LANES);
        } else if (kind == FLOATS && p->row_bias) {
            sum[r][0] = sum[r][1] = splat(p->row_bias[row + r]);
        } else if (kind == LEFT_BYTES && p->column_start) {
            sum[r][0] = load((const float *)p->column_start + column);
            sum[r][1] = load((const float *)p->column_start + column + LANES);
        }
    }
}

INLINE Ints sum_lanes(const int kind, Ints sum, Packed a, Packed b) {
    return kind == SHORTS ? sum_pairs(sum, a, b)
           : kind == LEFT_BYTES ? sum_quads(sum, a, b)
                                : sum_quads(sum, b, a);
}

/* Sums of float32 of one tile, over the depth from `begin` to `end`. */
INLINE void sum_floats(const int rows, const Product *p, int32_t row, const float *b,
                       int32_t begin, int32_t end, Floats sum[ROWS][2]) {
    const float *a = (const float *)p->a + (size_t)row * p->a_stride + begin;
    const int32_t pieces = larger(1, p->segments), length = (end - begin) / pieces;
    for (int32_t piece = 0; piece < pieces; piece++, a += p->segment_stride) {
        for (int32_t k = 0; k < length; k++, b += PANEL) {
            const Floats b0 = load(b), b1 = load(b + LANES);
#pragma GCC unroll 12
            for (int r = 0; r < rows; r++) {
                const Floats x = splat(a[(size_t)r * p->a_stride + k]);
                sum[r][0] += x * b0;
                sum[r][1] += x * b1;
            }
        }
    }
}

/* The same of integers; `sum` holds the bits of int32. */
INLINE void sum_integers(const int kind, const int rows, const Product *p, int32_t row,
                         const char *b, int32_t begin, int32_t end, Floats sum[ROWS][2]) {
    const size_t size = SIZE(kind), stride = p->a_stride * size;
    const char *a = (const char *)p->a + (size_t)row * stride + (size_t)begin * size;
    const int32_t lanes = (end - begin) * (int32_t)size / 4;
    for (int32_t k = 0; k < lanes; k++, a += 4, b += 4 * PANEL) {
        const Packed b0 = load_packed(b), b1 = load_packed(b + 4 * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            int32_t lane;
            memcpy(&lane, a + (size_t)r * stride, sizeof lane);
            const Packed x = splat_packed(lane);
            sum[r][0] = (Floats)sum_lanes(kind, (Ints)sum[r][0], x, b0);
            sum[r][1] = (Floats)sum_lanes(kind, (Ints)sum[r][1], x, b1);
        }
    }
}

/* From exact sums, as bits of int32, to the product's values. */
INLINE void values_of(
    const int rows, const Product *p, int32_t row, int32_t column, Floats sum[ROWS][2]) {
    if (p->scale != 0) {
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            sum[r][0] = __builtin_convertvector((Ints)sum[r][0], Floats) * p->scale;
            sum[r][1] = __builtin_convertvector((Ints)sum[r][1], Floats) * p->scale;
        }
        return;
    }
    if (p->row_scale) {
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            const Floats scale = splat(p->row_scale[row + r]), bias = splat(p->row_bias[row + r]);
            sum[r][0] = __builtin_convertvector((Ints)sum[r][0], Floats) * scale + bias;
            sum[r][1] = __builtin_convertvector((Ints)sum[r][1], Floats) * scale + bias;
        }
        return;
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const Floats scale = load(p->column_scale + column + i * LANES);
        const Floats bias = load(p->column_bias + column + i * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++)
            sum[r][i] = __builtin_convertvector((Ints)sum[r][i], Floats) * scale + bias;
    }
    if (p->output_step == 0) return;
    const float step = p->output_step, inverse = p->output_inverse;
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        sum[r][0] = on_grid(sum[r][0], step, inverse);
        sum[r][1] = on_grid(sum[r][1], step, inverse);
    }
}

/* What follows the sums: residual and ReLU. */
INLINE void finish(
    const int rows, const Product *p, int32_t row, int32_t column, Floats sum[ROWS][2]) {
    if (p->residual) {
        const int32_t columns = smaller(PANEL, p->columns - column);
        const float *from = p->residual + (size_t)row * p->c_stride + column;
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            Floats more[2];
            load_row(from + (size_t)r * p->c_stride, columns, more);
            sum[r][0] += more[0];
            sum[r][1] += more[1];
        }
    }
    if (p->relu) {
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            sum[r][0] = relu_of(sum[r][0]);
            sum[r][1] = relu_of(sum[r][1]);
        }
    }
}

/* `rows` rows from `row` on, one panel, depth from `begin` to `end`. `kind`, `rows`:
 * constants. */
INLINE void product_tile(const int kind, const int rows, const Product *p, int32_t row,
                         int32_t panel, int32_t begin, int32_t end) {
    const int32_t column = panel * PANEL, columns = smaller(PANEL, p->columns - column);
    const size_t at = ((size_t)panel * p->depth + begin) * PANEL * SIZE(kind);
    float *c = p->c + (size_t)row * p->c_stride + column;
    Floats sum[ROWS][2];
    begin_sums(kind, rows, p, row, column, begin, sum);
    /* The sums are stored once the depth has been walked: by then their lines are here. */
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) __builtin_prefetch(c + (size_t)r * p->c_stride, 1);
    const char *b = (const char *)p->b + at;
    if (kind == FLOATS) sum_floats(rows, p, row, (const float *)b, begin, end, sum);
    else sum_integers(kind, rows, p, row, b, begin, end, sum);
    if (end == p->depth) {
        if (kind != FLOATS) values_of(rows, p, row, column, sum);
        finish(rows, p, row, column, sum);
    }
    if (columns >= PANEL) {
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) store_row(c + (size_t)r * p->c_stride, PANEL, sum[r]);
        return;
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) store_row(c + (size_t)r * p->c_stride, columns, sum[r]);
}

/* One panel. The last rows are split in halves: a tile of one or two rows would wait for its own
 * sums, as fast as one of four. */
INLINE void product_panel(
    const int kind, const Product *p, int32_t panel, int32_t begin, int32_t end) {
    int32_t row = 0;
    while (row < p->rows) {
        const int32_t left = p->rows - row;
        const int32_t rows = left >= 2 * ROWS || left == ROWS ? ROWS
                             : left > ROWS                    ? (left + 1) / 2
                                                              : left;
        switch (rows) {
#if defined(__AVX512VNNI__)
        case 12: product_tile(kind, 12, p, row, panel, begin, end); break;
        case 11: product_tile(kind, 11, p, row, panel, begin, end); break;
        case 10: product_tile(kind, 10, p, row, panel, begin, end); break;
        case 9: product_tile(kind, 9, p, row, panel, begin, end); break;
#endif
#if defined(__AVX512VNNI__) || defined(__aarch64__)
        case 8: product_tile(kind, 8, p, row, panel, begin, end); break;
        case 7: product_tile(kind, 7, p, row, panel, begin, end); break;
#endif
        case 6: product_tile(kind, 6, p, row, panel, begin, end); break;
        case 5: product_tile(kind, 5, p, row, panel, begin, end); break;
        case 4: product_tile(kind, 4, p, row, panel, begin, end); break;
        case 3: product_tile(kind, 3, p, row, panel, begin, end); break;
        case 2: product_tile(kind, 2, p, row, panel, begin, end); break;
        default: product_tile(kind, 1, p, row, panel, begin, end); break;
        }
        row += rows;
    }
}

INLINE void product_in_passes(const int kind, const Product *p, int32_t step) {
    const int32_t panels = tiles_of(p->columns, PANEL);
    for (int32_t begin = 0; begin < p->depth; begin += step)
        for (int32_t panel = 0; panel < panels; panel++)
            product_panel(kind, p, panel, begin, smaller(begin + step, p->depth));
}

/* Of bytes, unsigned in `a` (LEFT_BYTES) or in `b` (RIGHT_BYTES). */
INLINE void bytes_product(const int kind, const Product *p) {
    product_in_passes(kind, p, 4 * DEPTH);
}

static void left_bytes_product(const Product *p) { bytes_product(LEFT_BYTES, p); }

static void product(const Product *p) {
    const int integers = p->column_scale || p->row_scale || p->scale != 0;
    if (BYTES != NONE && p->column_start) left_bytes_product(p);
    else if (integers) product_in_passes(SHORTS, p, 2 * DEPTH);
    /* Pieces are walked in one pass: they are short. */
    else product_in_passes(FLOATS, p, p->segments ? p->depth : DEPTH);
}

INLINE Product product_of(
    const void *a, size_t a_stride, int32_t rows, const Linear *linear, float *c) {
    return (Product){
        .a = a, .a_stride = a_stride, .b = linear->weight, .c = c,
        .c_stride = (size_t)linear->outputs, .column_bias = linear->bias,
        .column_scale = linear->scale, .column_start = linear->start,
        .output_step = linear->output_step,
        .output_inverse = 1.0f / linear->output_step,
        .rows = rows, .depth = linear->inputs, .columns = linear->outputs,
    };
}

#endif
