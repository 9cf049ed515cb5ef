/* Which of the compiled variants this processor runs. */
#include "network.h"

SEGDEPLOY_API int32_t segdeploy_network_abi(void) { return SEGDEPLOY_NETWORK_ABI; }

SEGDEPLOY_API const char *segdeploy_network_variant(void) {
#ifdef SEGDEPLOY_WITH_AVX2
    __builtin_cpu_init();
#ifdef SEGDEPLOY_WITH_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma"))
        return "avx512";
#endif
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
    return "baseline";
}
