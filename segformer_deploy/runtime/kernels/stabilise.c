/* One class map of a video, steadied by the one shown before it.
 *
 * Where the new map is flat (no other class beside the pixel) and says what was shown, it is
 * taken. Every other pixel is put to the vote of a window around it, in the new map, and of the
 * same window in the map shown before, moved along with the picture. A vote weighs
 *
 *     reach - the largest of the three channels' differences in colour, at least 0
 *
 * so that only what looks like the pixel has a say: votes end at the edges of the picture, and
 * where the picture was another one before, or was followed wrongly, the past has none. The
 * past's votes count the more the longer the pixel's class has been confirmed (its evidence).
 *
 * All of it is integer arithmetic; stabilise_numpy.py says the same in NumPy. */
#include "bytes.h"

enum {
    ROWS = 8, /* of the window; it reaches from x - 8 to x + 7, y - 4 to y + 3 */
    COLUMNS = 16,
    SAMPLES = ROWS * COLUMNS,
    VECTORS = SAMPLES / (4 * LANES),
    PRESENT = 16 /* weight of the new map's votes; the past's is `past` and more */
};

/* The classes and the weights of one window. `wide` holds int32 classes, `narrow` bytes. */
typedef struct {
    Bytes weight[VECTORS];
    union {
        Bytes narrow[VECTORS];
        int32_t wide[SAMPLES];
    } class;
    int32_t factor;
} Window;

INLINE int32_t clamp(int32_t value, int32_t last) {
    return value < 0 ? 0 : value > last ? last : value;
}

INLINE int32_t class_of(const void *map, ptrdiff_t at, int wide) {
    return wide ? ((const int32_t *)map)[at] : ((const uint8_t *)map)[at];
}

/* ---- a window's votes ------------------------------------------------------------------ */

INLINE void bytes_of(const uint8_t *from, int32_t width, Bytes *to) {
    for (int32_t v = 0; v < VECTORS; v++)
        to[v] = rows_of_16(from + (ptrdiff_t)(v * ROWS_PER_VECTOR) * width, width);
}

/* The window of a picture's planes and of a class map around (y, x), moved inside. */
INLINE void look(const Stabilise *job, const uint8_t *planes, const void *map, const uint8_t *colour,
                 int32_t y, int32_t x, int wide, Window *window) {
    const int32_t width = job->width;
    const ptrdiff_t plane = (ptrdiff_t)job->height * width;
    const ptrdiff_t at = (ptrdiff_t)clamp(y - ROWS / 2, job->height - ROWS) * width +
                         clamp(x - COLUMNS / 2, width - COLUMNS);
    Bytes blue[VECTORS], green[VECTORS], red[VECTORS];
    bytes_of(planes + at, width, blue);
    bytes_of(planes + plane + at, width, green);
    bytes_of(planes + 2 * plane + at, width, red);
    const Bytes reach = bytes((uint8_t)job->reach);
    const Bytes b = bytes(colour[0]), g = bytes(colour[1]), r = bytes(colour[2]);
    for (int32_t v = 0; v < VECTORS; v++) {
        const Bytes apart = greater_of(difference_of(blue[v], b), difference_of(green[v], g));
        window->weight[v] = excess_of(reach, greater_of(apart, difference_of(red[v], r)));
    }
    if (wide) {
        for (int32_t k = 0; k < ROWS; k++)
            memcpy(window->class.wide + k * COLUMNS,
                   (const int32_t *)map + at + (ptrdiff_t)k * width, COLUMNS * sizeof(int32_t));
    } else {
        bytes_of((const uint8_t *)map + at, width, window->class.narrow);
    }
}

/* The votes of one class, which are used up. */
INLINE int32_t take(Window *window, int32_t class, int wide) {
    if (wide) {
        uint8_t weight[SAMPLES];
        int32_t sum = 0;
        memcpy(weight, window->weight, SAMPLES);
        for (int32_t i = 0; i < SAMPLES; i++) {
            const int same = window->class.wide[i] == class;
            sum += same ? weight[i] : 0;
            weight[i] = same ? 0 : weight[i];
        }
        memcpy(window->weight, weight, SAMPLES);
        return sum * window->factor;
    }
    Bytes taken[VECTORS];
    for (int32_t v = 0; v < VECTORS; v++) {
        const Bytes same = (Bytes)(window->class.narrow[v] == bytes((uint8_t)class));
        taken[v] = same & window->weight[v];
        window->weight[v] -= taken[v];
    }
    return sum_of(taken, VECTORS) * window->factor;
}

INLINE int32_t take_both(Window *now, Window *before, int32_t class, int wide) {
    return take(now, class, wide) + (before->factor ? take(before, class, wide) : 0);
}

/* A class with a vote left; there is one. */
INLINE int32_t voted_class(const Window *now, const Window *before, int wide) {
    for (const Window *window = now;; window = before) {
        const uint8_t *weight = (const uint8_t *)window->weight;
        for (int32_t i = 0; i < SAMPLES; i++)
            if (weight[i])
                return wide ? window->class.wide[i]
                            : ((const uint8_t *)window->class.narrow)[i];
    }
}

/* The class with the most votes; of equal ones the shown, then the new, then the lowest. */
INLINE int32_t elect(Window *now, Window *before, int32_t shown, int32_t given, int wide) {
    int32_t best = shown, most = take_both(now, before, shown, wide);
    int32_t left = sum_of(now->weight, VECTORS) * now->factor;
    if (before->factor) left += sum_of(before->weight, VECTORS) * before->factor;
    for (int first = given != shown, others = 0; first || (left > 0 && left >= most); first = 0) {
        const int32_t class = first ? given : voted_class(now, before, wide);
        const int32_t votes = take_both(now, before, class, wide);
        left -= votes;
        if (votes > most || (others && votes == most && class < best)) {
            most = votes;
            best = class;
            others = !first;
        }
    }
    return best;
}

/* ---- rows ------------------------------------------------------------------------------ */

/* What was shown, moved along with the picture, [width]. Where the source lies outside, the new
 * class stands for the shown one, without evidence. */
typedef struct {
    void *shown;
    uint8_t *evidence;
    uint8_t *open; /* the pixels to vote on, with 8 zeros after them */
} Row;

INLINE void copy_some(void *to, ptrdiff_t i, const void *from, ptrdiff_t j, int32_t n, size_t of) {
    memcpy((char *)to + (size_t)i * of, (const char *)from + (size_t)j * of, (size_t)n * of);
}

/* `n` pixels that were shown at `from` now lie at `to`. */
INLINE void move_run(const Stabilise *job, const Row *row, int32_t to, ptrdiff_t from, int32_t n,
                     size_t of) {
    copy_some(row->shown, to, job->shown, from, n, of);
    memcpy(row->evidence + to, job->evidence + from, (size_t)n);
}

/* Pixels x..end, a run of cells with one motion; of them from..to have a source inside. */
INLINE void move_cells(const Stabilise *job, const int16_t *motion, int32_t y, int32_t x,
                       int32_t end, const Row *row, size_t of) {
    const int32_t width = job->width, dx = motion[0], source = y + motion[1];
    const int32_t from = x + dx < 0 ? -dx : x, to = end + dx > width ? width - dx : end;
    const int inside = source >= 0 && source < job->height && from < to;
    if (!inside || from > x || to < end) {
        copy_some(row->shown, x, job->given, (ptrdiff_t)y * width + x, end - x, of);
        memset(row->evidence + x, 0, (size_t)(end - x));
        if (!inside) return;
    }
    const ptrdiff_t at = (ptrdiff_t)source * width + from + dx;
    if (to - from == 8) /* the usual length as a constant: one move instead of a call */
        move_run(job, row, from, at, 8, of);
    else
        move_run(job, row, from, at, to - from, of);
}

INLINE void move_row(const Stabilise *job, const int16_t *motion, int32_t y, const Row *row,
                     int wide) {
    const size_t of = wide ? sizeof(int32_t) : 1;
    for (int32_t x = 0; x < job->width;) {
        int32_t end = x + job->cell;
        const int16_t *next = motion + 2;
        for (; end < job->width && next[0] == motion[0] && next[1] == motion[1]; next += 2)
            end += job->cell;
        if (end > job->width) end = job->width;
        move_cells(job, motion, y, x, end, row, of);
        x = end;
        motion = next;
    }
}

/* Marks the pixels that are not what was shown, or have another class above, below or beside. */
INLINE void mark_row(const Stabilise *job, int32_t y, const Row *row, int wide) {
    const int32_t width = job->width;
    const ptrdiff_t at = (ptrdiff_t)y * width;
    const ptrdiff_t up = y > 0 ? at - width : at, down = y + 1 < job->height ? at + width : at;
    uint8_t *open = row->open;
#define MARK(TYPE)                                                                        \
    do {                                                                                  \
        const TYPE *map = job->given, *shown = row->shown;                                \
        for (int32_t x = 0; x < width; x++)                                               \
            open[x] = (map[at + x] != shown[x]) | (map[at + x] != map[up + x]) |          \
                      (map[at + x] != map[down + x]);                                     \
        for (int32_t x = 1; x < width; x++) open[x] |= map[at + x] != map[at + x - 1];    \
        for (int32_t x = 1; x < width; x++) open[x - 1] |= map[at + x] != map[at + x - 1];\
    } while (0)
    if (wide)
        MARK(int32_t);
    else
        MARK(uint8_t);
#undef MARK
}

INLINE void vote(const Stabilise *job, const int16_t *motion, int32_t y, int32_t x, const Row *row,
                 int wide) {
    const ptrdiff_t at = (ptrdiff_t)y * job->width + x;
    const ptrdiff_t plane = (ptrdiff_t)job->height * job->width;
    const uint8_t *planes = job->picture;
    const uint8_t colour[3] = {planes[at], planes[plane + at], planes[2 * plane + at]};
    const int32_t evidence = row->evidence[x], given = class_of(job->given, at, wide);
    const int32_t shown = class_of(row->shown, x, wide);
    Window now, before;
    now.factor = PRESENT;
    look(job, planes, job->given, colour, y, x, wide, &now);
    motion += 2 * (x / job->cell);
    const int32_t was_y = y + motion[1], was_x = x + motion[0];
    const int known = was_y >= 0 && was_y < job->height && was_x >= 0 && was_x < job->width;
    before.factor = known ? job->past + job->trust * evidence : 0;
    if (before.factor)
        look(job, job->picture_before, job->shown, colour, was_y, was_x, wide, &before);
    else
        memset(&before, 0, sizeof before);
    const int32_t best = elect(&now, &before, shown, given, wide);
    if (wide)
        ((int32_t *)job->voted)[at] = best;
    else
        ((uint8_t *)job->voted)[at] = (uint8_t)best;
    if (best != shown)
        job->out_evidence[at] = 0;
    else if (given != shown)
        job->out_evidence[at] = (uint8_t)(evidence ? evidence - 1 : 0);
}

INLINE void rows(const Stabilise *job, Row *row, int32_t y0, int32_t y1, int wide) {
    const int32_t width = job->width;
    const uint8_t most = (uint8_t)job->most_evidence;
    for (int32_t y = y0; y < y1; y++) {
        const ptrdiff_t at = (ptrdiff_t)y * width;
        const int16_t *motion = job->motion + 2 * (ptrdiff_t)(y / job->cell) * job->motion_width;
        move_row(job, motion, y, row, wide);
        mark_row(job, y, row, wide);
        copy_some(job->voted, at, job->given, at, width, wide ? sizeof(int32_t) : 1);
        for (int32_t x = 0; x < width; x++) {
            const uint8_t now = row->evidence[x];
            job->out_evidence[at + x] = now < most ? (uint8_t)(now + 1) : most;
        }
        for (int32_t x = 0; x < width; x += 8) {
            int64_t any;
            memcpy(&any, row->open + x, 8);
            if (!any) continue;
            for (int32_t i = x; i < x + 8; i++)
                if (row->open[i]) vote(job, motion, y, i, row, wide);
        }
    }
}

/* Rows y0..y1 of `voted` and of `out_evidence`, written at their place in the whole. */
SEGDEPLOY_API int KERNEL(segdeploy_stabilise)(const Stabilise *job, int32_t y0, int32_t y1) {
    const size_t width = (size_t)job->width;
    uint8_t *memory = calloc(6 * width + 8, 1);
    if (!memory) return STATUS_NO_MEMORY;
    Row row = {memory, memory + 4 * width, memory + 5 * width};
    if (job->wide)
        rows(job, &row, y0, y1, 1);
    else
        rows(job, &row, y0, y1, 0);
    free(memory);
    return STATUS_OK;
}

/* A pixel of its own between three of one class, of the four beside it, takes theirs. Inner
 * pixels only. */
#define SMOOTH_ROW(TYPE)                                                                      \
    do {                                                                                      \
        const TYPE *row = (const TYPE *)job->voted + at, *up = row - width, *down = row + width; \
        TYPE *to = (TYPE *)job->out + at;                                                     \
        for (int32_t x = 1; x + 1 < width; x++) {                                             \
            const TYPE a = up[x], b = down[x], l = row[x - 1], r = row[x + 1];                \
            const TYPE upright = (TYPE) - ((a == b) & ((l == a) | (r == a)));                 \
            const TYPE level = (TYPE) - ((l == r) & ((a == l) | (b == l)));                   \
            to[x] = (upright & a) | (~upright & ((level & l) | (~level & row[x])));           \
        }                                                                                     \
    } while (0)

/* Rows y0..y1 of `out`, of a whole `voted`. */
SEGDEPLOY_API int KERNEL(segdeploy_smooth)(const Stabilise *job, int32_t y0, int32_t y1) {
    const int32_t width = job->width;
    const size_t of = job->wide ? sizeof(int32_t) : 1;
    for (int32_t y = y0; y < y1; y++) {
        const ptrdiff_t at = (ptrdiff_t)y * width;
        copy_some(job->out, at, job->voted, at, width, of);
        if (y == 0 || y + 1 == job->height) continue;
        if (job->wide)
            SMOOTH_ROW(int32_t);
        else
            SMOOTH_ROW(uint8_t);
    }
    return STATUS_OK;
}
