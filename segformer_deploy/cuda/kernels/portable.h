/* The same kernels for a GPU and, in tests, for a host compiler.
 *
 * A kernel is a sequence of phases. In a phase every thread of the block does its part on its
 * own; what one phase hands to the next lies in SHARED memory. On a GPU a phase is the code of
 * one thread and SYNC a barrier; on a host a phase is a loop over the threads of the block. So
 * nothing that decides an answer is written twice. */
#ifndef SEGDEPLOY_PORTABLE_H
#define SEGDEPLOY_PORTABLE_H

#ifdef __CUDACC__

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
/* Every kernel takes one struct, by value; it stays in the constant bank that launches fill. */
#define KERNEL(name, Job) extern "C" __global__ void name(const __grid_constant__ Job job)
#define DEVICE static __device__ __forceinline__
#define SHARED __shared__
#define THREADS(t) for (int t = (int)threadIdx.x, once_ = 1; once_; once_ = 0)
#define SYNC __syncthreads()
#define BLOCK_X ((int)blockIdx.x)
#define BLOCK_Y ((int)blockIdx.y)
#define BLOCK_Z ((int)blockIdx.z)

DEVICE float float_of_half(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
DEVICE u32 bits_of(float value) { return __float_as_uint(value); }
DEVICE float float_of_bits(u32 bits) { return __uint_as_float(bits); }

#else

#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef struct { int x, y, z; } HostIndex;
extern thread_local HostIndex host_block; /* which block runs, and of how many threads */
extern thread_local int host_threads;
#define KERNEL(name, Job)                                                       \
    static void name##_block(const Job &job);                                   \
    extern "C" void name##_host(const void *job) { name##_block(*(const Job *)job); } \
    static void name##_block(const Job &job)
#define DEVICE static inline
#define SHARED
#define THREADS(t) for (int t = 0; t < host_threads; t++)
#define SYNC (void)0
#define BLOCK_X host_block.x
#define BLOCK_Y host_block.y
#define BLOCK_Z host_block.z

DEVICE float float_of_half(u16 bits) {
    const u32 sign = (u32)(bits & 0x8000u) << 16, exponent = (bits >> 10) & 31u;
    u32 fraction = bits & 0x3ffu, word;
    float value;
    if (exponent == 31u) {
        word = sign | 0x7f800000u | fraction << 13;
    } else if (exponent) {
        word = sign | (exponent + 112u) << 23 | fraction << 13;
    } else { /* a subnormal: fraction * 2^-24 is exact */
        value = (float)(int)fraction * 5.9604644775390625e-8f;
        memcpy(&word, &value, 4);
        word |= sign;
    }
    memcpy(&value, &word, 4);
    return value;
}
DEVICE u32 bits_of(float value) {
    u32 bits;
    memcpy(&bits, &value, 4);
    return bits;
}
DEVICE float float_of_bits(u32 bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

#endif

#define MAGNITUDE 0x7fffffffu
DEVICE int smaller(int a, int b) { return a < b ? a : b; }
DEVICE u32 most_of(u32 a, u32 b) { return a > b ? a : b; }
DEVICE float min_of(float a, float b) { return a < b ? a : b; }
DEVICE float max_of(float a, float b) { return a > b ? a : b; }

#endif
