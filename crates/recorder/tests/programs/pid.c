// Ends with what getpid says.
#include <stdlib.h>
#include <unistd.h>

int main(void) {
    free(malloc(123));
    return getpid();
}
