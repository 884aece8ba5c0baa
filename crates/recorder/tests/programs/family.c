// Every function of the family once, with results known in advance. Exits with 0 if all behave.
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>

static volatile size_t huge = PTRDIFF_MAX;

#define CHECK(what) do { if (!(what)) _Exit(__LINE__ % 250 + 1); } while (0)

int main(void) {
    errno = 42;
    char *a = malloc(100);                          // object 0
    char *b = calloc(10, 20);                       // object 1
    CHECK(b[199] == 0);
    a = realloc(a, 300000);                         // resizes 0
    char *c = realloc(NULL, 5);                     // object 2
    free(NULL);                                     // nothing
    void *d = malloc(0);                            // object 3
    void *e = aligned_alloc(64, 128);               // object 4
    CHECK((uintptr_t)e % 64 == 0);
    void *f = NULL;
    CHECK(posix_memalign(&f, 4096, 10) == 0);       // object 5
    CHECK((uintptr_t)f % 4096 == 0);
    void *g = memalign(32, 70000);                  // object 6
    void *h = valloc(10);                           // object 7
    void *i = pvalloc(10);                          // object 8
    b = reallocarray(b, 7, 9);                      // resizes 1
    CHECK(errno == 42);

    CHECK(malloc(huge) == NULL && errno == ENOMEM); // nothing, as everything that fails
    CHECK(calloc(huge, huge) == NULL);
    CHECK(realloc(a, huge) == NULL);
    CHECK(reallocarray(a, huge, huge) == NULL);
    CHECK(aligned_alloc(64, huge) == NULL);
    CHECK(posix_memalign(&f, 3, 10) == EINVAL);
    a[299999] = 1;                                  // still there

    CHECK(realloc(c, 0) == NULL);                   // frees 2
    void *big = malloc((size_t)5 << 30);            // object 9: more than 32 bits
    free(big);
    errno = 42;
    free(a);
    free(d);
    free(e);
    free(f);
    free(g);
    free(h);
    free(i);
    CHECK(errno == 42);
    return 0;                                       // object 1 stays
}
