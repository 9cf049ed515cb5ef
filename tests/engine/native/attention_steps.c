/* The attention's products of integers, a head at a time, for test_attention_steps.py. */
#include "attention.c"

#define EXPORT __attribute__((visibility("default")))

EXPORT int panel(void) { return PANEL; }
EXPORT int bytes(void) { return BYTES; }
EXPORT int tokens_together(void) { return TOKENS_TOGETHER; }
EXPORT int weights_room(int tokens) { return (int)row_room(tokens); }
EXPORT int most_queries(void) { return MOST_QUERIES; }

/* `both`: [tokens, 2 * channels]. */
EXPORT void packed(const float *both, const Grids *grids, int tokens, int channels, int heads,
                   int16_t *room, void *keys, void *values) {
    const Keys k = {
        .keys = keys, .values = values, .linear = {.inputs = channels}, .grids = *grids,
        .tokens = tokens, .heads = heads,
    };
    for (int token = 0; token < tokens; token++)
        pack_steps(&k, token, both + (size_t)token * 2 * channels, room);
}

/* The mixed values [rows, channels] of `head` alone, and the steps of its softmax. */
EXPORT void mixed(const int16_t *query, const void *keys, const void *values, const Grids *grids,
                  int rows, int tokens, int channels, int heads, int head, float *scores,
                  void *weights, float *to) {
    const Attention a = {
        .keys = keys, .values = values, .query = {.inputs = channels}, .grids = *grids,
        .tokens = rows, .key_tokens = tokens, .heads = heads,
    };
    const Room room = {
        .normed = to, .scores = scores, .asked = (int16_t *)query, .weights = weights,
    };
    mix_steps(&a, &room, head, rows);
}

/* Scores alone: integers times one scale. */
EXPORT void scaled(const int16_t *a, const int16_t *b, float scale, float *c, int rows, int depth,
                   int columns) {
    const Product p = {
        .a = a, .a_stride = (size_t)depth, .b = b, .c = c, .c_stride = (size_t)columns,
        .scale = scale, .rows = rows, .depth = depth, .columns = columns,
    };
    product(&p);
}

int segdeploy_parallel(
    Pool *pool, Tile work, const void *arguments, int32_t tiles, size_t scratch_bytes) {
    (void)pool, (void)work, (void)arguments, (void)tiles, (void)scratch_bytes;
    return STATUS_UNKNOWN_STEP;
}
