/* A libcuda.so.1 whose device memory is host memory, for tests of cuda/driver.py.
 *
 * Found as cuda-python finds the real one: through cuGetProcAddress_v2. Work on a stream waits
 * until the stream is synchronised, as it may on a GPU; every call needs the context to be the
 * calling thread's; what is out of bounds fails at the synchronisation. The environment says
 * what is here: FAKE_CUDA_DEVICES (1), FAKE_CUDA_BYTES (no limit), FAKE_CUDA_FAIL (a function).
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 1, NO_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101 };
enum { INVALID_CONTEXT = 201, INVALID_HANDLE = 400, ILLEGAL_ADDRESS = 700, BLOCKS = 64 };

typedef struct {
    char *target, *source;
    size_t target_pitch, source_pitch, width, height;
    int to_device, from_device;
} Copy;

/* As the driver's header has it. */
typedef struct {
    size_t src_x, src_y;
    unsigned int src_type;
    const void *src_host;
    uint64_t src_device;
    void *src_array;
    size_t src_pitch;
    size_t dst_x, dst_y;
    unsigned int dst_type;
    void *dst_host;
    uint64_t dst_device;
    void *dst_array;
    size_t dst_pitch;
    size_t width, height;
} Copy2D;

static struct { char *start; size_t size; } blocks[BLOCKS];
static Copy queue[BLOCKS];
static int queued, retained, streams, bad_frees;
static size_t held;
static int context, stream;
static __thread void *current;

/* What a test asks at the end. */
void fake_cuda_state(long *answer) {
    answer[0] = (long)held;
    answer[1] = retained;
    answer[2] = streams;
    answer[3] = bad_frees;
    answer[4] = queued;
}

static int fails(const char *name) {
    const char *wanted = getenv("FAKE_CUDA_FAIL");
    return wanted && !strcmp(wanted, name);
}

static int device_count(void) {
    const char *count = getenv("FAKE_CUDA_DEVICES");
    return count ? atoi(count) : 1;
}

#define NEEDS_CONTEXT(name) \
    if (fails(name)) return 999; \
    if (!retained || current != &context) return INVALID_CONTEXT
#define NEEDS_STREAM(given) \
    if (!streams || (given) != &stream) return INVALID_HANDLE

static int cu_init(unsigned int flags) {
    return flags ? INVALID_VALUE : device_count() ? OK : NO_DEVICE;
}

static int cu_driver_version(int *version) {
    *version = 12060;
    return OK;
}

static int cu_device_get(int *device, int index) {
    *device = 70 + index; /* no index, so that a mix-up shows */
    return index >= 0 && index < device_count() ? OK : INVALID_DEVICE;
}

static int cu_device_name(char *name, int size, int device) {
    strncpy(name, "Fake Orin", (size_t)size);
    return device >= 70 ? OK : INVALID_DEVICE;
}

static int cu_retain(void **answer, int device) {
    if (fails("cuDevicePrimaryCtxRetain")) return 999;
    if (device < 70) return INVALID_DEVICE;
    retained++;
    *answer = &context;
    return OK;
}

static int cu_release(int device) {
    if (device < 70 || !retained) return INVALID_CONTEXT;
    retained--;
    return OK;
}

static int cu_set_current(void *given) {
    if (fails("cuCtxSetCurrent")) return 999;
    if (given != &context) return INVALID_CONTEXT;
    current = given;
    return OK;
}

static int cu_stream_create(void **answer, unsigned int flags) {
    NEEDS_CONTEXT("cuStreamCreate");
    if (flags != 1) return INVALID_VALUE; /* non-blocking */
    streams++;
    *answer = &stream;
    return OK;
}

static int cu_stream_destroy(void *given) {
    NEEDS_CONTEXT("cuStreamDestroy");
    NEEDS_STREAM(given);
    streams--;
    return OK;
}

static int cu_alloc(uint64_t *answer, size_t size) {
    NEEDS_CONTEXT("cuMemAlloc");
    const char *limit = getenv("FAKE_CUDA_BYTES");
    if (!size) return INVALID_VALUE;
    if (limit && held + size > (size_t)atoll(limit)) return NO_MEMORY;
    for (int i = 0; i < BLOCKS; i++) {
        if (blocks[i].start) continue;
        blocks[i].start = malloc(size);
        memset(blocks[i].start, 0xA5, size);
        blocks[i].size = size;
        held += size;
        *answer = (uint64_t)(uintptr_t)blocks[i].start;
        return OK;
    }
    return NO_MEMORY;
}

static int cu_free(uint64_t address) {
    NEEDS_CONTEXT("cuMemFree");
    for (int i = 0; i < BLOCKS; i++) {
        if (!blocks[i].start || (uintptr_t)blocks[i].start != address) continue;
        free(blocks[i].start);
        held -= blocks[i].size;
        blocks[i].start = NULL;
        return OK;
    }
    bad_frees++;
    return INVALID_VALUE;
}

static int on_device(const char *start, size_t size) {
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i].start && start >= blocks[i].start &&
            start + size <= blocks[i].start + blocks[i].size)
            return 1;
    return 0;
}

static int enqueue(Copy copy) {
    if (queued == BLOCKS) return NO_MEMORY;
    queue[queued++] = copy;
    return OK;
}

static int cu_to_device(uint64_t target, const void *source, size_t size, void *on) {
    NEEDS_CONTEXT("cuMemcpyHtoDAsync");
    NEEDS_STREAM(on);
    return enqueue((Copy){(char *)(uintptr_t)target, (char *)source, 0, 0, size, 1, 1, 0});
}

static int cu_to_host(void *target, uint64_t source, size_t size, void *on) {
    NEEDS_CONTEXT("cuMemcpyDtoHAsync");
    NEEDS_STREAM(on);
    return enqueue((Copy){target, (char *)(uintptr_t)source, 0, 0, size, 1, 0, 1});
}

static int cu_copy_2d(const Copy2D *copy, void *on) {
    NEEDS_CONTEXT("cuMemcpy2DAsync");
    NEEDS_STREAM(on);
    if (copy->src_type != 2 || copy->dst_type != 2) return INVALID_VALUE; /* device memory */
    if (copy->width > copy->src_pitch || copy->width > copy->dst_pitch) return INVALID_VALUE;
    if (copy->src_x || copy->src_y || copy->dst_x || copy->dst_y) return INVALID_VALUE;
    return enqueue((Copy){(char *)(uintptr_t)copy->dst_device, (char *)(uintptr_t)copy->src_device,
                          copy->dst_pitch, copy->src_pitch, copy->width, copy->height, 1, 1});
}

static int cu_synchronize(void *given) {
    NEEDS_CONTEXT("cuStreamSynchronize");
    NEEDS_STREAM(given);
    int count = queued;
    queued = 0;
    for (int i = 0; i < count; i++) {
        Copy *copy = &queue[i];
        for (size_t row = 0; row < copy->height; row++) {
            char *target = copy->target + row * copy->target_pitch;
            char *source = copy->source + row * copy->source_pitch;
            if (copy->to_device && !on_device(target, copy->width)) return ILLEGAL_ADDRESS;
            if (copy->from_device && !on_device(source, copy->width)) return ILLEGAL_ADDRESS;
            memmove(target, source, copy->width);
        }
    }
    return OK;
}

int cuGetProcAddress_v2(
    const char *name, void **function, int version, uint64_t flags, int *status) {
    static const struct { const char *name; void *function; } all[] = {
        {"cuInit", cu_init},
        {"cuDriverGetVersion", cu_driver_version},
        {"cuDeviceGet", cu_device_get},
        {"cuDeviceGetName", cu_device_name},
        {"cuDevicePrimaryCtxRetain", cu_retain},
        {"cuDevicePrimaryCtxRelease", cu_release},
        {"cuCtxSetCurrent", cu_set_current},
        {"cuStreamCreate", cu_stream_create},
        {"cuStreamDestroy", cu_stream_destroy},
        {"cuStreamSynchronize", cu_synchronize},
        {"cuMemAlloc", cu_alloc},
        {"cuMemFree", cu_free},
        {"cuMemcpyHtoDAsync", cu_to_device},
        {"cuMemcpyDtoHAsync", cu_to_host},
        {"cuMemcpy2DAsync", cu_copy_2d},
    };
    (void)version, (void)flags;
    *function = NULL;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(all[i].name, name)) *function = all[i].function;
    if (status) *status = *function ? 0 : 1;
    return *function ? OK : 500;
}

int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
