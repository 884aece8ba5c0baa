// Threads that are cancelled, and threads that leave from the depth of their calls, while others allocate; what they
// held is freed by their cleanup handlers. Options: --few.

#include <pthread.h>

#include "work.h"

enum { SLOTS = 30 };

struct held {
    struct block *slots[SLOTS];
};

static atomic_int cleaned;

static void clean(void *argument) {
    struct held *held = argument;
    drop_all(held->slots, SLOTS);
    free(held);
    atomic_fetch_add(&cleaned, 1);
}

static void leave(uint64_t *state, struct held *held, int depth) {
    for (int i = 0; i < 20; i++) step(state, held->slots, SLOTS);
    if (depth) leave(state, held, depth - 1);
    // Always; the compiler is not to know.
    else if (next(state)) pthread_exit(make(100, 1));
}

static void *leaves(void *argument) {
    uint64_t state = (uintptr_t)argument + 1;
    struct held *held = calloc(1, sizeof *held);
    pthread_cleanup_push(clean, held);
    leave(&state, held, 5);
    pthread_cleanup_pop(0);
    return NULL;
}

static void *is_cancelled(void *argument) {
    uint64_t state = (uintptr_t)argument + 1;
    struct held *held = calloc(1, sizeof *held);
    pthread_cleanup_push(clean, held);
    for (;;) {
        for (int i = 0; i < 20; i++) step(&state, held->slots, SLOTS);
        pthread_testcancel();
    }
    pthread_cleanup_pop(0);
    return NULL;
}

int main(int count, char **arguments) {
    (void)count;
    const int rounds = has_flag(arguments, "--few") ? 25 : 100;
    for (uintptr_t round = 0; round < (uintptr_t)rounds; round++) {
        pthread_t threads[4];
        for (uintptr_t i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, i % 2 ? leaves : is_cancelled, (void *)(round * 4 + i)) == 0, "");
        for (uintptr_t i = 0; i < 4; i++) {
            void *result;
            if (i % 2 == 0) CHECK(pthread_cancel(threads[i]) == 0, "");
            CHECK(pthread_join(threads[i], &result) == 0, "");
            if (i % 2) drop(result);
            else CHECK(result == PTHREAD_CANCELED, "");
        }
    }
    // One that is cancelled before it begins has nothing to clean up.
    CHECK(cleaned >= 2 * rounds && cleaned <= 4 * rounds, "%d threads cleaned up", cleaned);
    return verdict();
}
