/* What the network's kernels share: the tables Python hands over, the pool of threads.
 *
 * Everything between two steps is float32 and channels last: tokens [h*w, C], row by row. A
 * product's right side lies in panels of PANEL columns, [ceil(n/PANEL)][k][PANEL], padded with
 * zeros, so that the inner loop reads it in order; its left side is read where it lies.
 *
 * A quantised product takes integers on both sides, int16 or bytes, and its sums are exact int32.
 * Each step makes the integers of its left side itself (grid.h), where the values are in the
 * cache.
 *
 * On x86-64 each kernel is compiled three times, as `name_baseline`, as `name_avx2` (AVX2 and
 * FMA) and as `name_avx512` (AVX-512 F, BW, DQ, VL and VNNI); elsewhere once, as
 * `name_baseline`. Sums are contracted to fused multiply-adds where the processor has them, so
 * the last bits differ between instruction sets, as they do between any two libraries; what does
 * not depend on it: the number of threads. */
#ifndef SEGDEPLOY_NETWORK_H
#define SEGDEPLOY_NETWORK_H

#include "vectors.h"

/* Raised whenever a signature or a struct below changes; library.py refuses another number. */
#define SEGDEPLOY_NETWORK_ABI 4

#define SEGDEPLOY_API __attribute__((visibility("default")))

enum { STATUS_OK = 0, STATUS_NO_MEMORY = 1, STATUS_UNKNOWN_STEP = 2 };

/* y = x @ weight + bias; or, quantised: y = (steps of x @ weight) * scale + bias.
 * Quantised weights are int16, [ceil(n/PANEL)][k/2][PANEL][2], and k is even; or, where `start` is
 * given, int8, [ceil(n/PANEL)][k/4][PANEL][4], for steps that are moved up by `offset` and kept as
 * unsigned bytes. */
typedef struct {
    const void *weight;  /* panels, see above */
    const float *bias;   /* [outputs], padded to whole panels; or, of float32 only, NULL */
    const float *scale;  /* [outputs], padded: the product of both sides' steps; NULL: float32 */
    const int32_t *start; /* [outputs], padded: -offset * the weights' sum */
    int32_t offset;
    float input_step;    /* of the grid that x is rounded to */
    float output_step;   /* of the grid that y is rounded to, before any residual; 0: none */
    int32_t inputs;
    int32_t outputs;
} Linear;

/* LayerNorm over the channels; gamma NULL: none. */
typedef struct {
    const float *gamma;
    const float *beta;
    float eps;
    int32_t width;
} Norm;

/* One axis of a bilinear resize, per output position. */
typedef struct {
    const int32_t *lower;
    const int32_t *upper;
    const float *w_lower;
    const float *w_upper;
} Axis;

enum { STEP_CONVOLUTION, STEP_LINEAR, STEP_KEYS, STEP_ATTENTION, STEP_FFN, STEP_DECODER };

typedef struct {
    int32_t kind;
    const void *arguments; /* the struct of that kind, below */
} Step;

/* A dense convolution as a product: [height, width, channels] -> [out_height*out_width, n].
 * The weight's rows are ordered (ky, kx, channel). */
typedef struct {
    const void *input;   /* float32 tokens; uint8 where `mean` is given */
    const float *mean;   /* [channels], subtracted before the zero padding; or NULL */
    float *output;
    Linear linear;
    Norm before;         /* of each input token; only where windows do not overlap */
    Norm after;
    int32_t height, width, channels;
    int32_t kernel, stride, padding;
    int32_t out_height, out_width;
} Convolution;

/* rows x inputs -> rows x outputs. */
typedef struct {
    const float *input;
    float *output;
    Linear linear; /* weight NULL: the norm alone */
    Norm before;
    int32_t rows;
    int32_t relu;
} LinearRows;

/* Steps of the grids that both sides of the attention's two products are rounded to; all 0: the
 * products are of float32. */
typedef struct {
    float query, key, softmax, value;
} Grids;

/* Reduced tokens [tokens, C] -> keys and values, packed for the attention's two products:
 * keys [heads][ceil(tokens/PANEL)][d][PANEL], values [heads][ceil(d/PANEL)][tokens][PANEL]; or, of
 * integers, as the weights of a `Linear` are, with room for whole lanes of tokens: keys as int16,
 * d even; values as bytes where BYTES is set (grid.h), else as int16. */
typedef struct {
    const float *input;
    void *keys;
    void *values;
    Linear linear; /* C -> 2C: keys, then values */
    Norm before;
    Grids grids;
    int32_t tokens, heads;
} Keys;

/* output = input + (softmax(q @ keys) @ values) @ out, with q = norm(input) @ query. */
typedef struct {
    const float *input;
    float *output;
    const void *keys;
    const void *values;
    Norm norm;
    Linear query, out;
    Grids grids;
    int32_t tokens, key_tokens, heads;
} Attention;

/* output = input + gelu(depthwise3x3(norm(input) @ expand)) @ contract; not in place. */
typedef struct {
    const float *input;
    float *output;
    Norm norm;
    Linear expand, contract;
    const float *depthwise;      /* [9][hidden] */
    const float *depthwise_bias; /* [hidden] */
    int32_t height, width;
    int32_t threads;             /* filled in when it runs */
} Ffn;

enum { COARSE = 3 };

/* logits = relu(own @ fuse + the sum of three resized maps) @ classifier. */
typedef struct {
    const float *own;   /* [height*width, inputs of `fuse`] */
    const void *classifier; /* [classes][channels]: the left side of its product */
    const float *classifier_bias;
    const float *classifier_scale; /* [classes], as in `Linear`; NULL: float32 */
    float classifier_step;         /* of the grid that the pixels are rounded to */
    int32_t classifier_bytes;      /* whether it and they are kept as bytes, not as int16 */
    float *logits;      /* [classes, height, width] */
    Linear fuse;        /* -> channels */
    const float *coarse[COARSE]; /* [h, w, channels] each */
    Axis rows[COARSE];
    Axis columns[COARSE];
    int32_t coarse_width[COARSE];
    int32_t height, width, channels, classes;
} Decoder;

/* Threads and their scratch memory. */
typedef struct Pool Pool;
typedef void (*Tile)(const void *arguments, int32_t tile, void *scratch);

/* Call work(arguments, t, scratch) for every t below `tiles`, on all threads of the pool;
 * each thread has `scratch_bytes` of its own. */
int segdeploy_parallel(
    Pool *pool, Tile work, const void *arguments, int32_t tiles, size_t scratch_bytes);

/* Whether threads without work leave their cores to others at once, or look for more a while. */
void segdeploy_rest(Pool *pool, int rest);

int32_t segdeploy_threads(const Pool *pool);

int KERNEL(segdeploy_convolution)(Pool *, const Convolution *);
int KERNEL(segdeploy_linear)(Pool *, const LinearRows *);
int KERNEL(segdeploy_keys)(Pool *, const Keys *);
int KERNEL(segdeploy_attention)(Pool *, const Attention *);
int KERNEL(segdeploy_ffn)(Pool *, const Ffn *);
int KERNEL(segdeploy_decoder)(Pool *, const Decoder *);

INLINE int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
INLINE int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }
INLINE int32_t tiles_of(int32_t count, int32_t step) { return (count + step - 1) / step; }

/* Rows of one tile, at most `most`: about a multiple of eight tiles, alike but for the last, so
 * that no thread waits long for another, unless that would leave too little to do in each. */
INLINE int32_t rows_of_tile(int32_t rows, int32_t most) {
    const int32_t eights = tiles_of(rows, 8 * most);
    return smaller(most, larger(2 * ROWS, tiles_of(rows, 8 * eights)));
}

#endif
