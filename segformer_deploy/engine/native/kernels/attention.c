/* Efficient self-attention (SegFormer, equations 1 and 2), a tile of queries at a time: queries,
 * scores and mixed values of a tile never leave the cache. */
#include "functions.h"
#include "norm.h"
#include "product.h"

enum { KEY_TILE = 2 * PANEL, SCORES = 1 << 13, MOST_QUERIES = 10 * ROWS };

static void keys_tile(const void *arguments, int32_t tile, void *scratch) {
    const Keys *k = arguments;
    const int32_t channels = k->linear.inputs, d = channels / k->heads;
    const int32_t begin = tile * KEY_TILE, rows = smaller(KEY_TILE, k->tokens - begin);
    const int32_t key_panels = tiles_of(k->tokens, PANEL), value_panels = tiles_of(d, PANEL);
    const float *input = k->input + (size_t)begin * channels;
    float *both = scratch, *room = both + (size_t)KEY_TILE * 2 * channels;
    const void *left = left_side(&k->linear, &k->before, input, rows, room);
    const Product p = product_of(left, (size_t)channels, rows, &k->linear, both);
    product(&p);
    for (int32_t head = 0; head < k->heads; head++) {
        float *keys = k->keys + (size_t)head * key_panels * d * PANEL;
        float *values = k->values + (size_t)head * value_panels * k->tokens * PANEL;
        for (int32_t row = 0; row < rows; row++) {
            const float *key = both + (size_t)row * 2 * channels + (size_t)head * d;
            const float *value = key + channels;
            const int32_t token = begin + row;
            float *column = keys + (size_t)(token / PANEL) * d * PANEL + token % PANEL;
            for (int32_t i = 0; i < d; i++) column[(size_t)i * PANEL] = key[i];
            for (int32_t i = 0; i < d; i++)
                values[((size_t)(i / PANEL) * k->tokens + token) * PANEL + i % PANEL] = value[i];
        }
    }
}

int KERNEL(segdeploy_keys)(Pool *pool, const Keys *k) {
    return segdeploy_parallel(pool, keys_tile, k, tiles_of(k->tokens, KEY_TILE),
                              (size_t)KEY_TILE * 3 * k->linear.inputs * sizeof(float));
}

/* Floats between two rows of scores. */
INLINE size_t row_room(int32_t key_tokens) {
    return (size_t)tiles_of(key_tokens, TOGETHER * LANES) * TOGETHER * LANES;
}

INLINE float top_of(float *row, int32_t count) {
    const int32_t all = (int32_t)row_room(count), step = TOGETHER * LANES;
    /* Behind the end: no weight to speak of. */
    for (int32_t i = count; i < all; i++) row[i] = -__builtin_inff();
    Floats largest[TOGETHER];
    TOGETHER_DO(largest[i] = load(row + i * LANES));
    for (int32_t at = step; at < all; at += step)
        TOGETHER_DO(largest[i] = greater_of(largest[i], load(row + at + i * LANES)));
    TOGETHER_DO(largest[0] = greater_of(largest[0], largest[i]));
    return largest_of(largest[0]);
}

/* e^(x - top) of a row, in place; their sums, per lane. */
INLINE Floats exp_row(float *row, int32_t count, float top) {
    const int32_t all = (int32_t)row_room(count), step = TOGETHER * LANES;
    Floats sums[TOGETHER] = {{0}};
    for (int32_t at = 0; at < all; at += step) {
        Floats x[TOGETHER];
        TOGETHER_DO(x[i] = load(row + at + i * LANES) - top);
        exp_of(x);
        TOGETHER_DO(store(row + at + i * LANES, x[i]));
        TOGETHER_DO(sums[i] += x[i]);
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* In place, `rows` rows with room for whole groups of vectors; 1 / sum of each. Step by step for
 * all of them: a row's own steps wait for each other, those of another do not. */
static void softmax_rows(float *scores, int32_t rows, int32_t count, float *inverse) {
    enum { CHUNK = 8 };
    const size_t stride = row_room(count);
    for (int32_t begin = 0; begin < rows; begin += CHUNK) {
        const int32_t end = smaller(begin + CHUNK, rows);
        Floats sums[CHUNK];
        for (int32_t row = begin; row < end; row++)
            inverse[row] = top_of(scores + row * stride, count);
        for (int32_t row = begin; row < end; row++)
            sums[row - begin] = exp_row(scores + row * stride, count, inverse[row]);
        for (int32_t row = begin; row < end; row++)
            inverse[row] = 1.0f / sum_of(sums[row - begin]);
    }
}

/* Queries per tile: their scores fill a part of the second-level cache. */
INLINE int32_t queries_of(const Attention *a) {
    const int32_t fit = SCORES / a->key_tokens / ROWS * ROWS;
    return rows_of_tile(a->tokens, smaller(MOST_QUERIES, larger(2 * ROWS, fit)));
}

static void attention_tile(const void *arguments, int32_t tile, void *scratch) {
    const Attention *a = arguments;
    const int32_t channels = a->query.inputs, d = channels / a->heads, step = queries_of(a);
    const int32_t begin = tile * step, rows = smaller(step, a->tokens - begin);
    const size_t stride = row_room(a->key_tokens);
    const int32_t key_panels = tiles_of(a->key_tokens, PANEL), value_panels = tiles_of(d, PANEL);
    float *normed = scratch, *query = normed + (size_t)step * channels;
    float *scores = query + (size_t)step * channels;
    const float *input = a->input + (size_t)begin * channels;

    const void *left = left_side(&a->query, &a->norm, input, rows, normed);
    const Product asked = product_of(left, (size_t)channels, rows, &a->query, query);
    product(&asked);
    float *mixed = normed; /* the queries are made: its room is free */
    for (int32_t head = 0; head < a->heads; head++) {
        const Product compared = {
            .a = query + (size_t)head * d, .a_stride = (size_t)channels,
            .b = a->keys + (size_t)head * key_panels * d * PANEL,
            .c = scores, .c_stride = stride,
            .rows = rows, .depth = d, .columns = key_panels * PANEL,
        };
        product(&compared);
        float inverse[MOST_QUERIES];
        softmax_rows(scores, rows, a->key_tokens, inverse);
        const Product weighed = {
            .a = scores, .a_stride = stride,
            .b = a->values + (size_t)head * value_panels * a->key_tokens * PANEL,
            .c = mixed + (size_t)head * d, .c_stride = (size_t)channels,
            .rows = rows, .depth = a->key_tokens, .columns = d,
        };
        product(&weighed);
        for (int32_t row = 0; row < rows; row++) {
            float *part = mixed + (size_t)row * channels + (size_t)head * d;
            for (int32_t i = 0; i < d; i++) part[i] *= inverse[row];
        }
    }
    float *output = a->output + (size_t)begin * channels;
    left = left_side(&a->out, NULL, mixed, rows, query); /* and now the queries' room is */
    Product joined = product_of(left, (size_t)channels, rows, &a->out, output);
    joined.residual = input;
    product(&joined);
}

int KERNEL(segdeploy_attention)(Pool *pool, const Attention *a) {
    const size_t step = (size_t)queries_of(a);
    const size_t floats = step * (2 * (size_t)a->query.inputs + row_room(a->key_tokens));
    return segdeploy_parallel(pool, attention_tile, a, tiles_of(a->tokens, (int32_t)step),
                              floats * sizeof(float));
}
