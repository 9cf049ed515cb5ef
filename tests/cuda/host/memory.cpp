/* Blocks between pages that may not be touched; freed ones may not be touched at all. */
#include "machine.h"

#include <csetjmp>
#include <csignal>
#include <cstring>
#include <sys/mman.h>

namespace {

enum { PAGE = 4096, ALIGNMENT = 256, FILLING = 0xA5 };

struct Block {
    char *pages; /* the first guard page */
    size_t all;  /* bytes from there to behind the last guard page */
    size_t size;
    Place place;
};

std::map<uintptr_t, Block> live;
std::vector<Block> freed; /* their addresses are not given again */
thread_local sigjmp_buf *way_out;
struct sigaction before;

/* The end of a block lies as near to the guard page behind it as its alignment allows. */
size_t inner(size_t size) { return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

const Block *block_of(uintptr_t address, size_t size, uintptr_t *start) {
    auto next = live.upper_bound(address);
    if (next == live.begin()) return nullptr;
    --next;
    *start = next->first;
    return address + size <= next->first + next->second.size ? &next->second : nullptr;
}

bool overlaps(uintptr_t address, size_t size, const Block &block) {
    const uintptr_t start = (uintptr_t)block.pages;
    return address < start + block.all && start < address + size;
}

bool whole(uintptr_t start, const Block &block) {
    const auto *first = (const unsigned char *)block.pages + PAGE;
    const auto *from = (const unsigned char *)start;
    const auto *last = (const unsigned char *)block.pages + block.all - PAGE;
    /* The page before may be long; what lies next to the block is what gets hit. */
    if (from - first > ALIGNMENT) first = from - ALIGNMENT;
    for (const auto *byte = first; byte < from; byte++)
        if (*byte != FILLING) return false;
    for (const auto *byte = from + block.size; byte < last; byte++)
        if (*byte != FILLING) return false;
    return true;
}

void leave(int, siginfo_t *, void *) {
    if (way_out) siglongjmp(*way_out, 1);
    /* Not ours: the instruction runs again, under the handler that was there before. */
    sigaction(SIGSEGV, &before, nullptr);
}

void untouchable(const Block &block) {
    mprotect(block.pages, block.all, PROT_NONE);
    madvise(block.pages, block.all, MADV_DONTNEED);
    freed.push_back(block);
}

}  // namespace

uintptr_t allocate(Place place, size_t size) {
    const size_t room = (inner(size) + PAGE - 1) / PAGE * PAGE, all = room + 2 * PAGE;
    void *pages = mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) return 0;
    char *usable = (char *)pages + PAGE;
    mprotect(usable, room, PROT_READ | PROT_WRITE);
    memset(usable, FILLING, room); /* nothing may rely on zeros */
    const uintptr_t address = (uintptr_t)(usable + room - inner(size));
    live[address] = Block{(char *)pages, all, size, place};
    return address;
}

int release(Place place, uintptr_t address) {
    auto found = live.find(address);
    if (found == live.end() || found->second.place != place) {
        machine().bad_frees++;
        fault("a free of what is not allocated");
        return INVALID_VALUE;
    }
    if (!whole(address, found->second)) fault("the surroundings of a block were written to");
    untouchable(found->second);
    live.erase(found);
    return OK;
}

bool lies_in(Place place, uintptr_t address, size_t size) {
    uintptr_t start;
    const Block *block = block_of(address, size, &start);
    return block && block->place == place;
}

bool host_range(uintptr_t address, size_t size) {
    if (lies_in(Place::pinned, address, size)) return true;
    for (const auto &one : live)
        if (overlaps(address, size, one.second)) return false;
    for (const auto &one : freed)
        if (overlaps(address, size, one)) return false;
    return true;
}

size_t held(Place place) {
    size_t sum = 0;
    for (const auto &one : live)
        if (one.second.place == place) sum += one.second.size;
    return sum;
}

size_t blocks(Place place) {
    size_t count = 0;
    for (const auto &one : live) count += one.second.place == place;
    return count;
}

size_t release_all() {
    const size_t count = live.size();
    for (const auto &one : live) untouchable(one.second);
    live.clear();
    return count;
}

void forget_freed() {
    for (const auto &one : freed) munmap(one.pages, one.all);
    freed.clear();
}

size_t damaged_block() {
    for (const auto &one : live) {
        if (whole(one.first, one.second)) continue;
        char *usable = one.second.pages + PAGE;
        memset(usable, FILLING, one.first - (uintptr_t)usable);
        char *end = (char *)one.first + one.second.size;
        memset(end, FILLING, (size_t)(one.second.pages + one.second.all - PAGE - end));
        return one.second.size;
    }
    return 0;
}

bool guarded(const std::function<void()> &work) {
    sigjmp_buf here, *outer = way_out;
    struct sigaction ours = {};
    ours.sa_sigaction = leave;
    ours.sa_flags = SA_SIGINFO | SA_NODEFER;
    if (!outer) sigaction(SIGSEGV, &ours, &before);
    volatile bool went_well = false;
    if (!sigsetjmp(here, 1)) {
        way_out = &here;
        work();
        went_well = true;
    }
    way_out = outer;
    if (!outer) sigaction(SIGSEGV, &before, nullptr);
    return went_well;
}
