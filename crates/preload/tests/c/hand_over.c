// Blocks made by some threads and freed by others, through queues, so that no thread frees what it made.
//
// Options: --few.

#include <pthread.h>

#include "work.h"

enum { PAIRS = 3, ROOM = 256 };

static struct queue {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct block *blocks[ROOM];
    size_t first, count;
} queues[PAIRS];

static int total = 100000;

static void *makes(void *argument) {
    uint64_t state = (uintptr_t)argument + 1;
    for (int i = 0; i < total; i++) {
        struct queue *queue = &queues[next(&state) % PAIRS];
        struct block *block = make(next(&state) % (i % 100 ? 500 : 10000), next(&state));
        CHECK(block, "");
        pthread_mutex_lock(&queue->lock);
        while (queue->count == ROOM) pthread_cond_wait(&queue->changed, &queue->lock);
        queue->blocks[(queue->first + queue->count++) % ROOM] = block;
        pthread_cond_broadcast(&queue->changed);
        pthread_mutex_unlock(&queue->lock);
    }
    return NULL;
}

static void *takes(void *argument) {
    struct queue *queue = argument;
    for (;;) {
        pthread_mutex_lock(&queue->lock);
        while (!queue->count) pthread_cond_wait(&queue->changed, &queue->lock);
        struct block *block = queue->blocks[queue->first];
        queue->first = (queue->first + 1) % ROOM;
        queue->count--;
        pthread_cond_broadcast(&queue->changed);
        pthread_mutex_unlock(&queue->lock);
        if (!block) return NULL;
        drop(block);
    }
}

int main(int count, char **arguments) {
    (void)count;
    if (has_flag(arguments, "--few")) total = 10000;
    pthread_t makers[PAIRS], takers[PAIRS];
    for (uintptr_t i = 0; i < PAIRS; i++) {
        pthread_mutex_init(&queues[i].lock, NULL);
        pthread_cond_init(&queues[i].changed, NULL);
    }
    for (uintptr_t i = 0; i < PAIRS; i++) {
        CHECK(pthread_create(&makers[i], NULL, makes, (void *)i) == 0, "");
        CHECK(pthread_create(&takers[i], NULL, takes, &queues[i]) == 0, "");
    }
    for (int i = 0; i < PAIRS; i++) pthread_join(makers[i], NULL);
    for (int i = 0; i < PAIRS; i++) {
        struct queue *queue = &queues[i];
        pthread_mutex_lock(&queue->lock);
        while (queue->count == ROOM) pthread_cond_wait(&queue->changed, &queue->lock);
        queue->blocks[(queue->first + queue->count++) % ROOM] = NULL;
        pthread_cond_broadcast(&queue->changed);
        pthread_mutex_unlock(&queue->lock);
    }
    for (int i = 0; i < PAIRS; i++) pthread_join(takers[i], NULL);
    return verdict();
}
