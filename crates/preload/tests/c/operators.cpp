// C++'s operators new and delete in all their forms, their failure, and what stands on them.
//
// Options: --never-frees (memory is not used again), --system (the C++ library's own operators).

#include <dlfcn.h>
#include <malloc.h>
#include <sys/resource.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <new>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "check.h"

namespace {

bool never_frees, on_system;

template <class Value> Value opaque(Value value) {
    volatile Value hidden = value;
    return hidden;
}

const std::size_t sizes[] = {0, 1, 8, 16, 17, 24, 31, 100, 1000, 4096, 5000, 70000, 200000, 3000000};

bool aligned(const void *block, std::size_t align) { return reinterpret_cast<std::uintptr_t>(block) % align == 0; }

void fill(void *block, std::size_t size) { std::memset(block, 0x5a, size); }

void every_form_of_new_is_answered_and_every_form_of_delete_takes_it() {
    begin("every form of new is answered, and every form of delete takes it");
    for (auto size : sizes) {
        for (int round = 0; round < (size > 100000 ? 5 : 50); round++) {
            void *blocks[] = {
                ::operator new(size), ::operator new(size), ::operator new(size, std::nothrow),
                ::operator new[](size), ::operator new[](size), ::operator new[](size, std::nothrow),
            };
            for (auto block : blocks) {
                CHECK(block && aligned(block, __STDCPP_DEFAULT_NEW_ALIGNMENT__), "%zu bytes gave %p", size, block);
                CHECK(malloc_usable_size(block) >= size, "malloc does not know it");
                fill(block, size);
            }
            ::operator delete(blocks[0]);
            ::operator delete(blocks[1], size);
            ::operator delete(blocks[2], std::nothrow);
            ::operator delete[](blocks[3]);
            ::operator delete[](blocks[4], size);
            ::operator delete[](blocks[5], std::nothrow);
        }
        for (std::size_t align = 16; align <= 65536; align *= 4) {
            auto as = std::align_val_t{align};
            void *blocks[] = {
                ::operator new(size, as), ::operator new(size, as), ::operator new(size, as, std::nothrow),
                ::operator new[](size, as), ::operator new[](size, as), ::operator new[](size, as, std::nothrow),
            };
            for (auto block : blocks) {
                CHECK(block && aligned(block, align), "%zu bytes at %zu gave %p", size, align, block);
                fill(block, size);
            }
            ::operator delete(blocks[0], as);
            ::operator delete(blocks[1], size, as);
            ::operator delete(blocks[2], as, std::nothrow);
            ::operator delete[](blocks[3], as);
            ::operator delete[](blocks[4], size, as);
            ::operator delete[](blocks[5], as, std::nothrow);
        }
    }
    void *nothing = opaque<void *>(nullptr);
    ::operator delete(nothing);
    ::operator delete[](nothing);
    ::operator delete(nothing, std::size_t{8});
    ::operator delete(nothing, std::align_val_t{64});
    ::operator delete(nothing, std::nothrow);
}

struct alignas(128) Wide {
    static inline int alive = 0;
    unsigned char bytes[300];
    Wide() { alive++; }
    ~Wide() { alive--; }
};

void expressions_construct_and_destroy() {
    begin("expressions construct and destroy");
    for (int round = 0; round < 100; round++) {
        auto one = new Wide;
        auto many = new Wide[opaque(7)];
        auto quiet = new (std::nothrow) Wide;
        CHECK(aligned(one, 128) && aligned(many, 128) && aligned(quiet, 128), "%p %p %p", (void *)one, (void *)many, (void *)quiet);
        CHECK(Wide::alive == 9, "%d", Wide::alive);
        delete quiet;
        delete[] many;
        delete one;
        CHECK(Wide::alive == 0, "%d", Wide::alive);
    }
    auto shared = std::make_shared<Wide>();
    CHECK(aligned(shared.get(), 128), "%p", (void *)shared.get());
}

// Requests that no machine serves.
const std::size_t huge[] = {std::size_t(PTRDIFF_MAX) - 100, std::size_t(PTRDIFF_MAX), std::size_t(PTRDIFF_MAX) + 1, SIZE_MAX - 64, SIZE_MAX};

struct Local {
    static inline std::atomic_int alive = 0;
    std::string text = std::string(100, 'l');
    Local() { alive++; }
    ~Local() { alive--; }
};

// Frames to unwind, with something to destroy in each.
template <class Function> void deep(int depth, Function function) {
    Local local;
    std::vector<Local> more(std::size_t(depth % 3));
    if (depth == 0) function();
    else deep(depth - 1, function);
}

template <class Function> void throws_bad_alloc(const char *what, std::size_t size, Function function) {
    bool caught = false;
    try {
        deep(20, function);
        CHECK(false, "%s of %zx bytes came back", what, size);
    } catch (const std::bad_alloc &error) {
        caught = true;
        CHECK(error.what() && *error.what(), "");
    }
    CHECK(caught, "%s of %zx bytes", what, size);
    CHECK(Local::alive == 0, "%d objects were not destroyed", Local::alive.load());
}

void failure_throws_bad_alloc_through_frames() {
    begin("failure throws bad_alloc, and frames are left in order");
    for (auto impossible : huge) {
        std::size_t size = opaque(impossible);
        auto as = std::align_val_t{256};
        throws_bad_alloc("new", size, [=] { fill(::operator new(size), 1); });
        throws_bad_alloc("new[]", size, [=] { fill(::operator new[](size), 1); });
        CHECK(!::operator new(size, std::nothrow), "%zx bytes", size);
        CHECK(!::operator new[](size, std::nothrow), "%zx bytes", size);
        // libstdc++ up to 12 rounds such a size up to nothing, and serves that.
        if (on_system && size > SIZE_MAX - 256) continue;
        throws_bad_alloc("aligned new", size, [=] { fill(::operator new(size, as), 1); });
        throws_bad_alloc("aligned new[]", size, [=] { fill(::operator new[](size, as), 1); });
        CHECK(!::operator new(size, as, std::nothrow), "%zx bytes", size);
        CHECK(!::operator new[](size, as, std::nothrow), "%zx bytes", size);
    }
    throws_bad_alloc("a vector", 0, [] { std::vector<char> many(std::size_t(PTRDIFF_MAX) - 5); });
    throws_bad_alloc("an array", 0, [] { delete[] new double[opaque(std::size_t(PTRDIFF_MAX) / 4)]; });
}

int handled;
void *reserve;
std::size_t reserved;

void gives_up_at_the_third_call() {
    if (++handled == 3) std::set_new_handler(nullptr);
}

struct Mine {
    int calls;
};

void throws_something_else() { throw Mine{++handled}; }

void frees_the_reserve() {
    handled++;
    ::operator delete(reserve);
    reserve = nullptr;
    std::set_new_handler(nullptr);
}

rlimit before;

void raises_the_limit() {
    handled++;
    setrlimit(RLIMIT_AS, &before);
    std::set_new_handler(nullptr);
}

// From here on, what the process may map is what it has mapped, and this much more.
void limit(std::size_t more) {
    std::size_t pages = 0;
    FILE *file = std::fopen("/proc/self/statm", "r");
    CHECK(file && std::fscanf(file, "%zu", &pages) == 1, "");
    if (file) std::fclose(file);
    getrlimit(RLIMIT_AS, &before);
    rlimit now = before;
    now.rlim_cur = pages * 4096 + more;
    CHECK(setrlimit(RLIMIT_AS, &now) == 0, "");
}

void new_handlers_are_called_until_they_give_up() {
    begin("new-handlers are called until they give up");
    std::size_t size = opaque(huge[1]);
    auto as = std::align_val_t{64};
    for (int form = 0; form < 8; form++) {
        handled = 0;
        std::set_new_handler(gives_up_at_the_third_call);
        void *block = nullptr;
        bool caught = false;
        try {
            switch (form) {
            case 0: block = ::operator new(size); break;
            case 1: block = ::operator new[](size); break;
            case 2: block = ::operator new(size, as); break;
            case 3: block = ::operator new[](size, as); break;
            case 4: block = ::operator new(size, std::nothrow); break;
            case 5: block = ::operator new[](size, std::nothrow); break;
            case 6: block = ::operator new(size, as, std::nothrow); break;
            default: block = ::operator new[](size, as, std::nothrow); break;
            }
        } catch (const std::bad_alloc &) {
            caught = true;
        }
        CHECK(!block, "form %d", form);
        CHECK(caught == (form < 4), "form %d", form);
        CHECK(handled == 3, "form %d: the handler was called %d times", form, handled);
        CHECK(!std::get_new_handler(), "form %d", form);
    }
}

void a_new_handler_may_throw() {
    begin("a new-handler may throw what it likes");
    std::size_t size = opaque(huge[1]);
    std::set_new_handler(throws_something_else);
    for (int depth = 0; depth < 30; depth += 10) {
        handled = 0;
        bool caught = false;
        try {
            deep(depth, [=] { fill(::operator new(size), 1); });
        } catch (const Mine &mine) {
            caught = mine.calls == 1;
        } catch (...) {
        }
        CHECK(caught, "depth %d", depth);
        CHECK(Local::alive == 0, "%d objects were not destroyed", Local::alive.load());
    }
    std::set_new_handler(nullptr);
}

void a_new_handler_may_make_room() {
    begin("a new-handler may make room");
    std::size_t size = opaque(std::size_t{64} << 20);
    if (!never_frees) {
        handled = 0;
        reserved = size;
        reserve = ::operator new(reserved);
        limit(32 << 20);
        std::set_new_handler(frees_the_reserve);
        void *block = ::operator new(size, std::nothrow);
        CHECK(block && handled == 1, "%p after %d calls of the handler", block, handled);
        setrlimit(RLIMIT_AS, &before);
        if (block) fill(block, size);
        ::operator delete(block);
    }
    handled = 0;
    malloc_trim(0); // what was just freed is not to serve again
    limit(32 << 20);
    std::set_new_handler(raises_the_limit);
    void *block = ::operator new(size);
    CHECK(block && handled == 1, "%p after %d calls of the handler", block, handled);
    setrlimit(RLIMIT_AS, &before);
    fill(block, size);
    ::operator delete(block, size);
}

std::uint64_t next(std::uint64_t &state) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

std::uint64_t churn(std::uint64_t state, int steps) {
    std::map<std::string, std::vector<std::string>> map;
    std::unordered_map<std::uint64_t, std::unique_ptr<std::deque<std::string>>> queues;
    std::list<std::set<std::uint64_t>> sets;
    std::uint64_t sum = 0;
    for (int step = 0; step < steps; step++) {
        auto &list = map[std::string(next(state) % 60, char('a' + next(state) % 26))];
        list.emplace_back(next(state) % 300, 'v');
        if (list.size() > 10) list.erase(list.begin(), list.begin() + 5);
        auto &queue = queues[next(state) % 100];
        if (!queue) queue = std::make_unique<std::deque<std::string>>();
        queue->push_back(std::to_string(next(state)));
        if (queue->size() > 20) queues.erase(next(state) % 100);
        if (step % 16 == 0) sets.emplace_back();
        sets.back().insert(next(state));
        if (sets.size() > 30) sets.pop_front();
        try {
            if (step % 20 == 7) deep(int(next(state) % 10), [&] { if (opaque(true)) throw std::runtime_error(std::string(200, 'e') + std::to_string(step)); });
        } catch (const std::runtime_error &error) {
            sum += std::strlen(error.what());
        }
    }
    for (const auto &[key, list] : map) sum = sum * 31 + key.size() * list.size();
    return sum;
}

void containers_and_exceptions_work_while_threads_run() {
    begin("containers and exceptions work while threads run");
    int steps = never_frees ? 2000 : 8000;
    std::uint64_t expected[4], sums[4];
    for (int i = 0; i < 4; i++) expected[i] = churn(std::uint64_t(i) + 99, steps);
    CHECK(Local::alive == 0, "%d objects were not destroyed", Local::alive.load());
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; i++) threads.emplace_back([&, i] { sums[i] = churn(std::uint64_t(i) + 99, steps); });
    for (auto &thread : threads) thread.join();
    for (int i = 0; i < 4; i++) CHECK(sums[i] == expected[i], "thread %d", i);
}

void the_operators_come_from_where_malloc_does() {
    begin("the operators come from where malloc does");
    const char *names[] = {
        "_Znwm", "_Znam", "_ZnwmRKSt9nothrow_t", "_ZnamRKSt9nothrow_t", "_ZnwmSt11align_val_t", "_ZnamSt11align_val_t",
        "_ZnwmSt11align_val_tRKSt9nothrow_t", "_ZnamSt11align_val_tRKSt9nothrow_t", "_ZdlPv", "_ZdaPv", "_ZdlPvRKSt9nothrow_t",
        "_ZdaPvRKSt9nothrow_t", "_ZdlPvm", "_ZdaPvm", "_ZdlPvSt11align_val_t", "_ZdaPvSt11align_val_t",
        "_ZdlPvSt11align_val_tRKSt9nothrow_t", "_ZdaPvSt11align_val_tRKSt9nothrow_t", "_ZdlPvmSt11align_val_t", "_ZdaPvmSt11align_val_t"};
    Dl_info info{};
    void *function = dlsym(RTLD_DEFAULT, "malloc");
    CHECK(function && dladdr(function, &info), "");
    std::string library = info.dli_fname ? info.dli_fname : "";
    for (auto name : names) {
        function = dlsym(RTLD_DEFAULT, name);
        CHECK(function && dladdr(function, &info), "%s is missing", name);
        CHECK(on_system || library == info.dli_fname, "%s comes from %s", name, info.dli_fname);
    }
}

} // namespace

int main(int, char **arguments) {
    never_frees = has_flag(arguments, "--never-frees");
    on_system = has_flag(arguments, "--system");
#ifdef __x86_64__
    the_operators_come_from_where_malloc_does();
#endif
    every_form_of_new_is_answered_and_every_form_of_delete_takes_it();
    expressions_construct_and_destroy();
    failure_throws_bad_alloc_through_frames();
    new_handlers_are_called_until_they_give_up();
    a_new_handler_may_throw();
    a_new_handler_may_make_room();
    containers_and_exceptions_work_while_threads_run();
    return verdict();
}
