// Memory that ends: requests fail with ENOMEM, nothing is lost, and what is freed can be had again.
//
// Arguments: as or data, which limit it is; and --never-frees.

#include <pthread.h>
#include <sys/resource.h>

#include "work.h"

static size_t mapped(int column) {
    size_t pages[7] = {0};
    FILE *file = fopen("/proc/self/statm", "r");
    int read = file ? fscanf(file, "%zu %zu %zu %zu %zu %zu %zu", &pages[0], &pages[1], &pages[2], &pages[3], &pages[4], &pages[5], &pages[6]) : 0;
    CHECK(read == 7, "");
    if (file) fclose(file);
    return pages[column] * 4096;
}

static struct block *blocks[20000];

static size_t use_up(size_t size) {
    size_t count = 0;
    while (count < 20000) {
        errno = 0;
        struct block *block;
        switch (count % 4) {
        case 0: block = calloc(1, sizeof *block + size); break;
        case 1: block = realloc(NULL, sizeof *block + size); break;
        case 2: block = memalign(64, sizeof *block + size); break;
        default: block = malloc(sizeof *block + size); break;
        }
        if (!block) break;
        fill(block, size, count);
        blocks[count++] = block;
    }
    CHECK(errno == ENOMEM, "errno %d after %zu blocks of %zu", errno, count, size);
    CHECK(count < 20000, "the limit does not limit");
    return count;
}

int main(int count, char **arguments) {
    if (count < 2) return 99;
    int data = !strcmp(arguments[1], "data"), never_frees = has_flag(arguments, "--never-frees");
    setvbuf(stdout, NULL, _IONBF, 0);
    const size_t sizes[] = {3000, 50000, 700000};
    struct rlimit limit;
    int resource = data ? RLIMIT_DATA : RLIMIT_AS;
    CHECK(getrlimit(resource, &limit) == 0, "");
    limit.rlim_cur = mapped(data ? 5 : 0) + (24 << 20);
    CHECK(setrlimit(resource, &limit) == 0, "");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t size = sizes[i], had = use_up(size);
        printf("%zu blocks of %zu bytes\n", had, size);
        if (!never_frees || i == 0) CHECK(had * size > (5 << 20), "%zu blocks of %zu bytes are too few", had, size);
        for (int j = 0; j < 100; j++) {
            errno = 0;
            // More than the limit leaves, however much of that serves no small block.
            CHECK(!malloc(40 << 20) && errno == ENOMEM, "");
            // One that does not fit leaves the old one as it was.
            if (had) CHECK(!realloc(blocks[had / 2], 40 << 20) && intact(blocks[had / 2]), "");
        }
        for (size_t j = 0; j < had; j++) CHECK(intact(blocks[j]), "block %zu of %zu", j, had);
        if (never_frees) continue;
        // One of three is freed, and is there again; then all, and as many are there again.
        for (size_t j = 0; j < had; j += 3) drop(blocks[j]);
        for (size_t j = 0; j < had; j += 3) {
            blocks[j] = make(size - 16, j);
            CHECK(blocks[j], "block %zu of %zu, of %zu bytes, is not there again", j, had, size);
        }
        drop_all(blocks, had);
        size_t again = use_up(size);
        CHECK(again >= had - had / 50 - 1, "%zu blocks of %zu bytes, after a release %zu", had, size, again);
        for (size_t j = again; j-- > 0;) drop(blocks[j]);
        memset(blocks, 0, sizeof blocks);
        malloc_trim(0);
    }
    if (never_frees) {
        // It goes on when there is more.
        limit.rlim_cur += 8 << 20;
        CHECK(setrlimit(resource, &limit) == 0, "");
        drop(make(100000, 1));
    }
    struct block *last = make(100, 1);
    CHECK(last, "nothing can be had at the end");
    drop(last);
    return verdict();
}
