/* The vector functions of the compiled network, one array at a time, for test_functions.py. */
#include "attention.c"

#define EXPORT __attribute__((visibility("default")))

EXPORT int lanes(void) { return LANES; }

/* `count`: a multiple of TOGETHER * LANES. */
static void each(void (*function)(Floats[TOGETHER]), float *values, int count) {
    for (int at = 0; at < count; at += TOGETHER * LANES) {
        Floats x[TOGETHER];
        TOGETHER_DO(x[i] = load(values + at + i * LANES));
        function(x);
        TOGETHER_DO(store(values + at + i * LANES, x[i]));
    }
}

/* always_inline functions have no address of their own. */
static void any_exp(Floats x[TOGETHER]) { exp_of(x); }
static void any_gelu(Floats x[TOGETHER]) { gelu_of(x); }

EXPORT void each_exp(float *values, int count) { each(any_exp, values, count); }
EXPORT void each_gelu(float *values, int count) { each(any_gelu, values, count); }

/* Rows that have room for whole groups of vectors. */
EXPORT void rows_softmax(float *rows, int how_many, int count, float *inverse) {
    softmax_rows(rows, how_many, count, inverse);
}
EXPORT int softmax_room(int count) { return (int)row_room(count); }

/* [LANES, LANES] in place. */
EXPORT void block_transpose(float *block) {
    Floats v[LANES];
    for (int i = 0; i < LANES; i++) v[i] = load(block + i * LANES);
    transpose(v);
    for (int i = 0; i < LANES; i++) store(block + i * LANES, v[i]);
}

EXPORT void rows_norm(
    const float *gamma, const float *beta, float eps, int width, float *rows, int count) {
    const Norm norm = {gamma, beta, eps, width};
    norm_rows(&norm, rows, rows, count);
}

int segdeploy_parallel(
    Pool *pool, Tile work, const void *arguments, int32_t tiles, size_t scratch_bytes) {
    (void)pool, (void)work, (void)arguments, (void)tiles, (void)scratch_bytes;
    return STATUS_UNKNOWN_STEP;
}
