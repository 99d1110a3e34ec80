/* pycrew.hpp: functions of the program's that Python calls. Python's side is in
 * tests/py/host_ops.py. */
#include <stdexcept>
#include <system_error>

#include "tests/harness/hpp.h"

static std::string caught(const pycrew::crew &crew, const char *expression)
{
    return crew.run<std::string>("host_ops:caught", expression);
}

TEST(python_calls_lambdas_functions_and_objects_with_typed_parameters)
{
    pycrew::crew crew = open_crew(1);
    std::map<std::string, double> prices{{"bread", 2.5}};
    std::atomic<int> noted{0}; /* written in a thread of the crew's */
    struct counter {
        int count = 0;
        int operator()(int by)
        {
            return count += by;
        }
    };

    crew.export_function("price", [&](const std::string &of) { return prices.at(of); });
    crew.export_function(
        "join", [](std::string_view a, std::vector<std::string> b, std::optional<std::string> c) {
            std::string all(a);
            for (const std::string &each : b)
                all += each;
            return all + c.value_or("-");
        });
    crew.export_function("note", [&](bool how) { noted = how ? 1 : 2; });
    crew.export_function("count", counter());
    crew.export_function(
        "length", +[](std::string_view text) { return text.size(); });
    ASSERT(crew.run<double>("host_ops:ask", "price", "bread") > 2.4);
    ASSERT(crew.run<std::string>("host_ops:ask", "join", "a", std::vector<std::string>{"b", "c"}) ==
           "abc-");
    ASSERT(crew.run<std::string>("host_ops:ask", "join", "a", std::make_tuple("b"), "d") == "abd");
    ASSERT(caught(crew, "host.note(True)") == "returned None");
    ASSERT_INT(noted.load(), 1);
    ASSERT_INT(crew.run<int>("host_ops:ask", "count", 2), 2);
    ASSERT_INT(crew.run<int>("host_ops:ask", "count", 3), 5);
    ASSERT_INT(crew.run<int>("host_ops:ask", "length", "four"), 4);
}

TEST(answers_are_of_all_types_that_arguments_are_of)
{
    using deep =
        std::map<std::string, std::tuple<int, std::optional<std::string>, std::vector<double>>>;
    pycrew::crew crew = open_crew(1);

    crew.export_function("deep", [](deep value) { return value; });
    crew.export_function("none", [] { return std::optional<int>(); });
    crew.export_function("pair", [] { return std::pair<std::uint64_t, bool>(UINT64_MAX, false); });
    crew.export_function(
        "data", [](pycrew::bytes_view data) { return pycrew::bytes(data.begin(), data.end()); });
    crew.export_function("text", []() -> const char * { return "text"; });
    crew.export_function("encoded", [] { return pycrew::json{"{\"a\": 1}"}; });
    crew.export_function("single", [](float x) { return x; });
    ASSERT(caught(crew, "host.deep({'k': (1, None, [2.5])})") ==
           "returned {'k': (1, None, [2.5])}");
    ASSERT(caught(crew, "host.none(), host.pair(), host.text(), host.encoded()") ==
           "returned (None, (18446744073709551615, False), 'text', {'a': 1})");
    ASSERT(caught(crew, "host.data(b'a\\0b'), host.single(0.5)") == "returned (b'a\\x00b', 0.5)");
}

TEST(arguments_come_by_keyword_and_those_at_the_end_may_be_missing)
{
    pycrew::crew crew = open_crew(1);

    crew.export_function(
        "f", [](int a, int b, std::optional<int> c) { return std::make_tuple(a, b, c); },
        {"a", "b", "c"});
    ASSERT(caught(crew, "host.f(1, 2)") == "returned (1, 2, None)");
    ASSERT(caught(crew, "host.f(1, c=3, b=2)") == "returned (1, 2, 3)");
    ASSERT(has(caught(crew, "host.f(1)"), "TypeError: argument 2 ('b') is missing"));
    ASSERT(has(caught(crew, "host.f(1, 2, 3, 4)"), "TypeError: 4 arguments are given, at most 3"));
    ASSERT(has(caught(crew, "host.f(1, 2, d=3)"), "TypeError: a keyword is unknown"));
    ASSERT(has(caught(crew, "host.f(1, 2, a=3)"),
               "TypeError: a keyword is unknown, or its argument is given twice"));
    ASSERT(has(caught(crew, "host.f('x', 2)"), "TypeError: argument 1 ('a'): "));
    ASSERT(has(caught(crew, "host.f(2**40, 2)"), "OverflowError: argument 1 ('a'): "));
    ASSERT_INT(failure_of([&] {
                   crew.export_function("g", [](int) {}, {"a", "b"});
               }).code(),
               -EINVAL);
}

TEST(what_a_function_throws_is_raised_by_python)
{
    pycrew::crew crew = open_crew(1);

    crew.export_function("raise_", [](const std::string &what) -> int {
        if (what == "key")
            throw pycrew::python_error("KeyError", "bread");
        if (what == "unknown")
            throw pycrew::python_error("NoSuchError", "text");
        if (what == "value")
            throw std::invalid_argument("bad");
        if (what == "index")
            return std::vector<int>().at(1);
        if (what == "memory")
            throw std::bad_alloc();
        if (what == "system")
            throw std::system_error(ENOENT, std::generic_category(), "file");
        if (what == "code")
            throw pycrew::error::of_code(-ETIME, "too late");
        if (what == "runtime")
            throw std::runtime_error("odd");
        throw 5;
    });
    ASSERT_STR(caught(crew, "host.raise_('key')").c_str(), "KeyError: 'bread'");
    ASSERT_STR(caught(crew, "host.raise_('unknown')").c_str(), "RuntimeError: text");
    ASSERT_STR(caught(crew, "host.raise_('value')").c_str(), "ValueError: bad");
    ASSERT(has(caught(crew, "host.raise_('index')"), "IndexError: "));
    ASSERT(has(caught(crew, "host.raise_('memory')"), "MemoryError"));
    ASSERT(has(caught(crew, "host.raise_('system')"), "FileNotFoundError") ||
           has(caught(crew, "host.raise_('system')"), "OSError: file"));
    ASSERT_STR(caught(crew, "host.raise_('code')").c_str(), "TimeoutError: too late");
    ASSERT_STR(caught(crew, "host.raise_('runtime')").c_str(), "RuntimeError: odd");
    ASSERT(has(caught(crew, "host.raise_('int')"), "RuntimeError: a C++ exception"));
    ASSERT(failure_of([&] { crew.run("host_ops:ask", "raise_", "key"); }).type() == "KeyError");
}

TEST(a_function_may_use_the_crew_and_pass_on_what_that_throws)
{
    pycrew::crew crew = open_crew(2);

    crew.export_function("evaluate", [&](const std::string &text) {
        return crew.run<int>("api_ops:evaluate", text);
    });
    ASSERT_STR(caught(crew, "host.evaluate('6 * 7')").c_str(), "returned 42");
    ASSERT_STR(caught(crew, "host.evaluate('1 // 0')").c_str(),
               "ZeroDivisionError: integer division or modulo by zero");
    ASSERT(has(caught(crew, "host.evaluate('__import__(\"json\").loads(\"{]\")')"),
               "RuntimeError: json.decoder.JSONDecodeError: "));
    ASSERT(has(caught(crew, "host.evaluate('\"text\"')"), "TypeError: "));
}

TEST(names_that_are_taken_or_wrong_are_errors_and_the_function_is_not_kept)
{
    pycrew::crew crew = open_crew(1);
    auto kept = std::make_shared<int>(0);

    crew.export_function("f", [kept] { return 1; });
    ASSERT_INT(failure_of([&] { crew.export_function("f", [kept] { return 2; }); }).code(),
               -EEXIST);
    ASSERT_INT(failure_of([&] { crew.export_function("no name", [kept] { return 2; }); }).code(),
               -EINVAL);
    ASSERT_INT(kept.use_count(), 2);
    ASSERT_INT(crew.run<int>("host_ops:ask", "f"), 1);
    pycrew::crew moved = std::move(crew);
    ASSERT_INT(moved.run<int>("host_ops:ask", "f"), 1);
    ASSERT_INT(failure_of([&] { crew.export_function("g", [] {}); }).code(), -EINVAL);
    moved.close();
    ASSERT_INT(kept.use_count(), 1);
}

TEST(a_function_is_told_that_nobody_waits_any_more_by_a_deadline_and_by_death)
{
    pycrew::crew crew = open_crew(1);
    std::atomic<int> entered[2]{}, told[2]{};

    crew.export_function("until_abandoned", [&](pycrew::host_call call, int why) {
        entered[why]++;
        while (!call.abandoned())
            poll(nullptr, 0, 1);
        told[why]++;
    });
    for (auto timeout = 50ms; entered[0] == 0; timeout *= 2) /* it may pass before the worker has asked */
        ASSERT_INT(failure_of([&] { crew.run_within(timeout, "host_ops:ask", "until_abandoned", 0); }).code(),
                   -ETIMEDOUT);
    AWAIT(told[0] > 0);
    pycrew::call call = crew.prepare("host_ops:ask");
    call.add("until_abandoned", 1).submit();
    AWAIT(entered[1] == 1);
    const auto stats = crew.stats(true);
    kill(stats.each[0].pid, SIGKILL);
    ASSERT_INT(failure_of([&] { call.wait_for(BOUND); }).signal(), SIGKILL);
    AWAIT(told[1] == 1);
    crew.export_function("goes_on", [] { return 1; });
    ASSERT_INT(crew.run<int>("host_ops:ask", "goes_on"), 1);
}

TEST(arrays_come_as_views)
{
    pycrew::crew crew = open_crew(1);
    need_numpy(crew);

    crew.export_function("total", [](pycrew::array_view<const double> all) {
        double sum = 0;
        for (double x : all)
            sum += x;
        return sum;
    });
    ASSERT_STR(caught(crew, "host.total(np().ones(100))").c_str(), "returned 100.0");
    ASSERT(has(caught(crew, "host.total(np().ones(3, 'i4'))"), "TypeError: argument 1: "));
}

TEST(many_threads_of_a_worker_ask_at_a_time)
{
    pycrew::options options;
    options.export_threads = 3;
    pycrew::crew crew = open_crew(1, options);

    crew.export_function("add", [](int a, int b) { return a + b; });
    const auto sums = crew.run<std::vector<int>>("host_ops:threads", 4, 50);
    for (int i = 0; i < 4; i++)
        ASSERT_INT(sums[static_cast<std::size_t>(i)], 50 * i + 49 * 50 / 2);
}

TAP_MAIN
