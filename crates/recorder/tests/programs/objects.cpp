// What operator new and delete ask for reaches malloc and free.
#include <new>

struct alignas(64) Line { char bytes[64]; };

int main() {
    int *volatile numbers = new int[1000];
    Line *volatile line = new Line;
    delete[] numbers;
    delete line;
}
