/* logits [C, h, w] -> class map [H, W]: bilinear upsampling, then argmax, without the upsampled
 * logits. Exact: the same indices as evaluating every class at every pixel in float32.
 *
 * Bilinear interpolation stays between its four corners, so inside one cell of the logit grid
 * a class can win only where its largest corner reaches the best of all classes' smallest
 * corners. That leaves one candidate in most cells; the others decide per pixel. */
#include "candidates.h"

/* ---- output -------------------------------------------------------------------------- */

INLINE void write_pixels(const Job *job, const int32_t *from, int32_t y, int32_t x, int32_t n) {
    const ptrdiff_t at = (ptrdiff_t)y * job->columns->outputs + x;
    if (job->out8) {
        uint8_t *to = job->out8 + at;
        for (int32_t i = 0; i < n; i++) to[i] = (uint8_t)from[i];
    } else {
        memcpy(job->out32 + at, from, (size_t)n * sizeof *from);
    }
}

INLINE void fill_pixels(const Job *job, int32_t class, int32_t y, int32_t x, int32_t n) {
    const ptrdiff_t at = (ptrdiff_t)y * job->columns->outputs + x;
    if (job->out8) {
        memset(job->out8 + at, class, (size_t)n);
    } else {
        for (int32_t i = 0; i < n; i++) job->out32[at + i] = class;
    }
}

/* ---- every class at every pixel -------------------------------------------------------- */

/* NaN counts as the greatest and the first one wins, as in NumPy and PyTorch. */
INLINE void plain_row(const Job *job, Scratch *s, int32_t y) {
    const Axis *columns = job->columns, *rows = job->rows;
    const float w0 = rows->w_lower[y], w1 = rows->w_upper[y];
    float *best = s->best, *mixed = s->mixed;
    int32_t *pixels = s->pixels;
    for (int32_t c = 0; c < job->classes; c++) {
        const float *a = row_of(job, c, rows->lower[y]), *b = row_of(job, c, rows->upper[y]);
        for (int32_t x = 0; x < columns->inputs; x++) mixed[x] = mix(w0, a[x], w1, b[x]);
        for (int32_t x = 0; x < columns->outputs; x++) {
            const float value = mix(columns->w_lower[x], mixed[columns->lower[x]],
                                    columns->w_upper[x], mixed[columns->upper[x]]);
            const int wins = c == 0 || (!(value <= best[x]) && best[x] == best[x]);
            best[x] = wins ? value : best[x];
            pixels[x] = wins ? c : pixels[x];
        }
    }
    write_pixels(job, pixels, y, 0, columns->outputs);
}

/* ---- pixels of a block ----------------------------------------------------------------- */

/* Pixels x.. of one cell row, LANES at a time; what overshoots is overwritten by the next cell. */
INLINE void decide_pixels(const Scratch *s, const Axis *columns, int32_t from, int32_t to,
                          int32_t x, int32_t n, int32_t *pixels) {
    if (to - from == 1) {
        const Ints only = (Ints){0} + s->candidate[from];
        for (int32_t i = 0; i < n; i += LANES) memcpy(pixels + i, &only, sizeof only);
        return;
    }
    for (int32_t i = 0; i < n; i += LANES) {
        Floats w0, w1;
        memcpy(&w0, columns->w_lower + x + i, sizeof w0);
        memcpy(&w1, columns->w_upper + x + i, sizeof w1);
        const Floats l0 = w0 * s->left[from], r0 = w1 * s->right[from];
        Floats best = l0 + r0;
        Ints winner = (Ints){0} + s->candidate[from];
        for (int32_t k = from + 1; k < to; k++) {
            const Floats l = w0 * s->left[k], r = w1 * s->right[k];
            const Floats value = l + r;
            const Ints wins = value > best;
            winner = (wins & s->candidate[k]) | (winner & ~wins);
            best = (Floats)(((Ints)value & wins) | ((Ints)best & ~wins));
        }
        memcpy(pixels + i, &winner, sizeof winner);
    }
}

INLINE void decide_row(const Job *job, Scratch *s, const Block *block, const int32_t *offset,
                       int32_t y) {
    const Axis *columns = job->columns;
    const float w0 = job->rows->w_lower[y], w1 = job->rows->w_upper[y];
    for (int32_t k = 0; k < offset[block->cells]; k++) {
        s->left[k] = mix(w0, s->corner[0][k], w1, s->corner[2][k]);
        s->right[k] = mix(w0, s->corner[1][k], w1, s->corner[3][k]);
    }
    const int32_t *start = columns->start + block->cell, begin = start[0];
    for (int32_t j = 0; j < block->cells; j++)
        decide_pixels(s, columns, offset[j], offset[j + 1], start[j], start[j + 1] - start[j],
                      s->pixels + (start[j] - begin));
    write_pixels(job, s->pixels, y, begin, start[block->cells] - begin);
}

/* All output rows y0..y1 between the two logit rows of the block. */
INLINE void decide_block(const Job *job, Scratch *s, const Block *block, int32_t y0, int32_t y1) {
    const int32_t begin = job->columns->start[block->cell];
    const int32_t end = job->columns->start[block->cell + block->cells];
    int32_t count[CELLS], offset[CELLS + 1];
    find_candidates(job, s, block, count);
    int uniform = 1;
    for (int32_t j = 0; j < block->cells; j++)
        uniform &= count[j] == 1 && s->lists[j * (ptrdiff_t)job->classes] == s->lists[0];
    if (uniform) {
        const int32_t class = s->alive[s->lists[0]];
        for (int32_t y = y0; y < y1; y++) fill_pixels(job, class, y, begin, end - begin);
        return;
    }
    gather_corners(job, s, block, count, offset);
    for (int32_t y = y0; y < y1; y++) decide_row(job, s, block, offset, y);
}

/* ---- rows of the output ---------------------------------------------------------------- */

static void direct_rows(const Job *job, Scratch *s, int32_t y0, int32_t y1) {
    for (int32_t y = y0; y < y1; y++) plain_row(job, s, y);
}

static void pruned_rows(const Job *job, Scratch *s, int32_t y0, int32_t y1) {
    const int32_t width = job->columns->inputs;
    for (int32_t y = y0; y < y1;) {
        const int32_t row = job->rows->lower[y], after = job->rows->upper[y];
        const int32_t last = job->rows->start[row + 1], end = last < y1 ? last : y1;
        const int i = slot_of_row(job, s, row, after), j = slot_of_row(job, s, after, row);
        const int32_t bits = s->bits[i] > s->bits[j] ? s->bits[i] : s->bits[j];
        if (bits >= UNSAFE_BITS) {
            for (; y < end; y++) plain_row(job, s, y);
            continue;
        }
        float largest;
        memcpy(&largest, &bits, 4);
        Block block = {{row, after}, {s->line[i], s->line[j]}, 0.0f, 0, 0, CELLS};
        block.margin = MARGIN_PER_LOGIT * largest + MARGIN_OF_UNDERFLOW;
        for (; block.cell < width; block.cell += CELLS, block.index++) {
            if (block.cell + CELLS > width) block.cells = width - block.cell;
            decide_block(job, s, &block, y, end);
        }
        y = end;
    }
}

/* Output rows y0..y1 of the class map, written at their place in the whole output. */
SEGDEPLOY_API int KERNEL(segdeploy_class_map)(
    const float *logits, int32_t classes, const Axis *rows, const Axis *columns, int32_t prune,
    int32_t y0, int32_t y1, uint8_t *out8, int32_t *out32) {
    const Job job = {logits, classes, rows, columns, out8, out32};
    Scratch scratch;
    void *memory = scratch_new(&scratch, &job);
    if (!memory) return STATUS_NO_MEMORY;
    (prune ? pruned_rows : direct_rows)(&job, &scratch, y0, y1);
    free(memory);
    return STATUS_OK;
}
