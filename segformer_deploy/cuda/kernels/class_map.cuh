/* logits [N, C, h, w] -> class map [N, H, W]: bilinear upsampling, then argmax, without the
 * upsampled logits. The same indices as every class evaluated at every pixel in float32, and as
 * the CPU's kernel gives (runtime/kernels/class_map.c, which also derives the margin).
 *
 * A block owns a tile of cells of the logit grid. First each thread walks over the classes at
 * the four corners of its cell and keeps those whose largest corner reaches the best smallest
 * corner so far: every logit is read once. Then the threads share the pixels of the tile, of
 * which most have one candidate and need no arithmetic. */
#ifndef SEGDEPLOY_CLASS_MAP
#define SEGDEPLOY_CLASS_MAP

#include "portable.h"

enum {
    TILE_X = 32,
    TILE_Y = 16,
    CELLS = TILE_X * TILE_Y, /* threads of a block */
    KEPT = 6,                /* candidates that a cell can hold; with more, all classes count */
    EVERY = 255,
};

#define UNSAFE_BITS 0x7f000000u
#define MARGIN_PER_LOGIT (8.0f * 1.1920929e-7f)
#define MARGIN_OF_UNDERFLOW (4.0f * 1.17549435e-38f)
#define LOWEST (-3.402823466e38f)

/* One axis of the upsampling: tables of runtime/interpolation.py, in device memory. */
typedef struct {
    const int *lower;
    const int *upper;
    const float *w_lower;
    const float *w_upper;
    const int *start;
    int inputs;
    int outputs;
} Axis;

typedef struct {
    const void *logits;
    Axis rows;
    Axis columns;
    int classes;
    int half;  /* logits are FP16 */
    int prune; /* 0: every class at every pixel */
    u8 *out8;  /* exactly one of the two is set */
    int *out32;
} ClassMap;

DEVICE float logit_at(const ClassMap *job, size_t index) {
    return job->half ? float_of_half(((const u16 *)job->logits)[index])
                     : ((const float *)job->logits)[index];
}

DEVICE float mix(float w0, float a, float w1, float b) {
    const float first = w0 * a;
    const float second = w1 * b;
    return first + second;
}

/* What a cell's thread learns in one walk over the classes, in shared memory. */
typedef struct {
    u16 candidate[KEPT][CELLS];
    float highest[KEPT][CELLS]; /* each candidate's largest corner */
    u8 count[CELLS];            /* of candidates; EVERY: all classes */
} Found;

/* Drop what the bound now excludes; the number left. Order is kept: the first of equals wins. */
DEVICE int compacted(Found *found, int t, int count, float limit) {
    int left = 0;
    for (int k = 0; k < count; k++) {
        const float high = found->highest[k][t];
        if (high < limit) continue;
        found->highest[left][t] = high;
        found->candidate[left][t] = found->candidate[k][t];
        left++;
    }
    return left;
}

/* The candidates of the cell between logit rows y, y1 and columns x, x1.
 *
 * A class may be dropped when its largest corner lies more than twice the rounding error below
 * the smallest corner of one seen before: both errors are bounded by the largest magnitude among
 * the corners seen so far. */
DEVICE int find_candidates(const ClassMap *job, size_t frame, int y, int y1, int x, int x1,
                           Found *found, int t) {
    const int width = job->columns.inputs;
    const size_t plane = (size_t)job->rows.inputs * (size_t)width;
    size_t a = frame + (size_t)y * (size_t)width, b = frame + (size_t)y1 * (size_t)width;
    float bound = LOWEST, limit = LOWEST;
    u32 largest = 0;
    int count = 0;
    for (int c = 0; c < job->classes; c++, a += plane, b += plane) {
        const float p = logit_at(job, a + (size_t)x), q = logit_at(job, a + (size_t)x1);
        const float r = logit_at(job, b + (size_t)x), s = logit_at(job, b + (size_t)x1);
        const u32 most = most_of(most_of(bits_of(p) & MAGNITUDE, bits_of(q) & MAGNITUDE),
                                 most_of(bits_of(r) & MAGNITUDE, bits_of(s) & MAGNITUDE));
        largest = most_of(largest, most);
        if (largest >= UNSAFE_BITS) return EVERY;
        bound = max_of(bound, min_of(min_of(p, q), min_of(r, s)));
        limit = bound - (MARGIN_PER_LOGIT * float_of_bits(largest) + MARGIN_OF_UNDERFLOW);
        const float high = max_of(max_of(p, q), max_of(r, s));
        if (high < limit) continue;
        if (count == KEPT) count = compacted(found, t, count, limit);
        if (count == KEPT) return EVERY;
        found->candidate[count][t] = (u16)c;
        found->highest[count][t] = high;
        count++;
    }
    return compacted(found, t, count, limit);
}

/* One class's interpolated logit, in the package's one order of operations. */
DEVICE float value_at(const ClassMap *job, size_t frame, int c, int y, int x) {
    const Axis *rows = &job->rows, *columns = &job->columns;
    const size_t width = (size_t)columns->inputs;
    const size_t plane = frame + (size_t)c * (size_t)rows->inputs * width;
    const size_t above = plane + (size_t)rows->lower[y] * width;
    const size_t below = plane + (size_t)rows->upper[y] * width;
    const int i = columns->lower[x], j = columns->upper[x];
    const float w0 = rows->w_lower[y], w1 = rows->w_upper[y];
    const float left = mix(w0, logit_at(job, above + i), w1, logit_at(job, below + i));
    const float right = mix(w0, logit_at(job, above + j), w1, logit_at(job, below + j));
    return mix(columns->w_lower[x], left, columns->w_upper[x], right);
}

/* NaN counts as the greatest and the first one wins, as in NumPy and PyTorch. */
DEVICE int winner_of_all(const ClassMap *job, size_t frame, int y, int x) {
    float best = value_at(job, frame, 0, y, x);
    int winner = 0;
    for (int c = 1; c < job->classes; c++) {
        const float value = value_at(job, frame, c, y, x);
        if (!(value <= best) && best == best) {
            best = value;
            winner = c;
        }
    }
    return winner;
}

DEVICE int winner_of_some(const ClassMap *job, size_t frame, const Found *found, int t, int count,
                          int y, int x) {
    int winner = found->candidate[0][t];
    float best = value_at(job, frame, winner, y, x);
    for (int k = 1; k < count; k++) {
        const int c = found->candidate[k][t];
        const float value = value_at(job, frame, c, y, x);
        if (value > best) {
            best = value;
            winner = c;
        }
    }
    return winner;
}

/* Grid: tiles of columns, tiles of rows, frames; CELLS threads. */
KERNEL(class_map, ClassMap) {
    const Axis *rows = &job.rows, *columns = &job.columns;
    const int cell_x = BLOCK_X * TILE_X, cell_y = BLOCK_Y * TILE_Y;
    const int end_x = smaller(cell_x + TILE_X, columns->inputs);
    const int end_y = smaller(cell_y + TILE_Y, rows->inputs);
    const size_t planes = (size_t)job.classes * (size_t)rows->inputs;
    const size_t frame = (size_t)BLOCK_Z * planes * (size_t)columns->inputs;
    SHARED Found found;
    THREADS(t) {
        const int y = cell_y + t / TILE_X, x = cell_x + t % TILE_X;
        int count = EVERY;
        if (job.prune && y < end_y && x < end_x)
            count = find_candidates(&job, frame, y, smaller(y + 1, rows->inputs - 1), x,
                                    smaller(x + 1, columns->inputs - 1), &found, t);
        found.count[t] = (u8)count;
    }
    SYNC;
    const int from_y = rows->start[cell_y], from_x = columns->start[cell_x];
    const int high = rows->start[end_y] - from_y, wide = columns->start[end_x] - from_x;
    const size_t out = (size_t)BLOCK_Z * (size_t)rows->outputs;
    THREADS(t) {
        for (int i = t; i < high * wide; i += CELLS) {
            const int y = from_y + i / wide, x = from_x + i % wide;
            const int cell =
                (rows->lower[y] - cell_y) * TILE_X + (columns->lower[x] - cell_x);
            const int count = found.count[cell];
            const int winner =
                count == EVERY ? winner_of_all(&job, frame, y, x)
                : count == 1   ? found.candidate[0][cell]
                               : winner_of_some(&job, frame, &found, cell, count, y, x);
            const size_t at = (out + (size_t)y) * (size_t)columns->outputs + (size_t)x;
            if (job.out8)
                job.out8[at] = (u8)winner;
            else
                job.out32[at] = winner;
        }
    }
}

#endif
