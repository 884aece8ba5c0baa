// Two threads allocate without end, until the program kills itself while they do.
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static void *work(void *argument) {
    void *last = malloc(1);
    for (;;) {
        void *next = malloc(100);
        free(last);
        last = next;
    }
    return argument;
}

int main(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, work, NULL);
    pthread_create(&thread, NULL, work, NULL);
    usleep(30000);
    kill(getpid(), SIGKILL);
}
