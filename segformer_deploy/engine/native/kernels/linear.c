/* Convolutions and projections: products with a LayerNorm before or after. */
#include "norm.h"
#include "product.h"

/* Rows of a tile: 96, or 128 on Arm. Their windows lie in the second-level cache. */
enum { ROW_TILE = (LANES > 8 ? 8 : 16) * ROWS, MOST_CHANNELS = 4 /* of an image */ };

/* The window of one output position, ordered (ky, kx, channel), zeros outside: float32, or the
 * steps of a grid where the product is one of integers. Of bytes a zero is their offset. */
INLINE void gather(const Convolution *c, int32_t y, int32_t x, char *to) {
    const int32_t channels = c->channels;
    const size_t pixel = (size_t)channels * SIZE(kind_of(&c->linear));
    const int zero = c->linear.start ? c->linear.offset : 0;
    const int32_t left = x * c->stride - c->padding;
    const int32_t first = larger(0, -left), last = smaller(c->kernel, c->width - left);
    for (int32_t ky = 0; ky < c->kernel; ky++, to += c->kernel * pixel) {
        const int32_t row = y * c->stride - c->padding + ky;
        if (row < 0 || row >= c->height) {
            memset(to, zero, c->kernel * pixel);
            continue;
        }
        const float *input = c->input;
        const float *from = input + ((size_t)row * c->width + left + first) * channels;
        char *inner = to + (size_t)first * pixel, *behind = to + (size_t)last * pixel;
        const size_t count = (size_t)(last - first) * channels;
        memset(to, zero, (size_t)first * pixel);
        if (left_side(&c->linear, &c->before, from, last - first, channels, inner) == from)
            memcpy(inner, from, count * sizeof(float));
        memset(behind, zero, (size_t)(c->kernel - last) * pixel);
    }
}

/* Pixels `begin` to `end` of an image row as floats less the mean; zeros left and right of it. */
static void pixels_less_mean(
    const Convolution *c, int32_t row, int32_t begin, int32_t end, float *to) {
    const int32_t channels = c->channels;
    const int32_t first = larger(begin, 0), last = smaller(end, c->width);
    const uint8_t *from = (const uint8_t *)c->input + ((size_t)row * c->width + first) * channels;
    const size_t before = (size_t)(first - begin) * channels;
    const size_t count = (size_t)(last - first) * channels;
    memset(to, 0, before * sizeof(float));
    float *inner = to + before;
    for (size_t i = 0; i < count; i++) inner[i] = (float)from[i];
    /* Three means do not fill a vector: those of so many pixels do. */
    enum { PIXELS = LANES > 8 ? LANES : 8 };
    float mean[PIXELS * MOST_CHANNELS];
    const size_t period = PIXELS * (size_t)channels;
    for (size_t i = 0; i < period; i++) mean[i] = c->mean[i % (size_t)channels];
    size_t at = 0;
    for (; at + period <= count; at += period)
        for (size_t i = 0; i < period; i += LANES)
            store(inner + at + i, load(inner + at + i) - load(mean + i));
    for (size_t i = 0; at + i < count; i++) inner[at + i] -= mean[i];
    memset(inner + count, 0, (size_t)(end - last) * channels * sizeof(float));
}

/* Windows of an image, for `count` outputs of one row from `x` on. Neighbours share pixels: each
 * row of pixels becomes floats once, and a window is `kernel` pieces of such rows. */
static void pixels_product(
    const Convolution *c, int32_t y, int32_t x, int32_t count, float *strips, float *output) {
    const size_t channels = (size_t)c->channels;
    const int32_t begin = x * c->stride - c->padding;
    const int32_t end = begin + (count - 1) * c->stride + c->kernel;
    const size_t strip = (size_t)(end - begin) * channels;
    for (int32_t ky = 0; ky < c->kernel; ky++) {
        const int32_t row = y * c->stride - c->padding + ky;
        if (row >= 0 && row < c->height) pixels_less_mean(c, row, begin, end, strips + ky * strip);
        else memset(strips + ky * strip, 0, strip * sizeof(float));
    }
    Product p = product_of(strips, (size_t)c->stride * channels, count, &c->linear, output);
    p.segments = c->kernel;
    p.segment_stride = strip;
    product(&p);
}

static void windows_product(
    const Convolution *c, int32_t begin, int32_t rows, char *windows, float *output) {
    const size_t depth = (size_t)c->linear.inputs;
    const size_t window = depth * SIZE(kind_of(&c->linear));
    for (int32_t row = 0; row < rows; row++) {
        const int32_t at = begin + row;
        gather(c, at / c->out_width, at % c->out_width, windows + row * window);
    }
    const Product p = product_of(windows, depth, rows, &c->linear, output);
    product(&p);
}

INLINE int32_t outputs_of_tile(const Convolution *c) {
    return rows_of_tile(c->out_height * c->out_width, ROW_TILE);
}

static void convolution_tile(const void *arguments, int32_t tile, void *scratch) {
    const Convolution *c = arguments;
    const int32_t step = outputs_of_tile(c), begin = tile * step;
    const int32_t rows = smaller(step, c->out_height * c->out_width - begin);
    const size_t outputs = (size_t)c->linear.outputs;
    float *output = c->output + (size_t)begin * outputs;
    if (c->mean) {
        for (int32_t row = 0, count; row < rows; row += count) {
            const int32_t y = (begin + row) / c->out_width, x = (begin + row) % c->out_width;
            count = smaller(rows - row, c->out_width - x);
            pixels_product(c, y, x, count, scratch, output + row * outputs);
        }
    } else {
        windows_product(c, begin, rows, scratch, output);
    }
    if (c->after.gamma) norm_rows(&c->after, output, output, rows);
}

int KERNEL(segdeploy_convolution)(Pool *pool, const Convolution *c) {
    if (c->mean && c->channels > MOST_CHANNELS) return STATUS_UNKNOWN_STEP;
    const size_t windows = (size_t)ROW_TILE * c->linear.inputs;
    const size_t strips = (size_t)(ROW_TILE * c->stride + c->kernel) * c->channels * c->kernel;
    return segdeploy_parallel(
        pool, convolution_tile, c,
        tiles_of(c->out_height * c->out_width, outputs_of_tile(c)),
        (c->mean ? strips : windows) * sizeof(float));
}

static void linear_tile(const void *arguments, int32_t tile, void *scratch) {
    const LinearRows *l = arguments;
    const int32_t step = rows_of_tile(l->rows, ROW_TILE);
    const int32_t begin = tile * step, rows = smaller(step, l->rows - begin);
    const int32_t inputs = l->linear.weight ? l->linear.inputs : l->before.width;
    const float *input = l->input + (size_t)begin * inputs;
    if (!l->linear.weight) {
        norm_rows(&l->before, input, l->output + (size_t)begin * inputs, rows);
        return;
    }
    const void *left = left_side(&l->linear, &l->before, input, rows, inputs, scratch);
    float *output = l->output + (size_t)begin * l->linear.outputs;
    Product p = product_of(left, (size_t)inputs, rows, &l->linear, output);
    p.relu = l->relu;
    product(&p);
}

int KERNEL(segdeploy_linear)(Pool *pool, const LinearRows *l) {
    const int32_t width = l->linear.weight ? l->linear.inputs : l->before.width;
    return segdeploy_parallel(pool, linear_tile, l,
                              tiles_of(l->rows, rows_of_tile(l->rows, ROW_TILE)),
                              (size_t)ROW_TILE * width * sizeof(float));
}
