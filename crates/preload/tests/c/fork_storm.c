// A program whose threads allocate all the time forks hundreds of times, from two threads at once; children find every
// block as it was, allocate, free what their parent made, and fork again.
//
// Options: --few (for heaps that never free: fewer forks, and threads that rest now and then).

#define _DEFAULT_SOURCE
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "work.h"

enum { SLOTS = 100 };

static atomic_int done;
static int few;
static _Thread_local struct block *before_fork;

// Handlers of the program may allocate; ours must not be in the way.
static void prepare(void) { before_fork = make(500, 1); }

static void in_parent(void) { drop(before_fork); }

static void in_child(void) {
    drop(before_fork);
    drop(make(700, 2));
}

static void *busy(void *argument) {
    uint64_t state = (uintptr_t)argument;
    struct block *slots[SLOTS] = {0};
    while (!atomic_load(&done)) {
        step(&state, slots, SLOTS);
        if (few && next(&state) % 50 == 0) usleep(1000);
    }
    drop_all(slots, SLOTS);
    return NULL;
}

static void await(pid_t child) {
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child, "errno %d", errno);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child ended with status %x", status);
}

static _Noreturn void child(uint64_t *state, struct block **slots, int depth) {
    for (int i = 0; i < 300; i++) step(state, slots, SLOTS);
    for (; depth < 2; depth++) {
        pid_t grandchild = fork();
        CHECK(grandchild >= 0, "errno %d", errno);
        if (grandchild == 0) {
            for (int i = 0; i < 300; i++) step(state, slots, SLOTS);
            continue;
        }
        await(grandchild);
        break;
    }
    // The child may have threads of its own.
    if (next(state) % 8 == 0) {
        pthread_t thread;
        atomic_store(&done, 1);
        CHECK(pthread_create(&thread, NULL, busy, (void *)7) == 0, "");
        pthread_join(thread, NULL);
    }
    // What the parent made.
    drop_all(slots, SLOTS);
    int status = failures ? 1 : 0;
    if (next(state) % 2) _exit(status);
    exit(status);
}

static void *forks(void *argument) {
    int count = *(int *)argument;
    uint64_t state = (uintptr_t)argument;
    struct block *slots[SLOTS] = {0};
    for (int i = 0; i < count; i++) {
        for (int j = 0; j < 50; j++) step(&state, slots, SLOTS);
        pid_t pid = fork();
        CHECK(pid >= 0, "errno %d", errno);
        if (pid == 0) child(&state, slots, 1);
        for (int j = 0; j < 50; j++) step(&state, slots, SLOTS);
        await(pid);
    }
    drop_all(slots, SLOTS);
    return NULL;
}

int main(int count, char **arguments) {
    (void)count;
    few = has_flag(arguments, "--few");
    int times = few ? 100 : 200;
    CHECK(pthread_atfork(prepare, in_parent, in_child) == 0, "");
    pthread_t threads[3], forker;
    for (uintptr_t i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, busy, (void *)(i + 1)) == 0, "");
    CHECK(pthread_create(&forker, NULL, forks, &times) == 0, "");
    forks(&times);
    pthread_join(forker, NULL);
    atomic_store(&done, 1);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    return verdict();
}
