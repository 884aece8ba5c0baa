// Allocates the sizes 1 to 1000, frees every other block, and ends in the way that the first argument names.
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **arguments) {
    static void *blocks[1001];
    const char *way = count > 1 ? arguments[1] : "return";
    for (size_t size = 1; size <= 1000; size++)
        blocks[size] = malloc(size);
    for (size_t size = 1; size <= 1000; size += 2)
        free(blocks[size]);
    if (!strcmp(way, "_exit"))
        _exit(3);
    if (!strcmp(way, "kill"))
        kill(getpid(), SIGKILL);
    if (!strcmp(way, "abort"))
        abort();
    if (!strcmp(way, "crash"))
        *(volatile int *)8 = 1;
    if (!strcmp(way, "exec"))
        execl(arguments[0], arguments[0], "exit", (char *)NULL);
    if (!strcmp(way, "exit"))
        exit(4);
    return 5;
}
