// The program ends while its threads allocate, free each other's blocks, and start threads that end.

#include <pthread.h>

#include "work.h"

enum { SLOTS = 50 };

static struct block *_Atomic shared[SLOTS];
static atomic_int at_work;

static void swap(uint64_t *state) { drop(atomic_exchange(&shared[next(state) % SLOTS], make(next(state) % 2000, 3))); }

static void *short_lived(void *argument) {
    uint64_t state = (uintptr_t)argument;
    struct block *slots[SLOTS] = {0};
    for (int i = 0; i < 100; i++) step(&state, slots, SLOTS);
    swap(&state);
    drop_all(slots, SLOTS);
    return NULL;
}

static void *busy(void *argument) {
    uint64_t state = (uintptr_t)argument;
    struct block *slots[SLOTS] = {0};
    for (int i = 0;; i++) {
        step(&state, slots, SLOTS);
        swap(&state);
        pthread_t thread;
        if (i % 500 == 0 && pthread_create(&thread, NULL, short_lived, (void *)(uintptr_t)(state | 1)) == 0) pthread_join(thread, NULL);
        if (i == 600) at_work++;
    }
    return NULL;
}

int main(void) {
    enum { THREADS = 4 };
    uint64_t state = 5;
    struct block *slots[SLOTS] = {0};
    for (uintptr_t i = 1; i <= THREADS; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, busy, (void *)(i * 7919)) == 0, "");
    }
    while (at_work < THREADS) step(&state, slots, SLOTS);
    return verdict();
}
