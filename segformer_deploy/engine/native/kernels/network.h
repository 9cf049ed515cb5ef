/* What the network's kernels share: vectors, the tables Python hands over, the pool of threads.
 *
 * Everything is float32 and channels last: tokens [h*w, C], row by row. A product's right side
 * lies in panels of PANEL columns, [ceil(n/PANEL)][k][PANEL], padded with zeros, so that the
 * inner loop reads it in order; its left side is read where it lies.
 *
 * On x86-64 each kernel is compiled twice, as `name_baseline` and as `name_avx2` (AVX2 and
 * FMA); elsewhere once, as `name_baseline`. Sums are contracted to fused multiply-adds where
 * the processor has them, so the last bits differ between instruction sets, as they do
 * between any two libraries; what does not depend on it: the number of threads. */
#ifndef SEGDEPLOY_NETWORK_H
#define SEGDEPLOY_NETWORK_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Raised whenever a signature or a struct below changes; library.py refuses another number. */
#define SEGDEPLOY_NETWORK_ABI 1

#define SEGDEPLOY_API __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX2__)
#define KERNEL(name) name##_avx2
enum { LANES = 8, ROWS = 6 }; /* 12 of 16 registers hold sums */
#elif defined(__aarch64__)
#define KERNEL(name) name##_baseline
enum { LANES = 4, ROWS = 8 }; /* 16 of 32 */
#else
#define KERNEL(name) name##_baseline
enum { LANES = 4, ROWS = 6 };
#endif
enum { PANEL = 2 * LANES };

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef Floats LooseFloats __attribute__((aligned(4), may_alias));

enum { STATUS_OK = 0, STATUS_NO_MEMORY = 1, STATUS_UNKNOWN_STEP = 2 };

INLINE Floats load(const float *from) { return *(const LooseFloats *)from; }
INLINE void store(float *to, Floats value) { *(LooseFloats *)to = value; }
INLINE Floats splat(float value) { return value - (Floats){0}; }

/* y = x @ weight + bias. */
typedef struct {
    const float *weight; /* panels, see above */
    const float *bias;   /* [outputs], padded to whole panels; or NULL */
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

/* Reduced tokens [tokens, C] -> keys and values, packed for the attention's two products:
 * keys [heads][ceil(tokens/PANEL)][d][PANEL], values [heads][ceil(d/PANEL)][tokens][PANEL]. */
typedef struct {
    const float *input;
    float *keys;
    float *values;
    Linear linear; /* C -> 2C: keys, then values */
    Norm before;
    int32_t tokens, heads;
} Keys;

/* output = input + (softmax(q @ keys) @ values) @ out, with q = norm(input) @ query. */
typedef struct {
    const float *input;
    float *output;
    const float *keys;
    const float *values;
    Norm norm;
    Linear query, out;
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
} Ffn;

enum { COARSE = 3 };

/* logits = relu(own @ fuse + the sum of three resized maps) @ classifier. */
typedef struct {
    const float *own;   /* [height*width, inputs of `fuse`] */
    const float *classifier; /* [classes][channels]: the left side of its product */
    const float *classifier_bias;
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

int KERNEL(segdeploy_convolution)(Pool *, const Convolution *);
int KERNEL(segdeploy_linear)(Pool *, const LinearRows *);
int KERNEL(segdeploy_keys)(Pool *, const Keys *);
int KERNEL(segdeploy_attention)(Pool *, const Attention *);
int KERNEL(segdeploy_ffn)(Pool *, const Ffn *);
int KERNEL(segdeploy_decoder)(Pool *, const Decoder *);

INLINE int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
INLINE int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }
INLINE int32_t tiles_of(int32_t count, int32_t step) { return (count + step - 1) / step; }

/* Rows of one tile: whole tiles of a product, `most` of them, and eight tiles at least as long as
 * that leaves enough to do, so that no thread waits long for another's last. */
INLINE int32_t rows_of_tile(int32_t rows, int32_t most) {
    return smaller(most, larger(2 * ROWS, tiles_of(tiles_of(rows, 8), ROWS) * ROWS));
}

INLINE size_t padded(size_t count) { return (count + PANEL - 1) / PANEL * PANEL; }

#endif
