// Signals that arrive all the time, in every thread and in the middle of allocations.

#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>

#include "work.h"

static atomic_int alarms, done;

static void at_alarm(int signal) {
    (void)signal;
    atomic_fetch_add(&alarms, 1);
}

static void *busy(void *argument) {
    uint64_t state = (uintptr_t)argument;
    struct block *slots[100] = {0};
    while (!atomic_load(&done)) step(&state, slots, 100);
    drop_all(slots, 100);
    return NULL;
}

int main(int count, char **arguments) {
    (void)count;
    struct sigaction action = {.sa_handler = at_alarm};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0, "");
    struct itimerval every = {{0, 100}, {0, 100}};
    CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0, "");
    pthread_t threads[2];
    for (uintptr_t i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, busy, (void *)(i + 1)) == 0, "");
    uint64_t state = 3;
    struct block *slots[100] = {0};
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    long most = has_flag(arguments, "--few") ? 200 : 500, milliseconds;
    do {
        for (int i = 0; i < 50; i++) step(&state, slots, 100);
        clock_gettime(CLOCK_MONOTONIC, &now);
        milliseconds = (now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000;
    } while (milliseconds < most);
    atomic_store(&done, 1);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    drop_all(slots, 100);
    CHECK(alarms > 100, "%d alarms", alarms);
    return verdict();
}
