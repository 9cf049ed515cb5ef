/* Mix-FFN (SegFormer, equation 3) in strips of rows: the hidden map, four times as wide as the
 * tokens, exists only as a few rows around the one that is being made. */
#include "functions.h"
#include "product.h"

enum { TOKENS = 64, STRIPS = 2 * 8 };

/* Rows handled at once, so that a product has enough rows to be worth its panels. */
INLINE int32_t rows_at_once(const Ffn *f) {
    return smaller(tiles_of(TOKENS, f->width), tiles_of(f->height, 2));
}

/* Every strip expands two rows more than it gives; few and tall ones waste less. */
INLINE int32_t strip_rows(const Ffn *f) {
    const int32_t tall = larger(8, tiles_of(f->height, STRIPS));
    return larger(rows_at_once(f), smaller(tall, tiles_of(f->height, 2)));
}

typedef struct {
    const Ffn *f;
    float *normed; /* [rows_at_once, width, C] */
    float *ring;   /* [slots, width, hidden]; row y lies in slot y % slots */
    float *active; /* [rows_at_once, width, hidden] */
    int32_t slots;
} Room;

static Room room_of(const Ffn *f, void *scratch) {
    const size_t at_once = (size_t)rows_at_once(f), width = (size_t)f->width;
    Room room = {.f = f, .normed = scratch, .slots = (int32_t)at_once + 2};
    room.active = room.normed + at_once * width * f->expand.inputs;
    room.ring = room.active + at_once * width * f->expand.outputs;
    return room;
}

static size_t room_bytes(const Ffn *f) {
    const size_t at_once = (size_t)rows_at_once(f), width = (size_t)f->width;
    const size_t hidden = (size_t)f->expand.outputs;
    return width * (at_once * f->expand.inputs + (2 * at_once + 2) * hidden) * sizeof(float);
}

/* Hidden rows `begin` to `end`, at most rows_at_once of them; those outside are zeros' place. */
static void expand_rows(const Room *room, int32_t begin, int32_t end) {
    const Ffn *f = room->f;
    const size_t inputs = (size_t)f->expand.inputs, hidden = (size_t)f->expand.outputs;
    begin = larger(begin, 0);
    end = smaller(end, f->height);
    while (begin < end) {
        const int32_t slot = begin % room->slots;
        const int32_t rows = smaller(end - begin, room->slots - slot);
        const int32_t tokens = rows * f->width;
        const float *input = f->input + (size_t)begin * f->width * inputs;
        norm_rows(&f->norm, input, room->normed, tokens);
        const Product p = product_of(room->normed, inputs, tokens, &f->expand,
                                     room->ring + (size_t)slot * f->width * hidden);
        product(&p);
        begin += rows;
    }
}

/* One output column of the 3x3 window: sums over the rows that exist. */
INLINE Floats column_sum(
    const float *const rows[3], size_t at, const Floats weight[9], const int column, Floats sum) {
#pragma GCC unroll 3
    for (int row = 0; row < 3; row++)
        if (rows[row]) sum += load(rows[row] + at) * weight[3 * row + column];
    return sum;
}

/* gelu(depthwise 3x3 + bias) of row y; channels in the outer loop keep the weights in registers. */
static void activate_row(const Room *room, int32_t y, float *to) {
    const Ffn *f = room->f;
    const size_t hidden = (size_t)f->expand.outputs;
    const float *rows[3];
    for (int32_t i = 0; i < 3; i++) {
        const int32_t row = y - 1 + i;
        const int inside = row >= 0 && row < f->height;
        rows[i] = inside ? room->ring + (size_t)(row % room->slots) * f->width * hidden : NULL;
    }
    for (size_t c = 0; c < hidden; c += LANES) {
        Floats weight[9];
        for (int i = 0; i < 9; i++) weight[i] = load(f->depthwise + i * hidden + c);
        const Floats bias = load(f->depthwise_bias + c);
        for (int32_t x = 0; x < f->width; x++) {
            const size_t at = (size_t)x * hidden + c;
            Floats sum = column_sum(rows, at, weight, 1, bias);
            if (x > 0) sum = column_sum(rows, at - hidden, weight, 0, sum);
            if (x + 1 < f->width) sum = column_sum(rows, at + hidden, weight, 2, sum);
            store(to + at, gelu_of(sum));
        }
    }
}

static void ffn_strip(const void *arguments, int32_t tile, void *scratch) {
    const Ffn *f = arguments;
    const Room room = room_of(f, scratch);
    const int32_t at_once = rows_at_once(f);
    const int32_t first = tile * strip_rows(f), last = smaller(first + strip_rows(f), f->height);
    const size_t hidden = (size_t)f->expand.outputs, channels = (size_t)f->contract.outputs;
    int32_t made = first - 1;
    for (int32_t y = first; y < last; y += at_once) {
        const int32_t count = smaller(at_once, last - y);
        while (made < y + count + 1) {
            const int32_t next = smaller(made + at_once, y + count + 1);
            expand_rows(&room, made, next);
            made = next;
        }
        for (int32_t row = 0; row < count; row++)
            activate_row(&room, y + row, room.active + (size_t)row * f->width * hidden);
        const size_t at = (size_t)y * f->width * channels;
        Product p = product_of(room.active, hidden, count * f->width, &f->contract, f->output + at);
        p.residual = f->input + at;
        product(&p);
    }
}

int KERNEL(segdeploy_ffn)(Pool *pool, const Ffn *f) {
    return segdeploy_parallel(
        pool, ffn_strip, f, tiles_of(f->height, strip_rows(f)), room_bytes(f));
}
