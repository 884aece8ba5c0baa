// A process, its child and its grandchild, which free and resize what they have inherited. Sizes say whose they are:
// hundreds for the parent, thousands for the child, ten thousands for the grandchild. The environment is gone by then.
#define _DEFAULT_SOURCE
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    void *one = malloc(100), *two = calloc(1, 200), *three = aligned_alloc(64, 320), *four = malloc(400);
    free(malloc(500));
    two = realloc(two, 220);
    clearenv();
    if (fork() == 0) {
        void *own = malloc(1000);
        free(one);
        four = realloc(four, 4000);
        if (fork() == 0) {
            free(own);
            free(two);
            free(four);
            free(malloc(10000));
            _exit(0);
        }
        wait(NULL);
        free(own);
        _exit(0);
    }
    // Not what the children see: they have had the blocks as they were.
    three = realloc(three, 330);
    free(one);
    void *last = malloc(600);
    wait(NULL);
    free(last);
    return 0;
}
