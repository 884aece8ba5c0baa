/* The list of blocks, and the sums of the heap, before and after two of three blocks are freed. */

#include <heapwright.h>
#include <stdio.h>

static void show(const char *when) {
    struct hw_stats stats;
    hw_first_fit_sbrk_stats(&stats);
    printf("%s. In use: %zu (%zu bytes); free: %zu (%zu bytes).\n", when, stats.live_blocks,
           stats.live_bytes, stats.free_blocks, stats.free_bytes);
    fflush(stdout);
    hw_first_fit_sbrk_print(1);
    printf("\n");
}

int main(void) {
    void *first = hw_first_fit_sbrk_malloc(100);
    void *second = hw_first_fit_sbrk_malloc(200);
    void *third = hw_first_fit_sbrk_malloc(300);
    show("Allocated");

    hw_first_fit_sbrk_free(first);
    hw_first_fit_sbrk_free(second);
    show("Freed");

    /* This one takes the first block that it fits into, all of it. */
    void *small = hw_first_fit_sbrk_malloc(10);
    show("Used again");

    hw_first_fit_sbrk_free(small);
    hw_first_fit_sbrk_free(third);

    char message[100];
    if (hw_first_fit_sbrk_check(message, sizeof message) != 0) {
        printf("The heap is broken: %s\n", message);
        return 1;
    }
    printf("The heap is sound.\n");
    return 0;
}
