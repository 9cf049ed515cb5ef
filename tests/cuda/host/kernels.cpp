/* The package's kernels and those of tests, as functions that run one block. */
#include "machine.h"

#include "portable.h"

thread_local HostIndex host_block;
thread_local int host_threads;

namespace {

std::map<std::string, Kernel> &table() {
    static std::map<std::string, Kernel> kernels;
    return kernels;
}

struct Entry {
    Entry(const char *name, size_t bytes, void (*run)(const void *)) {
        table()[name] = Kernel{name, bytes, run};
    }
};

}  // namespace

/* As portable.h's, and in the table, with the size of its struct. */
#undef KERNEL
#define KERNEL(name, Job)                                                                   \
    static void name##_block(const Job &job);                                               \
    static void name##_host(const void *job) { name##_block(*(const Job *)job); }           \
    static const Entry name##_entry(#name, sizeof(Job), name##_host);                       \
    static void name##_block(const Job &job)

#include "kernels.cu"
#include "toys.cuh"

const Kernel *find_kernel(const char *name) {
    const auto found = table().find(name);
    return found == table().end() ? nullptr : &found->second;
}

void run_kernel(const Kernel *kernel, const void *job, const unsigned *grid, unsigned threads) {
    host_threads = (int)threads;
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                host_block = {(int)x, (int)y, (int)z};
                kernel->run(job);
            }
}
