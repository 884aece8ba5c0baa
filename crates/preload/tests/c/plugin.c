// A library that is loaded and unloaded: it allocates in its constructor and frees in its destructor.

#include "work.h"

static struct block *blocks[30];
static _Thread_local struct block *of_thread;

__attribute__((constructor)) static void loaded(void) {
    for (size_t i = 0; i < 30; i++) blocks[i] = make(i * 100, i);
}

__attribute__((destructor)) static void unloaded(void) {
    drop_all(blocks, 30);
    if (failures) abort();
}

// What the program frees when this library is gone.
struct block *plugin_work(size_t size) {
    drop(of_thread);
    of_thread = NULL;
    drop(blocks[7]);
    blocks[7] = make(size, 1);
    of_thread = make(10, 2);
    drop(of_thread);
    of_thread = NULL;
    return make(size, 3);
}
