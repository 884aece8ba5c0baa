// Ten thousand threads, started and ended: the footprint after a thousand is the footprint at the end.
//
// Options: --never-frees (it grows, and works), --system (glibc maps an arena for each thread that meets another).

#include <pthread.h>

#include "work.h"

static size_t of_status(const char *key) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    size_t value = 0;
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, key, strlen(key))) value = strtoul(line + strlen(key) + 1, NULL, 10);
    if (file) fclose(file);
    CHECK(value, "%s is missing", key);
    return value;
}

static struct block *_Atomic left_behind;

static void *thread(void *argument) {
    uint64_t state = (uintptr_t)argument * 2654435761u + 1;
    struct block *slots[10] = {0};
    for (int i = 0; i < 30; i++) step(&state, slots, 10);
    drop_all(slots, 10);
    // Freed by another thread, mostly after this one has ended.
    drop(atomic_exchange(&left_behind, make(next(&state) % 500, 3)));
    return NULL;
}

int main(int count, char **arguments) {
    (void)count;
    int never_frees = has_flag(arguments, "--never-frees"), on_system = has_flag(arguments, "--system");
    enum { ALL = 10000, FIRST = 1000, AT_ONCE = 5 };
    size_t resident = 0, size = 0;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 128 << 10);
    for (uintptr_t i = 0; i < ALL; i += AT_ONCE) {
        pthread_t threads[AT_ONCE];
        for (uintptr_t j = 0; j < AT_ONCE; j++) CHECK(pthread_create(&threads[j], &attributes, thread, (void *)(i + j)) == 0, "thread %zu", (size_t)(i + j));
        for (int j = 0; j < AT_ONCE; j++) pthread_join(threads[j], NULL);
        if (i + AT_ONCE == FIRST) {
            resident = of_status("VmRSS:");
            size = of_status("VmSize:");
        }
    }
    drop(left_behind);
    size_t more_resident = of_status("VmRSS:"), more_size = of_status("VmSize:");
    printf("KiB resident %zu, then %zu; mapped %zu, then %zu\n", resident, more_resident, size, more_size);
    if (!never_frees) {
        CHECK(more_resident <= resident + 1024, "%zu KiB resident after a thousand, %zu at the end", resident, more_resident);
        if (!on_system) CHECK(more_size <= size + 2048, "%zu KiB mapped after a thousand, %zu at the end", size, more_size);
    }
    return verdict();
}
