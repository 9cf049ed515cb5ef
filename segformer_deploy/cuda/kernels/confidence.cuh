/* logits, class map -> softmax probability of the map's class, as runtime/kernels/confidence.c:
 * 1 / sum over c of exp(value of c - value of the map's class), the sum in float64. */
#include "class_map.cuh"

typedef struct {
    ClassMap map; /* its out8 or out32 is read here */
    float *to;
} Confidence;

/* exp for float32 to about 2 ulp: x = n ln 2 + r; steps and constants of confidence.c. */
DEVICE float exp_of(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    const float shifted = x * 1.44269504f + shift;
    const float n = shifted - shift;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r;
    p = p + 1.0f;
    return p * float_of_bits((bits_of(shifted) << 23) + 0x3f800000u);
}

/* Grid: pixels of a frame, frames; THREADS_OF_PIXELS threads. */
KERNEL(confidence, Confidence) {
    const ClassMap *map = &job.map;
    const int width = map->columns.outputs, pixels = map->rows.outputs * width;
    const size_t plane = (size_t)map->rows.inputs * (size_t)map->columns.inputs;
    const size_t frame = (size_t)BLOCK_Z * (size_t)map->classes * plane;
    THREADS(t) {
        const int i = BLOCK_X * 128 + t;
        if (i < pixels) {
            const int y = i / width, x = i % width;
            const size_t at = (size_t)BLOCK_Z * (size_t)pixels + (size_t)i;
            const int chosen = map->out8 ? (int)map->out8[at] : map->out32[at];
            const float best = value_at(map, frame, chosen, y, x);
            double sum = 0.0;
            for (int c = 0; c < map->classes; c++)
                sum += (double)exp_of(value_at(map, frame, c, y, x) - best);
            job.to[at] = (float)(1.0 / sum);
        }
    }
}
