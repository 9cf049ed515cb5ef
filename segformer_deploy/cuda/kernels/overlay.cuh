/* frame, class map -> the frame under its classes' colours, BGR as it came in; and the
 * probability of each pixel's class. */
#include "portable.h"

typedef struct {
    const u8 *frame;      /* [H, W, 3] */
    const u8 *map8;       /* exactly one of the two is set */
    const int *map32;
    const u8 *palette;    /* [classes + 1, 3] in the frame's order; the last one for no class */
    u8 *to;
    int classes;
    int pixels;
    float opacity;
} Overlay;

enum { THREADS_OF_OVERLAY = 256 };

/* Half to even, as OpenCV rounds; the value is never negative. */
DEVICE int rounded(float value) {
    const float shifted = value + 8388608.0f;
    return (int)(shifted - 8388608.0f);
}

KERNEL(overlay, Overlay) {
    THREADS(t) {
        const int i = BLOCK_X * THREADS_OF_OVERLAY + t;
        if (i < job.pixels) {
            const int found = job.map8 ? (int)job.map8[i] : job.map32[i];
            const int index = found < 0 || found > job.classes ? job.classes : found;
            const float behind = 1.0f - job.opacity;
            for (int c = 0; c < 3; c++) {
                const float a = behind * (float)job.frame[3 * (size_t)i + c];
                const float b = job.opacity * (float)job.palette[3 * index + c];
                const int value = rounded(a + b);
                job.to[3 * (size_t)i + c] = (u8)(value > 255 ? 255 : value);
            }
        }
    }
}
