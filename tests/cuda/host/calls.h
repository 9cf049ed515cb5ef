/* How a call begins: counted, made to fail where a test wants it, with the context current. */
#ifndef HOST_CALLS_H
#define HOST_CALLS_H

#include "machine.h"

enum class Needs { nothing, started, context };

/* CUDA_SUCCESS, or what the call must answer at once. */
int enter(const char *name, Needs needs);
Context *current_context();

#define ENTER(name, needs)                                       \
    std::lock_guard<std::recursive_mutex> lock(machine().lock);  \
    if (const int refused = enter(name, needs)) return refused;  \
    [[maybe_unused]] Context *context = machine().context

struct Entry {
    const char *name;
    void *function;
};

/* Tables that end in a null name. */
extern const Entry memory_calls[], work_calls[], code_calls[], device_calls[];

#endif
