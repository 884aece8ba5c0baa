/* A string that grows word by word, and a copy of it. */

#include <heapwright.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    const char *words[] = {"A", "block", "grows", "in", "place", "while", "there", "is", "room."};
    char *text = NULL;
    size_t length = 0;

    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t word = strlen(words[i]);
        char *grown = hw_coalescing_realloc(text, length + word + 2);
        if (grown == NULL) {
            perror("hw_coalescing_realloc");
            hw_coalescing_free(text);
            return 1;
        }
        text = grown;
        length += (size_t)sprintf(text + length, i == 0 ? "%s" : " %s", words[i]);
        printf("%2zu bytes: %s\n", length + 1, text);
    }

    char *copy = hw_memdup(text, length + 1);
    if (copy != NULL) {
        printf("The copy is %s.\n", strcmp(copy, text) == 0 ? "the same" : "another");
    }
    hw_coalescing_free(copy);
    hw_coalescing_free(text);
    return 0;
}
