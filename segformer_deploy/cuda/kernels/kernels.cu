/* All kernels of the GPU's way in and out, in one module. Compile with --fmad=false, or under a
 * host compiler with -ffp-contract=off: a fused multiply-add would round otherwise than a CPU. */
#include "confidence.cuh"
#include "overlay.cuh"
#include "resample.cuh"
