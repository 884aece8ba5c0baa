// Ten million frees and allocations of 16 to 255 bytes at random places of a table, and nothing else.
#include <stdint.h>
#include <stdlib.h>

int main(void) {
    static char *table[4096];
    uint64_t random = 88172645463325252u;
    for (int round = 0; round < 10000000; round++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        char **place = &table[random % 4096];
        free(*place);
        *place = malloc(16 + (random >> 20) % 240);
        **place = 1;
    }
    return 0;
}
