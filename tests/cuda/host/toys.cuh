/* Kernels for tests of the driver itself. */

typedef struct {
    const float *from;
    float *to;
    int count;
    float factor;
} Scale;

KERNEL(toy_scale, Scale) {
    THREADS(t) {
        const int i = BLOCK_X * host_threads + t;
        if (i < job.count) job.to[i] = job.factor * job.from[i];
    }
}

typedef struct {
    u8 *to;
    long long offset;
    int value;
} Poke;

KERNEL(toy_poke, Poke) {
    THREADS(t) {
        if (t == 0) job.to[job.offset] = (u8)job.value;
    }
}

/* to[k] = the number of the k-th block, as x + 100 y + 10000 z. */
typedef struct {
    int *to;
    int wide, high;
} Blocks;

KERNEL(toy_blocks, Blocks) {
    THREADS(t) {
        const int k = (BLOCK_Z * job.high + BLOCK_Y) * job.wide + BLOCK_X;
        if (t == host_threads - 1) job.to[k] = BLOCK_X + 100 * BLOCK_Y + 10000 * BLOCK_Z;
    }
}
