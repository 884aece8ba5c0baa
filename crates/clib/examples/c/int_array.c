/* An array of numbers: allocated, filled, printed, freed. */

#include <heapwright.h>
#include <stdio.h>

int main(void) {
    size_t count = 10;
    int *numbers = hw_first_fit_sbrk_malloc(count * sizeof *numbers);
    if (numbers == NULL) {
        perror("hw_first_fit_sbrk_malloc");
        return 1;
    }
    for (size_t i = 0; i < count; i++) {
        numbers[i] = (int)(i * i);
    }
    for (size_t i = 0; i < count; i++) {
        printf("numbers[%zu] = %d\n", i, numbers[i]);
    }
    hw_first_fit_sbrk_free(numbers);
    return 0;
}
