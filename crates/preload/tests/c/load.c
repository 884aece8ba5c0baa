// Loads and unloads a library two hundred times; its path is the first argument.

#define _GNU_SOURCE
#include <dlfcn.h>

#include "work.h"

int main(int count, char **arguments) {
    if (count < 2) return 99;
    struct block *kept[200];
    for (size_t i = 0; i < 200; i++) {
        void *library = dlopen(arguments[1], i % 2 ? RTLD_NOW : RTLD_LAZY);
        CHECK(library, "%s", dlerror());
        if (!library) break;
        struct block *(*work)(size_t) = (struct block * (*)(size_t)) dlsym(library, "plugin_work");
        CHECK(work, "%s", dlerror());
        CHECK(!dlsym(library, "no such name") && dlerror(), "");
        kept[i] = work ? work(i * 10) : NULL;
        CHECK(dlclose(library) == 0, "%s", dlerror());
        CHECK(!dlopen(arguments[1], RTLD_NOW | RTLD_NOLOAD), "it was not unloaded");
    }
    CHECK(!dlopen("/nowhere/nothing.so", RTLD_NOW) && dlerror(), "");
    drop_all(kept, 200);
    return verdict();
}
