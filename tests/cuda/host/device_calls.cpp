/* The driver, its devices, the primary context, and who it is current for. */
#include <algorithm>
#include <cstring>

#include "calls.h"

namespace {

enum { FIRST_DEVICE = 70 }; /* handles are not indices, so that a mix-up shows */
thread_local std::vector<Context *> current;

bool is_device(int device) {
    return device >= FIRST_DEVICE && device < FIRST_DEVICE + machine().devices;
}

int get_name_and_text(int code, const char **name, const char **text) {
    static const struct {
        int code;
        const char *name, *text;
    } known[] = {
        {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
        {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
        {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
        {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
        {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
        {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
        {209, "CUDA_ERROR_NO_BINARY_FOR_GPU",
         "no kernel image is available for execution on the device"},
        {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
        {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
         "the provided PTX was compiled with an unsupported toolchain."},
        {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
        {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
        {600, "CUDA_ERROR_NOT_READY", "device not ready"},
        {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
        {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
        {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
    };
    for (const auto &one : known) {
        if (one.code != code) continue;
        *name = one.name;
        *text = one.text;
        return OK;
    }
    *name = *text = nullptr;
    return INVALID_VALUE;
}

}  // namespace

Context *current_context() { return current.empty() ? nullptr : current.back(); }

int enter(const char *name, Needs needs) {
    Machine &here = machine();
    here.counts[name]++;
    here.calls.push_back(name);
    if (here.lost) return here.lost;
    for (auto one = here.failures.begin(); one != here.failures.end(); ++one) {
        if (!one->name.empty() && one->name != name) continue;
        if (one->skip-- > 0) continue;
        const int code = one->code;
        one->skip = 0;
        if (one->once) here.failures.erase(one);
        return code;
    }
    if (needs == Needs::nothing) return OK;
    if (!here.started) return NOT_INITIALIZED;
    if (needs == Needs::started) return OK;
    if (!here.context || current_context() != here.context) return INVALID_CONTEXT;
    return here.context->sticky;
}

EXPORT int cuInit(unsigned flags) {
    ENTER("cuInit", Needs::nothing);
    if (flags) return INVALID_VALUE;
    if (!machine().devices) return NO_DEVICE;
    machine().started = true;
    return OK;
}

EXPORT int cuDriverGetVersion(int *version) {
    ENTER("cuDriverGetVersion", Needs::nothing);
    *version = (int)machine().version;
    return OK;
}

EXPORT int cuGetErrorName(int code, const char **name) {
    const char *text;
    return get_name_and_text(code, name, &text);
}

EXPORT int cuGetErrorString(int code, const char **text) {
    const char *name;
    return get_name_and_text(code, &name, text);
}

EXPORT int cuDeviceGetCount(int *count) {
    ENTER("cuDeviceGetCount", Needs::started);
    *count = (int)machine().devices;
    return OK;
}

EXPORT int cuDeviceGet(int *device, int index) {
    ENTER("cuDeviceGet", Needs::started);
    *device = FIRST_DEVICE + index;
    return index >= 0 && is_device(*device) ? OK : INVALID_DEVICE;
}

EXPORT int cuDeviceGetName(char *name, int size, int device) {
    ENTER("cuDeviceGetName", Needs::started);
    if (!is_device(device)) return INVALID_DEVICE;
    snprintf(name, (size_t)size, "Host Orin");
    return OK;
}

EXPORT int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    ENTER("cuDeviceTotalMem", Needs::started);
    if (!is_device(device)) return INVALID_DEVICE;
    *bytes = machine().capacity ? machine().capacity : (size_t)8 << 30;
    return OK;
}

EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
    ENTER("cuDeviceGetAttribute", Needs::started);
    if (!is_device(device)) return INVALID_DEVICE;
    switch (attribute) {
    case 16: *value = 16; return OK;
    case 18: *value = (int)machine().integrated; return OK;
    case 75: *value = (int)machine().major; return OK;
    case 76: *value = (int)machine().minor; return OK;
    default: return INVALID_VALUE;
    }
}

static int retain(Context **answer, int device) {
    ENTER("cuDevicePrimaryCtxRetain", Needs::started);
    if (device != FIRST_DEVICE) return INVALID_DEVICE;
    /* An old one is never deleted: its address must not come again. */
    if (!machine().context) machine().context = new Context;
    machine().context->retained++;
    *answer = machine().context;
    return OK;
}

/* Gives back even where it answers an error: a process that ends would. */
static int release_primary(int device) {
    std::lock_guard<std::recursive_mutex> lock(machine().lock);
    const int refused = enter("cuDevicePrimaryCtxRelease", Needs::started);
    if (device != FIRST_DEVICE || !machine().context) return INVALID_CONTEXT;
    if (--machine().context->retained == 0) end_context();
    return refused;
}

static int set_current(Context *given) {
    ENTER("cuCtxSetCurrent", Needs::started);
    if (given && given != context) return INVALID_CONTEXT;
    if (!current.empty()) current.pop_back();
    if (given) current.push_back(given);
    return OK;
}

static int get_current(Context **answer) {
    ENTER("cuCtxGetCurrent", Needs::started);
    *answer = current_context();
    return OK;
}

static int push_current(Context *given) {
    ENTER("cuCtxPushCurrent", Needs::started);
    if (!given || given != context) return INVALID_CONTEXT;
    current.push_back(given);
    return OK;
}

static int pop_current(Context **answer) {
    ENTER("cuCtxPopCurrent", Needs::started);
    if (current.empty()) return INVALID_CONTEXT;
    *answer = current.back();
    current.pop_back();
    return OK;
}

static int synchronise_context() {
    ENTER("cuCtxSynchronize", Needs::context);
    if (capture_forbids_waiting()) return CAPTURE_UNSUPPORTED;
    const int result = drain_all();
    return context->sticky ? context->sticky : result;
}

static int get_function(const char *name, void **function, int, uint64_t, int *status) {
    *function = nullptr;
    for (const Entry *table : {device_calls, memory_calls, work_calls, code_calls})
        for (; table->name; table++)
            if (!strcmp(table->name, name)) *function = table->function;
    if (status) *status = *function ? 0 : 1;
    return *function ? OK : NOT_FOUND;
}

EXPORT int cuGetProcAddress_v2(
    const char *name, void **function, int version, uint64_t flags, int *status) {
    return get_function(name, function, version, flags, status);
}

const Entry device_calls[] = {
    {"cuInit", (void *)cuInit},
    {"cuDriverGetVersion", (void *)cuDriverGetVersion},
    {"cuGetErrorName", (void *)cuGetErrorName},
    {"cuGetErrorString", (void *)cuGetErrorString},
    {"cuDeviceGetCount", (void *)cuDeviceGetCount},
    {"cuDeviceGet", (void *)cuDeviceGet},
    {"cuDeviceGetName", (void *)cuDeviceGetName},
    {"cuDeviceTotalMem", (void *)cuDeviceTotalMem_v2},
    {"cuDeviceGetAttribute", (void *)cuDeviceGetAttribute},
    {"cuDevicePrimaryCtxRetain", (void *)retain},
    {"cuDevicePrimaryCtxRelease", (void *)release_primary},
    {"cuCtxSetCurrent", (void *)set_current},
    {"cuCtxGetCurrent", (void *)get_current},
    {"cuCtxPushCurrent", (void *)push_current},
    {"cuCtxPopCurrent", (void *)pop_current},
    {"cuCtxSynchronize", (void *)synchronise_context},
    {nullptr, nullptr},
};
