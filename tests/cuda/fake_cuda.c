/* A libcuda.so.1 and libnvidia-ml.so.1 for tests; what it says is set with -D when compiled. */
#include <stddef.h>
#include <string.h>

#ifndef GPUS
#define GPUS 2
#endif
#ifndef VERSION
#define VERSION 12060
#endif
#ifndef INIT
#define INIT 0
#endif
#ifndef BROKEN_GPU
#define BROKEN_GPU -1
#endif

static int started;

int cuInit(unsigned int flags) {
    started = INIT == 0 && flags == 0;
    return INIT;
}

#ifndef NO_VERSION
int cuDriverGetVersion(int *version) {
    *version = VERSION;
    return 0;
}
#endif

#ifndef NO_ERROR_NAMES
int cuGetErrorName(int code, const char **name) {
    *name = code == 100 ? "CUDA_ERROR_NO_DEVICE" : code == 999 ? "CUDA_ERROR_UNKNOWN" : NULL;
    return *name ? 0 : 1;
}
#endif

int cuDeviceGetCount(int *count) {
    *count = GPUS;
    return started ? 0 : 3;
}

/* Handles are not indices, so that a mix-up shows. */
int cuDeviceGet(int *device, int index) {
    *device = 70 + index;
    return index == BROKEN_GPU ? 999 : 0;
}

int cuDeviceGetName(char *name, int size, int device) {
    strncpy(name, device == 70 ? "Orin" : "NVIDIA GeForce RTX 4090", (size_t)size);
    return device >= 70 ? 0 : 101;
}

#ifndef NO_TOTAL_MEM
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    /* More than 32 bits hold. */
    *bytes = device == 70 ? (size_t)8 << 30 : (size_t)24 << 30;
    return 0;
}
#endif

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    const int orin[] = {8, 7, 1, 16}, ada[] = {8, 9, 0, 128};
    const int *of = device == 70 ? orin : ada;
    switch (attribute) {
    case 75: *value = of[0]; return 0;
    case 76: *value = of[1]; return 0;
    case 18: *value = of[2]; return 0;
    case 16: *value = of[3]; return 0;
    default: return 1;
    }
}

/* Whoever makes a context fails here: no test may need one. */
int cuCtxCreate_v2(void *context, unsigned int flags, int device) {
    (void)context, (void)flags, (void)device;
    __builtin_trap();
}

int nvmlInit_v2(void) { return 0; }

int nvmlSystemGetDriverVersion(char *version, unsigned int size) {
    strncpy(version, "560.35.03", size);
    return 0;
}

int nvmlShutdown(void) { return 0; }
