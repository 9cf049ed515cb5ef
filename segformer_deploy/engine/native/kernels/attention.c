/* Efficient self-attention (SegFormer, equations 1 and 2), a tile of queries at a time: queries,
 * scores and mixed values of a tile never leave the cache. */
#include "functions.h"
#include "norm.h"
#include "product.h"

/* Weights, never below 0, may be bytes whatever the values are: 2 * 127 * 128 is within int16. */
enum { TOKENS_TOGETHER = BYTES ? 4 : 2 };
enum { KEY_TILE = 2 * PANEL, SCORES = 1 << 13, MOST_QUERIES = 10 * ROWS };

INLINE int32_t whole_lanes(int32_t tokens) {
    return tiles_of(tokens, TOKENS_TOGETHER) * TOKENS_TOGETHER;
}

/* Keys and values of `token`. */
static void pack_floats(const Keys *k, int32_t token, const float *both) {
    const int32_t channels = k->linear.inputs, d = channels / k->heads;
    const int32_t key_panels = tiles_of(k->tokens, PANEL), value_panels = tiles_of(d, PANEL);
    for (int32_t head = 0; head < k->heads; head++) {
        const float *key = both + (size_t)head * d, *value = key + channels;
        float *keys = (float *)k->keys + (size_t)head * key_panels * d * PANEL;
        float *values = (float *)k->values + (size_t)head * value_panels * k->tokens * PANEL;
        float *column = keys + (size_t)(token / PANEL) * d * PANEL + token % PANEL;
        for (int32_t i = 0; i < d; i++) column[(size_t)i * PANEL] = key[i];
        for (int32_t i = 0; i < d; i++)
            values[((size_t)(i / PANEL) * k->tokens + token) * PANEL + i % PANEL] = value[i];
    }
}

/* The same to steps; those of keys first into `room`, then those of values. */
static void pack_steps(const Keys *k, int32_t token, const float *both, int16_t *room) {
    enum { M = TOKENS_TOGETHER };
    const int32_t channels = k->linear.inputs, d = channels / k->heads;
    const size_t key_panels = (size_t)tiles_of(k->tokens, PANEL);
    const size_t value_panels = (size_t)tiles_of(d, PANEL), depth = (size_t)whole_lanes(k->tokens);
    steps_of(both, (size_t)channels, 1.0f / k->grids.key, room);
    steps_of(both + channels, (size_t)channels, 1.0f / k->grids.value, room + channels);
    for (int32_t head = 0; head < k->heads; head++) {
        const int16_t *key = room + (size_t)head * d, *value = key + channels;
        int16_t *column = (int16_t *)k->keys + head * key_panels * d * PANEL;
        column += (size_t)(token / PANEL) * d * PANEL + token % PANEL * 2;
        for (int32_t i = 0; i < d; i += 2) {
            column[(size_t)i * PANEL] = key[i];
            column[(size_t)i * PANEL + 1] = key[i + 1];
        }
        const size_t first = head * value_panels * depth * PANEL;
        for (int32_t i = 0; i < d; i++) {
            const size_t panel = first + (i / PANEL) * depth * PANEL;
            const size_t at = panel + (size_t)(token / M * PANEL + i % PANEL) * M + token % M;
            if (BYTES) ((int8_t *)k->values)[at] = (int8_t)value[i];
            else ((int16_t *)k->values)[at] = value[i];
        }
    }
}

static void keys_tile(const void *arguments, int32_t tile, void *scratch) {
    const Keys *k = arguments;
    const int32_t channels = k->linear.inputs;
    const int32_t begin = tile * KEY_TILE, rows = smaller(KEY_TILE, k->tokens - begin);
    const float *input = k->input + (size_t)begin * channels;
    float *both = scratch, *room = both + (size_t)KEY_TILE * 2 * channels;
    const void *left = left_side(&k->linear, &k->before, input, rows, channels, room);
    const Product p = product_of(left, (size_t)channels, rows, &k->linear, both);
    product(&p);
    for (int32_t row = 0; row < rows; row++) {
        const float *one = both + (size_t)row * 2 * channels;
        /* The left side's room is free: the product is made. */
        if (k->grids.key != 0) pack_steps(k, begin + row, one, (int16_t *)room);
        else pack_floats(k, begin + row, one);
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

/* Of rows after softmax_rows: the steps of e^(x - top) / sum. */
static void weigh_rows(
    const float *scores, int32_t rows, int32_t count, const float *inverse, float step, void *to) {
    const size_t all = row_room(count);
    const float steps = 1.0f / step;
    for (int32_t row = 0; row < rows; row++) {
        const float *from = scores + row * all, factor = inverse[row] * steps;
        for (size_t at = 0; at < all; at += TOGETHER * LANES) {
            Floats x[TOGETHER];
            TOGETHER_DO(x[i] = load(from + at + i * LANES));
            if (BYTES) store_positive_bytes((uint8_t *)to + row * all + at, x, factor);
            else TOGETHER_DO(store_steps((int16_t *)to + row * all + at + i * LANES, x[i], factor));
        }
    }
}

/* Queries per tile: their scores fill a part of the second-level cache. */
INLINE int32_t queries_of(const Attention *a) {
    const int32_t fit = SCORES / a->key_tokens / ROWS * ROWS;
    return rows_of_tile(a->tokens, smaller(MOST_QUERIES, larger(2 * ROWS, fit)));
}

/* What a tile works in. */
typedef struct {
    float *normed;  /* [queries, C]; later their mixed values */
    float *query;   /* [queries, C]; later the left side of the last product */
    float *scores;  /* [queries, row_room] */
    int16_t *asked; /* [queries, C]: steps of `query` */
    void *weights;  /* [queries, row_room]: steps of the softmax */
} Room;

static Room room_of(const Attention *a, void *scratch) {
    const size_t queries = (size_t)queries_of(a), channels = (size_t)a->query.inputs;
    Room room = {.normed = scratch};
    room.query = room.normed + queries * channels;
    room.scores = room.query + queries * channels;
    room.weights = room.scores + queries * row_room(a->key_tokens);
    room.asked = (int16_t *)room.weights + queries * row_room(a->key_tokens);
    return room;
}

static size_t room_bytes(const Attention *a) {
    const size_t queries = (size_t)queries_of(a), channels = (size_t)a->query.inputs;
    const size_t scores = queries * row_room(a->key_tokens), tokens = queries * channels;
    const size_t floats = (2 * tokens + scores) * sizeof(float);
    return floats + (a->grids.query != 0 ? (scores + tokens) * sizeof(int16_t) : 0);
}

/* softmax(q @ keys) @ values of one head. */
static void mix_floats(const Attention *a, const Room *room, int32_t head, int32_t rows) {
    const int32_t channels = a->query.inputs, d = channels / a->heads;
    const int32_t key_panels = tiles_of(a->key_tokens, PANEL), value_panels = tiles_of(d, PANEL);
    const size_t stride = row_room(a->key_tokens);
    float *mixed = room->normed + (size_t)head * d;
    const Product compared = {
        .a = room->query + (size_t)head * d, .a_stride = (size_t)channels,
        .b = (const float *)a->keys + (size_t)head * key_panels * d * PANEL,
        .c = room->scores, .c_stride = stride,
        .rows = rows, .depth = d, .columns = key_panels * PANEL,
    };
    product(&compared);
    float inverse[MOST_QUERIES];
    softmax_rows(room->scores, rows, a->key_tokens, inverse);
    const Product weighed = {
        .a = room->scores, .a_stride = stride,
        .b = (const float *)a->values + (size_t)head * value_panels * a->key_tokens * PANEL,
        .c = mixed, .c_stride = (size_t)channels,
        .rows = rows, .depth = a->key_tokens, .columns = d,
    };
    product(&weighed);
    for (int32_t row = 0; row < rows; row++)
        for (int32_t i = 0; i < d; i++) mixed[(size_t)row * channels + i] *= inverse[row];
}

/* The same of integers. */
static void mix_steps(const Attention *a, const Room *room, int32_t head, int32_t rows) {
    const int32_t channels = a->query.inputs, d = channels / a->heads;
    const int32_t key_panels = tiles_of(a->key_tokens, PANEL), value_panels = tiles_of(d, PANEL);
    const int32_t depth = whole_lanes(a->key_tokens);
    const size_t stride = row_room(a->key_tokens);
    const Product compared = {
        .a = room->asked + (size_t)head * d, .a_stride = (size_t)channels,
        .b = (const int16_t *)a->keys + (size_t)head * key_panels * d * PANEL,
        .c = room->scores, .c_stride = stride, .scale = a->grids.query * a->grids.key,
        .rows = rows, .depth = d, .columns = key_panels * PANEL,
    };
    product(&compared);
    float inverse[MOST_QUERIES];
    softmax_rows(room->scores, rows, a->key_tokens, inverse);
    weigh_rows(room->scores, rows, a->key_tokens, inverse, a->grids.softmax, room->weights);
    const size_t panel = (size_t)(depth / TOKENS_TOGETHER) * PANEL * sizeof(int32_t);
    const Product weighed = {
        .a = room->weights, .a_stride = stride,
        .b = (const char *)a->values + (size_t)head * value_panels * panel,
        .c = room->normed + (size_t)head * d, .c_stride = (size_t)channels,
        .scale = a->grids.softmax * a->grids.value,
        .rows = rows, .depth = depth, .columns = d,
    };
    if (BYTES) left_bytes_product(&weighed);
    else product(&weighed);
}

static void attention_tile(const void *arguments, int32_t tile, void *scratch) {
    const Attention *a = arguments;
    const int32_t channels = a->query.inputs, step = queries_of(a);
    const int32_t begin = tile * step, rows = smaller(step, a->tokens - begin);
    const Room room = room_of(a, scratch);
    const float *input = a->input + (size_t)begin * channels;

    const void *left = left_side(&a->query, &a->norm, input, rows, channels, room.normed);
    const Product asked = product_of(left, (size_t)channels, rows, &a->query, room.query);
    product(&asked);
    const float query_step = a->grids.query;
    if (query_step != 0)
        steps_of(room.query, (size_t)rows * channels, 1.0f / query_step, room.asked);
    for (int32_t head = 0; head < a->heads; head++) {
        if (query_step != 0) mix_steps(a, &room, head, rows);
        else mix_floats(a, &room, head, rows);
    }
    float *output = a->output + (size_t)begin * channels;
    left = left_side(&a->out, NULL, room.normed, rows, channels, room.query);
    Product joined = product_of(left, (size_t)channels, rows, &a->out, output);
    joined.residual = input;
    product(&joined);
}

int KERNEL(segdeploy_attention)(Pool *pool, const Attention *a) {
    return segdeploy_parallel(
        pool, attention_tile, a, tiles_of(a->tokens, queries_of(a)), room_bytes(a));
}
