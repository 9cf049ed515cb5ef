/* Which classes can win in a cell of the logit grid: class_map.c's first half, and what both
 * halves share.
 *
 * The margin. With u = 2^-24 and M the largest |logit| of the row pair, a computed value
 * differs from the exact one by at most ((1 + u)^6 - 1) M + 2^-148: on each axis one rounding
 * of the weight, one of the product, one of the sum; the last term is underflow. A class can
 * be dropped if its largest corner lies more than two such errors below the bound; the
 * subtraction below rounds once more. 2 * 6 u + u = 13 u < 16 u = 8 * 2^-23. */
#ifndef SEGDEPLOY_CANDIDATES_H
#define SEGDEPLOY_CANDIDATES_H

#include "kernels.h"

#include <float.h>

enum {
    CELLS = 16, /* cells looked at together: one cache line of logits */
    EDGES = 24, /* CELLS + 1, padded */
    HINTS = 8,  /* classes remembered per block */
    GROUP = 4,  /* classes swept together */
    AHEAD = 4,  /* classes to fetch ahead */
};

/* From here on sums may overflow, or the values are infinite or NaN: no pruning. 2^127. */
#define UNSAFE_BITS 0x7f000000
#define MARGIN_PER_LOGIT (8.0f * FLT_EPSILON)
#define MARGIN_OF_UNDERFLOW (4.0f * FLT_MIN)

typedef struct {
    const float *logits;
    int32_t classes;
    const Axis *rows;
    const Axis *columns;
    uint8_t *out8; /* exactly one of the two is set */
    int32_t *out32;
} Job;

typedef struct {
    float *line[2];   /* of two logit rows, max of each value and its right neighbour, */
    int32_t held[2];  /* [classes][stride]; which rows they are, -1: none */
    int32_t bits[2];  /* largest |logit| of each row, as the bits of a float */
    ptrdiff_t stride;
    float *value;     /* [classes][2][EDGES] logits around a block, of the classes in `alive` */
    int32_t *alive;   /* classes that may win somewhere in the block; ascending */
    int32_t *hints;   /* [blocks][HINTS] classes that could win there one logit row above */
    int32_t *hinted;  /* [blocks] how many */
    int32_t *lists;   /* [CELLS][classes] candidates of each cell, as indices into `alive` */
    int32_t *candidate; /* classes, without gaps, with corners and one row's values: */
    float *corner[4];
    float *left;
    float *right;
    int32_t *pixels;  /* class of each pixel of a row */
    float *best;      /* plain evaluation only */
    float *mixed;
} Scratch;

/* ---- scratch ------------------------------------------------------------------------- */

static void *scratch_new(Scratch *s, const Job *job) {
    const size_t classes = (size_t)job->classes, list = classes * CELLS;
    const size_t blocks = ((size_t)job->columns->inputs + CELLS - 1) / CELLS;
    const size_t outputs = (size_t)job->columns->outputs + 2 * CELLS;
    const size_t line = classes * blocks * CELLS;
    const size_t all = 2 * line + 2 * EDGES * classes + CELLS + classes + 8 * list +
                       (HINTS + 1) * blocks + 2 * outputs + blocks * CELLS;
    float *memory = aligned_alloc(64, (all * 4 + 63) / 64 * 64), *next = memory;
    if (!memory) return NULL;
    s->stride = (ptrdiff_t)(blocks * CELLS);
    for (int i = 0; i < 2; i++, next += line) s->line[i] = next;
    for (int i = 0; i < 4; i++, next += list) s->corner[i] = next;
    s->left = next, next += list;
    s->right = next, next += list;
    s->value = next, next += 2 * EDGES * classes + CELLS;
    s->best = next, next += outputs;
    s->mixed = next, next += blocks * CELLS;
    s->lists = (int32_t *)next, next += list;
    s->candidate = (int32_t *)next, next += list;
    s->alive = (int32_t *)next, next += classes;
    s->hints = (int32_t *)next, next += HINTS * blocks;
    s->hinted = (int32_t *)next, next += blocks;
    s->pixels = (int32_t *)next;
    s->held[0] = s->held[1] = -1;
    memset(s->hinted, 0, blocks * sizeof *s->hinted);
    return memory;
}

INLINE const float *row_of(const Job *job, int32_t class, int32_t row) {
    const ptrdiff_t width = job->columns->inputs;
    return job->logits + (class * (ptrdiff_t)job->rows->inputs + row) * width;
}

/* Fill a line for one logit row and note its largest magnitude. A class is far from the next
 * one in memory, which the hardware does not foresee. */
INLINE void load_row(const Job *job, Scratch *s, int32_t row, int slot) {
    const int32_t width = job->columns->inputs;
    int32_t bits = 0;
    for (int32_t c = 0; c < job->classes; c++) {
        const float *from = row_of(job, c, row);
        float *to = s->line[slot] + c * s->stride;
        if (c + AHEAD < job->classes) {
            const float *soon = row_of(job, c + AHEAD, row);
            for (int32_t x = 0; x < width; x += 16) __builtin_prefetch(soon + x);
        }
        for (int32_t x = 0; x < width; x++) {
            int32_t pattern;
            memcpy(&pattern, &from[x], 4);
            pattern &= 0x7fffffff;
            bits = pattern > bits ? pattern : bits;
        }
        for (int32_t x = 0; x < width - 1; x++) to[x] = max_of(from[x], from[x + 1]);
        to[width - 1] = from[width - 1];
        for (ptrdiff_t x = width; x < s->stride; x++) to[x] = -FLT_MAX;
    }
    s->held[slot] = row;
    s->bits[slot] = bits;
}

INLINE int slot_of_row(const Job *job, Scratch *s, int32_t row, int32_t keep) {
    if (s->held[0] == row) return 0;
    if (s->held[1] == row) return 1;
    const int slot = s->held[0] == keep;
    load_row(job, s, row, slot);
    return slot;
}

/* ---- candidates of a block of cells ---------------------------------------------------- */

/* One logit row pair, CELLS cells wide, fewer at the right border. */
typedef struct {
    int32_t row[2];
    const float *line[2];
    float margin;
    int32_t index, cell, cells;
} Block;

/* The logits of one class around a block; the last column repeats beyond the border. */
INLINE void load_values(const Job *job, const Block *block, int32_t class, float *to) {
    const int32_t inside = job->columns->inputs - block->cell;
    for (int i = 0; i < 2; i++) {
        const float *from = row_of(job, class, block->row[i]) + block->cell;
        float *row = to + i * EDGES;
        if (inside > CELLS) {
            memcpy(row, from, (CELLS + 1) * sizeof *row);
        } else {
            for (int x = 0; x <= CELLS; x++) row[x] = from[x < inside ? x : inside - 1];
        }
    }
}

/* bound = max(bound, smallest corner of each cell) */
INLINE void raise_bound(const float *value, float *bound) {
    const float *a = value, *b = value + EDGES;
    for (int j = 0; j < CELLS; j++) {
        const float low = min_of(min_of(a[j], b[j]), min_of(a[j + 1], b[j + 1]));
        bound[j] = max_of(bound[j], low);
    }
}

/* The cells, as bits, in which the largest corner reaches the bound. */
INLINE uint32_t reached(const float *value, const float *bound) {
    const float *a = value, *b = value + EDGES;
    uint32_t hits = 0;
    for (int j = 0; j < CELLS; j++) {
        const float high = max_of(max_of(a[j], b[j]), max_of(a[j + 1], b[j + 1]));
        hits |= high >= bound[j] ? 1u << j : 0u;
    }
    return hits;
}

INLINE Ints reaches(const float *above, const float *below, const float *bound) {
    Ints hits = {0};
    for (int i = 0; i < CELLS; i += LANES) {
        Floats a, b, limit;
        memcpy(&a, above + i, sizeof a);
        memcpy(&b, below + i, sizeof b);
        memcpy(&limit, bound + i, sizeof limit);
        hits |= (a >= limit) | (b >= limit);
    }
    return hits;
}

INLINE int any(Ints hits) {
    const Longs words = (Longs)hits;
    int64_t all = 0;
    for (int i = 0; i < LANES / 2; i++) all |= words[i];
    return all != 0;
}

/* alive = the classes that reach the bound anywhere in the block: the one step that looks at
 * every class, so several at a time. */
INLINE int32_t sweep(const Job *job, Scratch *s, const Block *block, const float *bound) {
    const float *above = block->line[0] + block->cell, *below = block->line[1] + block->cell;
    const ptrdiff_t stride = s->stride;
    int32_t found = 0, c = 0;
    for (; c + GROUP <= job->classes; c += GROUP) {
        Ints hits = {0};
        for (int i = 0; i < GROUP; i++)
            hits |= reaches(above + (c + i) * stride, below + (c + i) * stride, bound);
        if (!any(hits)) continue;
        for (int i = 0; i < GROUP; i++)
            if (any(reaches(above + (c + i) * stride, below + (c + i) * stride, bound)))
                s->alive[found++] = c + i;
    }
    for (; c < job->classes; c++)
        if (any(reaches(above + c * stride, below + c * stride, bound))) s->alive[found++] = c;
    return found;
}

/* Candidates of each cell, ascending, as indices into `alive`.
 *
 * Any class's smallest corners bound the best from below. The classes that mattered one logit
 * row above give a bound good enough to leave few alive; these sharpen it. */
INLINE void find_candidates(const Job *job, Scratch *s, const Block *block, int32_t *count) {
    float bound[CELLS], limit[CELLS];
    int32_t *hints = s->hints + (ptrdiff_t)block->index * HINTS, *hinted = s->hinted + block->index;
    for (int j = 0; j < CELLS; j++) bound[j] = -FLT_MAX;
    for (int32_t i = 0; i < *hinted; i++) {
        load_values(job, block, hints[i], s->value);
        raise_bound(s->value, bound);
    }
    for (int j = 0; j < CELLS; j++) limit[j] = bound[j] - block->margin;
    const int32_t alive = sweep(job, s, block, limit);
    for (int32_t i = 0; i < alive; i++) {
        load_values(job, block, s->alive[i], s->value + i * 2 * EDGES);
        raise_bound(s->value + i * 2 * EDGES, bound);
    }
    for (int j = 0; j < CELLS; j++) limit[j] = bound[j] - block->margin;
    for (int j = 0; j < CELLS; j++) count[j] = 0;
    *hinted = 0;
    const uint32_t inside = (1u << block->cells) - 1;
    for (int32_t i = 0; i < alive; i++) {
        uint32_t hits = reached(s->value + i * 2 * EDGES, limit) & inside;
        if (hits && *hinted < HINTS) hints[(*hinted)++] = s->alive[i];
        for (; hits; hits &= hits - 1) {
            const int j = __builtin_ctz(hits);
            s->lists[j * (ptrdiff_t)job->classes + count[j]++] = i;
        }
    }
}

/* Candidates without gaps, with the four corners of each: cell j owns offset[j]..offset[j + 1]. */
INLINE void gather_corners(const Job *job, Scratch *s, const Block *block, const int32_t *count,
                           int32_t *offset) {
    int32_t total = 0;
    for (int32_t j = 0; j < block->cells; j++) {
        const int32_t *list = s->lists + j * (ptrdiff_t)job->classes;
        offset[j] = total;
        for (int32_t k = 0; k < count[j]; k++, total++) {
            const float *a = s->value + list[k] * 2 * EDGES + j, *b = a + EDGES;
            s->candidate[total] = s->alive[list[k]];
            s->corner[0][total] = a[0];
            s->corner[1][total] = a[1];
            s->corner[2][total] = b[0];
            s->corner[3][total] = b[1];
        }
    }
    offset[block->cells] = total;
}

#endif
