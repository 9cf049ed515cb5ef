/* The tail of the decode head, one row of logits at a time: no map at full width but the logits. */
#include "product.h"

/* [width, channels] + three resized rows, ReLU, into panels of PANEL pixels. */
INLINE void blend_columns(
    const Decoder *d, const float *own, float *const blended[COARSE], int32_t x, float *to) {
    const size_t channels = (size_t)d->channels;
    const float *lower[COARSE], *upper[COARSE];
    Floats w0[COARSE], w1[COARSE];
    for (int i = 0; i < COARSE; i++) {
        const Axis *axis = &d->columns[i];
        lower[i] = blended[i] + (size_t)axis->lower[x] * channels;
        upper[i] = blended[i] + (size_t)axis->upper[x] * channels;
        w0[i] = splat(axis->w_lower[x]);
        w1[i] = splat(axis->w_upper[x]);
    }
    for (size_t c = 0; c < channels; c += LANES) {
        Floats sum = load(own + c);
        for (int i = 0; i < COARSE; i++)
            sum += w0[i] * load(lower[i] + c) + w1[i] * load(upper[i] + c);
        const Floats fused = relu_of(sum);
        for (int lane = 0; lane < LANES; lane++) to[(c + lane) * PANEL] = fused[lane];
    }
}

static void decoder_row(const void *arguments, int32_t y, void *scratch) {
    const Decoder *d = arguments;
    const size_t channels = (size_t)d->channels, width = (size_t)d->width;
    const int32_t inputs = d->fuse.inputs;
    float *own = scratch, *panels = own + width * channels;
    float *blended[COARSE], *free_room = panels + padded(width) * channels;
    for (int i = 0; i < COARSE; i++) {
        const Axis *axis = &d->rows[i];
        const size_t row = (size_t)d->coarse_width[i] * channels;
        const float *lower = d->coarse[i] + (size_t)axis->lower[y] * row;
        const float *upper = d->coarse[i] + (size_t)axis->upper[y] * row;
        const float w0 = axis->w_lower[y], w1 = axis->w_upper[y];
        blended[i] = free_room;
        free_room += row;
        for (size_t k = 0; k < row; k += LANES)
            store(blended[i] + k, w0 * load(lower + k) + w1 * load(upper + k));
    }
    const Product fused = product_of(
        d->own + (size_t)y * width * inputs, (size_t)inputs, d->width, &d->fuse, own);
    product(&fused);
    for (int32_t x = 0; x < d->width; x++)
        blend_columns(d, own + (size_t)x * channels, blended, x,
                      panels + (size_t)(x / PANEL) * channels * PANEL + x % PANEL);
    const Product classified = {
        .a = d->classifier, .a_stride = channels, .b = panels,
        .c = d->logits + (size_t)y * width, .c_stride = (size_t)d->height * width,
        .row_bias = d->classifier_bias,
        .rows = d->classes, .depth = d->channels, .columns = d->width,
    };
    product(&classified);
}

int KERNEL(segdeploy_decoder)(Pool *pool, const Decoder *d) {
    size_t pixels = (size_t)d->width + padded((size_t)d->width);
    for (int i = 0; i < COARSE; i++) pixels += (size_t)d->coarse_width[i];
    return segdeploy_parallel(
        pool, decoder_row, d, d->height, pixels * (size_t)d->channels * sizeof(float));
}
