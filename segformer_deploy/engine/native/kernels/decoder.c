/* The tail of the decode head, a few pixels at a time: no map at full width but the logits. */
#include "norm.h"
#include "product.h"

/* Pixels handled at once: their maps, the weights and the coarse maps under a tile of so many rows
 * fit into a second-level cache of half a megabyte. */
enum { SEGMENT = 64, TILE_ROWS = 2 };

/* Coarse columns that pixels `x` to x + count lie between, mixed for one row of pixels. */
typedef struct {
    float *columns[COARSE]; /* [n, channels], the first one is number `first` of its map */
    int32_t first[COARSE];
} Rows;

/* Room for the columns of a segment of map i; the first map's are half as wide as the pixels. */
INLINE size_t columns_room(const Decoder *d, int i) {
    return (size_t)smaller(SEGMENT + 2, d->coarse_width[i]);
}

static void mix_rows(const Decoder *d, int32_t y, int32_t x, int32_t count, Rows *rows) {
    const size_t channels = (size_t)d->channels;
    for (int i = 0; i < COARSE; i++) {
        const Axis *down = &d->rows[i], *across = &d->columns[i];
        const int32_t first = across->lower[x], end = across->upper[x + count - 1] + 1;
        const size_t begin = (size_t)first * channels;
        const size_t stride = (size_t)d->coarse_width[i] * channels;
        const float *lower = d->coarse[i] + (size_t)down->lower[y] * stride + begin;
        const float *upper = d->coarse[i] + (size_t)down->upper[y] * stride + begin;
        const float w0 = down->w_lower[y], w1 = down->w_upper[y];
        const size_t all = (size_t)(end - first) * channels;
        for (size_t k = 0; k < all; k += LANES) {
            const Floats above = load_some(lower + k, all - k);
            const Floats below = load_some(upper + k, all - k);
            store_some(rows->columns[i] + k, w0 * above + w1 * below, all - k);
        }
        rows->first[i] = first;
    }
}

/* own = relu(own + three resized rows), one pixel. `kind`, a constant, may say: as steps of a grid,
 * which take the first part of its place. */
INLINE void blend_pixel(
    const int kind, const Decoder *d, float *own, const Rows *rows, int32_t x) {
    const float inverse = kind == FLOATS ? 0 : 1.0f / d->classifier_step;
    const size_t channels = (size_t)d->channels;
    const float *lower[COARSE], *upper[COARSE];
    Floats w0[COARSE], w1[COARSE];
#pragma GCC unroll 3
    for (int i = 0; i < COARSE; i++) {
        const Axis *axis = &d->columns[i];
        lower[i] = rows->columns[i] + (size_t)(axis->lower[x] - rows->first[i]) * channels;
        upper[i] = rows->columns[i] + (size_t)(axis->upper[x] - rows->first[i]) * channels;
        w0[i] = splat(axis->w_lower[x]);
        w1[i] = splat(axis->w_upper[x]);
    }
    for (size_t c = 0; c < channels; c += LANES) {
        const size_t left = channels - c;
        Floats sum = load_some(own + c, left);
#pragma GCC unroll 3
        for (int i = 0; i < COARSE; i++)
            sum += w0[i] * load_some(lower[i] + c, left) + w1[i] * load_some(upper[i] + c, left);
        if (kind == FLOATS) store_some(own + c, relu_of(sum), left);
        else if (kind == SHORTS) store_some_steps((int16_t *)own + c, relu_of(sum), inverse, left);
        else store_some_bytes((uint8_t *)own + c, relu_of(sum), inverse, 0, left);
    }
}

/* LANES rows of `channels` -> as many columns, PANEL apart; of integers as many pairs or quads of
 * them. The last may fill no whole vector. */
INLINE void transpose_pixels(const int kind, const float *from, size_t channels, float *to) {
    const size_t count = channels * SIZE(kind) / 4;
    for (size_t c = 0; c < count; c += LANES) {
        Floats block[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            block[i] = load_some(from + i * channels + c, channels - c);
        transpose(block);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            if ((kind == FLOATS && LANES <= 8) || c + i < count)
                store(to + (c + i) * PANEL, block[i]);
    }
}

/* `count` pixels from `x` on, [count, channels], into panels of PANEL pixels. Behind the last one
 * the panel holds what the scratch did: columns that nobody stores. */
INLINE void blend_pixels(const int kind, const Decoder *d, float *own, const Rows *rows,
                         int32_t x, int32_t count, float *panels) {
    const size_t channels = (size_t)d->channels, depth = channels * SIZE(kind) / 4;
    for (int32_t i = 0; i < count; i += LANES) {
        float *group = own + (size_t)i * channels;
        for (int32_t j = 0; j < smaller(LANES, count - i); j++)
            blend_pixel(kind, d, group + (size_t)j * channels, rows, x + i + j);
        float *to = panels + (size_t)(i / PANEL) * depth * PANEL + i % PANEL;
        transpose_pixels(kind, group, channels, to);
    }
}

static void segment(
    const Decoder *d, int32_t y, int32_t x, float *own, float *panels, Rows *rows) {
    const int32_t count = smaller(SEGMENT, d->width - x), inputs = d->fuse.inputs;
    const size_t width = (size_t)d->width, at = (size_t)y * width + (size_t)x;
    /* The panels are made later: until then their place is free. */
    const void *left = left_side(&d->fuse, NULL, d->own + at * inputs, count, inputs, panels);
    const Product fused = product_of(left, (size_t)inputs, count, &d->fuse, own);
    product(&fused);
    mix_rows(d, y, x, count, rows);
    if (d->classifier_bytes) blend_pixels(RIGHT_BYTES, d, own, rows, x, count, panels);
    else if (d->classifier_scale) blend_pixels(SHORTS, d, own, rows, x, count, panels);
    else blend_pixels(FLOATS, d, own, rows, x, count, panels);
    const Product classified = {
        .a = d->classifier, .a_stride = (size_t)d->channels, .b = panels,
        .c = d->logits + at, .c_stride = (size_t)d->height * width,
        .row_bias = d->classifier_bias, .row_scale = d->classifier_scale,
        .rows = d->classes, .depth = d->channels, .columns = count,
    };
    if (d->classifier_bytes) bytes_product(RIGHT_BYTES, &classified);
    else product(&classified);
}

/* Floats of a segment's panels, or of the left side of its first product. */
INLINE size_t panels_room(const Decoder *d) {
    return SEGMENT * (size_t)larger(d->channels, d->fuse.inputs);
}

static void decoder_tile(const void *arguments, int32_t tile, void *scratch) {
    const Decoder *d = arguments;
    const size_t channels = (size_t)d->channels;
    const int32_t begin = tile * TILE_ROWS, end = smaller(begin + TILE_ROWS, d->height);
    float *own = scratch, *panels = own + SEGMENT * channels;
    Rows rows = {.columns = {panels + panels_room(d)}};
    for (int i = 1; i < COARSE; i++)
        rows.columns[i] = rows.columns[i - 1] + columns_room(d, i - 1) * channels;
    for (int32_t x = 0; x < d->width; x += SEGMENT)
        for (int32_t y = begin; y < end; y++) segment(d, y, x, own, panels, &rows);
}

int KERNEL(segdeploy_decoder)(Pool *pool, const Decoder *d) {
    size_t pixels = SEGMENT;
    for (int i = 0; i < COARSE; i++) pixels += columns_room(d, i);
    return segdeploy_parallel(pool, decoder_tile, d, tiles_of(d->height, TILE_ROWS),
                              (pixels * d->channels + panels_room(d)) * sizeof(float));
}
