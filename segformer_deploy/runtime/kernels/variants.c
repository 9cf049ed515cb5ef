/* Which of the compiled variants this processor runs. */
#include "kernels.h"

SEGDEPLOY_API int32_t segdeploy_kernels_abi(void) { return SEGDEPLOY_KERNELS_ABI; }

/* The best variant built into this library that this processor can run. */
SEGDEPLOY_API const char *segdeploy_kernels_variant(void) {
#ifdef SEGDEPLOY_WITH_AVX2
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) return "avx2";
#endif
    return "baseline";
}
