// The command ends, and a child of it goes on.
#include <stdlib.h>
#include <unistd.h>

int main(void) {
    int ends[2];
    if (pipe(ends) != 0)
        return 1;
    if (fork() == 0) {
        for (size_t size = 1; size <= 500; size++)
            free(malloc(size));
        if (write(ends[1], "!", 1) != 1)
            return 1;
        sleep(2);
        return 0;
    }
    char byte;
    return read(ends[0], &byte, 1) == 1 ? 0 : 1;
}
