/* Modules, their kernels and their launches; host functions. */
#include <cstring>
#include <sys/mman.h>

#include "calls.h"

namespace {

enum { LARGEST_BLOCK = 1024, LARGEST_SHARED = 48 * 1024, LARGEST_GRID_YZ = 65535 };

int load(void **answer, const void *image) {
    if (capture_forbids_waiting()) return CAPTURE_UNSUPPORTED;
    if (!image) return INVALID_VALUE;
    if (!*(const char *)image) return INVALID_IMAGE;
    auto module = std::make_shared<Module>();
    *answer = module.get();
    machine().context->modules[*answer] = module;
    return OK;
}

bool mapped(uintptr_t address) {
    unsigned char state;
    return mincore((void *)(address & ~(uintptr_t)4095), 1, &state) == 0;
}

/* Whether a word of the struct is the address of something that a kernel cannot reach: the
 * host's own memory, or what was freed. A number is no address of anything but by great chance. */
bool has_foreign_address(const std::vector<char> &job) {
    for (size_t at = 0; at + 8 <= job.size(); at += 8) {
        uintptr_t word;
        memcpy(&word, &job[at], 8);
        const bool reachable = lies_in(Place::device, word, 0) || lies_in(Place::pinned, word, 0);
        if (word >= 4096 && !reachable && mapped(word)) return true;
    }
    return false;
}

/* The parameters as an array of pointers, or packed, as the last argument of a launch has it. */
int take_job(const Kernel *kernel, void **parameters, void **extra, std::vector<char> *job) {
    const void *from = parameters ? parameters[0] : nullptr;
    for (; extra && *extra; extra += 2) {
        if (*extra == (void *)1) from = extra[1];
        if (*extra == (void *)2 && *(const size_t *)extra[1] != kernel->bytes) {
            fault(std::string(kernel->name) + " was given a struct of another size");
            return INVALID_VALUE;
        }
    }
    if (!from) return INVALID_VALUE;
    job->resize(kernel->bytes);
    memcpy(job->data(), from, kernel->bytes);
    if (has_foreign_address(*job)) {
        fault(std::string(kernel->name) + " was given an address that is not on the device");
        return INVALID_VALUE;
    }
    return OK;
}

int run(const Function &function, const std::vector<char> &job, const unsigned *grid,
        unsigned threads) {
    const std::string name = function.kernel->name;
    if (!function.module->open) {
        fault(name + " ran after its module was unloaded");
        return LAUNCH_FAILED;
    }
    machine().launches++;
    const bool went = guarded([&] { run_kernel(function.kernel, job.data(), grid, threads); });
    const size_t damaged = damaged_block();
    if (damaged) fault(name + " wrote beside a block of " + std::to_string(damaged) + " bytes");
    if (!went) fault(name + " touched what is no memory");
    return went && !damaged ? OK : ILLEGAL_ADDRESS;
}

}  // namespace

static int module_load(void **answer, const void *image) {
    ENTER("cuModuleLoadData", Needs::context);
    return load(answer, image);
}

static int module_load_ex(void **answer, const void *image, unsigned, int *, void **) {
    ENTER("cuModuleLoadDataEx", Needs::context);
    return load(answer, image);
}

static int module_unload(void *module) {
    ENTER("cuModuleUnload", Needs::context);
    const auto found = context->modules.find(module);
    if (found == context->modules.end()) return INVALID_HANDLE;
    found->second->open = false;
    for (auto one = context->functions.begin(); one != context->functions.end();)
        one = one->second->module == found->second ? context->functions.erase(one) : ++one;
    context->modules.erase(found);
    return OK;
}

static int module_function(void **answer, void *module, const char *name) {
    ENTER("cuModuleGetFunction", Needs::context);
    const auto found = context->modules.find(module);
    if (found == context->modules.end()) return INVALID_HANDLE;
    const Kernel *kernel = find_kernel(name);
    if (!kernel) return NOT_FOUND;
    std::unique_ptr<Function> function(new Function{found->second, kernel});
    *answer = function.get();
    context->functions[*answer] = std::move(function);
    return OK;
}

static int launch(void *handle, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                  unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                  Stream *stream, void **parameters, void **extra) {
    ENTER("cuLaunchKernel", Needs::context);
    const auto found = context->functions.find(handle);
    if (found == context->functions.end()) return INVALID_HANDLE;
    if (!context->streams.count(stream)) return INVALID_HANDLE;
    const uint64_t threads = (uint64_t)block_x * block_y * block_z;
    if (!grid_x || !grid_y || !grid_z || !threads) return INVALID_VALUE;
    if (grid_y > LARGEST_GRID_YZ || grid_z > LARGEST_GRID_YZ) return INVALID_VALUE;
    if (threads > LARGEST_BLOCK || block_z > 64 || shared > LARGEST_SHARED) return INVALID_VALUE;
    const Function function = *found->second;
    std::vector<char> job;
    if (const int refused = take_job(function.kernel, parameters, extra, &job)) return refused;
    return enqueue(stream, [=] {
        const unsigned grid[] = {grid_x, grid_y, grid_z};
        return run(function, job, grid, (unsigned)threads);
    });
}

static int launch_host_function(Stream *stream, void (*function)(void *), void *data) {
    ENTER("cuLaunchHostFunc", Needs::context);
    if (!context->streams.count(stream)) return INVALID_HANDLE;
    return enqueue(stream, [=] {
        function(data);
        return (int)OK;
    });
}

const Entry code_calls[] = {
    {"cuModuleLoadData", (void *)module_load},
    {"cuModuleLoadDataEx", (void *)module_load_ex},
    {"cuModuleUnload", (void *)module_unload},
    {"cuModuleGetFunction", (void *)module_function},
    {"cuLaunchKernel", (void *)launch},
    {"cuLaunchHostFunc", (void *)launch_host_function},
    {nullptr, nullptr},
};
