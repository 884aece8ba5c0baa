// Starts programs by vfork and by posix_spawn, which share the parent's memory until they call exec.
#define _GNU_SOURCE
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

int main(int count, char **arguments) {
    if (count > 1) {
        free(malloc(4242));
        return 0;
    }
    char *again[] = {arguments[0], "child", NULL};
    void *before = malloc(1111);
    if (vfork() == 0) {
        execv(again[0], again);
        _exit(9);
    }
    free(before);
    void *between = malloc(2222);
    pid_t pid;
    if (posix_spawn(&pid, again[0], NULL, NULL, again, environ) != 0)
        return 1;
    free(between);
    while (wait(NULL) > 0)
        ;
    free(malloc(3333));
    return 0;
}
