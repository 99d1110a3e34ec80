/* pycrew.hpp: the library from C++. Functions are in tests/py/api_ops.py and actor_ops.py. */
#include <cmath>
#include <new>
#include <string>

#include "lib/pycrew.hpp"
#include "tests/harness/tap.h"

using namespace std::chrono_literals;

static constexpr auto BOUND = 20s; /* long enough for anything on a loaded machine */

/* ---- allocations of C++, counted in one thread -------------------------------------------------
 */

/* Not inlined, or gcc takes a new and this free for a mismatch. */
#define REPLACED __attribute__((noinline))

static thread_local bool counting;
static thread_local unsigned allocations;

REPLACED void *operator new(std::size_t size)
{
    void *memory = malloc(size != 0 ? size : 1);

    allocations += counting;
    if (memory == nullptr)
        throw std::bad_alloc();
    return memory;
}
REPLACED void operator delete(void *memory) noexcept
{
    free(memory);
}
REPLACED void operator delete(void *memory, std::size_t) noexcept
{
    free(memory);
}

/* ---- crews -------------------------------------------------------------------------------------
 */

static void no_log(void *, int, const char *)
{
}

static pycrew::crew open_crew(unsigned workers, pycrew::options options = {})
{
    const char *top = getenv("top_srcdir");
    const std::string folder = std::string(top != nullptr ? top : ".") + "/tests/py";
    const char *const path[] = {folder.c_str(), nullptr};

    options.workers = workers;
    options.path = path;
    options.log = no_log;
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

template <typename T> static void expect_same(const pycrew::crew &crew, const T &value)
{
    ASSERT(crew.run<T>("api_ops:echo", value) == value);
}

/* ---- values ------------------------------------------------------------------------------------
 */

TEST(ints_of_all_sizes_come_back_as_they_went)
{
    pycrew::crew crew = open_crew(1);

    expect_same<std::int8_t>(crew, -128);
    expect_same<std::uint8_t>(crew, 255);
    expect_same<short>(crew, -32768);
    expect_same<unsigned short>(crew, 65535);
    expect_same(crew, std::numeric_limits<int>::min());
    expect_same(crew, std::numeric_limits<unsigned>::max());
    expect_same(crew, std::numeric_limits<long>::min());
    expect_same(crew, std::numeric_limits<long long>::max());
    expect_same(crew, std::numeric_limits<unsigned long long>::max());
    expect_same(crew, true);
    expect_same(crew, false);
    ASSERT(crew.run<std::string>("api_ops:kind", true) == "bool");
    ASSERT(crew.run<std::string>("api_ops:kind", std::uint8_t{1}) == "int");
}

TEST(an_int_that_does_not_fit_is_out_of_range_and_text_is_no_int)
{
    pycrew::crew crew = open_crew(1);

    ASSERT_INT(failure_of([&] { crew.run<std::int8_t>("api_ops:echo", 128); }).code(), -ERANGE);
    ASSERT_INT(failure_of([&] { crew.run<std::uint8_t>("api_ops:echo", 256); }).code(), -ERANGE);
    ASSERT_INT(failure_of([&] { crew.run<unsigned>("api_ops:echo", -1); }).code(), -ERANGE);
    ASSERT_INT(failure_of([&] { crew.run<int>("api_ops:big", 31); }).code(), -ERANGE);
    ASSERT_INT(failure_of([&] { crew.run<long>("api_ops:big", 63); }).code(), -ERANGE);
    ASSERT_INT(failure_of([&] { crew.run<int>("api_ops:echo", "1"); }).code(), PYCREW_ETYPE);
    ASSERT_INT(failure_of([&] { crew.run<std::string>("api_ops:echo", 1); }).code(), PYCREW_ETYPE);
}

TEST(floats_text_and_bytes_come_back_as_they_went)
{
    pycrew::crew crew = open_crew(1);
    const std::string with_nul("a\0b\xc3\xa9", 5);

    expect_same(crew, 0.1);
    expect_same(crew, 0.1F);
    expect_same(crew, HUGE_VAL);
    expect_same(crew, with_nul);
    expect_same(crew, std::string());
    ASSERT_INT(crew.run<int>("api_ops:length", std::string_view(with_nul)), 4);
    ASSERT_INT(crew.run<int>("api_ops:length", std::string_view()), 0);
    ASSERT_INT(crew.run<int>("api_ops:length", "text"), 4);
    expect_same(crew, pycrew::bytes{std::byte{0}, std::byte{255}});
    expect_same(crew, pycrew::bytes());
    ASSERT(crew.run<std::string>("api_ops:text_of", pycrew::bytes_view("xy", 2)) == "b'xy'");
}

TEST(none_is_an_empty_optional)
{
    pycrew::crew crew = open_crew(1);
    const char *no_text = nullptr;

    expect_same(crew, std::optional<int>());
    expect_same(crew, std::optional<int>(7));
    ASSERT(crew.run<std::string>("api_ops:shown", nullptr, std::nullopt, no_text) ==
           "(None, None, None)");
    ASSERT_INT(failure_of([&] { crew.run<int>("api_ops:echo", nullptr); }).code(), PYCREW_ETYPE);
}

TEST(containers_come_back_as_they_went_however_they_are_nested)
{
    using deep =
        std::map<std::string,
                 std::tuple<int, std::optional<std::string>, std::vector<std::pair<double, bool>>>>;
    pycrew::crew crew = open_crew(1);

    expect_same(crew, std::vector<int>{1, 2, 3});
    expect_same(crew, std::vector<int>());
    expect_same(crew, std::vector<bool>{true, false});
    expect_same(crew, std::vector<std::vector<std::string>>{{"a", "b"}, {}, {"c"}});
    expect_same(crew, std::array<short, 3>{{4, 5, 6}});
    expect_same(crew, std::tuple<>());
    expect_same(crew, std::make_tuple(1, 2.5, std::string("x"), false));
    expect_same(crew, std::unordered_map<int, std::string>{{1, "a"}, {2, "b"}});
    expect_same(crew, deep{{"one", {1, std::nullopt, {{0.5, true}, {1.5, false}}}},
                           {"two", {2, "text", {}}}});
    ASSERT(crew.run<std::string>("api_ops:shown", std::vector<int>{1}, std::make_tuple(2),
                                 std::map<std::string, int>{{"k", 3}}) == "([1], (2,), {'k': 3})");
    ASSERT(crew.run<std::vector<int>>("api_ops:echo", std::make_tuple(1, 2)) ==
           (std::vector<int>{1, 2}));
}

TEST(containers_of_another_shape_are_of_another_type)
{
    pycrew::crew crew = open_crew(1);
    const std::vector<int> three{1, 2, 3};
    const auto code_of = [&](auto expected) {
        return failure_of([&] { crew.run<decltype(expected)>("api_ops:echo", three); }).code();
    };

    ASSERT_INT(code_of(std::tuple<int, int>()), PYCREW_ETYPE);
    ASSERT_INT(code_of(std::tuple<int, int, int, int>()), PYCREW_ETYPE);
    ASSERT_INT(code_of(std::array<int, 2>()), PYCREW_ETYPE);
    ASSERT_INT(code_of(std::pair<int, int>()), PYCREW_ETYPE);
    ASSERT_INT(code_of(std::vector<std::string>()), PYCREW_ETYPE);
    ASSERT_INT(code_of(std::map<int, int>()), PYCREW_ETYPE);
    ASSERT_INT(failure_of([&] { crew.run<std::vector<int>>("api_ops:echo", 1); }).code(),
               PYCREW_ETYPE);
}

TEST(views_point_into_a_call_s_result)
{
    pycrew::crew crew = open_crew(1);
    pycrew::call call = crew.prepare("api_ops:arguments");

    call.add("text", pycrew::bytes{std::byte{7}}, pycrew::keyword("size", 3)).submit().wait();
    const auto value = call.result();
    ASSERT_INT(value.size(), 2);
    ASSERT_INT(value.type(), PYCREW_TYPE_LIST);
    ASSERT(value.item(0).item(0).as<std::string_view>() == "text");
    const auto data = value.item(0).item(1).as<pycrew::bytes_view>();
    ASSERT(data.size() == 1 && *data.begin() == std::byte{7});
    ASSERT_INT(value.item(1).get("size").as<int>(), 3);
    ASSERT_INT(value.item(1).get("none").type(), PYCREW_TYPE_INVALID);
}

struct point {
    int x, y;
};

template <> struct pycrew::convert<point> {
    static int add(pycrew_call *call, const point &value)
    {
        return convert<std::pair<int, int>>::add(call, {value.x, value.y});
    }
    static point get(pycrew_value value)
    {
        const auto [x, y] = convert<std::pair<int, int>>::get(value);

        return {x, y};
    }
};

TEST(types_of_one_s_own_are_converted_too)
{
    pycrew::crew crew = open_crew(1);
    const auto back =
        crew.run<std::vector<point>>("api_ops:echo", std::vector<point>{{1, 2}, {3, 4}});

    ASSERT(back.size() == 2 && back[1].x == 3 && back[1].y == 4);
}

TEST(a_call_with_scalars_allocates_nothing)
{
    pycrew::crew crew = open_crew(1);
    long sum = 0;

    counting = true;
    for (int i = 0; i < 100; i++)
        sum += crew.run<int>("api_ops:add", i, 1) + (crew.run<double>("api_ops:add", 0.5, i) > 0);
    counting = false;
    ASSERT_INT(sum, 5050 + 100);
    ASSERT_INT(allocations, 0);
}

/* ---- errors ------------------------------------------------------------------------------------
 */

TEST(an_exception_has_its_type_message_and_traceback)
{
    pycrew::crew crew = open_crew(1);
    const pycrew::error error = failure_of([&] { crew.run("api_ops:fail"); });

    crew.run("api_ops:nothing"); /* whatever is called in between */
    ASSERT_INT(error.code(), PYCREW_ERAISED);
    ASSERT_STR(error.type().c_str(), "ValueError");
    ASSERT_STR(error.message().c_str(), "no good");
    ASSERT_STR(error.what(), "ValueError: no good");
    ASSERT_STR(error.function().c_str(), "api_ops:fail");
    ASSERT(has(error.traceback(), "raise ValueError(text)"));
    ASSERT(error.may_have_run());
    ASSERT_INT(error.signal(), 0);
}

TEST(a_worker_s_death_has_its_signal_and_the_crew_goes_on)
{
    pycrew::crew crew = open_crew(1);
    const pycrew::error error = failure_of([&] { crew.run("api_ops:die_by", "kill"); });

    ASSERT_INT(error.code(), PYCREW_EDIED);
    ASSERT_INT(error.signal(), SIGKILL);
    ASSERT(error.may_have_run());
    ASSERT_INT(failure_of([&] { crew.run("api_ops:die_by", "exit"); }).exit_status(), 7);
    ASSERT_INT(crew.run<int>("api_ops:add", 20, 22), 42);
}

TEST(names_options_and_modules_that_are_wrong_are_errors)
{
    pycrew::crew crew = open_crew(1);
    pycrew::options options;

    ASSERT_INT(failure_of([&] { crew.run("no colon"); }).code(), -EINVAL);
    ASSERT(has(failure_of([&] { crew.run("none_such:f"); }).type(), "ModuleNotFoundError"));
    options.output = 77;
    ASSERT_INT(failure_of([&] { pycrew::crew none(options); }).code(), -EINVAL);
    ASSERT_INT(failure_of([&] { crew.run("api_ops:echo", "\xff"); }).code(), -EINVAL);
}

/* ---- calls -------------------------------------------------------------------------------------
 */

TEST(calls_in_flight_are_waited_for_in_any_order)
{
    pycrew::crew crew = open_crew(2);
    const pycrew::function add = crew.get("api_ops:add");
    std::vector<pycrew::call> calls;

    for (int i = 0; i < 20; i++) {
        calls.push_back(crew.prepare(add));
        calls.back().add(i, 100).submit();
    }
    for (int i = 19; i >= 0; i--)
        ASSERT_INT(calls[static_cast<std::size_t>(i)].wait().result<int>(), i + 100);
}

TEST(a_function_can_come_as_source_text)
{
    pycrew::crew crew = open_crew(1);
    const auto twice = crew.source("twice", "def twice(x):\n    return 2 * x\n");

    ASSERT_INT(crew.run<int>(twice, 21), 42);
}

TEST(a_wait_that_ends_leaves_the_call_and_a_cancel_ends_it)
{
    pycrew::crew crew = open_crew(1);
    pycrew::call call = crew.prepare("api_ops:sleep");

    call.add(60).submit();
    ASSERT(!call.wait_for(1ms));
    ASSERT_INT(failure_of([&] { call.result<int>(); }).code(), -EALREADY);
    ASSERT(call.cancel());
    ASSERT_INT(failure_of([&] { call.wait_for(BOUND); }).code(), -ECANCELED);
    ASSERT_INT(failure_of([&] { call.result<int>(); }).code(), -ECANCELED);
    ASSERT(!call.cancel());
}

TEST(a_deadline_ends_the_call)
{
    pycrew::crew crew = open_crew(1);
    pycrew::call call = crew.prepare("api_ops:sleep");

    call.timeout(20ms).add(60).submit();
    ASSERT_INT(failure_of([&] { call.wait_for(BOUND); }).code(), -ETIMEDOUT);
}

TEST(no_destructor_waits_for_what_sleeps)
{
    const auto start = std::chrono::steady_clock::now();

    {
        pycrew::crew crew = open_crew(2);
        pycrew::call replaced = crew.prepare("api_ops:sleep");

        replaced.add(60).submit();
        replaced = crew.prepare("api_ops:sleep");
        replaced.add(60).submit();
        pycrew::call moved = std::move(replaced);
        pycrew::stream<int> stream = crew.stream<int>("actor_ops:slow", 9, 60);
    }
    ASSERT(std::chrono::steady_clock::now() - start < BOUND);
}

TEST(a_crew_is_moved_drained_and_reloaded)
{
    pycrew::crew first = open_crew(1), crew = std::move(first);

    ASSERT(first.native() == nullptr);
    ASSERT(crew.reload(BOUND));
    crew = open_crew(1);
    ASSERT_INT(crew.run<int>("api_ops:add", 1, 2), 3);
    ASSERT(crew.drain(BOUND));
    ASSERT_INT(failure_of([&] { crew.run<int>("api_ops:add", 1, 2); }).code(), -ESHUTDOWN);
}

/* ---- streams -----------------------------------------------------------------------------------
 */

TEST(a_range_for_walks_over_a_stream_s_items)
{
    pycrew::crew crew = open_crew(2);
    int expected = 0;

    for (int x : crew.stream<int>("actor_ops:count_to", 300))
        ASSERT_INT(x, expected++);
    ASSERT_INT(expected, 300);
    for (int x : crew.stream<int>("actor_ops:count_to", 5, pycrew::keyword("start", 2)))
        expected -= x;
    ASSERT_INT(expected, 291);
    for (int x : crew.stream<int>("actor_ops:nothing"))
        tap_fail("an item %d of none", x);
}

TEST(items_are_of_any_type_that_results_are_of)
{
    pycrew::crew crew = open_crew(1);
    std::string all;

    for (auto [first, second] :
         crew.stream<std::pair<std::string, std::string_view>>("itertools:permutations", "xyz", 2))
        all.append(first).append(second).append(" ");
    ASSERT_STR(all.c_str(), "xy xz yx yz zx zy ");
    pycrew::stream<pycrew::value> mixed = crew.stream<pycrew::value>("actor_ops:mixed");
    ASSERT_INT(mixed.next()->type(), PYCREW_TYPE_NONE);
    ASSERT_INT(mixed.next()->as<int>(), 12);
    ASSERT(mixed.next()->as<double>() > 2);
}

TEST(a_stream_that_fails_gives_its_items_and_then_throws)
{
    pycrew::crew crew = open_crew(1);
    int items = 0;
    const pycrew::error raised = failure_of([&] {
        for (int x : crew.stream<int>("actor_ops:raise_after", 4))
            items += x >= 0;
    });

    ASSERT_INT(items, 4);
    ASSERT_STR(raised.what(), "ValueError: after 4");
    const pycrew::error died = failure_of([&] {
        for (int x : crew.stream<int>("actor_ops:die_after", 3))
            items += x >= 0;
    });
    ASSERT_INT(items, 7);
    ASSERT_INT(died.signal(), SIGKILL);
    ASSERT_STR(failure_of([&] { crew.stream<int>("actor_ops:listed", 3).begin(); }).type().c_str(),
               "TypeError");
}

TEST(an_item_of_another_type_throws_and_the_stream_goes_on)
{
    pycrew::crew crew = open_crew(1);
    pycrew::stream<int> stream = crew.stream<int>("actor_ops:mixed");

    ASSERT_INT(failure_of([&] { stream.next(); }).code(), PYCREW_ETYPE);
    ASSERT_INT(*stream.next(), 12);
}

TEST(a_loop_that_is_left_closes_the_generator)
{
    pycrew::crew crew = open_crew(1);
    char path[] = "/tmp/pycrew-test-XXXXXX";
    int found = mkstemp(path);

    ASSERT(found >= 0);
    close(found);
    for (int x : crew.stream<int>("actor_ops:forever", path))
        if (x == 3)
            break;
    for (int i = 0; crew.run<int>("api_ops:count_notes", path) == 0; i++) {
        ASSERT(i < 20000);
        poll(nullptr, 0, 1);
    }
    unlink(path);
}

TEST(a_wait_for_an_item_ends_and_a_cancel_ends_the_stream)
{
    pycrew::crew crew = open_crew(1);
    pycrew::call call = crew.prepare("actor_ops:slow");

    call.add(2, 60);
    pycrew::stream<int> stream(std::move(call), 1);
    ASSERT_INT(failure_of([&] { stream.next(1ms); }).code(), -ETIME);
    ASSERT(stream.cancel());
    ASSERT_INT(failure_of([&] { stream.next(BOUND); }).code(), -ECANCELED);
}

TAP_MAIN
