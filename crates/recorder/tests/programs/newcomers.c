// Many threads, one after the other, which each allocate a little; the last by a destructor that runs at the very end,
// after the recorder's own, whose key is older.
#include <pthread.h>
#include <stdlib.h>

static pthread_key_t key;

static void last_words(void *block) {
    free(block);
    free(malloc(77));
}

static void *work(void *argument) {
    free(malloc(11));
    pthread_setspecific(key, malloc(33));
    return argument;
}

int main(int count, char **arguments) {
    free(malloc(1));
    pthread_key_create(&key, last_words);
    for (int left = count > 1 ? atoi(arguments[1]) : 1; left > 0; left--) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, NULL) != 0 || pthread_join(thread, NULL) != 0)
            return 1;
    }
    return 0;
}
