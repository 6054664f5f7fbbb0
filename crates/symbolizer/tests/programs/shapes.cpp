// Templates, lambdas, virtual functions and constructors.
#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

namespace shapes {

volatile unsigned sink;

template <typename T>
__attribute__((always_inline)) inline T twice(T value) {
    sink = sink + static_cast<unsigned>(value);
    return value + value;
}

struct Shape {
    explicit Shape(int sides) : sides_(sides) {}
    virtual ~Shape() = default;
    virtual double area(double scale) const { return twice(scale) * sides_; }
    int sides_;
};

struct Square final : Shape {
    Square() : Shape(4) {}
    __attribute__((noinline)) double area(double scale) const override { return twice(scale * scale) + Shape::area(1); }
};

template <typename T>
__attribute__((noinline)) T accumulate(const std::vector<T> &values) {
    T sum{};
    for (const auto &value : values) {
        sum += twice(value);
    }
    return sum;
}

}  // namespace shapes

int main(int argc, char **) {
    std::vector<int> values;
    std::map<std::string, double> names;
    for (int i = 0; i < 50 + argc; i++) {
        values.push_back(i * 37 % 11);
        names[std::to_string(i)] = i;
    }
    std::sort(values.begin(), values.end(), [](int a, int b) { return shapes::twice(a) > shapes::twice(b); });
    shapes::Square square;
    const shapes::Shape &shape = square;
    std::printf("%d %f %zu\n", shapes::accumulate(values), shape.area(argc), names.size());
    return 0;
}
