/* frame uint8 (BGR, RGB or NV12) -> uint8 RGB [h, w, 3], resized in the integer arithmetic of
 * Pillow, bit for bit, or of OpenCV's bilinear; as runtime/kernels/resample.c does on a CPU.
 *
 * One axis first, rounded to bytes, then the other. `resample_columns` also turns what the
 * camera gives into RGB, whichever of the two runs first is told to. */
#include "portable.h"

enum {
    PRECISION_BITS = 32 - 8 - 2,
    HALF_STEP = 1 << (PRECISION_BITS - 1),
    BGR = 0,
    RGB = 1,
    NV12 = 2, /* a plane of Y, then one of U and V, each for 2x2 pixels; BT.601, video range */
    THREADS_OF_PIXELS = 128,
};

/* One axis: output i is the sum of count[i] inputs from first[i] on, times fixed-point weights. */
typedef struct {
    const int *first;
    const int *count;
    const int *weights;
    int stride;
    int outputs; /* 0: the axis stays */
} Taps;

typedef struct {
    const u8 *from;
    const u8 *chroma; /* NV12: the second plane */
    u8 *to;
    Taps taps;
    int pitch;   /* bytes from one row of `from` to the next */
    int width;   /* of the input, in pixels */
    int rows;    /* of the output */
    int columns; /* of the output, in pixels */
    int format;  /* of the input */
    int first_row; /* of the input that output row 0 is made from (columns) */
} Resample;

typedef struct {
    int r, g, b;
} Pixel;

DEVICE u8 byte_of(int sum) {
    const int value = sum >> PRECISION_BITS;
    return (u8)(value < 0 ? 0 : value > 255 ? 255 : value);
}

DEVICE int clipped(int value) { return value < 0 ? 0 : value > 255 ? 255 : value; }

/* BT.601 as OpenCV computes it: factors with 20 fractional bits. */
DEVICE Pixel pixel_of_nv12(const Resample *job, int y, int x) {
    const int luma = job->from[(size_t)y * (size_t)job->pitch + (size_t)x] - 16;
    const u8 *pair = job->chroma + (size_t)(y / 2) * (size_t)job->pitch + (size_t)(x / 2 * 2);
    const int u = pair[0] - 128, v = pair[1] - 128, half = 1 << 19;
    const int light = (luma < 0 ? 0 : luma) * 1220542;
    Pixel pixel;
    pixel.r = clipped((light + 1673527 * v + half) >> 20);
    pixel.g = clipped((light - 852492 * v - 409993 * u + half) >> 20);
    pixel.b = clipped((light + 2116026 * u + half) >> 20);
    return pixel;
}

DEVICE Pixel pixel_at(const Resample *job, int y, int x) {
    if (job->format == NV12) return pixel_of_nv12(job, y, x);
    const u8 *at = job->from + (size_t)y * (size_t)job->pitch + (size_t)(3 * x);
    Pixel pixel;
    pixel.r = at[job->format == BGR ? 2 : 0];
    pixel.g = at[1];
    pixel.b = at[job->format == BGR ? 0 : 2];
    return pixel;
}

/* Grid: pixels of a row, rows. Rows keep their number; `taps.outputs` 0 only changes the format. */
KERNEL(resample_columns, Resample) {
    THREADS(t) {
        const int x = BLOCK_X * THREADS_OF_PIXELS + t, y = BLOCK_Y;
        if (x < job.columns) {
            const Taps *taps = &job.taps;
            u8 *to = job.to + ((size_t)y * (size_t)job.columns + (size_t)x) * 3;
            if (!taps->outputs) {
                const Pixel pixel = pixel_at(&job, job.first_row + y, x);
                to[0] = (u8)pixel.r;
                to[1] = (u8)pixel.g;
                to[2] = (u8)pixel.b;
            } else {
                const int *weights = taps->weights + (size_t)x * (size_t)taps->stride;
                const int first = taps->first[x], count = taps->count[x];
                int r = HALF_STEP, g = HALF_STEP, b = HALF_STEP;
                for (int i = 0; i < count; i++) {
                    const Pixel pixel = pixel_at(&job, job.first_row + y, first + i);
                    r += pixel.r * weights[i];
                    g += pixel.g * weights[i];
                    b += pixel.b * weights[i];
                }
                to[0] = byte_of(r);
                to[1] = byte_of(g);
                to[2] = byte_of(b);
            }
        }
    }
}

/* Grid: pixels of a row, output rows. */
KERNEL(resample_rows, Resample) {
    THREADS(t) {
        const int x = BLOCK_X * THREADS_OF_PIXELS + t, y = BLOCK_Y;
        if (x < job.columns) {
            const Taps *taps = &job.taps;
            const int *weights = taps->weights + (size_t)y * (size_t)taps->stride;
            const int first = taps->first[y] - job.first_row, count = taps->count[y];
            int r = HALF_STEP, g = HALF_STEP, b = HALF_STEP;
            for (int i = 0; i < count; i++) {
                const Pixel pixel = pixel_at(&job, first + i, x);
                r += pixel.r * weights[i];
                g += pixel.g * weights[i];
                b += pixel.b * weights[i];
            }
            u8 *to = job.to + ((size_t)y * (size_t)job.columns + (size_t)x) * 3;
            to[0] = byte_of(r);
            to[1] = byte_of(g);
            to[2] = byte_of(b);
        }
    }
}

/* OpenCV's bilinear for bytes (cv::resize, INTER_LINEAR), bit for bit: weights with 11 fractional
 * bits, four bits dropped between the axes and sixteen after. Tables of cuda/bilinear.py: lower
 * and upper position and the upper one's weight, per axis. */
typedef struct {
    const u8 *from;
    const u8 *chroma;
    u8 *to;
    const int *x_lower;
    const int *x_upper;
    const int *x_weight;
    const int *y_lower;
    const int *y_upper;
    const int *y_weight;
    int pitch;
    int rows;
    int columns;
    int format;
} Bilinear;

DEVICE u8 mixed_rows(int above, int v0, int below, int v) {
    return (u8)(((v0 * (above >> 4) >> 16) + (v * (below >> 4) >> 16) + 2) >> 2);
}

/* Grid: pixels of a row, output rows. */
KERNEL(resample_bilinear, Bilinear) {
    THREADS(t) {
        const int x = BLOCK_X * THREADS_OF_PIXELS + t, y = BLOCK_Y;
        if (x < job.columns) {
            Resample view;
            view.from = job.from;
            view.chroma = job.chroma;
            view.pitch = job.pitch;
            view.format = job.format;
            const int above = job.y_lower[y], below = job.y_upper[y], v = job.y_weight[y];
            const int left = job.x_lower[x], right = job.x_upper[x], u = job.x_weight[x];
            const Pixel a = pixel_at(&view, above, left), b = pixel_at(&view, above, right);
            const Pixel c = pixel_at(&view, below, left), d = pixel_at(&view, below, right);
            const int u0 = 2048 - u, v0 = 2048 - v;
            u8 *to = job.to + ((size_t)y * (size_t)job.columns + (size_t)x) * 3;
            to[0] = mixed_rows(u0 * a.r + u * b.r, v0, u0 * c.r + u * d.r, v);
            to[1] = mixed_rows(u0 * a.g + u * b.g, v0, u0 * c.g + u * d.g, v);
            to[2] = mixed_rows(u0 * a.b + u * b.b, v0, u0 * c.b + u * d.b, v);
        }
    }
}
