// Blocks that know what they must hold, and a random program over them, for tests of what surrounds an allocator.

#ifndef WORK_H
#define WORK_H

#include <malloc.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "check.h"

struct block {
    size_t size, seed;
    unsigned char bytes[];
};

static inline uint64_t next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static inline void fill(struct block *block, size_t size, size_t seed) {
    block->size = size;
    block->seed = seed;
    for (size_t i = 0; i < size; i++) block->bytes[i] = (unsigned char)(seed + i);
}

static inline struct block *make(size_t size, size_t seed) {
    struct block *block = malloc(sizeof *block + size);
    if (block) fill(block, size, seed);
    return block;
}

static inline int intact(const struct block *block) {
    for (size_t i = 0; i < block->size; i++)
        if (block->bytes[i] != (unsigned char)(block->seed + i)) return 0;
    return 1;
}

static inline void drop(struct block *block) {
    if (!block) return;
    CHECK(intact(block), "%zu bytes at %p", block->size, (void *)block);
    free(block);
}

// One step of a random program.
static inline void step(uint64_t *state, struct block **slots, size_t count) {
    struct block **slot = &slots[next(state) % count];
    size_t size = next(state) % (next(state) % 64 ? 300 : 20000);
    if (*slot && next(state) % 4 == 0) {
        CHECK(intact(*slot), "%zu bytes", (*slot)->size);
        struct block *moved = realloc(*slot, sizeof *moved + size);
        CHECK(moved, "%zu bytes", size);
        if (!moved) return;
        fill(moved, size, next(state));
        *slot = moved;
        return;
    }
    drop(*slot);
    *slot = NULL;
    if (next(state) % 5 == 0) return;
    *slot = make(size, next(state));
    CHECK(*slot, "%zu bytes", size);
}

static inline void drop_all(struct block **slots, size_t count) {
    for (size_t i = 0; i < count; i++) {
        drop(slots[i]);
        slots[i] = NULL;
    }
}

#endif
