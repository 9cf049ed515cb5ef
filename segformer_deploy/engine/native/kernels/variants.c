/* Which of the compiled variants this processor runs. */
#include "network.h"

SEGDEPLOY_API int32_t segdeploy_network_abi(void) { return SEGDEPLOY_NETWORK_ABI; }

SEGDEPLOY_API const char *segdeploy_network_variant(void) {
#ifdef SEGDEPLOY_WITH_AVX2
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
    return "baseline";
}
