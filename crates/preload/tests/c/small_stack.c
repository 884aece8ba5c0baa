// Threads with the smallest stacks that there are, on every path of the allocator.

#define _GNU_SOURCE
#include <limits.h>
#include <pthread.h>
#include <unistd.h>

#include "work.h"

static void *thread(void *argument) {
    uint64_t state = (uintptr_t)argument + 1;
    struct block *slots[16] = {0};
    for (int i = 0; i < 300; i++) step(&state, slots, 16);
    drop_all(slots, 16);
    struct block *large = make(1 << 20, 1);
    CHECK(large, "");
    large = realloc(large, 3 << 20);
    fill(large, 2 << 20, 2);
    void *aligned = memalign(1 << 16, 100000);
    CHECK(aligned, "");
    free(aligned);
    free(calloc(1, 500000));
    drop(large);
    errno = 0;
    volatile size_t huge = PTRDIFF_MAX;
    CHECK(!malloc(huge) && errno == ENOMEM, "");
    malloc_trim(0);
    mallinfo2();
    return NULL;
}

int main(void) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    size_t least = (size_t)sysconf(_SC_THREAD_STACK_MIN);
    CHECK(pthread_attr_setstacksize(&attributes, least) == 0, "%zu bytes", least);
    for (uintptr_t round = 0; round < 10; round++) {
        pthread_t threads[4];
        for (uintptr_t i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], &attributes, thread, (void *)(round * 4 + i)) == 0, "");
        for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    }
    return verdict();
}
