// Processes started by vfork, by posix_spawn, by system and popen, while threads allocate; what they start is this
// program again, with the library that it inherits.

#define _GNU_SOURCE
#include <pthread.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "work.h"

extern char **environ;

static atomic_int done;

static void *busy(void *argument) {
    uint64_t state = (uintptr_t)argument;
    struct block *slots[50] = {0};
    while (!atomic_load(&done)) step(&state, slots, 50);
    drop_all(slots, 50);
    return NULL;
}

static void await(pid_t child) {
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child, "errno %d", errno);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7, "a child ended with status %x", status);
}

int main(int count, char **arguments) {
    if (count > 1 && !strcmp(arguments[1], "child")) {
        uint64_t state = 5;
        struct block *slots[50] = {0};
        for (int i = 0; i < 500; i++) step(&state, slots, 50);
        drop_all(slots, 50);
        return failures ? 1 : 7;
    }
    char self[4096];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    CHECK(length > 0, "");
    self[length > 0 ? length : 0] = 0;
    char *child[] = {self, "child", NULL};
    pthread_t threads[3];
    for (uintptr_t i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, busy, (void *)(i + 1)) == 0, "");
    for (int i = 0; i < 40; i++) {
        pid_t pid = vfork();
        if (pid == 0) {
            execv(self, child);
            _exit(1);
        }
        await(pid);
        CHECK(posix_spawn(&pid, self, NULL, NULL, child, environ) == 0, "");
        await(pid);
        if (i % 8) continue;
        char line[4200];
        snprintf(line, sizeof line, "'%s' child", self);
        int status = system(line);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7, "system gave %x", status);
        snprintf(line, sizeof line, "'%s' child; echo $?", self);
        FILE *pipe = popen(line, "r");
        CHECK(pipe && fgets(line, sizeof line, pipe) && !strcmp(line, "7\n"), "popen read %s", line);
        CHECK(pipe && pclose(pipe) == 0, "");
    }
    atomic_store(&done, 1);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    return verdict();
}
