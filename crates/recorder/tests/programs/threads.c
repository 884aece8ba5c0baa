// Threads that hand each other blocks: thread N allocates sizes that are N modulo 8, and frees what others allocated.
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>

enum { THREADS = 4, ROUNDS = 30000, SHELVES = 64 };

static void *_Atomic shelf[SHELVES];

static pthread_barrier_t start;

static void *work(void *argument) {
    pthread_barrier_wait(&start);
    uintptr_t self = (uintptr_t)argument;
    uint64_t random = 88172645463325252u + self;
    for (int round = 0; round < ROUNDS; round++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        size_t size = random % 60 * 8 + self;
        char *block = malloc(size);
        if (random >> 40 & 1)
            block = realloc(block, size + 800);
        block[0] = 1;
        free(__atomic_exchange_n(&shelf[random >> 20 & (SHELVES - 1)], block, __ATOMIC_ACQ_REL));
        if (round % 64 == 0)
            sched_yield(); // so that they meet on one processor too
    }
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    pthread_barrier_init(&start, NULL, THREADS);
    for (uintptr_t index = 0; index < THREADS; index++)
        pthread_create(&threads[index], NULL, work, (void *)(index + 1));
    for (int index = 0; index < THREADS; index++)
        pthread_join(threads[index], NULL);
    for (int index = 0; index < SHELVES; index++)
        free(shelf[index]);
    return 0;
}
