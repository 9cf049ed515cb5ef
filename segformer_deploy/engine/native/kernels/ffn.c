/* Mix-FFN (SegFormer, equation 3) in strips of rows: the hidden map, four times as wide as the
 * tokens, exists only as a few rows around the one that is being made. */
#include "functions.h"
#include "norm.h"
#include "product.h"

enum { TOKENS = 64, ACROSS = TOGETHER /* outputs of a row that share their loads */ };

/* Rows handled at once, so that a product has enough rows to be worth its panels. */
INLINE int32_t rows_at_once(const Ffn *f) {
    return smaller(tiles_of(TOKENS, f->width), tiles_of(f->height, 2));
}

/* Every strip expands two rows more than it gives: few and tall ones waste less. */
INLINE int32_t strip_rows(const Ffn *f) {
    const int32_t tall = larger(8, tiles_of(f->height, 2 * f->threads));
    return larger(rows_at_once(f), smaller(tall, tiles_of(f->height, 2)));
}

typedef struct {
    const Ffn *f;
    float *normed; /* [rows_at_once, width, C] */
    float *ring;   /* [slots, width, hidden]; row y lies in slot y % slots */
    float *active; /* [rows_at_once, width, hidden]; steps of a grid where `contract` takes them */
    float *zeros;  /* [width, hidden]: the rows outside */
    int32_t slots;
} Room;

static Room room_of(const Ffn *f, void *scratch) {
    const size_t at_once = (size_t)rows_at_once(f), width = (size_t)f->width;
    Room room = {.f = f, .normed = scratch, .slots = (int32_t)at_once + 2};
    room.active = room.normed + at_once * width * f->expand.inputs;
    room.zeros = room.active + at_once * width * f->expand.outputs;
    room.ring = room.zeros + width * f->expand.outputs;
    return room;
}

static size_t room_bytes(const Ffn *f) {
    const size_t at_once = (size_t)rows_at_once(f), width = (size_t)f->width;
    const size_t hidden = (size_t)f->expand.outputs;
    return width * (at_once * f->expand.inputs + (2 * at_once + 3) * hidden) * sizeof(float);
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
        const void *left =
            left_side(&f->expand, &f->norm, input, tokens, f->expand.inputs, room->normed);
        const Product p = product_of(left, inputs, tokens, &f->expand,
                                     room->ring + (size_t)slot * f->width * hidden);
        product(&p);
        begin += rows;
    }
}

/* gelu(depthwise 3x3 + bias), `count` outputs of a row from `x` on, all channels. `left`, `right`:
 * there is nothing beside them. To float32 or to steps of a grid, as `kind` says. It and `count`
 * are constants. */
INLINE void activate(const int kind, const int count, const Ffn *f,
                     const float *const rows[3], int32_t x, const int left, const int right,
                     void *to) {
    const float inverse = kind == FLOATS ? 0 : 1.0f / f->contract.input_step;
    const size_t hidden = (size_t)f->expand.outputs, at = (size_t)x * hidden;
    for (size_t c = 0; c < hidden; c += LANES) {
        const size_t left_over = hidden - c;
        Floats sum[ACROSS] = {{0}};
#pragma GCC unroll 4
        for (int i = 0; i < count; i++) sum[i] = load_some(f->depthwise_bias + c, left_over);
#pragma GCC unroll 3
        for (int row = 0; row < 3; row++) {
            const float *from = rows[row] + at + c;
            Floats in[ACROSS + 2];
            in[0] = left ? (Floats){0} : load_some(from - hidden, left_over);
#pragma GCC unroll 4
            for (int i = 0; i < count; i++) in[i + 1] = load_some(from + i * hidden, left_over);
            in[count + 1] = right ? (Floats){0} : load_some(from + count * hidden, left_over);
#pragma GCC unroll 3
            for (int column = 0; column < 3; column++) {
                const Floats weight =
                    load_some(f->depthwise + (3 * row + column) * hidden + c, left_over);
#pragma GCC unroll 4
                for (int i = 0; i < count; i++) sum[i] += in[i + column] * weight;
            }
        }
        gelu_of(sum);
#pragma GCC unroll 4
        for (int i = 0; i < count; i++) {
            const size_t place = at + i * hidden + c;
            if (kind == FLOATS) store_some((float *)to + place, sum[i], left_over);
            else if (kind == SHORTS)
                store_some_steps((int16_t *)to + place, sum[i], inverse, left_over);
            else
                store_some_bytes(
                    (uint8_t *)to + place, sum[i], inverse, f->contract.offset, left_over);
        }
    }
}

INLINE void activate_row(const int kind, const Room *room, int32_t y, void *to) {
    const Ffn *f = room->f;
    const int32_t width = f->width;
    const float *rows[3];
    for (int32_t i = 0; i < 3; i++) {
        const int32_t row = y - 1 + i;
        const size_t slot = (size_t)(row % room->slots) * width * f->expand.outputs;
        rows[i] = row >= 0 && row < f->height ? room->ring + slot : room->zeros;
    }
    if (width <= ACROSS) {
        for (int32_t x = 0; x < width; x++)
            activate(kind, 1, f, rows, x, x == 0, x + 1 == width, to);
        return;
    }
    activate(kind, ACROSS, f, rows, 0, 1, 0, to);
    for (int32_t x = ACROSS; x + ACROSS < width; x += ACROSS)
        activate(kind, ACROSS, f, rows, x, 0, 0, to);
    /* Some of them a second time. */
    activate(kind, ACROSS, f, rows, width - ACROSS, 0, 1, to);
}

/* Rows `y` to y + count into room->active. */
static void activate_rows(const Room *room, int32_t y, int32_t count) {
    const Linear *contract = &room->f->contract;
    const int kind = kind_of(contract);
    const size_t row = (size_t)room->f->width * contract->inputs * SIZE(kind);
    for (int32_t i = 0; i < count; i++) {
        char *to = (char *)room->active + i * row;
        if (kind == FLOATS) activate_row(FLOATS, room, y + i, to);
        else if (kind == SHORTS) activate_row(SHORTS, room, y + i, to);
        else activate_row(LEFT_BYTES, room, y + i, to);
    }
}

static void ffn_strip(const void *arguments, int32_t tile, void *scratch) {
    const Ffn *f = arguments;
    const Room room = room_of(f, scratch);
    const int32_t at_once = rows_at_once(f);
    const int32_t first = tile * strip_rows(f), last = smaller(first + strip_rows(f), f->height);
    const size_t hidden = (size_t)f->expand.outputs, channels = (size_t)f->contract.outputs;
    memset(room.zeros, 0, (size_t)f->width * hidden * sizeof(float));
    int32_t made = first - 1;
    for (int32_t y = first; y < last; y += at_once) {
        const int32_t count = smaller(at_once, last - y);
        while (made < y + count + 1) {
            const int32_t next = smaller(made + at_once, y + count + 1);
            expand_rows(&room, made, next);
            made = next;
        }
        activate_rows(&room, y, count);
        const size_t at = (size_t)y * f->width * channels;
        Product p = product_of(room.active, hidden, count * f->width, &f->contract, f->output + at);
        p.residual = f->input + at;
        product(&p);
    }
}

int KERNEL(segdeploy_ffn)(Pool *pool, const Ffn *asked) {
    Ffn ffn = *asked;
    ffn.threads = segdeploy_threads(pool);
    const Ffn *f = &ffn;
    return segdeploy_parallel(
        pool, ffn_strip, f, tiles_of(f->height, strip_rows(f)), room_bytes(f));
}
