// Compares each function of engine/kernels/native/isa.h with plain arithmetic, for the kind of processor that this is compiled for, and
// those of activation_functions.h, which are made of them.
//
// Prints the names of those that differ. Arrays have no slack, so that the address sanitizer sees a load beyond their end.

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "activation_functions.h"
#include "gemm.h"
#include "workspace.h"

using namespace crossrt;

static std::mt19937 chance(0);
static bool all_right = true;

static void check(const char* name, bool right) {
    static const char* last = "";
    if (!right && std::strcmp(last, name)) std::puts(last = name);
    all_right &= right;
}

template <class Number>
static bool same(const Number* a, const Number* b, int count) {
    return !std::memcmp(a, b, count * sizeof(Number));
}

// A number that is neither subnormal nor near the largest, of either sign.
static float any_number() {
    return std::ldexp(std::uniform_real_distribution<float>(-2, 2)(chance), int(chance() % 60) - 30) + 0x1p-60f;
}
static int any_integer(int least, int most) { return std::uniform_int_distribution<int>(least, most)(chance); }
template <class Number, class Function>
static std::vector<Number> numbers(size_t count, Function&& function) {
    std::vector<Number> all(count);
    for (Number& number : all) number = function();
    return all;
}
static std::vector<float> any_numbers(size_t count) { return numbers<float>(count, any_number); }

static BFloat16 to_bfloat16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

template <class Function, class Expected>
static void check_lanes(const char* name, Function&& function, Expected&& expected) {
    for (int turn = 0; turn < 100; turn++) {
        const auto a = any_numbers(LANES), b = any_numbers(LANES), c = any_numbers(LANES);
        float found[LANES], wanted[LANES];
        store(found, function(load(a.data()), load(b.data()), load(c.data())));
        for (int n = 0; n < LANES; n++) wanted[n] = expected(a[n], b[n], c[n]);
        check(name, same(found, wanted, LANES));
    }
}

static void check_arithmetic() {
    using V = FloatVec;
    check_lanes("+", [](V a, V b, V) { return a + b; }, [](float a, float b, float) { return a + b; });
    check_lanes("-", [](V a, V b, V) { return a - b; }, [](float a, float b, float) { return a - b; });
    check_lanes("*", [](V a, V b, V) { return a * b; }, [](float a, float b, float) { return a * b; });
    check_lanes("/", [](V a, V b, V) { return a / b; }, [](float a, float b, float) { return a / b; });
    check_lanes("fmadd", [](V a, V b, V c) { return fmadd(a, b, c); }, [](float a, float b, float c) { return std::fma(a, b, c); });
    check_lanes("fmsub", [](V a, V b, V c) { return fmsub(a, b, c); }, [](float a, float b, float c) { return std::fma(a, b, -c); });
    check_lanes("minimum", [](V a, V b, V) { return minimum(a, b); }, [](float a, float b, float) { return a < b ? a : b; });
    check_lanes("maximum", [](V a, V b, V) { return maximum(a, b); }, [](float a, float b, float) { return a > b ? a : b; });
    check_lanes("broadcast", [](V, V, V) { return broadcast(2.5f); }, [](float, float, float) { return 2.5f; });
    for (int power = -126; power <= 0; power++)
        check_lanes("shift_exponent", [=](V a, V, V) { return shift_exponent(a, broadcast(12582912.f + power)); },
                    [=](float a, float, float) {
                        uint32_t bits;
                        std::memcpy(&bits, &a, 4);
                        bits += uint32_t(power) << 23;
                        std::memcpy(&a, &bits, 4);
                        return a;
                    });
}

static void check_memory() {
    for (int turn = 0; turn < 100; turn++) {
        // Numbers and ties, which go to the even of two neighbours.
        auto values = any_numbers(2 * LANES);
        for (int n = 0; n < LANES; n += 3) {
            uint32_t bits;
            std::memcpy(&bits, &values[n], 4);
            bits = (bits & ~0xffffu) | 0x8000;
            std::memcpy(&values[n], &bits, 4);
        }
        std::vector<float> copied(2 * LANES);
        store(copied.data(), load(values.data()), load(values.data() + LANES));
        check("load, store FP32", copied == values);
        std::vector<BFloat16> rounded(2 * LANES), half(LANES), wanted(2 * LANES);
        for (int n = 0; n < 2 * LANES; n++) wanted[n] = to_bfloat16(values[n]);
        store(rounded.data(), load(values.data()), load(values.data() + LANES));
        store(half.data(), load(values.data() + LANES));
        check("store BF16", rounded == wanted && same(half.data(), wanted.data() + LANES, LANES));
        store(copied.data(), load(rounded.data() + LANES));
        for (int n = 0; n < LANES; n++) check("load BF16", copied[n] == to_float(rounded[LANES + n]));
    }
    for (int bits = 0; bits < 1 << 16; bits += LANES) {
        std::vector<uint16_t> halves(LANES);
        std::vector<float> found(LANES);
        for (int n = 0; n < LANES; n++) halves[n] = bits + n;
        store(found.data(), load_fp16(halves.data()));
        for (int n = 0; n < LANES; n++) {
            const int exponent = halves[n] >> 10 & 31, fraction = halves[n] & 1023;
            const float size = exponent ? std::ldexp(1024.f + fraction, exponent - 25) : std::ldexp(float(fraction), -24);
            if (exponent < 31) check("load_fp16", found[n] == (halves[n] >> 15 ? -size : size));
        }
    }
}

static void check_activations() {
    using Activation = DotInt8::Activation;
    check("OFFSET", std::numeric_limits<Activation>::min() == -DotInt8::OFFSET);
    std::vector<Activation> bytes(LANES);
    for (int quarters = -2; quarters < 4 * 300; quarters++) {
        auto values = numbers<float>(LANES, [] { return any_integer(-2, 4 * 300) / 4.f - DotInt8::OFFSET; });
        values[quarters & (LANES - 1)] = quarters / 4.f - DotInt8::OFFSET;
        store_rounded(bytes.data(), load(values.data()));
        std::vector<float> back(LANES);
        store(back.data(), load(bytes.data()));
        for (int n = 0; n < LANES; n++) {
            const int wanted = std::min(int(std::nearbyint(values[n])), 255 - DotInt8::OFFSET);
            check("store_rounded", bytes[n] == wanted);
            check("load of activations", back[n] == wanted);
        }
    }
}

// Small integers, whose sums are exact in any order.
static std::vector<float> integers(size_t count) {
    return numbers<float>(count, [] { return float(any_integer(-1000, 1000)); });
}

template <int R>
static void check_reduce_rows() {
    const auto rows = integers(LANES * LANES);
    FloatVec sums[LANES], maxima[LANES];
    for (int n = 0; n < LANES; n++) sums[n] = maxima[n] = load(rows.data() + n * LANES);
    float found_sums[LANES], found_maxima[LANES];
    store(found_sums, reduce_rows<R>(sums, [](FloatVec a, FloatVec b) { return a + b; }));
    store(found_maxima, reduce_rows<R>(maxima, [](FloatVec a, FloatVec b) { return maximum(a, b); }));
    for (int r = 0; r < R; r++) {
        float total = 0, most = rows[r * LANES];
        for (int n = 0; n < LANES; n++) total += rows[r * LANES + n], most = std::max(most, rows[r * LANES + n]);
        check("reduce_rows", found_sums[r] == total && found_maxima[r] == most);
    }
}

static void check_reductions() {
    for (int turn = 0; turn < 100; turn++) {
        const auto values = integers(LANES);
        float total = 0, least = values[0], most = values[0];
        for (float value : values) total += value, least = std::min(least, value), most = std::max(most, value);
        check("sum", sum(load(values.data())) == total);
        check("lowest", lowest(load(values.data())) == least);
        check("highest", highest(load(values.data())) == most);
        [&]<size_t... N>(std::index_sequence<N...>) { (check_reduce_rows<N + 1>(), ...); }(std::make_index_sequence<TILE>());
        for (int count : {32, 64, 96}) {
            // Numbers of both signs, of one of them, and one number among zeros.
            for (int kind = 0; kind < 5; kind++) {
                const auto next = [&] {
                    const float number = any_number();
                    return to_bfloat16(kind == 0 ? number : kind == 1 ? std::abs(number) : kind == 2 ? -std::abs(number) : 0.f);
                };
                auto narrow = numbers<BFloat16>(count, next);
                if (kind > 2) narrow[turn % count] = to_bfloat16(kind == 3 ? 1.f : -1.f);
                float low = 0, high = 0;
                for (BFloat16 number : narrow)
                    low = std::min(low, to_float(number)), high = std::max(high, to_float(number));
                const Extremes found = extremes(narrow.data(), count);
                check("extremes", found.low == low && found.high == high);
            }
        }
    }
}

static void check_masks() {
    for (int count = 0; count <= LANES; count++) {
        const auto values = any_numbers(LANES), others = any_numbers(LANES);
        float found[LANES];
        store(found, select(first_lanes(count), load(values.data()), load(others.data())));
        check("first_lanes, select",
              same(found, values.data(), count) && same(found + count, others.data() + count, LANES - count));
    }
}

static void check_words() {
    const auto words = numbers<int32_t>(LANES * LANES, [] { return int32_t(chance()); });
    // At an address that is a multiple of 2 alone.
    std::vector<char> unaligned(2 + 4 * LANES * LANES);
    std::memcpy(unaligned.data() + 2, words.data(), 4 * LANES * LANES);
    IntVec rows[LANES];
    for (int n = 0; n < LANES; n++) rows[n] = load_words(unaligned.data() + 2 + 4 * n * LANES);
    std::vector<int32_t> found(LANES * LANES);
    const auto store_all = [&] {
        for (int n = 0; n < LANES; n++) store_words(found.data() + n * LANES, rows[n]);
    };
    store_all();
    check("load_words, store_words", found == words);
    transpose(rows);
    store_all();
    for (int n = 0; n < LANES * LANES; n++) check("transpose", found[n] == words[n % LANES * LANES + n / LANES]);
    store_words(found.data(), zero_words());
    check("zero_words", std::count(found.begin(), found.begin() + LANES, 0) == LANES);
    const auto values = any_numbers(LANES);
    store_words(found.data(), bits(load(values.data())));
    check("bits", std::memcmp(found.data(), values.data(), 4 * LANES) == 0);

    IntVec low, high;
    interleave(load_words(words.data()), load_words(words.data() + LANES), low, high);
    store_words(found.data(), low);
    store_words(found.data() + LANES, high);
    int16_t before[4 * LANES], after[4 * LANES];
    std::memcpy(before, words.data(), sizeof before);
    std::memcpy(after, found.data(), sizeof after);
    for (int n = 0; n < 4 * LANES; n++) check("interleave", after[n] == before[n % 2 * 2 * LANES + n / 2]);

    float floats[LANES];
    store(floats, to_floats(load_words(words.data())));
    for (int n = 0; n < LANES; n++) check("to_floats", floats[n] == float(words[n]));
}

static void store_sums(int32_t* to, IntVec sums) { store_words(to, sums); }
static void store_sums(float* to, FloatVec sums) { store(to, sums); }

// Compares the product of R rows with one panel. `activation` and `weight` give numbers whose sums are exact.
template <class Dot, int R, class Activation, class Weight, class Value, class MakeActivation, class MakeWeight>
static void check_product(const char* name, Value&& value, MakeActivation&& activation, MakeWeight&& weight) {
    using Sum = std::conditional_t<std::is_same_v<Dot, DotInt8>, int32_t, float>;
    constexpr int PER_WORD = 4 / sizeof(Weight);
    for (int steps : {1, 2, 3, 8, 17, 32}) {
        const int in = steps * PER_WORD, stride = in + 2 * PER_WORD;
        // The last row ends where the array does.
        const auto rows = numbers<Activation>(size_t(R - 1) * stride + in, activation);
        Weight* panel = static_cast<Weight*>(std::aligned_alloc(64, size_t(PANEL) * in * sizeof(Weight)));
        for (int n = 0; n < PANEL * in; n++) panel[n] = weight();
        Sum found[R][PANEL], wanted[R][PANEL];
        microkernel<Dot, R>(rows.data(), stride * ptrdiff_t(sizeof(Activation)), panel, steps, R,
                            [&](int r, typename Dot::Sum low, typename Dot::Sum high) ALWAYS_INLINE_LAMBDA {
                                store_sums(found[r], low);
                                store_sums(found[r] + LANES, high);
                            });
        for (int r = 0; r < R; r++)
            for (int out = 0; out < PANEL; out++) {
                Sum total = 0;
                for (int n = 0; n < in; n++)
                    total += value(rows[size_t(r) * stride + n]) *
                             value(panel[n / PER_WORD * PANEL * PER_WORD + out * PER_WORD + n % PER_WORD]);
                wanted[r][out] = total;
            }
        check(name, same(found[0], wanted[0], R * PANEL));
        std::free(panel);
    }
}

template <class Dot, class Check>
static void for_each_height(Check&& check_height) {
    static_assert(Dot::ROWS <= TILE && TILE <= LANES);
    [&]<size_t... N>(std::index_sequence<N...>) {
        (check_height.template operator()<N + 1>(), ...);
    }(std::make_index_sequence<Dot::ROWS>());
}

static void check_int8() {
    for_each_height<DotInt8>([]<int R>() {
        const auto value = [](auto number) { return int(number); };
        const auto any_weight = [] { return any_integer(-127, 127); };
        const auto extreme_weight = [] { return any_integer(0, 1) ? 127 : -127; };
        const auto quantized = [](int q) { return static_cast<DotInt8::Activation>(q - DotInt8::OFFSET); };
        using Activation = DotInt8::Activation;
        check_product<DotInt8, R, Activation, int8_t>(
            "DotInt8", value, [=] { return quantized(any_integer(0, DotInt8::MAX_ACTIVATION)); }, any_weight);
        check_product<DotInt8, R, Activation, int8_t>(
            "DotInt8 at its limits", value, [=] { return quantized(any_integer(0, 1) * DotInt8::MAX_ACTIVATION); },
            extreme_weight);
        check_product<DotInt8, R, Activation, int8_t>(
            "DotInt8 at its limits", value, [=] { return quantized(DotInt8::MAX_ACTIVATION); }, [] { return 127; });
        check_product<DotInt8, R, Activation, int8_t>(
            "DotInt8 at its limits", value, [=] { return quantized(0); }, [] { return -127; });
    });
}

static void check_floats() {
    const auto small = [] { return float(any_integer(-16, 16)); };
    for_each_height<DotFp32>([=]<int R>() {
        check_product<DotFp32, R, float, float>("DotFp32", [](float value) { return value; }, small, small);
    });
    const auto narrow = [=] { return to_bfloat16(small()); };
    for_each_height<DotBf16>([=]<int R>() {
        check_product<DotBf16, R, BFloat16, BFloat16>("DotBf16", to_float, narrow, narrow);
    });
}

static double exact(Activation activation, double x) {
    switch (activation) {
        case Activation::gelu: return x / 2 * std::erfc(-x * std::sqrt(0.5));
        case Activation::gelu_tanh: return x / 2 * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
        case Activation::relu: return std::max(x, 0.0);
        default: return x / (1 + std::exp(-x));
    }
}

// `error` is what the function may err by for x of 1: it may err by as much as x is large.
template <class Element>
static void check_function(const char* name, Activation activation, double error) {
    const auto check_at = [&](const std::vector<float>& x) {
        float found[LANES];
        with_activation<Element>(activation, [&](auto activate) { store(found, activate(load(x.data()))); });
        for (int n = 0; n < LANES; n++)
            check(name, std::abs(found[n] - exact(activation, x[n])) <= error * std::abs(x[n]));
    };
    // What a logit, or a number of any size, is; then numbers next to 0 and the largest, of which none overflows.
    for (int n = -20000; n < 20000; n += LANES) {
        float at = n / 1000.f;
        check_at(numbers<float>(LANES, [&] { return at += 0.001f; }));
    }
    for (int turn = 0; turn < 200; turn++) check_at(any_numbers(LANES));
    for (float size : {0.f, 0x1p-126f, 87.f, 88.f, 89.f, 126.f, 1e10f, 2e18f, 2e19f, std::numeric_limits<float>::max()})
        for (float sign : {-1.f, 1.f}) check_at(std::vector<float>(LANES, sign * size));
}

static void check_functions() {
    check_function<float>("GELU, FP32", Activation::gelu, 1.9e-7);
    check_function<float>("GELU with tanh, FP32", Activation::gelu_tanh, 1.2e-7);
    check_function<float>("SiLU, FP32", Activation::silu, 1.2e-7);
    check_function<float>("ReLU, FP32", Activation::relu, 0);
    check_function<BFloat16>("GELU, BF16", Activation::gelu, 2.4e-4);
    check_function<BFloat16>("GELU with tanh, BF16", Activation::gelu_tanh, 2.6e-5);
    check_function<BFloat16>("SiLU, BF16", Activation::silu, 2.6e-5);
    check_function<BFloat16>("ReLU, BF16", Activation::relu, 0);
}

int main() {
    const ThreadState state;
    check_arithmetic();
    check_memory();
    check_activations();
    check_functions();
    check_reductions();
    check_masks();
    check_words();
    check_floats();
    check_int8();
    return all_right ? 0 : 1;
}
