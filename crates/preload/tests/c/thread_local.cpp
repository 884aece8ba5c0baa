// Objects of threads, of functions and of the program: made when they are first used, destroyed where their owner ends.

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace {

std::atomic<int> alive;

struct Counted {
    std::vector<std::string> lines;
    explicit Counted(std::size_t count) : lines(count, std::string(80, 'c')) { alive++; }
    Counted(const Counted &) = delete;
    ~Counted() {
        // Allocates once more on the way out.
        std::string all;
        for (const auto &line : lines) all += line;
        CHECK(all.size() == lines.size() * 80, "%zu", all.size());
        alive--;
    }
};

thread_local Counted first(20);
thread_local std::map<int, std::unique_ptr<Counted>> second;
Counted global(100);

Counted &of_function() {
    static Counted once(50);
    return once;
}

void work(int seed) {
    for (int i = 0; i < 30; i++) {
        second[(seed * 31 + i) % 10] = std::make_unique<Counted>(std::size_t(i));
        first.lines.push_back(std::string(80, 'x'));
    }
    CHECK(of_function().lines.size() == 50, "");
}

struct AtTheEnd {
    // Constructed before the others, destroyed after them.
    ~AtTheEnd() {
        std::vector<std::string> words(100, std::string(50, 'w'));
        if (alive != 0 || failures) std::_Exit(2);
        std::puts("destroyed");
    }
} at_the_end __attribute__((init_priority(200)));

} // namespace

int main() {
    for (int round = 0; round < 40; round++) {
        std::vector<std::thread> threads;
        for (int i = 0; i < 5; i++) threads.emplace_back(work, round * 5 + i);
        for (auto &thread : threads) thread.join();
    }
    CHECK(alive == 2, "%d objects are alive, the global one and the function's should be", alive.load());
    work(1);
    return verdict();
}
