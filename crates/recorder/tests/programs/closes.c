// A program that closes every file descriptor it has, as daemons do, and opens others in their places.
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

int main(void) {
    free(malloc(1));
    for (int file = 0; file < 1024; file++)
        close(file);
    for (int file = 0; file < 16; file++)
        open("/dev/null", O_RDWR);
    for (size_t index = 0; index < 200000; index++)
        free(malloc(index % 512 + 100));
    return 0;
}
