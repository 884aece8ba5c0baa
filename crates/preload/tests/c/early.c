// Allocation before main, after main, where threads end, and by a library where the process forks.

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "work.h"

extern struct block *of_library;

static struct block *of_constructor, *of_main, *of_exit;
static pthread_key_t key;
static atomic_int ended;

__attribute__((constructor)) static void before_main(void) {
    CHECK(of_library && intact(of_library), "the library's constructors ran before");
    of_constructor = make(70000, 10);
    for (size_t size = 0; size < 5000; size += 7) drop(make(size, size));
}

__attribute__((destructor)) static void after_main(void) {
    drop(of_main);
    drop(of_exit);
    drop(make(200000, 11));
    if (failures) _Exit(2);
    puts("the program ends");
}

static void at_exit(void) {
    drop(of_constructor);
    of_exit = make(400, 12);
}

// Called where the thread ends; it gives the key a value again, so it is called once more.
static void of_thread(void *value) {
    struct block *block = value;
    CHECK(intact(block), "");
    if (block->size > 100) {
        size_t less = block->size / 2;
        block = realloc(block, sizeof *block + less);
        fill(block, less, 13);
        pthread_setspecific(key, block);
    } else {
        drop(block);
        atomic_fetch_add(&ended, 1);
    }
}

static void *thread(void *argument) {
    uint64_t state = (uintptr_t)argument + 1;
    struct block *slots[20] = {0};
    pthread_setspecific(key, make(350, 14));
    for (int i = 0; i < 200; i++) step(&state, slots, 20);
    drop_all(slots, 20);
    return make(100, 15);
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    atexit(at_exit);
    CHECK(of_constructor && intact(of_constructor), "what was made before main");
    of_main = make(30, 16);
    int status = -1;
    pid_t child = fork();
    if (child == 0) _exit(failures);
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0, "the child ended with status %x", status);
    CHECK(pthread_key_create(&key, of_thread) == 0, "");
    for (int round = 0; round < 50; round++) {
        pthread_t threads[4];
        for (uintptr_t i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, thread, (void *)(i + 4 * (unsigned)round)) == 0, "");
        for (int i = 0; i < 4; i++) {
            void *block;
            pthread_join(threads[i], &block);
            drop(block);
        }
    }
    CHECK(ended == 200, "%d threads ran their destructors", ended);
    // The main thread's own value is not destroyed where the process exits.
    puts("main ends");
    return verdict();
}
