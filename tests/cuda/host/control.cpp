/* What tests ask and set: not part of CUDA. */
#include <cstring>

#include "machine.h"

#define LOCK std::lock_guard<std::recursive_mutex> lock(machine().lock)

Machine &machine() {
    static Machine *one = new Machine; /* outlives every thread that still calls */
    return *one;
}

void fault(const std::string &what) { machine().faults.push_back(what); }

bool find_stream(Stream *&stream) {
    Machine &here = machine();
    if (stream != (Stream *)1) return here.context->streams.count(stream);
    if (!here.context->legacy) {
        here.context->legacy = new Stream;
        here.all_streams.push_back(here.context->legacy);
    }
    stream = here.context->legacy;
    return true;
}

void end_context() {
    Machine &here = machine();
    Context *context = here.context;
    drain_all();
    const size_t graphs = context->graphs.size() + context->executables.size();
    here.leaked += (long)(release_all() + context->streams.size() + context->events.size() +
                          context->modules.size() + graphs);
    for (Event *event : context->events) delete event;
    for (Graph *graph : context->graphs) delete graph;
    for (Graph *graph : context->executables) delete graph;
    *context = Context();
    for (Stream *stream : here.all_streams) delete stream;
    here.all_streams.clear();
    here.context = nullptr;
}

EXPORT void host_cuda_reset(long devices) {
    LOCK;
    Machine &here = machine();
    here.lost = OK;
    here.schedule = Schedule::late;
    if (here.context) end_context();
    forget_freed();
    here.devices = devices;
    here.started = false;
    here.version = 12060;
    here.major = 8, here.minor = 7, here.integrated = 1;
    here.capacity = here.peak = 0;
    here.failures.clear();
    here.counts.clear();
    here.calls.clear();
    here.faults.clear();
    here.launches = here.bad_frees = here.leaked = 0;
}

static long *setting(const char *name) {
    Machine &here = machine();
    if (!strcmp(name, "devices")) return &here.devices;
    if (!strcmp(name, "version")) return &here.version;
    if (!strcmp(name, "major")) return &here.major;
    if (!strcmp(name, "minor")) return &here.minor;
    if (!strcmp(name, "integrated")) return &here.integrated;
    return nullptr;
}

EXPORT int host_cuda_set(const char *name, long value) {
    LOCK;
    Machine &here = machine();
    if (long *known = setting(name)) *known = value;
    else if (!strcmp(name, "capacity")) here.capacity = (size_t)value;
    else if (!strcmp(name, "lost")) here.lost = (int)value;
    else if (!strcmp(name, "late")) here.schedule = Schedule::late;
    else if (!strcmp(name, "early")) here.schedule = Schedule::early;
    else if (!strcmp(name, "random")) here.schedule = Schedule::random, here.random.seed((unsigned)value);
    else return 0;
    return 1;
}

EXPORT void host_cuda_fail(const char *name, long skip, int code, int once) {
    LOCK;
    machine().failures.push_back(Failure{name, skip, code, once != 0});
}

EXPORT void host_cuda_mend() {
    LOCK;
    machine().failures.clear();
    machine().lost = OK;
}

EXPORT long host_cuda_count(const char *name) {
    LOCK;
    const auto found = machine().counts.find(name);
    return found == machine().counts.end() ? 0 : found->second;
}

EXPORT long host_cuda_get(const char *name) {
    LOCK;
    Machine &here = machine();
    const Context *context = here.context;
    const struct { const char *name; long value; } all[] = {
        {"held", (long)held(Place::device)},
        {"host_held", (long)held(Place::pinned)},
        {"blocks", (long)blocks(Place::device)},
        {"peak", (long)here.peak},
        {"retained", context ? context->retained : 0},
        {"streams", context ? (long)context->streams.size() : 0},
        {"events", context ? (long)context->events.size() : 0},
        {"modules", context ? (long)context->modules.size() : 0},
        {"graphs", context ? (long)(context->graphs.size() + context->executables.size()) : 0},
        {"launches", here.launches},
        {"bad_frees", here.bad_frees},
        {"leaked", here.leaked},
        {"pending", (long)pending()},
        {"calls", (long)here.calls.size()},
        {"faults", (long)here.faults.size()},
    };
    for (const auto &one : all)
        if (!strcmp(one.name, name)) return one.value;
    return -1;
}

EXPORT const char *host_cuda_call(long index) {
    LOCK;
    return machine().calls[(size_t)index].c_str();
}

EXPORT const char *host_cuda_fault(long index) {
    LOCK;
    return machine().faults[(size_t)index].c_str();
}

EXPORT int host_cuda_is_device(uintptr_t address, size_t size) {
    LOCK;
    return lies_in(Place::device, address, size);
}

EXPORT int host_cuda_is_pinned(uintptr_t address, size_t size) {
    LOCK;
    return lies_in(Place::pinned, address, size);
}

/* 1 where what is queued now becomes a graph, -1 where there is no such stream. */
EXPORT int host_cuda_capturing(Stream *stream) {
    LOCK;
    const Context *context = machine().context;
    if (!context || !context->streams.count(stream)) return -1;
    return stream->capture != nullptr;
}

/* Work of another library: 0 where it went well. */
EXPORT int host_cuda_enqueue(Stream *stream, int (*work)(void *), void *data) {
    LOCK;
    Context *context = machine().context;
    if (!context || !context->streams.count(stream)) return INVALID_HANDLE;
    return enqueue(stream, [=] { return work(data) ? (int)LAUNCH_FAILED : (int)OK; });
}

EXPORT long host_cuda_kernel_bytes(const char *name) {
    const Kernel *kernel = find_kernel(name);
    return kernel ? (long)kernel->bytes : -1;
}

/* One kernel on the caller's own memory, now. */
EXPORT int host_cuda_run(const char *name, const void *job, const unsigned *grid, unsigned threads) {
    const Kernel *kernel = find_kernel(name);
    if (!kernel) return NOT_FOUND;
    run_kernel(kernel, job, grid, threads);
    return OK;
}
