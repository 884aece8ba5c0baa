// What the environment variables are tried on. The first argument says what it does.

#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "work.h"

enum { SLOTS = 100 };

static pthread_t main_thread;

static void *sends(void *argument) {
    for (int i = 0; i < 50; i++) {
        pthread_kill(main_thread, *(int *)argument);
        usleep(1000);
    }
    return NULL;
}

static void leave_some(void) {
    uint64_t state = 77;
    static struct block *slots[SLOTS];
    for (int i = 0; i < 2000; i++) step(&state, slots, SLOTS);
    slots[0] = realloc(slots[0], sizeof(struct block) + 500000);
    fill(slots[0], 500000, 1);
}

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "";
    int status = 0;
    if (!strcmp(what, "leave")) {
        leave_some();
    } else if (!strcmp(what, "closes")) {
        // As programs do that become daemons.
        leave_some();
        for (int file = 0; file < 3; file++) close(file);
    } else if (!strcmp(what, "forks")) {
        leave_some();
        pid_t child = fork();
        if (child == 0) {
            leave_some();
            exit(0);
        }
        waitpid(child, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    } else if (!strcmp(what, "double-free")) {
        char *volatile block = malloc(100);
        free(malloc(200));
        free(block);
        free(block);
        puts("went on");
        leave_some();
    } else if (!strcmp(what, "corrupts")) {
        // Over its end, into whatever keeps the next block.
        char *volatile first = malloc(40), *volatile second = malloc(40);
        for (size_t i = 0; i < 64; i++) first[malloc_usable_size(first) + i] = (char)0xff;
        puts(second ? "went on" : "no");
    } else if (!strcmp(what, "signals")) {
        int signal = atoi(arguments[2]), twice = signal;
        leave_some();
        for (int i = 0; i < 3; i++) raise(signal);
        main_thread = pthread_self();
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, sends, &twice) == 0, "");
        uint64_t state = 5;
        struct block *slots[SLOTS] = {0};
        for (int i = 0; i < 100 * 1000; i++) {
            step(&state, slots, SLOTS);
            if (i % 1000 == 0 && pthread_tryjoin_np(thread, NULL) == 0) break;
            if (i == 99999) pthread_join(thread, NULL);
        }
        drop_all(slots, SLOTS);
        puts("went on");
        return failures ? 1 : 0;
    } else {
        return 99;
    }
    return 0;
}
