/* Convolutions and projections: products with a LayerNorm before or after. */
#include "product.h"

enum { ROW_TILE = 16 * ROWS };

/* The window of one output position, ordered (ky, kx, channel), zeros outside. */
INLINE void gather(const Convolution *c, int32_t y, int32_t x, float *to) {
    const int32_t channels = c->channels;
    const int32_t left = x * c->stride - c->padding;
    const int32_t first = larger(0, -left), last = smaller(c->kernel, c->width - left);
    for (int32_t ky = 0; ky < c->kernel; ky++, to += (size_t)c->kernel * channels) {
        const int32_t row = y * c->stride - c->padding + ky;
        if (row < 0 || row >= c->height) {
            memset(to, 0, (size_t)c->kernel * channels * sizeof(float));
            continue;
        }
        const size_t from = ((size_t)row * c->width + left + first) * channels;
        const size_t count = (size_t)(last - first) * channels;
        float *inner = to + (size_t)first * channels;
        memset(to, 0, (size_t)first * channels * sizeof(float));
        if (c->mean) {
            const uint8_t *pixels = (const uint8_t *)c->input + from;
            for (size_t i = 0; i < count; i += channels)
                for (int32_t k = 0; k < channels; k++)
                    inner[i + k] = (float)pixels[i + k] - c->mean[k];
        } else if (c->before.gamma) {
            norm_rows(&c->before, (const float *)c->input + from, inner, last - first);
        } else {
            memcpy(inner, (const float *)c->input + from, count * sizeof(float));
        }
        memset(inner + count, 0, (size_t)(c->kernel - last) * channels * sizeof(float));
    }
}

static void convolution_tile(const void *arguments, int32_t tile, void *scratch) {
    const Convolution *c = arguments;
    const int32_t count = c->out_height * c->out_width;
    const int32_t begin = tile * ROW_TILE, rows = smaller(ROW_TILE, count - begin);
    const size_t depth = (size_t)c->linear.inputs;
    float *windows = scratch;
    for (int32_t row = 0; row < rows; row++)
        gather(c, (begin + row) / c->out_width, (begin + row) % c->out_width,
               windows + row * depth);
    float *output = c->output + (size_t)begin * c->linear.outputs;
    const Product p = product_of(windows, depth, rows, &c->linear, output);
    product(&p);
    if (c->after.gamma) norm_rows(&c->after, output, output, rows);
}

int KERNEL(segdeploy_convolution)(Pool *pool, const Convolution *c) {
    return segdeploy_parallel(
        pool, convolution_tile, c, tiles_of(c->out_height * c->out_width, ROW_TILE),
        (size_t)ROW_TILE * c->linear.inputs * sizeof(float));
}

static void linear_tile(const void *arguments, int32_t tile, void *scratch) {
    const LinearRows *l = arguments;
    const int32_t begin = tile * ROW_TILE, rows = smaller(ROW_TILE, l->rows - begin);
    const int32_t inputs = l->linear.weight ? l->linear.inputs : l->before.width;
    const float *input = l->input + (size_t)begin * inputs;
    if (!l->linear.weight) {
        norm_rows(&l->before, input, l->output + (size_t)begin * inputs, rows);
        return;
    }
    if (l->before.gamma) {
        norm_rows(&l->before, input, scratch, rows);
        input = scratch;
    }
    float *output = l->output + (size_t)begin * l->linear.outputs;
    Product p = product_of(input, (size_t)inputs, rows, &l->linear, output);
    p.relu = l->relu;
    product(&p);
}

int KERNEL(segdeploy_linear)(Pool *pool, const LinearRows *l) {
    const int32_t width = l->linear.weight ? l->linear.inputs : l->before.width;
    return segdeploy_parallel(pool, linear_tile, l, tiles_of(l->rows, ROW_TILE),
                              (size_t)ROW_TILE * width * sizeof(float));
}
