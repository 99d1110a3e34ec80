/* pycrew stubs: the C++ functions written from tests/py/stub_ops.py. */
#include <cmath>
#include <string>

#include "tests/harness/tap.h"
#include "tests/stubs/stub_ops.hpp"

static pycrew::crew open_crew(unsigned workers)
{
    const char *top = getenv("top_srcdir");
    const std::string folder = std::string(top != nullptr ? top : ".") + "/tests/py";
    pycrew::options options;

    options.workers = workers;
    options.path = {folder};
    options.log = [](int, const char *) {};
    return pycrew::crew(options);
}

/* What this throws. */
template <typename Body> static pycrew::error failure_of(Body body)
{
    try {
        body();
    } catch (const pycrew::error &error) {
        return error;
    }
    tap_fail("nothing was thrown");
}

static bool has(const std::string &text, const char *part)
{
    return text.find(part) != std::string::npos;
}

TEST(every_type_comes_back_as_it_went)
{
    using namespace std::literals;
    pycrew::crew crew = open_crew(1);
    const std::int64_t least = std::numeric_limits<std::int64_t>::min();

    ASSERT_INT(stub_ops::add(crew, least, 1), least + 1);
    ASSERT(stub_ops::negate(crew, false));
    ASSERT(std::isinf(stub_ops::half(crew, HUGE_VAL)));
    ASSERT(stub_ops::text(crew, "a\0b"sv) == "a\0b"s);
    const pycrew::bytes turned = stub_ops::data(crew, pycrew::bytes_view("\0\1", 2));
    ASSERT(turned.size() == 2 && turned[0] == std::byte{1});
    stub_ops::nothing(crew);
    ASSERT(stub_ops::optional_int(crew, std::nullopt) == std::nullopt);
    ASSERT(stub_ops::optional_int(crew, 7) == 7);
    ASSERT(stub_ops::optional_text(crew, "x") == "x");
    ASSERT(stub_ops::optional_text(crew, std::nullopt) == std::nullopt);
    ASSERT(stub_ops::reverse(crew, {1, 2, 3}) == (std::vector<std::int64_t>{3, 2, 1}));
    ASSERT(stub_ops::holes(crew, {1, std::nullopt}) ==
           (std::vector<std::optional<std::int64_t>>{1, std::nullopt}));
    ASSERT(stub_ops::pair(crew, {7, "seven"}) ==
           (std::tuple<std::string, std::int64_t>{"seven", 7}));
    ASSERT(stub_ops::counts(crew, {{"a", 1}}) == (std::map<std::string, std::int64_t>{{"a", 1}}));
    ASSERT(stub_ops::deep(crew, {{"k", {{1, std::nullopt}, {2, "b"}}}})["k"].size() == 2);
    ASSERT_INT(stub_ops::cached(crew, 12), 144);
}

TEST(dataclasses_are_structs)
{
    pycrew::crew crew = open_crew(1);
    const stub_ops::Item item{
        "first", {std::byte{1}}, {3, 4.5}, {"x", "y"}, stub_ops::Point{-1, -2}};

    ASSERT_INT(stub_ops::shift(crew, {1, 2.5}, 41).x, 42);
    const auto back = stub_ops::items(crew, {item, {}});
    ASSERT(back.size() == 2 && back.at("first").tags == item.tags &&
           back.at("first").parent->x == -1);
    ASSERT(!back.at("").parent);
    ASSERT(stub_ops::named(crew, {true, "on"}).default_ == "on");
    ASSERT_INT(stub_ops::later_point(crew, {6, 7}).x, 6);
    ASSERT_INT(stub_ops::points(crew, {{1, 0}, {2, 0}})[1].x, 2);
}

TEST(arrays_are_vectors_views_or_results)
{
    pycrew::crew crew = open_crew(1);
    const std::vector<double> data{3, 4};
    std::vector<std::int64_t> filled(3);

    ASSERT(std::abs(stub_ops::norm(crew, data) - 5) < 1e-9);
    const auto doubled = stub_ops::scaled(crew, pycrew::array_view(data), 2);
    ASSERT(doubled.view()(1) > 7.9);
    ASSERT(stub_ops::norm(crew, doubled) > 9.9);
    stub_ops::fill(crew, pycrew::writable(pycrew::array_view(filled)), -9);
    ASSERT_INT(filled[2], -9);
    const std::vector<std::int32_t> cells{1, 2};
    auto call = stub_ops::grid_prepare(crew, {pycrew::array_view(cells), "g"});
    const auto grid = call.submit().wait().result<stub_ops::Grid>();
    ASSERT(grid.label == "g" && grid.cells(1) == 3);
}

TEST(defaults_keywords_and_stars)
{
    pycrew::crew crew = open_crew(1);

    ASSERT(stub_ops::greet(crew, "ada") == "adaada!");
    ASSERT(stub_ops::greet(crew, "ada", 1, true, "?") == "ADA?");
    ASSERT_INT(stub_ops::total(crew, 1, {10, 100}, 1000), 1111);
    ASSERT(stub_ops::reserved(crew, 1, 2.5, "c", true, {4}) == "1 2.5 c True [4]");
}

TEST(futures_and_streams)
{
    pycrew::crew crew = open_crew(2);
    std::int64_t sum = 0;

    auto later = stub_ops::later_async(crew, 41);
    auto moved = stub_ops::shift_async(crew, {1, 0}, 1);
    ASSERT_INT(later.get(), 42);
    ASSERT_INT(moved.get().x, 2);
    for (std::int64_t square : stub_ops::squares(crew, 5))
        sum += square;
    ASSERT_INT(sum, 30);
    sum = 0;
    for (const stub_ops::Point &point : stub_ops::point_stream(crew, 4))
        sum += point.x;
    ASSERT_INT(sum, 6);
}

TEST(a_result_of_another_type_is_thrown_with_the_functions_name)
{
    pycrew::crew crew = open_crew(1);

    const auto text = failure_of([&] { stub_ops::not_an_int(crew); });
    ASSERT_INT(text.code(), PYCREW_ETYPE);
    ASSERT(text.message() == "stub_ops:not_an_int returns int: value: expected int, got str");
    ASSERT(text.function() == "stub_ops:not_an_int");
    ASSERT_INT(failure_of([&] { stub_ops::huge(crew, 63); }).code(), -ERANGE);
    ASSERT(has(failure_of([&] { stub_ops::shape_of_list(crew, 0); }).message(),
               "expected Point, got None"));
    stub_ops::set_wrong(crew, "{1}");
    ASSERT(has(failure_of([&] { stub_ops::nothing(crew); }).message(),
               "returns None: expected None, got"));
    ASSERT_INT(failure_of([&] { stub_ops::text(crew, ""); }).code(), PYCREW_ETYPE);
    ASSERT(has(failure_of([&] { stub_ops::data(crew, {}); }).message(),
               "expected bytes, got a pickled object"));
    ASSERT_INT(failure_of([&] { stub_ops::shift(crew, {}, 1); }).code(), PYCREW_ETYPE);
    ASSERT(failure_of([&] { stub_ops::divide(crew, 1, 0); }).type() == "ZeroDivisionError");
}

TAP_MAIN
