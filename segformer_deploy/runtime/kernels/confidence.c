/* logits [C, h, w], class map [H, W] -> softmax probability of the map's class, [H, W]:
 * 1 / sum over c of exp(value of c - value of the map's class), the values being the same
 * interpolated float32 logits that the class map is decided on; the sum in float64. */
#include "kernels.h"

typedef uint32_t Words __attribute__((vector_size(4 * LANES)));

INLINE Floats all(float value) { return (Floats){0} + value; }

INLINE Floats pick(Ints where, Floats yes, Floats no) {
    return (Floats)(((Ints)yes & where) | ((Ints)no & ~where));
}

/* exp(x) for float32 to about 2 ulp: x = n ln 2 + r, 2^n through the exponent's bits. NaN
 * stays NaN. Steps and constants are those of class_map_numpy.py, so the bits are the same. */
INLINE Floats exp_of(Floats x) {
    const Floats shift = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    x = pick(x < -87.0f, all(-87.0f), x);
    x = pick(x > 88.0f, all(88.0f), x);
    const Floats shifted = x * 1.44269504f + shift;
    const Floats n = shifted - shift;
    const Floats r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    Floats p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r;
    p = p + 1.0f;
    const Words scale = ((Words)shifted << 23) + 0x3f800000u;
    return p * (Floats)scale;
}

INLINE Floats load(const float *from) {
    Floats values;
    memcpy(&values, from, sizeof values);
    return values;
}

typedef struct {
    const float *logits;
    int32_t classes;
    const Axis *rows;
    const Axis *columns;
    const uint8_t *map8; /* exactly one of the two is set */
    const int32_t *map32;
    float *out;
} Job;

typedef struct {
    float *spread[4]; /* the four corners of each output column, one class */
    float *winner;    /* [rows of the pair][width] value of the map's class */
    double *sum;      /* the same */
    float *part;      /* one class's share of one row */
} Scratch;

/* Copying first lets the arithmetic run over contiguous columns, for all rows of the pair. */
INLINE void spread_class(const Job *job, int32_t y, int32_t c, Scratch *s) {
    const Axis *columns = job->columns;
    const float *plane = job->logits + (ptrdiff_t)c * job->rows->inputs * columns->inputs;
    const float *above = plane + (ptrdiff_t)job->rows->lower[y] * columns->inputs;
    const float *below = plane + (ptrdiff_t)job->rows->upper[y] * columns->inputs;
    for (int32_t x = 0; x < columns->outputs; x++) {
        s->spread[0][x] = above[columns->lower[x]];
        s->spread[1][x] = above[columns->upper[x]];
        s->spread[2][x] = below[columns->lower[x]];
        s->spread[3][x] = below[columns->upper[x]];
    }
}

INLINE float value_at(const Job *job, int32_t c, int32_t y, int32_t x) {
    const Axis *rows = job->rows, *columns = job->columns;
    const float *plane = job->logits + (ptrdiff_t)c * rows->inputs * columns->inputs;
    const float *above = plane + (ptrdiff_t)rows->lower[y] * columns->inputs;
    const float *below = plane + (ptrdiff_t)rows->upper[y] * columns->inputs;
    const int32_t i = columns->lower[x], j = columns->upper[x];
    const float left = mix(rows->w_lower[y], above[i], rows->w_upper[y], below[i]);
    const float right = mix(rows->w_lower[y], above[j], rows->w_upper[y], below[j]);
    return mix(columns->w_lower[x], left, columns->w_upper[x], right);
}

INLINE void begin_row(const Job *job, int32_t y, float *winner, double *sum) {
    const ptrdiff_t at = (ptrdiff_t)y * job->columns->outputs;
    for (int32_t x = 0; x < job->columns->outputs; x++) {
        const int32_t c = job->map8 ? job->map8[at + x] : job->map32[at + x];
        winner[x] = value_at(job, c, y, x);
        sum[x] = 0.0;
    }
}

INLINE void add_row(const Job *job, const Scratch *s, int32_t y, const float *winner, double *sum) {
    const Axis *columns = job->columns;
    const float w0 = job->rows->w_lower[y], w1 = job->rows->w_upper[y];
    for (int32_t x = 0; x < columns->outputs; x += LANES) {
        const Floats left = w0 * load(s->spread[0] + x) + w1 * load(s->spread[2] + x);
        const Floats right = w0 * load(s->spread[1] + x) + w1 * load(s->spread[3] + x);
        const Floats value = load(columns->w_lower + x) * left + load(columns->w_upper + x) * right;
        const Floats part = exp_of(value - load(winner + x));
        memcpy(s->part + x, &part, sizeof part);
    }
    for (int32_t x = 0; x < columns->outputs; x++) sum[x] += (double)s->part[x];
}

/* Output rows y0..y1, all between the same two logit rows; scratch rows are `width` long. */
static void confidence_rows(const Job *job, Scratch *s, ptrdiff_t width, int32_t y0, int32_t y1) {
    for (int32_t y = y0; y < y1; y++)
        begin_row(job, y, s->winner + (y - y0) * width, s->sum + (y - y0) * width);
    for (int32_t c = 0; c < job->classes; c++) {
        spread_class(job, y0, c, s);
        for (int32_t y = y0; y < y1; y++)
            add_row(job, s, y, s->winner + (y - y0) * width, s->sum + (y - y0) * width);
    }
    for (int32_t y = y0; y < y1; y++)
        for (ptrdiff_t x = 0; x < job->columns->outputs; x++)
            job->out[y * (ptrdiff_t)job->columns->outputs + x] =
                (float)(1.0 / s->sum[(y - y0) * width + x]);
}

/* Rows taken together, so that scratch stays small however far the logits are enlarged. */
enum { MOST_ROWS = 8 };

/* Output rows y0..y1, written at their place in the whole output. */
SEGDEPLOY_API int KERNEL(segdeploy_confidence)(
    const float *logits, int32_t classes, const Axis *rows, const Axis *columns,
    const uint8_t *map8, const int32_t *map32, int32_t y0, int32_t y1, float *out) {
    const Job job = {logits, classes, rows, columns, map8, map32, out};
    const size_t width = ((size_t)columns->outputs + LANES - 1) / LANES * LANES;
    Scratch s;
    s.sum = calloc(width, MOST_ROWS * (sizeof(double) + sizeof(float)) + 5 * sizeof(float));
    if (!s.sum) return STATUS_NO_MEMORY;
    s.winner = (float *)(s.sum + MOST_ROWS * width);
    s.part = s.winner + MOST_ROWS * width;
    for (size_t i = 0; i < 4; i++) s.spread[i] = s.part + (1 + i) * width;
    for (int32_t y = y0; y < y1;) {
        int32_t end = rows->start[rows->lower[y] + 1];
        end = end < y1 ? end : y1;
        end = end < y + MOST_ROWS ? end : y + MOST_ROWS;
        confidence_rows(&job, &s, (ptrdiff_t)width, y, end);
        y = end;
    }
    free(s.sum);
    return STATUS_OK;
}
