/* Memory and copies. */
#include <algorithm>
#include <cstring>

#include "calls.h"

namespace {

/* As the driver's header has it. */
struct Copy2D {
    size_t src_x, src_y;
    unsigned src_type;
    const void *src_host;
    uintptr_t src_device;
    void *src_array;
    size_t src_pitch;
    size_t dst_x, dst_y;
    unsigned dst_type;
    void *dst_host;
    uintptr_t dst_device;
    void *dst_array;
    size_t dst_pitch;
    size_t width, height;
};

enum { DEVICE_MEMORY = 2 };

int illegal(const std::string &what) {
    fault(what);
    return ILLEGAL_ADDRESS;
}

bool on_device(uintptr_t address, size_t size) { return lies_in(Place::device, address, size); }

/* The bytes move when the work runs, also from memory that is not pinned. */
int copy_later(Stream *stream, uintptr_t to, uintptr_t from, size_t size, bool up, bool down) {
    if (!find_stream(stream)) return INVALID_HANDLE;
    if (!size) return OK;
    if (!(up ? on_device(to, size) : host_range(to, size))) return INVALID_VALUE;
    if (!(down ? on_device(from, size) : host_range(from, size))) return INVALID_VALUE;
    return enqueue(stream, [=] {
        const bool target = up ? on_device(to, size) : host_range(to, size);
        const bool source = down ? on_device(from, size) : host_range(from, size);
        if (!target || !source) return illegal("a copy ran after its memory was freed");
        const bool went = guarded([=] { memmove((void *)to, (const void *)from, size); });
        return went ? OK : illegal("a copy ran after its host memory was gone");
    });
}

int give(Place place, uintptr_t *answer, size_t size) {
    if (capture_forbids_waiting()) return CAPTURE_UNSUPPORTED;
    Machine &here = machine();
    if (!size) return INVALID_VALUE;
    const bool limited = place == Place::device && here.capacity;
    if (limited && held(place) + size > here.capacity) return OUT_OF_MEMORY;
    *answer = allocate(place, size);
    if (!*answer) return OUT_OF_MEMORY;
    here.peak = std::max(here.peak, held(Place::device));
    return OK;
}

int take(Place place, uintptr_t address) {
    if (capture_forbids_waiting()) return CAPTURE_UNSUPPORTED;
    return address ? release(place, address) : OK;
}

}  // namespace

static int mem_alloc(uintptr_t *answer, size_t size) {
    ENTER("cuMemAlloc", Needs::context);
    return give(Place::device, answer, size);
}

static int mem_free(uintptr_t address) {
    ENTER("cuMemFree", Needs::context);
    return take(Place::device, address);
}

static int host_alloc(uintptr_t *answer, size_t size, unsigned) {
    ENTER("cuMemHostAlloc", Needs::context);
    return give(Place::pinned, answer, size);
}

static int host_free(uintptr_t address) {
    ENTER("cuMemFreeHost", Needs::context);
    return take(Place::pinned, address);
}

static int get_info(size_t *free, size_t *total) {
    ENTER("cuMemGetInfo", Needs::context);
    *total = machine().capacity ? machine().capacity : (size_t)8 << 30;
    *free = *total - held(Place::device);
    return OK;
}

static int to_device(uintptr_t to, const void *from, size_t size, Stream *stream) {
    ENTER("cuMemcpyHtoDAsync", Needs::context);
    return copy_later(stream, to, (uintptr_t)from, size, true, false);
}

static int to_host(void *to, uintptr_t from, size_t size, Stream *stream) {
    ENTER("cuMemcpyDtoHAsync", Needs::context);
    return copy_later(stream, (uintptr_t)to, from, size, false, true);
}

static int on_the_device(uintptr_t to, uintptr_t from, size_t size, Stream *stream) {
    ENTER("cuMemcpyDtoDAsync", Needs::context);
    return copy_later(stream, to, from, size, true, true);
}

static int copy_rows(const Copy2D *given, Stream *stream) {
    ENTER("cuMemcpy2DAsync", Needs::context);
    if (!context->streams.count(stream)) return INVALID_HANDLE;
    const Copy2D copy = *given;
    if (copy.src_type != DEVICE_MEMORY || copy.dst_type != DEVICE_MEMORY) return INVALID_VALUE;
    if (copy.src_x || copy.src_y || copy.dst_x || copy.dst_y) return INVALID_VALUE;
    if (copy.width > copy.src_pitch || copy.width > copy.dst_pitch) return INVALID_VALUE;
    if (!copy.width || !copy.height) return OK;
    const size_t last = copy.height - 1;
    const size_t read = last * copy.src_pitch + copy.width;
    const size_t written = last * copy.dst_pitch + copy.width;
    if (!on_device(copy.src_device, read) || !on_device(copy.dst_device, written))
        return INVALID_VALUE;
    return enqueue(stream, [=] {
        if (!on_device(copy.src_device, read) || !on_device(copy.dst_device, written))
            return illegal("a copy of rows ran after its memory was freed");
        for (size_t row = 0; row < copy.height; row++)
            memmove((void *)(copy.dst_device + row * copy.dst_pitch),
                    (const void *)(copy.src_device + row * copy.src_pitch), copy.width);
        return (int)OK;
    });
}

const Entry memory_calls[] = {
    {"cuMemAlloc", (void *)mem_alloc},
    {"cuMemFree", (void *)mem_free},
    {"cuMemHostAlloc", (void *)host_alloc},
    {"cuMemFreeHost", (void *)host_free},
    {"cuMemGetInfo", (void *)get_info},
    {"cuMemcpyHtoDAsync", (void *)to_device},
    {"cuMemcpyDtoHAsync", (void *)to_host},
    {"cuMemcpyDtoDAsync", (void *)on_the_device},
    {"cuMemcpy2DAsync", (void *)copy_rows},
    {nullptr, nullptr},
};
