/* A CUDA driver whose device memory is host memory: what its parts share.
 *
 * Nothing runs before the host waits for it, and then only what that needs, so that a forgotten
 * event or wait gives a wrong answer every time; other schedules find what must not run early.
 * Memory lies between pages that may not be touched, and stays untouchable once it is freed.
 * One lock guards all of it: every call takes it, also the ones that run work.
 */
#ifndef HOST_MACHINE_H
#define HOST_MACHINE_H

#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

enum Result {
    OK = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_FAILED = 719,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_UNJOINED = 904,
    CAPTURE_ISOLATION = 905,
    CAPTURED_EVENT = 907,
    CAPTURE_WRONG_THREAD = 908,
};

typedef std::function<int()> Work;

/* --- memory.cpp --- */

enum class Place { device, pinned };

/* 0 where there is not so much. */
uintptr_t allocate(Place place, size_t size);
int release(Place place, uintptr_t address);
bool lies_in(Place place, uintptr_t address, size_t size);
/* Whether a host range is one that copies may use: not on the device, not freed, not half in. */
bool host_range(uintptr_t address, size_t size);
size_t held(Place place);
size_t blocks(Place place);
/* Gives back all, and says how many blocks there were. */
size_t release_all();
/* Forgets freed memory, which until then stays untouchable. */
void forget_freed();
/* The size of a block whose surroundings were written to, 0 where there is none; told once. */
size_t damaged_block();
/* Runs `work`; false where it touched what it must not. */
bool guarded(const std::function<void()> &work);

/* --- queue.cpp --- */

struct Stream;
struct Capture;

/* One record of an event. */
struct Mark {
    Stream *stream;
    std::shared_ptr<Capture> capture; /* set where it was recorded in one */
    std::map<Stream *, size_t> clock; /* there: how much of each stream's work lies before it */
    bool reached;
    double seconds;
};

struct Event {
    bool timing;
    std::shared_ptr<Mark> mark;
};

/* Work that is collected instead of run. */
struct Capture {
    Stream *origin;
    std::thread::id thread;
    int mode;
    bool broken;
    std::vector<Work> work;
    std::map<Stream *, size_t> counts;
};

struct Piece {
    Work work;
    std::shared_ptr<Mark> record, wait;
};

struct Stream {
    bool open = true;
    std::deque<Piece> queue;
    std::shared_ptr<Capture> capture;
    std::map<Stream *, size_t> clock;
};

/* Whether there is such a stream; a 1, CU_STREAM_LEGACY, becomes the context's own. */
bool find_stream(Stream *&stream);
int enqueue(Stream *stream, Work work);
void record(Stream *stream, Event *event);
int wait_for(Stream *stream, const Event *event);
int drain(Stream *stream);
int reach(const std::shared_ptr<Mark> &mark);
/* Runs one piece of what lies before `mark`. */
int approach(const std::shared_ptr<Mark> &mark);
int drain_all();
int begin_capture(Stream *stream, int mode);
int end_capture(Stream *stream, std::vector<Work> *work);
/* Whether a call that may wait is forbidden now; then the capture that forbids it is broken. */
bool capture_forbids_waiting();
size_t pending();

/* --- the machine (control.cpp) --- */

struct Module {
    bool open = true;
};

struct Function {
    std::shared_ptr<Module> module;
    const struct Kernel *kernel;
};

struct Graph {
    std::vector<Work> work;
};

struct Context {
    int retained = 0;
    int sticky = OK; /* after a kernel's fault every call fails, as on a GPU */
    std::set<Stream *> streams;
    Stream *legacy = nullptr; /* where others work who name no stream */
    std::set<Event *> events;
    std::map<void *, std::shared_ptr<Module>> modules;
    std::map<void *, std::unique_ptr<Function>> functions;
    std::set<Graph *> graphs, executables;
};

struct Failure {
    std::string name; /* empty: any call */
    long skip;        /* that many go well before */
    int code;
    bool once;
};

enum class Schedule { late, early, random };

struct Machine {
    std::recursive_mutex lock;
    long devices = 0; /* none until a test wants one */
    long version = 12060, major = 8, minor = 7, integrated = 1;
    size_t capacity = 0; /* 0: no limit */
    size_t peak = 0;
    int lost = OK; /* what every call answers */
    Schedule schedule = Schedule::late;
    std::minstd_rand random;
    std::vector<Failure> failures;
    std::map<std::string, long> counts;
    std::vector<std::string> calls, faults;
    bool started = false;
    Context *context = nullptr;
    std::vector<Stream *> all_streams; /* also destroyed ones, whose work still comes */
    long launches = 0, bad_frees = 0, leaked = 0;
};

Machine &machine();
void fault(const std::string &what);
/* Frees all that belongs to the context, which no one retains any more. */
void end_context();

/* --- kernels.cpp --- */

struct Kernel {
    const char *name;
    size_t bytes; /* of the one struct that it takes */
    void (*run)(const void *job);
};

const Kernel *find_kernel(const char *name);
void run_kernel(const Kernel *kernel, const void *job, const unsigned *grid, unsigned threads);

#define EXPORT extern "C" __attribute__((visibility("default")))

#endif
