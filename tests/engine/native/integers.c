/* The kernels' integers: rounding to a grid and sums of products, for test_integers.py. */
#include "norm.h"
#include "product.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT int panel(void) { return PANEL; }
EXPORT int pass_depth(void) { return 2 * DEPTH; }

EXPORT void grid_steps(const float *values, int count, float inverse, int16_t *steps) {
    steps_of(values, (size_t)count, inverse, steps);
}

/* `count`: a multiple of LANES; in place. */
EXPORT void grid_values(float *values, int count, float step) {
    for (int i = 0; i < count; i += LANES)
        store(values + i, on_grid(load(values + i), step, 1.0f / step));
}

EXPORT void normed_steps(const float *gamma, const float *beta, float eps, int width,
                         const float *rows, int count, float inverse, int16_t *steps) {
    const Norm norm = {gamma, beta, eps, width};
    norm_steps(&norm, rows, steps, count, inverse);
}

EXPORT void normed_bytes(const float *gamma, const float *beta, float eps, int width,
                         const float *rows, int count, float inverse, int offset,
                         uint8_t *bytes) {
    const Norm norm = {gamma, beta, eps, width};
    norm_bytes(&norm, rows, bytes, count, inverse, offset);
}

/* Any number of values. */
EXPORT void every_byte(
    const float *values, int count, float inverse, int offset, uint8_t *bytes) {
    bytes_of(values, (size_t)count, inverse, offset, bytes);
}

EXPORT int any_bytes(void) { return BYTES == ANY; }

EXPORT void rows_norm(
    const float *gamma, const float *beta, float eps, int width, float *rows, int count) {
    const Norm norm = {gamma, beta, eps, width};
    norm_rows(&norm, rows, rows, count);
}

/* The int32 sums themselves. `b` is deeper than what is walked of it, so that no pass is the last
 * one, which would turn them into values. */
EXPORT void sums(const int16_t *a, const int16_t *b, float *c, int rows, int depth, int columns) {
    const Product p = {
        .a = a, .a_stride = (size_t)depth, .b = b, .c = c, .c_stride = (size_t)columns,
        .rows = rows, .depth = depth + 2, .columns = columns,
    };
    for (int32_t begin = 0; begin < depth; begin += 2 * DEPTH)
        for (int32_t panel = 0; panel < tiles_of(columns, PANEL); panel++)
            product_panel(SHORTS, &p, panel, begin, smaller(begin + 2 * DEPTH, depth));
}

/* The same of bytes, unsigned in `a`, or, where `right`, in `b`. */
EXPORT void byte_sums(const void *a, const void *b, const int32_t *start, float *c, int rows,
                      int depth, int columns, int right) {
    const Product p = {
        .a = a, .a_stride = (size_t)depth, .b = b, .c = c, .c_stride = (size_t)columns,
        .column_start = start, .rows = rows, .depth = depth + 4, .columns = columns,
    };
    for (int32_t begin = 0; begin < depth; begin += 4 * DEPTH) {
        const int32_t end = smaller(begin + 4 * DEPTH, depth);
        for (int32_t panel = 0; panel < tiles_of(columns, PANEL); panel++) {
            if (right) product_panel(RIGHT_BYTES, &p, panel, begin, end);
            else product_panel(LEFT_BYTES, &p, panel, begin, end);
        }
    }
}

/* `count`: a multiple of LANES. */
EXPORT void grid_bytes(
    const float *values, int count, float inverse, int offset, uint8_t *bytes) {
    for (int i = 0; i < count; i += LANES)
        store_bytes(bytes + i, load(values + i), inverse, offset);
}

EXPORT void whole_product(const int16_t *a, const int16_t *b, const float *scale,
                          const float *bias, const float *residual, float step, float *c,
                          int rows, int depth, int columns) {
    const Linear linear = {
        .weight = b, .bias = bias, .scale = scale, .input_step = 1, .output_step = step,
        .inputs = depth, .outputs = columns,
    };
    Product p = product_of(a, (size_t)depth, rows, &linear, c);
    p.residual = residual;
    product(&p);
}

int segdeploy_parallel(
    Pool *pool, Tile work, const void *arguments, int32_t tiles, size_t scratch_bytes) {
    (void)pool, (void)work, (void)arguments, (void)tiles, (void)scratch_bytes;
    return STATUS_UNKNOWN_STEP;
}
