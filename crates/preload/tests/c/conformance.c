// What the C standard, POSIX and glibc promise of malloc and its family, checked from a C program.
//
// Options: --quick (smaller, for slow instruments), --never-frees (memory is not used again), --system (the C
// library's own allocator, of which some promises are not made; each is noted where it is).

#define _GNU_SOURCE
#include <dlfcn.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <stdalign.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"

static int quick, never_frees, on_system;

// The compiler must know nothing about these values.
static size_t opaque(size_t value) {
    volatile size_t hidden = value;
    return hidden;
}

static const size_t sizes[] = {0,    1,    7,    8,    15,   16,    17,    24,    25,    31,    32,     33,     40,      63,      64,
                               100,  127,  128,  129,  255,  256,   500,   512,   1000,  1024,  1025,   2047,   4000,    4096,    4097,
                               8192, 9999, 12288, 16384, 30000, 32768, 65536, 65537, 100000, 131072, 131073, 200000, 262144, 1000000, 3000000};
enum { SIZES = sizeof sizes / sizeof *sizes };

// How many of the sizes are used: under slow instruments without the largest.
static size_t used_sizes(void) { return quick ? 36 : SIZES; }

static unsigned char pattern(size_t seed, size_t at) {
    return (unsigned char)((seed * 167 + at * 31 + (at >> 8) * 7 + 1) & 0xff);
}

static void fill(void *block, size_t size, size_t seed) {
    unsigned char *bytes = block;
    for (size_t i = 0; i < size; i++) bytes[i] = pattern(seed, i);
}

// The first byte that is not as it was filled, or `size`.
static size_t intact(const void *block, size_t size, size_t seed) {
    const unsigned char *bytes = block;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != pattern(seed, i)) return i;
    return size;
}

static size_t zeros(const void *block, size_t size) {
    const unsigned char *bytes = block;
    for (size_t i = 0; i < size; i++)
        if (bytes[i]) return i;
    return size;
}

static int aligned(const void *block, size_t align) { return (uintptr_t)block % align == 0; }

static uint64_t state = 88172645463325252u;

static uint64_t next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static const char *const family[] = {
    "malloc", "calloc", "realloc", "reallocarray", "free", "memalign", "aligned_alloc", "posix_memalign", "valloc", "pvalloc",
    "malloc_usable_size", "malloc_trim", "mallinfo", "mallinfo2", "malloc_stats", "malloc_info", "mallopt"};
// These may be missing; where they are, they belong to the others.
static const char *const optional[] = {"cfree", "free_sized", "free_aligned_sized"};

static const char *library_of(const char *name) {
    void *function = dlsym(RTLD_DEFAULT, name);
    Dl_info info;
    return function && dladdr(function, &info) ? info.dli_fname : NULL;
}

// A pointer must never go from one allocator to another.
static void the_whole_family_comes_from_one_library(void) {
    begin("the whole family comes from one library");
    const char *library = library_of("malloc");
    CHECK(library, "malloc has no library");
    if (!library) return;
    for (size_t i = 0; i < sizeof family / sizeof *family; i++) {
        const char *other = library_of(family[i]);
        CHECK(other && !strcmp(library, other), "%s comes from %s, malloc from %s", family[i], other ? other : "nowhere", library);
    }
    for (size_t i = 0; i < sizeof optional / sizeof *optional; i++) {
        const char *other = library_of(optional[i]);
        CHECK(!other || !strcmp(library, other), "%s comes from %s, malloc from %s", optional[i], other, library);
    }
    int ours = strstr(library, "libheapwright_") != NULL;
    CHECK(ours != on_system, "malloc comes from %s", library);
    printf("  %s\n", library);
}

static void blocks_of_every_size_are_aligned_and_keep_their_contents(void) {
    begin("blocks of every size are aligned and keep their contents");
    enum { ROUNDS = 3 };
    void *blocks[ROUNDS][SIZES];
    for (size_t round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < used_sizes(); i++) {
            void *block = blocks[round][i] = malloc(opaque(sizes[i]));
            CHECK(block, "%zu bytes", sizes[i]);
            CHECK(aligned(block, alignof(max_align_t)), "%p of %zu bytes", block, sizes[i]);
            if (block) fill(block, sizes[i], round * SIZES + i);
        }
    }
    for (size_t round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < used_sizes(); i++) {
            size_t at = intact(blocks[round][i], sizes[i], round * SIZES + i);
            CHECK(at == sizes[i], "byte %zu of %zu", at, sizes[i]);
            free(blocks[round][i]);
        }
    }
}

static void blocks_of_no_bytes_are_unique_and_can_be_freed(void) {
    begin("blocks of no bytes are unique and can be freed");
    enum { COUNT = 12 };
    void *blocks[COUNT];
    size_t zero = opaque(0);
    for (int i = 0; i < COUNT; i++) {
        switch (i % 6) {
        case 0: blocks[i] = malloc(zero); break;
        case 1: blocks[i] = calloc(zero, 8); break;
        case 2: blocks[i] = calloc(8, zero); break;
        case 3: blocks[i] = realloc(NULL, zero); break;
        case 4: blocks[i] = memalign(64, zero); break;
        default: blocks[i] = aligned_alloc(64, zero); break;
        }
        CHECK(blocks[i], "call %d", i);
        for (int j = 0; j < i; j++) CHECK(blocks[i] != blocks[j], "call %d and call %d", i, j);
    }
    for (int i = 0; i < COUNT; i++) free(blocks[i]);
    void *block = &block;
    CHECK(posix_memalign(&block, 64, zero) == 0, "");
    free(block);
    free(valloc(zero));
    free(pvalloc(zero));
}

static void requests_that_cannot_be_served_fail_with_enomem(void) {
    begin("requests that cannot be served fail with ENOMEM");
    // The last of these leave no room for a header, for rounding or for an alignment.
    const size_t huge[] = {(size_t)PTRDIFF_MAX + 1, SIZE_MAX / 2 + 4096, SIZE_MAX - 65536, SIZE_MAX - 4096, SIZE_MAX - 64, SIZE_MAX - 16, SIZE_MAX - 8, SIZE_MAX - 1, SIZE_MAX};
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++) {
        size_t size = opaque(huge[i]);
#define FAILS(call)                                                                                                    \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        void *block = (call);                                                                                          \
        CHECK(!block, "%s of %zx bytes", #call, size);                                                                 \
        CHECK(errno == ENOMEM, "%s of %zx bytes: errno %d", #call, size, errno);                                       \
    } while (0)
        FAILS(malloc(size));
        FAILS(calloc(1, size));
        FAILS(calloc(size, 1));
        FAILS(realloc(NULL, size));
        FAILS(reallocarray(NULL, size, 1));
        FAILS(memalign(16, size));
        FAILS(memalign(4096, size));
        FAILS(aligned_alloc(64, size));
        FAILS(valloc(size));
        FAILS(pvalloc(size));

        void *kept = malloc(100);
        fill(kept, 100, i);
        FAILS(realloc(kept, size));
        FAILS(reallocarray(kept, 2, size / 2 + 1));
        CHECK(intact(kept, 100, i) == 100, "a failed realloc changed the block");
        free(kept);

        void *untouched = &kept;
        errno = 77;
        CHECK(posix_memalign(&untouched, 64, size) == ENOMEM, "%zx bytes", size);
        CHECK(untouched == &kept, "the pointer was changed");
        // glibc up to at least 2.36 sets it.
        CHECK(errno == 77 || on_system, "errno %d", errno);
    }
    // Products that come out small.
    const size_t factors[][2] = {{SIZE_MAX / 2 + 1, 2}, {2, SIZE_MAX / 2 + 1}, {(size_t)1 << 32, (size_t)1 << 32}, {SIZE_MAX / 16 + 2, 16}, {SIZE_MAX, SIZE_MAX}, {((size_t)1 << 33) + 1, (size_t)1 << 31}};
    for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
        size_t left = opaque(factors[i][0]), right = opaque(factors[i][1]), size = left;
        FAILS(calloc(left, right));
        FAILS(reallocarray(NULL, left, right));
        void *kept = malloc(50);
        fill(kept, 50, i);
        FAILS(reallocarray(kept, left, right));
        CHECK(intact(kept, 50, i) == 50, "a failed reallocarray changed the block");
        free(kept);
    }
    // An alignment beyond any memory.
    size_t size = opaque((size_t)1 << 62);
    FAILS(memalign(size, 1));
    FAILS(aligned_alloc(size, 1));
#undef FAILS
    void *block = malloc(1000);
    CHECK(block, "nothing can be allocated afterwards");
    free(block);
}

static void posix_memalign_refuses_alignments_that_are_none(void) {
    begin("posix_memalign refuses alignments that are none");
    const size_t wrong[] = {0, 1, 2, 3, 4, 7, 9, 12, 24, 48, 100, 4095, 4097, SIZE_MAX, ((size_t)1 << 63) + 8};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        void *block = &block;
        errno = 77;
        int result = posix_memalign(&block, opaque(wrong[i]), 100);
        CHECK(result == EINVAL, "alignment %zu gave %d", wrong[i], result);
        CHECK(block == &block, "the pointer was changed");
        CHECK(errno == 77, "errno was changed to %d", errno);
        if (!result) free(block);
    }
    void *block = NULL;
    errno = 77;
    CHECK(posix_memalign(&block, sizeof(void *), 100) == 0 && block, "");
    CHECK(errno == 77, "errno was changed to %d", errno);
    free(block);
}

static void every_alignment_is_given(void) {
    begin("every alignment is given");
    const size_t some[] = {0, 1, 24, 100, 1000, 4096, 10000};
    size_t largest = quick ? 4096 : (size_t)1 << 20;
    for (size_t align = 16; align <= largest; align *= 2) {
        void *blocks[4 * sizeof some / sizeof *some];
        size_t count = 0;
        for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
            size_t size = some[i], rounded = (size + align - 1) / align * align;
            void *block = NULL;
            CHECK(posix_memalign(&block, align, size) == 0, "%zu bytes at %zu", size, align);
            blocks[count++] = block;
            blocks[count++] = memalign(align, size);
            blocks[count++] = aligned_alloc(align, rounded);
            blocks[count++] = aligned_alloc(align, size);
            for (size_t j = count - 4; j < count; j++) {
                CHECK(blocks[j] || !size, "%zu bytes at %zu", size, align);
                CHECK(aligned(blocks[j], align), "%p for %zu", blocks[j], align);
                if (blocks[j]) fill(blocks[j], size, align + j);
            }
        }
        for (size_t j = 0; j < count; j++) {
            size_t size = some[j / 4];
            if (!blocks[j]) continue;
            CHECK(intact(blocks[j], size, align + j) == size, "a block of %zu at %zu was changed", size, align);
            // What was aligned is resized like any other block.
            void *grown = realloc(blocks[j], 2 * size + 50);
            CHECK(grown && intact(grown, size, align + j) == size, "realloc of %zu bytes at %zu", size, align);
            free(grown);
        }
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        void *block = valloc(some[i]), *pages = pvalloc(some[i]);
        CHECK(block && aligned(block, page), "valloc(%zu) gave %p", some[i], block);
        CHECK(pages && aligned(pages, page), "pvalloc(%zu) gave %p", some[i], pages);
        size_t whole = (some[i] + page - 1) / page * page;
        CHECK(malloc_usable_size(pages) >= whole, "pvalloc(%zu): %zu usable", some[i], malloc_usable_size(pages));
        memset(block, 1, some[i]);
        memset(pages, 2, whole);
        free(block);
        free(pages);
    }
    // Alignments that are no powers of two are answered by a failure or by the next power of two.
    const size_t odd[] = {3, 24, 100, 5000};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        size_t power = 1;
        while (power < odd[i]) power *= 2;
        errno = 0;
        void *block = memalign(opaque(odd[i]), 10);
        CHECK(block ? aligned(block, power) : errno == EINVAL, "memalign(%zu) gave %p, errno %d", odd[i], block, errno);
        free(block);
        errno = 0;
        block = aligned_alloc(opaque(odd[i]), odd[i]);
        CHECK(block ? aligned(block, power) : errno == EINVAL, "aligned_alloc(%zu) gave %p, errno %d", odd[i], block, errno);
        free(block);
    }
}

static void realloc_keeps_contents_in_all_directions(void) {
    begin("realloc keeps contents in all directions");
    size_t step = quick ? 3 : 1;
    for (size_t from = 0; from < used_sizes(); from += step) {
        for (size_t to = 1; to < used_sizes(); to += step) {
            // Between neighbours, so that it sometimes can grow in place and sometimes cannot.
            void *before = malloc(40), *block = malloc(sizes[from]), *after = (from + to) % 2 ? malloc(40) : NULL;
            if (block) fill(block, sizes[from], from);
            fill(before, 40, 1);
            if (after) fill(after, 40, 2);
            void *moved = realloc(block, sizes[to]);
            size_t least = sizes[from] < sizes[to] ? sizes[from] : sizes[to];
            CHECK(moved, "from %zu to %zu", sizes[from], sizes[to]);
            CHECK(aligned(moved, alignof(max_align_t)), "%p, from %zu to %zu", moved, sizes[from], sizes[to]);
            if (moved) {
                size_t at = intact(moved, least, from);
                CHECK(at == least, "byte %zu, from %zu to %zu", at, sizes[from], sizes[to]);
                fill(moved, sizes[to], to);
                void *again = reallocarray(moved, least ? least : 1, 1);
                CHECK(again && intact(again, least, to) == least, "back from %zu to %zu", sizes[to], least);
                moved = again;
            }
            CHECK(intact(before, 40, 1) == 40 && (!after || intact(after, 40, 2) == 40), "a neighbour was changed");
            free(before);
            free(moved);
            free(after);
        }
    }
    // Grown little by little, with others allocated between.
    char *grown = NULL, *others[300];
    for (size_t i = 0; i < 300; i++) {
        grown = realloc(grown, (i + 1) * 97);
        CHECK(grown, "step %zu", i);
        if (!grown) return;
        for (size_t at = i * 97; at < (i + 1) * 97; at++) grown[at] = (char)pattern(5, at);
        others[i] = malloc(i);
    }
    CHECK(intact(grown, 300 * 97, 5) == 300 * 97, "");
    for (size_t i = 299; i > 0; i--) {
        grown = realloc(grown, i * 97);
        free(others[i]);
    }
    CHECK(intact(grown, 97, 5) == 97, "");
    free(others[0]);
    free(grown);
}

static void realloc_of_nothing_allocates_and_to_nothing_frees(void) {
    begin("realloc of nothing allocates, and to nothing frees");
    void *block = realloc(NULL, 100);
    CHECK(block, "");
    fill(block, 100, 1);
    CHECK(malloc_usable_size(block) >= 100, "");
    CHECK(!realloc(block, opaque(0)), "realloc(p, 0) gave a block");
    block = reallocarray(NULL, 10, 10);
    CHECK(block, "");
    CHECK(!reallocarray(block, opaque(0), 10), "reallocarray(p, 0, 10) gave a block");
    block = reallocarray(NULL, 10, 10);
    CHECK(!reallocarray(block, 10, opaque(0)), "reallocarray(p, 10, 0) gave a block");
    if (never_frees) return;
    // That it frees, and does not merely say so: what was freed is used again.
    size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
    for (int i = 0; i < 1000; i++) CHECK(!realloc(malloc(5000), opaque(0)), "");
    size_t after = mallinfo2().uordblks + mallinfo2().hblkhd;
    CHECK(after < before + 1000 * 1000, "%zu bytes in use before, %zu after", before, after);
}

static void free_of_null_does_nothing_and_errno_stays(void) {
    begin("free of NULL does nothing, and errno stays");
    errno = 77;
    free(NULL);
    CHECK(errno == 77, "errno was changed to %d", errno);
    for (size_t i = 0; i < used_sizes(); i++) {
        errno = 77;
        void *block = malloc(sizes[i]);
        CHECK(errno == 77, "malloc(%zu) changed errno to %d", sizes[i], errno);
        block = realloc(block, sizes[i] + 5000);
        CHECK(errno == 77, "realloc(%zu) changed errno to %d", sizes[i] + 5000, errno);
        free(block);
        CHECK(errno == 77, "free of %zu bytes changed errno to %d", sizes[i] + 5000, errno);
        free(calloc(1, sizes[i]));
        CHECK(errno == 77, "calloc and free of %zu bytes changed errno to %d", sizes[i], errno);
    }
    if (quick) return;
    // With a mapping of its own, or by moving the break.
    void *large = malloc(64 << 20);
    CHECK(large, "");
    errno = 77;
    free(large);
    CHECK(errno == 77, "free of 64 MiB changed errno to %d", errno);
}

static void calloc_is_zero_also_where_memory_was_used(void) {
    begin("calloc is zero also where memory was used");
    for (int round = 0; round < 4; round++) {
        for (size_t i = 0; i < used_sizes(); i++) {
            void *blocks[3];
            for (int j = 0; j < 3; j++) {
                blocks[j] = malloc(sizes[i] + 16);
                memset(blocks[j], 0xff, malloc_usable_size(blocks[j]));
            }
            for (int j = 0; j < 3; j++) free(blocks[(j + round) % 3]);
            for (int j = 0; j < 3; j++) {
                blocks[j] = round % 2 ? calloc(1, sizes[i]) : calloc(sizes[i], 1);
                size_t at = zeros(blocks[j], sizes[i]);
                CHECK(at == sizes[i], "byte %zu of %zu", at, sizes[i]);
                memset(blocks[j], 0xee, malloc_usable_size(blocks[j]));
            }
            for (int j = 0; j < 3; j++) free(blocks[j]);
        }
    }
}

static void the_usable_size_is_usable_whole(void) {
    begin("the usable size is usable whole");
    CHECK(malloc_usable_size(NULL) == 0, "");
    void *blocks[SIZES];
    size_t usable[SIZES];
    for (size_t i = 0; i < used_sizes(); i++) {
        blocks[i] = i % 3 == 2 ? memalign(128, sizes[i]) : malloc(sizes[i]);
        usable[i] = malloc_usable_size(blocks[i]);
        CHECK(usable[i] >= sizes[i], "%zu of %zu", usable[i], sizes[i]);
        CHECK(usable[i] <= 4 * sizes[i] + (1 << 21), "%zu for %zu", usable[i], sizes[i]);
    }
    for (size_t i = 0; i < used_sizes(); i++) fill(blocks[i], usable[i], i);
    for (size_t i = 0; i < used_sizes(); i++) {
        CHECK(malloc_usable_size(blocks[i]) == usable[i], "it changed");
        CHECK(intact(blocks[i], usable[i], i) == usable[i], "%zu bytes", usable[i]);
        // realloc keeps what was asked for; what is beyond is not promised.
        blocks[i] = realloc(blocks[i], usable[i] + 1);
        CHECK(intact(blocks[i], sizes[i], i) == sizes[i], "%zu bytes grown beyond %zu", sizes[i], usable[i]);
        free(blocks[i]);
    }
}

static void frees_that_know_more_free(void) {
    begin("frees that know more free");
    void (*cfree)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "cfree");
    void (*free_sized)(void *, size_t) = (void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "free_sized");
    void (*free_aligned_sized)(void *, size_t, size_t) = (void (*)(void *, size_t, size_t))dlsym(RTLD_DEFAULT, "free_aligned_sized");
    printf("  cfree %s, free_sized %s, free_aligned_sized %s\n", cfree ? "is there" : "is missing", free_sized ? "is there" : "is missing", free_aligned_sized ? "is there" : "is missing");
    CHECK(on_system || (free_sized && free_aligned_sized), "C23's functions are missing");
    for (size_t i = 0; i < used_sizes(); i++) {
        errno = 77;
        if (cfree) cfree(malloc(sizes[i]));
        if (free_sized) {
            free_sized(malloc(sizes[i]), sizes[i]);
            free_sized(calloc(1, sizes[i]), sizes[i]);
            free_sized(NULL, sizes[i]);
        }
        if (free_aligned_sized) {
            free_aligned_sized(aligned_alloc(256, sizes[i]), 256, sizes[i]);
            free_aligned_sized(NULL, 64, sizes[i]);
        }
        CHECK(errno == 77, "errno was changed to %d", errno);
    }
}

// mallinfo is deprecated, and still there.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

static void the_statistics_follow_the_program(void) {
    begin("the statistics follow the program");
    enum { COUNT = 20, SIZE = 20000 };
    void *blocks[COUNT];
    struct mallinfo2 before = mallinfo2();
    for (int i = 0; i < COUNT; i++) memset(blocks[i] = malloc(SIZE), 1, SIZE);
    struct mallinfo2 during = mallinfo2();
    size_t used_before = before.uordblks + before.hblkhd, used_during = during.uordblks + during.hblkhd;
    CHECK(used_during >= used_before + COUNT * SIZE, "%zu bytes in use, then %zu", used_before, used_during);
    CHECK(during.arena + during.hblkhd >= used_during, "%zu of %zu bytes in use", used_during, during.arena + during.hblkhd);
    struct mallinfo narrow = mallinfo();
    CHECK((unsigned)narrow.uordblks == (unsigned)during.uordblks, "mallinfo %d, mallinfo2 %zu", narrow.uordblks, during.uordblks);
    for (int i = 0; i < COUNT; i++) free(blocks[i]);
    struct mallinfo2 after = mallinfo2();
    size_t used_after = after.uordblks + after.hblkhd;
    CHECK(never_frees || used_after + COUNT * SIZE <= used_during, "%zu bytes in use, then %zu", used_during, used_after);

    for (size_t pad = 0; pad < 1 << 20; pad = pad ? pad * 64 : 1) {
        int given = malloc_trim(pad);
        CHECK(given == 0 || given == 1, "malloc_trim gave %d", given);
    }
    const int parameters[] = {M_MXFAST, M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_PERTURB, M_ARENA_MAX};
    const int values[] = {64, 128 << 10, 64 << 10, 128 << 10, 65536, 0, 8};
    for (size_t i = 0; i < sizeof parameters / sizeof *parameters; i++) {
        int known = mallopt(parameters[i], values[i]);
        CHECK(known == 0 || known == 1, "mallopt(%d) gave %d", parameters[i], known);
    }
    void *block = malloc(100);
    CHECK(block, "after mallopt");
    free(block);
}

// Whether a text is well-formed XML of elements, attributes and text, which is all that is expected here.
static int well_formed(const char *at, const char **where) {
    char open[64][64];
    int depth = 0, elements = 0;
    for (;;) {
        while (*at && *at != '<') {
            *where = at;
            if (*at == '>' || *at == '&') return 0;
            if (!depth && !strchr(" \t\r\n", *at)) return 0;
            at++;
        }
        *where = at;
        if (!*at) return depth == 0 && elements > 0;
        if (!strncmp(at, "<?", 2)) {
            if (elements || !(at = strstr(at, "?>"))) return 0;
            at += 2;
            continue;
        }
        int closing = at[1] == '/';
        at += 1 + closing;
        size_t length = strcspn(at, " \t\r\n/>");
        if (!length || length >= sizeof *open) return 0;
        if (closing) {
            if (!depth || strncmp(open[depth - 1], at, length) || open[depth - 1][length]) return 0;
            at += length;
            if (*at++ != '>') return 0;
            depth--;
            continue;
        }
        if (depth == 64 || (!depth && elements)) return 0;
        elements++;
        memcpy(open[depth], at, length);
        open[depth++][length] = 0;
        at += length;
        for (;;) {
            at += strspn(at, " \t\r\n");
            if (*at == '/' && at[1] == '>') {
                depth--;
                at += 2;
                break;
            }
            if (*at == '>') {
                at++;
                break;
            }
            length = strcspn(at, "= <>\"/");
            if (!length || at[length] != '=' || at[length + 1] != '"') return 0;
            at += length + 2;
            while (*at && *at != '"') {
                if (*at == '<') return 0;
                at++;
            }
            if (*at++ != '"') return 0;
        }
    }
}

static void what_it_writes_can_be_read(void) {
    begin("what it writes can be read");
    FILE *file = tmpfile();
    CHECK(file, "no temporary file");
    if (!file) return;
    CHECK(malloc_info(0, file) == 0, "");
    long length = ftell(file);
    CHECK(length > 20, "malloc_info wrote %ld bytes", length);
    char *text = calloc(1, (size_t)length + 1);
    const char *where = text;
    rewind(file);
    CHECK(fread(text, 1, (size_t)length, file) == (size_t)length, "");
    CHECK(!strncmp(text, "<malloc", 7), "it begins with %.20s", text);
    CHECK(well_formed(text, &where), "malloc_info is not well-formed at: %.60s", where);
    free(text);
    fclose(file);
    // The manual says -1 with errno EINVAL, glibc returns EINVAL.
    CHECK(malloc_info(1, stdout) != 0, "malloc_info accepts unknown options");
    const char *wrong[] = {"", "<a>", "<a></b>", "<a b=c/>", "<a/><b/>", "<a>&</a>", "</a>"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) CHECK(!well_formed(wrong[i], &where), "%s", wrong[i]);

    // To the standard error, which is a file for this while.
    FILE *caught = tmpfile();
    fflush(stderr);
    int saved = dup(2);
    CHECK(caught && saved >= 0 && dup2(fileno(caught), 2) == 2, "");
    malloc_stats();
    fflush(stderr);
    off_t end = lseek(2, 0, SEEK_END);
    dup2(saved, 2);
    close(saved);
    fclose(caught);
    CHECK(end > 20, "malloc_stats wrote %jd bytes", (intmax_t)end);
}

// Any sequence of calls, against a table of what each block must hold.
static void a_random_program_finds_its_contents(void) {
    begin("a random program finds its contents");
    enum { SLOTS = 500 };
    static struct {
        void *block;
        size_t size, seed;
    } slots[SLOTS];
    size_t live = 0, steps = quick ? 10000 : never_frees ? 60000 : 200000;
    for (size_t step = 0; step < steps; step++) {
        size_t i = next(&state) % SLOTS, size = next(&state) % 100;
        uint64_t how = next(&state) % 1000;
        if (how >= 600) size *= 10;
        if (how >= 900 && !quick) size *= 20;
        if (how >= 998 && !quick) size *= 10;
        if (!slots[i].block) {
            size_t align = (size_t)16 << next(&state) % 6;
            switch (next(&state) % 8) {
            case 0:
                slots[i].block = calloc(size, 1);
                CHECK(zeros(slots[i].block, size) == size, "step %zu, %zu bytes", step, size);
                break;
            case 1:
                slots[i].block = memalign(align, size);
                CHECK(aligned(slots[i].block, align), "step %zu, %p for %zu", step, slots[i].block, align);
                break;
            default: slots[i].block = malloc(size); break;
            }
            live++;
        } else {
            size_t at = intact(slots[i].block, slots[i].size, slots[i].seed);
            CHECK(at == slots[i].size, "step %zu: byte %zu of %zu", step, at, slots[i].size);
            if (next(&state) % 3 == 0 && size) {
                void *moved = realloc(slots[i].block, size);
                size_t least = size < slots[i].size ? size : slots[i].size;
                CHECK(moved && intact(moved, least, slots[i].seed) == least, "step %zu: from %zu to %zu", step, slots[i].size, size);
                slots[i].block = moved;
            } else {
                free(slots[i].block);
                slots[i].block = NULL;
                live--;
                continue;
            }
        }
        CHECK(slots[i].block, "step %zu, %zu bytes with %zu live", step, size, live);
        if (!slots[i].block) return;
        slots[i].size = size;
        slots[i].seed = step;
        fill(slots[i].block, size, step);
    }
    for (size_t i = 0; i < SLOTS; i++) {
        if (slots[i].block) CHECK(intact(slots[i].block, slots[i].size, slots[i].seed) == slots[i].size, "slot %zu", i);
        free(slots[i].block);
    }
}

// Threads that fill, verify, resize and free, half of it blocks of the other threads.
enum { THREADS = 4, SHARED = 64 };

struct parcel {
    size_t size, seed;
    unsigned char bytes[];
};
static _Atomic(struct parcel *) shared[SHARED];

static struct parcel *pack(uint64_t *state) {
    size_t size = next(state) % (next(state) % 50 ? 400 : quick ? 3000 : 40000);
    struct parcel *parcel = next(state) % 4 ? malloc(sizeof *parcel + size) : memalign(64, sizeof *parcel + size);
    CHECK(parcel, "%zu bytes", size);
    if (!parcel) return NULL;
    parcel->size = size;
    parcel->seed = next(state) % 1000;
    fill(parcel->bytes, size, parcel->seed);
    return parcel;
}

static void unpack(struct parcel *parcel) {
    if (!parcel) return;
    CHECK(intact(parcel->bytes, parcel->size, parcel->seed) == parcel->size, "%zu bytes", parcel->size);
    free(parcel);
}

static void *hammer(void *argument) {
    uint64_t own = (uintptr_t)argument * 7919 + 3;
    struct parcel *kept[32] = {0};
    size_t steps = quick ? 1500 : never_frees ? 10000 : 40000;
    for (size_t step = 0; step < steps; step++) {
        size_t i = next(&own) % 32;
        switch (next(&own) % 4) {
        case 0: unpack(atomic_exchange(&shared[next(&own) % SHARED], pack(&own))); break;
        case 1:
            if (kept[i]) {
                size_t size = kept[i]->size / 2;
                struct parcel *moved = realloc(kept[i], sizeof *moved + size);
                CHECK(moved, "");
                moved->size = size;
                kept[i] = moved;
            }
            break;
        default:
            unpack(kept[i]);
            kept[i] = pack(&own);
            break;
        }
    }
    for (size_t i = 0; i < 32; i++) unpack(kept[i]);
    return NULL;
}

static void threads_find_their_contents_and_free_each_others_blocks(void) {
    begin("threads find their contents, and free each other's blocks");
    pthread_t threads[THREADS];
    int count = quick ? 2 : THREADS;
    for (int i = 0; i < count; i++) CHECK(pthread_create(&threads[i], NULL, hammer, (void *)(uintptr_t)(i + 1)) == 0, "");
    for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < SHARED; i++) unpack(atomic_exchange(&shared[i], NULL));
}

int main(int count, char **arguments) {
    (void)count;
    quick = has_flag(arguments, "--quick");
    never_frees = has_flag(arguments, "--never-frees");
    on_system = has_flag(arguments, "--system");
    the_whole_family_comes_from_one_library();
    blocks_of_every_size_are_aligned_and_keep_their_contents();
    blocks_of_no_bytes_are_unique_and_can_be_freed();
    requests_that_cannot_be_served_fail_with_enomem();
    posix_memalign_refuses_alignments_that_are_none();
    every_alignment_is_given();
    realloc_keeps_contents_in_all_directions();
    realloc_of_nothing_allocates_and_to_nothing_frees();
    free_of_null_does_nothing_and_errno_stays();
    calloc_is_zero_also_where_memory_was_used();
    the_usable_size_is_usable_whole();
    frees_that_know_more_free();
    the_statistics_follow_the_program();
    what_it_writes_can_be_read();
    a_random_program_finds_its_contents();
    threads_find_their_contents_and_free_each_others_blocks();
    return verdict();
}
