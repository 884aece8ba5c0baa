/* Loads the library that it is told, uses it in a thread, and lets go of it before the thread ends. */

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

static pthread_barrier_t used, closed;
static void *(*allocate)(size_t);

static void *thread(void *argument) {
    void *block = allocate(100);
    pthread_barrier_wait(&used);
    pthread_barrier_wait(&closed);
    (void)argument;
    return block;
}

int main(int argc, char **argv) {
    pthread_t id;
    void *block, *library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library) return 2;
    *(void **)&allocate = dlsym(library, "hw_thread_cached_malloc");
    pthread_barrier_init(&used, NULL, 2);
    pthread_barrier_init(&closed, NULL, 2);
    if (!allocate || pthread_create(&id, NULL, thread, NULL) != 0) return 3;
    pthread_barrier_wait(&used);
    dlclose(library);
    pthread_barrier_wait(&closed);
    pthread_join(id, &block);
    puts(block ? "ended" : "no memory");
    return 0;
}
