// Interrupts the process that waits for it, as Ctrl-C in a terminal would.
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

int main(void) {
    free(malloc(1));
    usleep(300000);
    kill(getppid(), SIGINT);
    kill(getppid(), SIGQUIT);
    return 0;
}
