/* Calls every function of every strategy through the header, as C and as C++ programs do. */

#include <heapwright.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

struct strategy {
    const char *name;
    size_t largest; /* request */
    int reuses;     /* what was freed */
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void (*free)(void *);
    size_t (*usable_size)(const void *);
    void (*stats)(struct hw_stats *);
    int (*print)(int);
    int (*check)(char *, size_t);
};

#define STRATEGIES(X)                 \
    X(thread_cached, PTRDIFF_MAX, 1)  \
    X(first_fit_sbrk, PTRDIFF_MAX, 1) \
    X(lifo_mmap, PTRDIFF_MAX, 1)      \
    X(coalescing, PTRDIFF_MAX, 1)     \
    X(segregated_fit, PTRDIFF_MAX, 1) \
    X(tlsf, PTRDIFF_MAX, 1)           \
    X(best_fit, PTRDIFF_MAX, 1)       \
    X(first_fit, PTRDIFF_MAX, 1)      \
    X(buddy, PTRDIFF_MAX, 1)          \
    X(kingsley, PTRDIFF_MAX, 1)       \
    X(pool, 64, 1)                    \
    X(bump, PTRDIFF_MAX, 0)

#define ROW(NAME, LARGEST, REUSES)                                                           \
    {#NAME,           LARGEST,          REUSES,                  hw_##NAME##_malloc,         \
     hw_##NAME##_calloc, hw_##NAME##_realloc, hw_##NAME##_free, hw_##NAME##_usable_size,     \
     hw_##NAME##_stats,  hw_##NAME##_print,   hw_##NAME##_check},

static const struct strategy strategies[] = {STRATEGIES(ROW)};

static const struct strategy *s; /* the one that is tried */

/* Expects, and says what was not so. */
#define EXPECT(CONDITION)                                                                    \
    do {                                                                                     \
        if (!(CONDITION)) {                                                                  \
            printf("%s:%d: %s: not %s\n", __FILE__, __LINE__, s ? s->name : "-", #CONDITION); \
            exit(1);                                                                         \
        }                                                                                    \
    } while (0)

/* A statement that leaves errno as it is. */
#define KEEPS_ERRNO(STATEMENT)  \
    do {                        \
        errno = 4711;           \
        STATEMENT;              \
        EXPECT(errno == 4711);  \
    } while (0)

/* NULL for want of memory. */
#define FAILS(EXPRESSION)              \
    do {                               \
        errno = 0;                     \
        EXPECT((EXPRESSION) == NULL);  \
        EXPECT(errno == ENOMEM);       \
    } while (0)

/* A number that the compiler does not know, so that it does not warn of what is tried on purpose. */
static size_t unknown(size_t number) {
    static volatile size_t zero = 0;
    return number + zero;
}

static unsigned char *filled(void *block, size_t size, int seed) {
    unsigned char *bytes = (unsigned char *)block;
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (unsigned char)(seed + (int)(i * 7));
    }
    return bytes;
}

static int holds(const void *block, size_t size, int seed) {
    const unsigned char *bytes = (const unsigned char *)block;
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != (unsigned char)(seed + (int)(i * 7))) {
            return 0;
        }
    }
    return 1;
}

static int is_zero(const void *block, size_t size) {
    const unsigned char *bytes = (const unsigned char *)block;
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != 0) {
            return 0;
        }
    }
    return 1;
}

static void is_sound(void) {
    char message[200];
    memset(message, 'x', sizeof message);
    KEEPS_ERRNO(EXPECT(s->check(message, sizeof message) == 0));
    EXPECT(message[0] == '\0' && message[1] == 'x');
    EXPECT(s->check(NULL, 0) == 0);
    EXPECT(s->check(message, 1) == 0);
}

static struct hw_stats stats(void) {
    struct hw_stats sums;
    memset(&sums, 0xff, sizeof sums);
    KEEPS_ERRNO(s->stats(&sums));
    EXPECT(sums.footprint ==
           sums.live_bytes + sums.free_bytes + sums.cached_bytes + sums.overhead);
    EXPECT(sums.peak_footprint >= sums.footprint);
    EXPECT(sums.largest_free <= sums.free_bytes);
    EXPECT(sums.misuses == 0);
    return sums;
}

static void nothing_is_held_before_the_first_request(void) {
    struct hw_stats sums = stats();
    EXPECT(sums.footprint == 0 && sums.live_blocks == 0 && sums.grows == 0);
    is_sound();
}

static void blocks_are_apart_aligned_and_keep_what_is_written(void) {
    enum { COUNT = 200 };
    static void *blocks[COUNT];
    static size_t sizes[COUNT];
    size_t asked = 0;
    for (int i = 0; i < COUNT; i++) {
        sizes[i] = s->largest < 4000 ? (size_t)i % (s->largest + 1) : (size_t)(i * 37 % 4000);
        asked += sizes[i];
        KEEPS_ERRNO(blocks[i] = s->malloc(sizes[i]));
        EXPECT(blocks[i] != NULL);
        EXPECT((uintptr_t)blocks[i] % 16 == 0);
        KEEPS_ERRNO(EXPECT(s->usable_size(blocks[i]) >= sizes[i]));
        EXPECT(s->usable_size(blocks[i]) > 0 || sizes[i] == 0);
        filled(blocks[i], sizes[i], i);
    }
    struct hw_stats sums = stats();
    EXPECT(sums.live_blocks >= COUNT && sums.live_bytes >= asked && sums.grows > 0);
    for (int i = 0; i < COUNT; i++) {
        EXPECT(holds(blocks[i], sizes[i], i));
    }
    is_sound();
    for (int i = 0; i < COUNT; i += 2) {
        KEEPS_ERRNO(s->free(blocks[i]));
    }
    is_sound();
    for (int i = 1; i < COUNT; i += 2) {
        EXPECT(holds(blocks[i], sizes[i], i));
        s->free(blocks[i]);
    }
    if (s->reuses) {
        EXPECT(stats().live_blocks == 0);
    }
    is_sound();
}

static void calloc_zeroes_memory_that_was_used(void) {
    size_t size = s->largest < 1000 ? s->largest : 1000;
    for (int i = 0; i < 20; i++) {
        void *dirty = s->malloc(size);
        EXPECT(dirty != NULL);
        s->free(filled(dirty, size, 1));
        void *zeroed;
        KEEPS_ERRNO(zeroed = s->calloc(size / 4, 4));
        EXPECT(zeroed != NULL && is_zero(zeroed, size));
        s->free(filled(zeroed, size, 2));
    }
    void *none = s->calloc(0, 8), *nothing = s->calloc(8, 0);
    EXPECT(none != NULL && nothing != NULL && none != nothing);
    s->free(none);
    s->free(nothing);
}

static void realloc_keeps_what_fits(void) {
    size_t sizes[] = {1, 10, 24, 64, 100, 3000, 200000, 1000000, 5000, 40, 3};
    void *block = NULL;
    size_t size = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (sizes[i] > s->largest) {
            continue;
        }
        KEEPS_ERRNO(block = s->realloc(block, sizes[i])); /* the first time, of NULL */
        EXPECT(block != NULL && (uintptr_t)block % 16 == 0);
        EXPECT(holds(block, size < sizes[i] ? size : sizes[i], 3));
        size = sizes[i];
        EXPECT(s->usable_size(block) >= size);
        filled(block, size, 3);
        is_sound();
    }
    size_t live = stats().live_blocks;
    KEEPS_ERRNO(EXPECT(s->realloc(block, 0) == NULL)); /* frees it */
    EXPECT(stats().live_blocks == live - (s->reuses ? 1 : 0));
}

static void null_is_no_block(void) {
    KEEPS_ERRNO(s->free(NULL));
    KEEPS_ERRNO(EXPECT(s->usable_size(NULL) == 0));
    void *block;
    KEEPS_ERRNO(block = s->realloc(NULL, 0)); /* malloc(0) */
    EXPECT(block != NULL);
    s->free(block);
}

static void what_cannot_be_served_fails_and_changes_nothing(void) {
    size_t too_large[] = {SIZE_MAX, SIZE_MAX - 15, (size_t)PTRDIFF_MAX + 1, PTRDIFF_MAX,
                          PTRDIFF_MAX / 2};
    void *block = s->malloc(48);
    EXPECT(block != NULL);
    filled(block, 48, 5);
    struct hw_stats before = stats();
    for (size_t i = 0; i < sizeof too_large / sizeof *too_large; i++) {
        size_t size = unknown(too_large[i]);
        FAILS(s->malloc(size));
        FAILS(s->calloc(1, size));
        FAILS(s->calloc(size, 1));
        FAILS(s->realloc(block, size));
        FAILS(s->realloc(NULL, size));
    }
    FAILS(s->calloc(unknown(SIZE_MAX), 2));
    FAILS(s->calloc(unknown(SIZE_MAX / 2 + 1), unknown(SIZE_MAX / 2 + 1)));
    FAILS(s->calloc((size_t)1 << 32, (size_t)1 << 32));
    if (s->largest < PTRDIFF_MAX) {
        FAILS(s->malloc(s->largest + 1));
        FAILS(s->calloc(s->largest + 1, 1));
        FAILS(s->realloc(block, s->largest + 1));
    }
    EXPECT(holds(block, 48, 5));
    struct hw_stats after = stats();
    EXPECT(before.live_blocks == after.live_blocks && before.live_bytes == after.live_bytes);
    s->free(block);
    is_sound();
}

static void the_list_of_blocks_agrees_with_the_sums(void) {
    enum { COUNT = 300 }; /* more than one piece of output */
    static void *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = s->malloc((size_t)i % 64);
        EXPECT(blocks[i] != NULL);
    }
    for (int i = 0; i < COUNT; i += 3) {
        s->free(blocks[i]);
    }
    struct hw_stats sums = stats();

    FILE *file = tmpfile();
    EXPECT(file != NULL);
    KEEPS_ERRNO(EXPECT(s->print(fileno(file)) == 0));
    struct hw_stats printed = stats();
    EXPECT(memcmp(&sums, &printed, sizeof sums) == 0);

    rewind(file);
    char line[200];
    EXPECT(fgets(line, sizeof line, file) != NULL);
    EXPECT(strcmp(line, "           address         size  state       next free\n") == 0);
    struct hw_stats listed;
    memset(&listed, 0, sizeof listed);
    int found = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        unsigned long address;
        size_t size;
        char state[20];
        EXPECT(line[strlen(line) - 1] == '\n');
        EXPECT(sscanf(line, "%lx %zu %19s", &address, &size, state) == 3);
        if (strcmp(state, "used") == 0 || strcmp(state, "mapped") == 0) {
            listed.live_blocks++;
            listed.live_bytes += size;
            found += address == (unsigned long)(uintptr_t)blocks[1];
        } else if (strcmp(state, "cached") == 0) {
            listed.cached_blocks++;
            listed.cached_bytes += size;
        } else {
            EXPECT(strcmp(state, "free") == 0 || strcmp(state, "wilderness") == 0);
            listed.free_blocks++;
            listed.free_bytes += size;
        }
    }
    fclose(file);
    EXPECT(found == 1);
    EXPECT(listed.live_blocks == sums.live_blocks && listed.live_bytes == sums.live_bytes);
    EXPECT(listed.free_blocks == sums.free_blocks && listed.free_bytes == sums.free_bytes);
    EXPECT(listed.cached_blocks == sums.cached_blocks && listed.cached_bytes == sums.cached_bytes);

    for (int i = 0; i < COUNT; i++) {
        if (i % 3 != 0) {
            s->free(blocks[i]);
        }
    }
}

static void a_list_that_cannot_be_written_says_so(void) {
    errno = 0;
    EXPECT(s->print(-1) == -1);
    EXPECT(errno == EBADF);
    int full = open("/dev/full", O_WRONLY);
    EXPECT(full >= 0);
    errno = 0;
    EXPECT(s->print(full) == -1);
    EXPECT(errno == ENOSPC);
    close(full);
    is_sound(); /* and its lock is free */
}

static int pipe_ends[2];
static volatile size_t drained;

/* Makes room in the pipe, at a time when a write waits for that. */
static void drain(int signal) {
    int before = errno;
    char bytes[4096];
    ssize_t count;
    while ((count = read(pipe_ends[0], bytes, sizeof bytes)) > 0) {
        drained += (size_t)count;
    }
    errno = before;
    (void)signal;
}

static void a_list_goes_on_after_a_signal(void) {
    void *block = s->malloc(20);
    FILE *file = tmpfile();
    EXPECT(block != NULL && file != NULL && s->print(fileno(file)) == 0);
    off_t length = lseek(fileno(file), 0, SEEK_END);
    fclose(file);

    EXPECT(pipe(pipe_ends) == 0);
    EXPECT(fcntl(pipe_ends[0], F_SETFL, O_NONBLOCK) == 0);
    EXPECT(fcntl(pipe_ends[1], F_SETFL, O_NONBLOCK) == 0);
    size_t full = 0;
    while (write(pipe_ends[1], "x", 1) == 1) {
        full++;
    }
    EXPECT(fcntl(pipe_ends[1], F_SETFL, 0) == 0);

    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    action.sa_handler = drain; /* and no SA_RESTART */
    EXPECT(sigaction(SIGALRM, &action, &before) == 0);
    struct itimerval often = {{0, 10000}, {0, 10000}}, never = {{0, 0}, {0, 0}};
    drained = 0;
    EXPECT(setitimer(ITIMER_REAL, &often, NULL) == 0);
    KEEPS_ERRNO(EXPECT(s->print(pipe_ends[1]) == 0));
    EXPECT(setitimer(ITIMER_REAL, &never, NULL) == 0);
    EXPECT(sigaction(SIGALRM, &before, NULL) == 0);
    drain(0);
    EXPECT(drained == full + (size_t)length);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    s->free(block);
}

static void helpers_copy_and_fill(void) {
    char text[] = "a heap of words";
    char *copy;
    KEEPS_ERRNO(copy = (char *)hw_memdup(text, sizeof text));
    EXPECT(copy != NULL && copy != text && strcmp(copy, text) == 0);
    KEEPS_ERRNO(EXPECT(hw_memset(copy, '=', 6) == copy));
    EXPECT(strcmp(copy, "====== of words") == 0);
    EXPECT(hw_memset(copy, -1, 1) == copy && (unsigned char)copy[0] == 0xff);
    EXPECT(hw_memset(copy, 0x141, 1) == copy && copy[0] == 'A');
    EXPECT(hw_memset(copy, 'x', 0) == copy && copy[0] == 'A');
    EXPECT(hw_memset(NULL, 0, 0) == NULL);
    EXPECT(hw_coalescing_usable_size(copy) >= sizeof text);
    hw_coalescing_free(copy);

    void *none = hw_memdup(NULL, 0);
    EXPECT(none != NULL);
    hw_coalescing_free(none);
    FAILS(hw_memdup(text, unknown(SIZE_MAX)));
    FAILS(hw_memdup(text, unknown((size_t)PTRDIFF_MAX + 1)));
    FAILS(hw_memdup(text, unknown(PTRDIFF_MAX / 2))); /* not read where there is no block for it */
    char message[100];
    EXPECT(hw_coalescing_check(message, sizeof message) == 0);
}

int main(void) {
    size_t count = sizeof strategies / sizeof *strategies;
    for (s = strategies; s < strategies + count; s++) {
        nothing_is_held_before_the_first_request();
        blocks_are_apart_aligned_and_keep_what_is_written();
        calloc_zeroes_memory_that_was_used();
        realloc_keeps_what_fits();
        null_is_no_block();
        what_cannot_be_served_fails_and_changes_nothing();
        the_list_of_blocks_agrees_with_the_sums();
        a_list_that_cannot_be_written_says_so();
        a_list_goes_on_after_a_signal();
        printf("%s ok\n", s->name);
    }
    s = NULL;
    helpers_copy_and_fill();
    printf("helpers ok\n");
    return 0;
}
