// A library that allocates before the program's own constructors, and frees after its destructors; and where a process
// forks, by handlers that it registers before the program's.

#include <pthread.h>

#include "work.h"

struct block *of_library;

static struct block *before_fork;

static void prepare(void) { before_fork = make(40000, 4); }

static void after_fork(void) { drop(before_fork); }

__attribute__((constructor(101))) static void first(void) {
    of_library = make(1000, 1);
    CHECK(pthread_atfork(prepare, after_fork, after_fork) == 0, "");
}

__attribute__((constructor)) static void later(void) {
    CHECK(of_library && intact(of_library), "what the first constructor made");
    of_library = realloc(of_library, sizeof(struct block) + 5000);
    fill(of_library, 5000, 2);
}

__attribute__((destructor)) static void last(void) {
    drop(of_library);
    drop(make(3000, 3));
    if (failures) _Exit(3);
    puts("the library ends");
    fflush(stdout);
}
