/* Many jobs on several pools at once, for test_pool.py: every tile is worked on exactly once, and no
 * thread touches a job that is over. Exit code 0 where that holds. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "network.h"

Pool *segdeploy_network_pool(int32_t threads);
void segdeploy_network_pool_close(Pool *pool);

enum { POOLS = 3, ROUNDS = 8, FRAMES = 20, JOBS = 30, TILES = 40 };

typedef struct {
    int *hits;
    int slow;
} Job;

static void work(const void *arguments, int32_t tile, void *scratch) {
    const Job *job = arguments;
    ((int *)scratch)[0] = tile;
    job->hits[tile]++;
    if (job->slow) usleep(1);
}

static void run_jobs(Pool *pool, unsigned *seed) {
    for (int j = 0; j < JOBS; j++) {
        const int tiles = 1 + rand_r(seed) % TILES;
        int hits[TILES] = {0};
        const Job job = {hits, rand_r(seed) % 7 == 0};
        const size_t room = 64 + (size_t)(rand_r(seed) % 5000);
        if (segdeploy_parallel(pool, work, &job, tiles, room)) abort();
        for (int t = 0; t < TILES; t++)
            if (hits[t] != (t < tiles)) {
                fprintf(stderr, "tile %d of %d: %d times\n", t, tiles, hits[t]);
                exit(1);
            }
    }
}

static void *session(void *argument) {
    unsigned seed = (unsigned)(size_t)argument;
    for (int round = 0; round < ROUNDS; round++) {
        Pool *pool = segdeploy_network_pool(1 + rand_r(&seed) % 6);
        if (!pool) abort();
        for (int frame = 0; frame < (round % 4 ? FRAMES : 0); frame++) {
            segdeploy_rest(pool, 0);
            run_jobs(pool, &seed);
            segdeploy_rest(pool, 1);
            if (frame % 3 == 0) usleep(rand_r(&seed) % 200);
        }
        segdeploy_network_pool_close(pool);
    }
    return NULL;
}

int main(void) {
    pthread_t threads[POOLS];
    for (size_t i = 0; i < POOLS; i++)
        if (pthread_create(&threads[i], NULL, session, (void *)(i + 1))) abort();
    for (int i = 0; i < POOLS; i++) pthread_join(threads[i], NULL);
    return 0;
}
