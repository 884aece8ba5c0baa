// Containers, algorithms, smart pointers, streams, expressions and threads of the C++ library, with templates of its
// own on top. It is compiled by the tests, and then run.

#include <algorithm>
#include <deque>
#include <functional>
#include <iostream>
#include <list>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <variant>
#include <vector>

namespace {

struct Random {
    std::uint64_t state;
    std::uint64_t operator()(std::uint64_t limit) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state % limit;
    }
};

// A graph whose nodes own their labels and know each other weakly.
struct Node : std::enable_shared_from_this<Node> {
    std::string label;
    std::vector<std::weak_ptr<Node>> near;
    explicit Node(std::string label) : label(std::move(label)) {}
};

class Graph {
    std::unordered_map<std::string, std::shared_ptr<Node>> nodes;

public:
    Node &node(const std::string &label) {
        auto &slot = nodes[label];
        if (!slot) slot = std::make_shared<Node>(label);
        return *slot;
    }
    void link(const std::string &from, const std::string &to) { node(from).near.push_back(node(to).weak_from_this()); }
    void drop(const std::string &label) { nodes.erase(label); }

    std::map<std::string, std::size_t> distances(const std::string &start) const {
        std::map<std::string, std::size_t> known{{start, 0}};
        std::deque<std::string> open{start};
        while (!open.empty()) {
            auto label = std::move(open.front());
            open.pop_front();
            auto found = nodes.find(label);
            if (found == nodes.end()) continue;
            for (const auto &weak : found->second->near)
                if (auto next = weak.lock(); next && known.emplace(next->label, known.at(label) + 1).second)
                    open.push_back(next->label);
        }
        return known;
    }
};

// Shapes by variant, and the same by virtual functions.
struct Circle { double radius; };
struct Box { double width, height; };
using Shape = std::variant<Circle, Box, std::vector<Circle>>;

template <class... Functions> struct Overloaded : Functions... { using Functions::operator()...; };
template <class... Functions> Overloaded(Functions...) -> Overloaded<Functions...>;

double area(const Shape &shape) {
    return std::visit(Overloaded{
        [](const Circle &circle) { return 3.0 * circle.radius * circle.radius; },
        [](const Box &box) { return box.width * box.height; },
        [](const std::vector<Circle> &circles) {
            return std::accumulate(circles.begin(), circles.end(), 0.0, [](double sum, const Circle &one) { return sum + area(one); });
        },
    }, shape);
}

struct Animal {
    virtual ~Animal() = default;
    virtual std::string sound() const = 0;
};
template <char Letter, int Times> struct Creature final : Animal {
    std::string name = std::string(Times * 7, Letter);
    std::string sound() const override { return name.substr(0, Times); }
};

// A tuple of vectors, sorted by any of its columns.
template <class... Columns> class Columnar {
    std::tuple<std::vector<Columns>...> columns;
    template <std::size_t... Index> auto row(std::size_t at, std::index_sequence<Index...>) const {
        return std::make_tuple(std::get<Index>(columns)[at]...);
    }

public:
    void add(Columns... values) { add(std::index_sequence_for<Columns...>{}, std::move(values)...); }
    template <std::size_t... Index> void add(std::index_sequence<Index...>, Columns... values) {
        (std::get<Index>(columns).push_back(std::move(values)), ...);
    }
    template <std::size_t Column> auto sorted() const {
        const auto &keys = std::get<Column>(columns);
        std::vector<std::size_t> order(keys.size());
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](auto left, auto right) { return keys[left] < keys[right]; });
        std::vector<std::tuple<Columns...>> rows;
        for (auto at : order) rows.push_back(row(at, std::index_sequence_for<Columns...>{}));
        return rows;
    }
};

struct Failure : std::runtime_error {
    std::vector<int> baggage;
    explicit Failure(int depth) : std::runtime_error("at depth " + std::to_string(depth)), baggage(100, depth) {}
};

int descend(int depth) {
    std::string local(static_cast<std::size_t>(depth) * 10, 'd');
    std::list<int> list(static_cast<std::size_t>(depth), depth);
    if (depth == 30) throw Failure(depth);
    return descend(depth + 1) + static_cast<int>(local.size() + list.size());
}

std::string work(std::uint64_t seed, std::size_t size) {
    Random random{seed};
    std::map<std::string, std::vector<std::string>> words;
    for (std::size_t i = 0; i < size; i++) {
        std::string word(random(60), static_cast<char>('a' + random(26)));
        words[word.substr(0, 3)].push_back(word + std::to_string(random(1000)));
        if (i % 10 == 9) words.erase(words.begin());
    }
    std::size_t total = 0;
    for (auto &[key, list] : words) {
        std::sort(list.begin(), list.end(), std::greater<>());
        total += list.size() * key.size() + list.front().size();
    }
    return std::to_string(words.size()) + " " + std::to_string(total);
}

} // namespace

int main(int count, char **arguments) {
    std::size_t size = count > 1 ? std::stoul(arguments[1]) : 1000;
    Random random{88172645463325252u};

    Graph graph;
    auto label = [](std::uint64_t n) { return "a node with a label that is allocated " + std::to_string(n); };
    for (std::size_t i = 0; i < size; i++) graph.link(label(random(size / 4)), label(random(size / 4)));
    for (std::size_t i = 0; i < size / 50; i++) graph.drop(label(random(size / 4)));
    auto distances = graph.distances(label(1));
    std::size_t sum = 0;
    for (const auto &[name, distance] : distances) sum += distance * name.size();
    std::cout << "graph " << distances.size() << " " << sum << "\n";

    std::vector<Shape> shapes;
    for (std::size_t i = 0; i < size; i++) {
        switch (random(3)) {
        case 0: shapes.push_back(Circle{double(i % 100)}); break;
        case 1: shapes.push_back(Box{double(i % 10), 2}); break;
        default: shapes.push_back(std::vector<Circle>(i % 20, Circle{1})); break;
        }
    }
    std::cout << "shapes " << std::accumulate(shapes.begin(), shapes.end(), 0.0, [](double sum, const Shape &shape) { return sum + area(shape); }) << "\n";

    std::vector<std::unique_ptr<Animal>> animals;
    for (std::size_t i = 0; i < size; i++) {
        if (random(2)) animals.push_back(std::make_unique<Creature<'m', 3>>());
        else animals.push_back(std::make_unique<Creature<'w', 9>>());
    }
    std::shuffle(animals.begin(), animals.end(), std::minstd_rand(7));
    animals.resize(size / 2);
    std::ostringstream sounds;
    for (std::size_t i = 0; i < 10; i++) sounds << animals[i]->sound() << (i % 2 ? "; " : ", ");
    std::cout << "animals " << sounds.str() << "\n";

    Columnar<int, std::string, double> table;
    for (std::size_t i = 0; i < size; i++) table.add(int(random(1000)), std::string(random(40), 'c') + std::to_string(i), double(i) / 3);
    auto by_number = table.sorted<0>();
    auto by_text = table.sorted<1>();
    std::cout << "table " << std::get<1>(by_number.front()) << " " << std::get<2>(by_text.back()) << "\n";

    std::set<std::pair<std::string, int>> unique;
    for (std::size_t i = 0; i < size; i++) unique.emplace(std::to_string(random(size)), int(i % 3));
    std::optional<std::string> middle;
    if (auto at = std::next(unique.begin(), std::ptrdiff_t(unique.size() / 2)); at != unique.end()) middle = at->first;
    std::cout << "set " << unique.size() << " " << middle.value_or("none") << "\n";

    try {
        descend(1);
    } catch (const Failure &failure) {
        std::cout << "caught " << failure.what() << " " << failure.baggage.size() << "\n";
    }

    std::vector<std::string> results(4);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < results.size(); i++)
        threads.emplace_back([&, i] { results[i] = work(i * 77 + 1, size / 2); });
    for (auto &thread : threads) thread.join();
    for (const auto &result : results) std::cout << "thread " << result << "\n";
    return std::cout.flush() ? 0 : 1;
}
