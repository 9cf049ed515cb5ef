/* Threads that live as long as a session; between steps they spin, between frames they sleep.
 *
 * Nobody waits for a thread that has not begun: where another program has its core, the others do
 * its share. A thread counts itself among the `active` before it looks whether the job is still
 * `open`; who closes the job does the two in the other order. So once a closed job has no active
 * thread left, none can touch it any more. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "network.h"

/* 50 to 400 microseconds, as long as a pause takes here: longer than the gap between two steps. */
enum { SPINS = 1 << 14 };

typedef struct {
    pthread_t thread;
    Pool *pool;
    void *scratch;
    size_t scratch_bytes;
} Worker;

struct Pool {
    int32_t threads;
    Worker *workers; /* [threads]; the first is the caller's */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    int32_t sleepers; /* under mutex */
    atomic_int generation; /* rises with each job */
    atomic_int open, active;
    atomic_int next; /* tile of the job */
    atomic_int rest; /* between frames: sleep at once */
    atomic_int stop;
    Tile work;
    const void *arguments;
    int32_t tiles;
};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void work_off(Pool *pool, Worker *worker) {
    for (;;) {
        const int tile = atomic_fetch_add(&pool->next, 1);
        if (tile >= pool->tiles) return;
        pool->work(pool->arguments, tile, worker->scratch);
    }
}

/* Until there is a job later than number `*seen`, which becomes its number; false at the end. */
static int wait_for_job(Pool *pool, int *seen) {
    const int last = *seen;
    for (int spin = 0; spin < SPINS && !atomic_load(&pool->rest); spin++) {
        if ((*seen = atomic_load(&pool->generation)) != last) return 1;
        if (atomic_load(&pool->stop)) return 0;
        relax();
    }
    pthread_mutex_lock(&pool->mutex);
    pool->sleepers++;
    while (atomic_load(&pool->generation) == last && !atomic_load(&pool->stop))
        pthread_cond_wait(&pool->wake, &pool->mutex);
    pool->sleepers--;
    pthread_mutex_unlock(&pool->mutex);
    return (*seen = atomic_load(&pool->generation)) != last;
}

static void *worker_main(void *argument) {
    Worker *worker = argument;
    Pool *pool = worker->pool;
    for (int seen = 0; wait_for_job(pool, &seen); ) {
        atomic_fetch_add(&pool->active, 1);
        if (atomic_load(&pool->open)) work_off(pool, worker);
        atomic_fetch_sub(&pool->active, 1);
    }
    return NULL;
}

static int reserve(Pool *pool, size_t bytes) {
    for (int32_t i = 0; i < pool->threads; i++) {
        Worker *worker = &pool->workers[i];
        if (worker->scratch_bytes >= bytes) continue;
        free(worker->scratch);
        worker->scratch_bytes = 0;
        if (posix_memalign(&worker->scratch, 64, bytes)) {
            worker->scratch = NULL;
            return STATUS_NO_MEMORY;
        }
        worker->scratch_bytes = bytes;
    }
    return STATUS_OK;
}

int segdeploy_parallel(
    Pool *pool, Tile work, const void *arguments, int32_t tiles, size_t scratch_bytes) {
    if (reserve(pool, scratch_bytes)) return STATUS_NO_MEMORY;
    pool->work = work;
    pool->arguments = arguments;
    pool->tiles = tiles;
    if (pool->threads == 1 || tiles == 1) {
        for (int32_t tile = 0; tile < tiles; tile++)
            work(arguments, tile, pool->workers[0].scratch);
        return STATUS_OK;
    }
    atomic_store(&pool->next, 0);
    atomic_store(&pool->open, 1);
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->generation, 1);
    if (pool->sleepers) pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    work_off(pool, &pool->workers[0]);
    atomic_store(&pool->open, 0);
    for (int spin = 0; atomic_load(&pool->active); spin++) {
        if (spin < SPINS) relax();
        else sched_yield(); /* the last tile's thread may wait for this core */
    }
    return STATUS_OK;
}

void segdeploy_rest(Pool *pool, int rest) { atomic_store(&pool->rest, rest); }

int32_t segdeploy_threads(const Pool *pool) { return pool->threads; }

SEGDEPLOY_API void segdeploy_network_pool_close(Pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->stop, 1);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (int32_t i = 1; i < pool->threads; i++) pthread_join(pool->workers[i].thread, NULL);
    for (int32_t i = 0; i < pool->threads; i++) free(pool->workers[i].scratch);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->wake);
    free(pool->workers);
    free(pool);
}

/* NULL where there is no memory or no thread to be had. */
SEGDEPLOY_API Pool *segdeploy_network_pool(int32_t threads) {
    Pool *pool = calloc(1, sizeof *pool);
    if (!pool) return NULL;
    pool->workers = calloc((size_t)threads, sizeof *pool->workers);
    if (!pool->workers) {
        free(pool);
        return NULL;
    }
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    for (pool->threads = 1; pool->threads < threads; pool->threads++) {
        Worker *worker = &pool->workers[pool->threads];
        worker->pool = pool;
        if (pthread_create(&worker->thread, NULL, worker_main, worker)) {
            segdeploy_network_pool_close(pool);
            return NULL;
        }
    }
    return pool;
}
