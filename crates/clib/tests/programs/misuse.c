/* Misuses the strategy that it is told, in the way that it is told, and says what the heap made of it. */

#include <heapwright.h>

#include <stdio.h>
#include <string.h>

#define STRATEGIES(X)                                                                          \
    X(thread_cached) X(first_fit_sbrk) X(lifo_mmap) X(coalescing) X(segregated_fit) X(tlsf)    \
    X(best_fit) X(first_fit) X(buddy) X(kingsley) X(pool) X(bump)

/* Blocks on both sides, and one that is not freed between two uses: no free block merges with another. */
#define TRY(NAME)                                          \
    if (strcmp(argv[1], #NAME) == 0) {                     \
        void *before = hw_##NAME##_malloc(40);             \
        void *block = hw_##NAME##_malloc(40);              \
        void *behind = hw_##NAME##_malloc(40);             \
        fprintf(stderr, "%p %p\n", block, behind);         \
        if (strcmp(argv[2], "double-free") == 0) {         \
            hw_##NAME##_free(block);                       \
            hw_##NAME##_free(block);                       \
        } else if (strcmp(argv[2], "realloc-freed") == 0) { \
            hw_##NAME##_free(block);                       \
            hw_##NAME##_realloc(block, 50);                \
        } else if (strcmp(argv[2], "invalid-free") == 0) { \
            hw_##NAME##_free((char *)block + 8);           \
        } else if (strcmp(argv[2], "overrun") == 0) {      \
            char message[200], start[8];                   \
            memset(block, 0xff, 200);                      \
            printf("%d ", hw_##NAME##_check(message, sizeof message)); \
            printf("%d ", hw_##NAME##_check(start, sizeof start));     \
            printf("%d\n", hw_##NAME##_check(NULL, 0));    \
            printf("%s\n%s\n", message, start);            \
        }                                                  \
        (void)before;                                      \
        return 0;                                          \
    }

int main(int argc, char **argv) {
    if (argc == 3) {
        STRATEGIES(TRY)
    }
    return 2;
}
