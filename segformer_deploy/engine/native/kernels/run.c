/* A whole network in one call: its steps, one after another. */
#include "grid.h"

SEGDEPLOY_API int32_t KERNEL(segdeploy_network_panel)(void) { return PANEL; }

/* Which weights may be bytes, see `Linear`: none, those that fit (grid.h), or any. */
SEGDEPLOY_API int32_t KERNEL(segdeploy_network_bytes)(void) { return BYTES; }

SEGDEPLOY_API int KERNEL(segdeploy_network_run)(Pool *pool, const Step *steps, int32_t count) {
    int status = STATUS_OK;
    segdeploy_rest(pool, 0);
    for (int32_t i = 0; i < count && status == STATUS_OK; i++) {
        const void *arguments = steps[i].arguments;
        switch (steps[i].kind) {
        case STEP_CONVOLUTION: status = KERNEL(segdeploy_convolution)(pool, arguments); break;
        case STEP_LINEAR: status = KERNEL(segdeploy_linear)(pool, arguments); break;
        case STEP_KEYS: status = KERNEL(segdeploy_keys)(pool, arguments); break;
        case STEP_ATTENTION: status = KERNEL(segdeploy_attention)(pool, arguments); break;
        case STEP_FFN: status = KERNEL(segdeploy_ffn)(pool, arguments); break;
        case STEP_DECODER: status = KERNEL(segdeploy_decoder)(pool, arguments); break;
        default: status = STATUS_UNKNOWN_STEP;
        }
    }
    segdeploy_rest(pool, 1);
    return status;
}
