/* pycrew.hpp: options, actors, maps, functions in each worker, statistics. Functions are in
 * tests/py. */
#include <set>

#include "tests/harness/hpp.h"

/* ---- options --------------------------------------------------------------------------------- */

TEST(options_of_c_plus_plus_s_types_reach_the_workers)
{
    pycrew::options options;
    options.env = {"PYCREW_HPP=yes"};
    options.preload = {"json"};
    options.init = "actor_ops:get_mark";
    options.timeout = 30s;
    options.nice = 1;
    pycrew::crew crew = open_crew(2, options);

    ASSERT(crew.run<std::string>("os:getenv", "PYCREW_HPP") == "yes");
    ASSERT_INT(crew.stats().workers, 2);
    options.init = "actor_ops:none_such";
    ASSERT_INT(failure_of([&] { open_crew(1, options); }).code(), PYCREW_ESTART);
    options = pycrew::options();
    options.timeout = 20ms;
    ASSERT_INT(failure_of([&] { open_crew(1, options).run("api_ops:sleep", 60); }).code(),
               -ETIMEDOUT);
}

TEST(log_lines_come_to_a_function_which_may_throw_and_is_kept_by_the_crew)
{
    std::mutex mutex;
    std::vector<std::string> lines;
    pycrew::options options;
    options.log = [&, by_value = std::string("line: ")](int level, const char *line) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (level == PYCREW_LOG_OUTPUT)
            lines.push_back(by_value + line);
        throw 5;
    };
    pycrew::crew first = open_crew(1, options), crew = std::move(first);

    options.log = nullptr;
    crew.run("builtins:print", "hello", pycrew::keyword("flush", true));
    AWAIT((std::lock_guard<std::mutex>(mutex), !lines.empty()));
    ASSERT_STR(lines[0].c_str(), "line: [w0] hello");
}

TEST(a_crew_can_be_opened_by_the_options_of_pycrew_h)
{
    pycrew_options options = PYCREW_OPTIONS_INIT;
    options.workers = 3;
    pycrew::crew crew(options);

    ASSERT_INT(crew.stats().workers, 3);
}

TEST(one_call_can_have_its_own_deadline)
{
    pycrew::crew crew = open_crew(1);

    ASSERT_INT(failure_of([&] { crew.run_within(20ms, "api_ops:sleep", 60); }).code(), -ETIMEDOUT);
    ASSERT_INT(crew.run_within<int>(BOUND, "api_ops:add", 1, 2), 3);
    pycrew::call call = crew.prepare("api_ops:sleep");
    call.timeout(20ms).add(60);
    auto future = crew.async(std::move(call));
    ASSERT_INT(failure_of([&] { got(future); }).code(), -ETIMEDOUT);
}

/* ---- values that keep their text ------------------------------------------------------------- */

TEST(json_is_decoded_and_encoded_in_the_worker)
{
    pycrew::crew crew = open_crew(1);

    ASSERT(crew.run<pycrew::json>("api_ops:echo", pycrew::json{"{\"a\": [1, null]}"}).text ==
           "{\"a\": [1, null]}");
    ASSERT(crew.run<std::string>("api_ops:kind", pycrew::json{"{}"}) == "dict");
    auto later = crew.async<pycrew::json>("api_ops:echo", std::vector<int>{1, 2});
    ASSERT(got(later).text == "[1, 2]");
    ASSERT_INT(
        failure_of([&] { crew.run<pycrew::json>("api_ops:echo", pycrew::json{"{]"}); }).code(),
        -EINVAL);
    pycrew::call call = crew.prepare("api_ops:echo");
    call.add(1).submit().wait();
    ASSERT_INT(failure_of([&] { call.result<pycrew::json>(); }).code(), PYCREW_ETYPE);
}

TEST(pickled_objects_and_ints_of_any_size_come_back_as_they_went)
{
    pycrew::crew crew = open_crew(1);
    const pycrew::pickle thing = crew.run<pycrew::pickle>("api_ops:thing", 42);

    ASSERT_INT(crew.run<int>("api_ops:thing_value", thing), 42);
    ASSERT_INT(failure_of([&] { crew.run<pycrew::pickle>("api_ops:echo", 1); }).code(),
               PYCREW_ETYPE);
    for (const char *hex : {"-1fffffffffffffffffffff", "0", "-8000000000000000", "ffffffffffffffff",
                            "-1", "10000000000000000"})
        ASSERT_STR(crew.run<pycrew::bigint>("api_ops:echo", pycrew::bigint{hex}).hex.c_str(), hex);
    ASSERT_INT(failure_of([&] { crew.run<pycrew::bigint>("api_ops:echo", "1"); }).code(),
               PYCREW_ETYPE);
}

/* ---- actors ---------------------------------------------------------------------------------- */

TEST(an_actor_keeps_its_state_from_call_to_call)
{
    pycrew::crew crew = open_crew(2);
    pycrew::actor counter = crew.actor("actor_ops:Counter", 10);

    ASSERT_INT(counter.run<int>("add", 5), 15);
    ASSERT_INT(counter.run<int>("add", pycrew::keyword("amount", -1)), 14);
    counter.run("add");
    ASSERT_INT(counter.run<int>("get"), 15);
    ASSERT_INT(counter.run<int>("worker"), counter.worker());
    std::vector<std::future<int>> futures;
    for (int i = 0; i < 50; i++)
        futures.push_back(counter.async<int>("add", 1));
    for (int i = 0; i < 50; i++)
        ASSERT_INT(got(futures[static_cast<std::size_t>(i)]), 16 + i);
    pycrew::call call = counter.prepare("total");
    call.add(1, 2, pycrew::keyword("factor", 3)).submit().wait();
    ASSERT_INT(call.result<int>(), 9);
}

TEST(what_an_actor_raises_is_thrown_and_it_goes_on)
{
    pycrew::crew crew = open_crew(1);
    pycrew::actor counter = crew.actor("actor_ops:Counter");

    ASSERT(failure_of([&] { counter.run("fail"); }).type() == "KeyError");
    ASSERT(failure_of([&] { counter.run("none_such"); }).type() == "AttributeError");
    ASSERT_INT(failure_of([&] { counter.run("no.name"); }).code(), -EINVAL);
    ASSERT_INT(failure_of([&] { counter.run<std::string>("get"); }).code(), PYCREW_ETYPE);
    ASSERT(failure_of([&] { crew.actor("actor_ops:Counter", 1, 2, 3); }).type() == "TypeError");
    ASSERT_INT(failure_of([&] { crew.actor("no colon"); }).code(), -EINVAL);
    ASSERT_INT(counter.run<int>("add"), 1);
}

TEST(an_actor_dies_with_its_worker_and_is_made_again)
{
    pycrew::crew crew = open_crew(1);
    pycrew::actor counter = crew.actor("actor_ops:Counter", 5);

    counter.run("add");
    ASSERT(!counter.reopen(BOUND));
    ASSERT_INT(failure_of([&] { counter.run("die"); }).signal(), SIGKILL);
    auto later = counter.async<int>("get");
    const pycrew::error gone = failure_of([&] { got(later); });
    ASSERT_INT(gone.code(), PYCREW_EDIED);
    ASSERT(!gone.may_have_run());
    ASSERT(counter.reopen(BOUND));
    ASSERT_INT(counter.run<int>("get"), 5);
}

TEST(an_actor_that_is_gone_is_closed_in_its_worker)
{
    pycrew::crew crew = open_crew(1);
    char path[] = "/tmp/pycrew-test-XXXXXX";
    const int file = mkstemp(path);
    struct stat found;

    ASSERT(file >= 0);
    {
        pycrew::actor first = crew.actor("actor_ops:Counter", 7, path), moved = std::move(first);
        pycrew::actor other = crew.actor("actor_ops:Counter", 8, path);
        other = std::move(moved); /* which gives up what it was */
        ASSERT_INT(other.run<int>("get"), 7);
    }
    AWAIT(fstat(file, &found) == 0 && found.st_size == 4);
    close(file);
    unlink(path);
}

/* ---- maps ------------------------------------------------------------------------------------ */

TEST(a_map_takes_vectors_arrays_buffers_and_numbers)
{
    pycrew::crew crew = open_crew(2);
    std::vector<long> a(1000), sums(1000);
    auto b = crew.alloc<int>(1000);
    std::array<long, 3> small{{1, 2, 3}};

    for (std::size_t i = 0; i < a.size(); i++) {
        a[i] = static_cast<long>(i);
        b[i] = static_cast<int>(2 * i);
    }
    ASSERT_INT(crew.map("api_ops:add", sums, a, b), 0);
    for (std::size_t i = 0; i < a.size(); i++)
        ASSERT_INT(sums[i], 3 * i);
    ASSERT_INT(crew.map(crew.get("api_ops:add"), pycrew::array_view(sums), b.view(), 100), 0);
    ASSERT_INT(sums[999], 1998 + 100);
    crew.map("api_ops:add", b, b, pycrew::array_view(a.data(), {1000}));
    ASSERT_INT(b[999], 3 * 999);
    crew.map("operator:neg", small, small);
    ASSERT_INT(small[2], -3);
}

TEST(a_map_s_failures_stop_it_or_are_filled_and_told)
{
    pycrew::crew crew = open_crew(2);
    std::vector<int> in(100), out(100), codes;
    std::uint64_t first = 1000;
    double told = 0;

    for (std::size_t i = 0; i < in.size(); i++)
        in[i] = static_cast<int>(i);
    /* of which chunk the failure is that is seen first is chance */
    ASSERT(failure_of([&] { crew.map("api_ops:fail_if_odd", out, in); }).message().rfind("odd: ", 0) == 0);
    const auto options =
        pycrew::map_options().fill(-7).failures(codes).first_failed(first).progress(
            [&](const auto &now) {
                told = static_cast<double>(now.done) / static_cast<double>(now.added);
                return true;
            });
    ASSERT_INT(crew.map("api_ops:fail_if_odd", options, out, in), 50);
    ASSERT_INT(first, 1);
    ASSERT(told > 0.99);
    for (std::size_t i = 0; i < in.size(); i++) {
        ASSERT_INT(out[i], i % 2 == 0 ? static_cast<int>(i) : -7);
        ASSERT_INT(codes[i], i % 2 == 0 ? 0 : PYCREW_ERAISED);
    }
    ASSERT_INT(failure_of([&] {
                   crew.map("api_ops:fail_if_odd", pycrew::map_options().fill(0.5), out, in);
               }).code(),
               -EINVAL);
    ASSERT_INT(failure_of([&] { crew.map("api_ops:add", out, in, std::vector<int>(3)); }).code(),
               -EINVAL);
}

TEST(a_map_survives_the_death_of_workers_and_its_progress_function_ends_it)
{
    pycrew::crew crew = open_crew(2);
    std::vector<int> in(64, 1), out(64), codes;

    in[40] = 0;
    const auto function = crew.source("f", "import os\ndef f(x):\n    if x == 0:\n        "
                                           "os.kill(os.getpid(), 9)\n    return x + 1\n");
    ASSERT_INT(crew.map(function, pycrew::map_options().fill(9).failures(codes), out, in), 1);
    ASSERT_INT(out[40], 9);
    ASSERT_INT(codes[40], PYCREW_EDIED);
    ASSERT_INT(out[63], 2);
    const auto slow =
        crew.source("f", "import time\ndef f(x):\n    time.sleep(0.05)\n    return x\n");
    ASSERT_INT(failure_of([&] {
                   crew.map(slow,
                            pycrew::map_options().progress([](const auto &) { return false; }), out,
                            in);
               }).code(),
               -ECANCELED);
    bool thrown = false;
    try {
        crew.map(slow, pycrew::map_options().progress([](const auto &) -> bool { throw 5; }), out,
                 in);
    } catch (int) {
        thrown = true;
    }
    ASSERT(thrown);
}

TEST(a_map_by_slices_gives_numpy_whole_columns)
{
    pycrew::crew crew = open_crew(2);
    need_numpy(crew);
    std::vector<double> numbers(10000, 4.0), roots(10000);

    crew.map("numpy:sqrt", pycrew::map_options().whole(true).chunk(1000), roots, numbers);
    ASSERT(roots[0] > 1.99 && roots[9999] < 2.01);
    crew.map("numpy:square", pycrew::map_options().whole(), roots, numbers);
    ASSERT(roots[5000] > 15.9);
}

/* ---- in each worker, and statistics ---------------------------------------------------------- */

TEST(a_function_runs_in_each_worker_with_arguments_of_any_type)
{
    pycrew::crew crew = open_crew(3);

    crew.run_each("actor_ops:set_mark", std::vector<std::string>{"a", std::string(1000, 'b')});
    for (int i = 0; i < 30; i++)
        ASSERT(crew.run<std::vector<std::string>>("actor_ops:get_mark").at(1).size() == 1000);
    crew.run_each("actor_ops:set_mark", pycrew::keyword("value", 42));
    ASSERT_INT(crew.run<int>("actor_ops:get_mark"), 42);
}

TEST(what_fails_in_one_worker_is_named_with_it)
{
    pycrew::crew crew = open_crew(3);
    char path[] = "/tmp/pycrew-test-XXXXXX";
    const int file = mkstemp(path);
    struct stat found;

    ASSERT(file >= 0);
    const pycrew::error raised = failure_of([&] { crew.run_each("actor_ops:raise_in", path, 2); });
    ASSERT_STR(raised.message().c_str(), "worker 2: not here");
    ASSERT_STR(raised.type().c_str(), "ValueError");
    ASSERT(fstat(file, &found) == 0 && found.st_size == 3);
    ASSERT_INT(failure_of([&] { crew.run_each("actor_ops:die_in", path, 1); }).signal(), SIGKILL);
    close(file);
    unlink(path);
    pycrew::call call = crew.prepare("api_ops:sleep");
    call.timeout(20ms).add(60);
    ASSERT_INT(pycrew_run_each_call(call.release()), -ETIMEDOUT);
}

TEST(arrays_are_not_given_to_each_worker)
{
    pycrew::crew crew = open_crew(1);
    std::vector<int> numbers{1, 2};

    ASSERT_INT(
        failure_of([&] { crew.run_each("api_ops:nothing", pycrew::array_view(numbers)); }).code(),
        -EINVAL);
    pycrew::call call = crew.prepare("api_ops:nothing");
    call.submit().wait();
    ASSERT_INT(pycrew_run_each_call(call.native()), -EALREADY);
    ASSERT_INT(pycrew_run_each_call(nullptr), -EINVAL);
}

TEST(statistics_say_what_each_worker_did)
{
    pycrew::crew crew = open_crew(2);

    crew.run_each("api_ops:nothing"); /* all are there */
    for (int i = 0; i < 20; i++)
        crew.run("api_ops:nothing");
    const pycrew::stats stats = crew.stats(true);
    ASSERT_INT(stats.workers, 2);
    ASSERT_INT(stats.alive, 2);
    ASSERT_INT(stats.each.size(), 2);
    ASSERT_INT(stats.each[0].calls + stats.each[1].calls, 22);
    ASSERT(stats.each[0].pid > 0 && stats.each[0].rss > 0);
    ASSERT_INT(crew.stats().each.size(), 0);
    ASSERT_INT(stats.deaths, 0);
    ASSERT_INT(stats.returned, 22);
    ASSERT(stats.each[0].busy_ns <= stats.each[0].ready_ns);
}

TEST(latencies_and_metrics_are_there)
{
    pycrew::crew crew = open_crew(1);

    for (int i = 0; i < 3; i++)
        crew.run("api_ops:sleep", 0.002);
    ASSERT_INT(crew.stats().total.count, 3);
    ASSERT(crew.quantile(PYCREW_TIME_RUN, 0.5) >= std::chrono::microseconds(1700));
    ASSERT(crew.quantile(PYCREW_TIME_TOTAL, 1, 0).count() == crew.stats().total.max_ns);
    const std::string text = crew.metrics("a \"name\"");
    ASSERT(text.find("pycrew_call_run_seconds_count{crew=\"a \\\"name\\\"\"} 3\n") !=
           std::string::npos);
    ASSERT_INT(text.find('\0'), std::string::npos);
    ASSERT_INT(text.back(), '\n');
    try {
        crew.quantile(PYCREW_TIME_RUN, 2);
        tap_fail("a share of 2");
    } catch (const pycrew::error &error) {
        ASSERT_INT(error.code(), -EINVAL);
    }
}

TAP_MAIN
