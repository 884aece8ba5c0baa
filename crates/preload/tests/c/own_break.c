// A program that moves the program break itself, between its allocations; what it took there stays its own.

#define _DEFAULT_SOURCE
#include <unistd.h>

#include "work.h"

int main(void) {
    enum { AREAS = 40, SLOTS = 200 };
    struct block *areas[AREAS] = {0}, *slots[SLOTS] = {0};
    char *ends[AREAS];
    uint64_t state = 9;
    for (int i = 0; i < AREAS; i++) {
        for (int j = 0; j < 200; j++) step(&state, slots, SLOTS);
        // Odd sizes, so that what follows must find its own alignment.
        size_t size = sizeof(struct block) + 1000 + next(&state) % 20000;
        size_t misfit = -(uintptr_t)sbrk(0) % 16;
        char *area = sbrk((intptr_t)(size + misfit));
        CHECK(area != (char *)-1, "errno %d", errno);
        areas[i] = (struct block *)(area + misfit);
        fill(areas[i], size - sizeof(struct block), (size_t)i);
        ends[i] = area + misfit + size;
        struct block *large = make(100000 + next(&state) % 100000, 4), *larger = make(300000, 5);
        CHECK(large && larger, "");
        for (int j = 0; j < 100; j++) step(&state, slots, SLOTS);
        drop(large);
        drop(larger);
        if (i % 3 == 2) drop_all(slots, SLOTS);
        for (int j = 0; j <= i; j++) CHECK(!areas[j] || intact(areas[j]), "area %d of the program was changed", j);
        // Given back where nobody has moved the break since.
        if (i % 2 && sbrk(0) == ends[i]) {
            CHECK(sbrk(-(intptr_t)(size + misfit)) == ends[i], "");
            areas[i] = NULL;
        }
    }
    drop_all(slots, SLOTS);
    malloc_trim(0);
    for (int j = 0; j < AREAS; j++) CHECK(!areas[j] || intact(areas[j]), "area %d of the program was changed", j);
    for (int j = 0; j < 1000; j++) step(&state, slots, SLOTS);
    drop_all(slots, SLOTS);
    return verdict();
}
