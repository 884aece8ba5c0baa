/* Memory that is used again, and zero all the same; and a product that is too large. */

#include <heapwright.h>
#include <stdint.h>
#include <stdio.h>

int main(void) {
    size_t count = 8;
    int *dirty = hw_lifo_mmap_malloc(count * sizeof *dirty);
    if (dirty == NULL) {
        perror("hw_lifo_mmap_malloc");
        return 1;
    }
    hw_memset(dirty, 0xff, count * sizeof *dirty);
    printf("before:");
    for (size_t i = 0; i < count; i++) {
        printf(" %d", dirty[i]);
    }
    hw_lifo_mmap_free(dirty);

    int *zeroed = hw_lifo_mmap_calloc(count, sizeof *zeroed);
    if (zeroed == NULL) {
        perror("hw_lifo_mmap_calloc");
        return 1;
    }
    printf("\nafter: ");
    for (size_t i = 0; i < count; i++) {
        printf(" %d", zeroed[i]);
    }
    printf("\n");
    hw_lifo_mmap_free(zeroed);

    if (hw_lifo_mmap_calloc(SIZE_MAX, sizeof(int)) == NULL) {
        printf("SIZE_MAX numbers are too many.\n");
    }
    return 0;
}
