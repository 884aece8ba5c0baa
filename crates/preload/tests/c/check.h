// Named checks that go on: what fails is said with its place, and counted.

#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <stdio.h>
#include <string.h>

#ifdef __cplusplus
#include <atomic>
using std::atomic_int;
#else
#include <stdatomic.h>
#endif

static atomic_int failures;
static const char *section = "";

// What is being checked from here on; the name is said, so that a crash shows where it was.
static inline void begin(const char *name) {
    section = name;
    printf("%s\n", name);
    fflush(stdout);
}

// A line for each failure, up to a number that can still be read.
#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition) && atomic_fetch_add(&failures, 1) < 50) {                                                     \
            fprintf(stderr, "%s:%d: %s: %s", __FILE__, __LINE__, section, #condition);                                 \
            fprintf(stderr, " // " __VA_ARGS__);                                                                       \
            fputc('\n', stderr);                                                                                       \
        }                                                                                                              \
    } while (0)

// The exit code: how many failures there were.
static inline int verdict(void) {
    int count = atomic_load(&failures);
    printf("%d failures\n", count);
    return count > 100 ? 100 : count;
}

static inline int has_flag(char **arguments, const char *flag) {
    for (; *arguments; arguments++)
        if (!strcmp(*arguments, flag)) return 1;
    return 0;
}

#endif
