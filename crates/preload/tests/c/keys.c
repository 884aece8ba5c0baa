// Threads with more keys than the C library has room for in a thread: it frees what it got for the others when all
// destructors have run. The memory after a few hundred such threads is the memory after thousands.
//
// Options: --never-frees (it grows, and works).

#include <pthread.h>

#include "work.h"

enum { KEYS = 60 };

static pthread_key_t keys[KEYS];

static void destroy(void *value) {
    drop(value);
    drop(make(300, 2));
}

static void *thread(void *argument) {
    for (int i = 0; i < KEYS; i++) CHECK(pthread_setspecific(keys[i], make(100, 1)) == 0, "key %d", i);
    return argument;
}

static size_t resident(void) {
    FILE *file = fopen("/proc/self/statm", "r");
    size_t size, pages = 0;
    CHECK(file && fscanf(file, "%zu %zu", &size, &pages) == 2, "");
    if (file) fclose(file);
    return pages * 4;
}

int main(int count, char **arguments) {
    (void)count;
    size_t first = 0;
    for (int i = 0; i < KEYS; i++) CHECK(pthread_key_create(&keys[i], destroy) == 0, "key %d", i);
    for (int i = 0; i < 3000; i++) {
        pthread_t id;
        CHECK(pthread_create(&id, NULL, thread, NULL) == 0, "thread %d", i);
        pthread_join(id, NULL);
        if (i == 300) first = resident();
    }
    size_t last = resident();
    if (!has_flag(arguments, "--never-frees")) CHECK(last <= first + 2048, "%zu KiB after a few hundred threads, %zu at the end", first, last);
    return verdict();
}
