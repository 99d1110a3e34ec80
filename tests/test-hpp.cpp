/* pycrew.hpp: the library from C++. Functions are in tests/py/api_ops.py and actor_ops.py. */
#include <cmath>
#include <new>

#include "tests/harness/hpp.h"

/* ---- allocations of C++, counted in one thread ----------------------------------------------- */

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

template <typename T> static void expect_same(const pycrew::crew &crew, const T &value)
{
    ASSERT(crew.run<T>("api_ops:echo", value) == value);
}

/* ---- values ---------------------------------------------------------------------------------- */

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
    ASSERT_INT(failure_of([&] { crew.run<std::string>("api_ops:big", 70); }).code(), PYCREW_ETYPE);
    ASSERT_INT(failure_of([&] { crew.run<std::vector<std::byte>>("builtins:complex", 1); }).code(),
               PYCREW_ETYPE);
    /* The function has run, whatever came of its result. */
    ASSERT(failure_of([&] { crew.run<int>("api_ops:echo", "1"); }).may_have_run());
    ASSERT(failure_of([&] { crew.run<int>("api_ops:big", 31); }).may_have_run());
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
    template <typename To> static int add(To *to, const point &value)
    {
        return convert<std::pair<int, int>>::add(to, {value.x, value.y});
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

/* ---- errors ---------------------------------------------------------------------------------- */

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

/* ---- calls ----------------------------------------------------------------------------------- */

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

/* ---- streams --------------------------------------------------------------------------------- */

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

/* ---- futures --------------------------------------------------------------------------------- */

TEST(futures_have_results_and_exceptions)
{
    pycrew::crew crew = open_crew(2);
    std::vector<std::future<int>> futures;

    for (int i = 0; i < 300; i++)
        futures.push_back(crew.async<int>("api_ops:fail_if_odd", i));
    for (int i = 0; i < 300; i++) {
        auto &future = futures[static_cast<std::size_t>(i)];

        if (i % 2 == 0)
            ASSERT_INT(got(future), i);
        else
            ASSERT_STR(failure_of([&] { got(future); }).message().c_str(),
                       ("odd: " + std::to_string(i)).c_str());
    }
    auto nothing = crew.async("api_ops:nothing");
    auto text = crew.async<std::string>("api_ops:echo", "text");
    auto wrong = crew.async<int>("api_ops:echo", "text");
    got(nothing);
    ASSERT(got(text) == "text");
    ASSERT_INT(failure_of([&] { got(wrong); }).code(), PYCREW_ETYPE);
}

TEST(futures_are_made_by_many_threads_also_when_few_calls_are_free)
{
    pycrew::options options;
    options.calls = 8;
    pycrew::crew crew = open_crew(2, options);
    std::vector<std::thread> threads;
    std::atomic<int> sum{0};

    for (int i = 0; i < 4; i++)
        threads.emplace_back([&] {
            std::vector<std::future<int>> futures;

            for (int j = 0; j < 50; j++)
                futures.push_back(crew.async<int>("api_ops:add", j, 1));
            for (auto &future : futures)
                sum += got(future);
        });
    for (auto &thread : threads)
        thread.join();
    ASSERT_INT(sum.load(), 4 * (49 * 50 / 2 + 50));
}

TEST(futures_that_outlive_the_crew_say_so)
{
    std::future<int> sleeping, moved;
    const auto start = std::chrono::steady_clock::now();

    {
        pycrew::crew first = open_crew(1);
        sleeping = first.async<int>("api_ops:sleep", 60);
        pycrew::crew crew = std::move(first);
        moved = crew.async<int>("api_ops:sleep", 60);
    }
    ASSERT(std::chrono::steady_clock::now() - start < BOUND);
    ASSERT_INT(failure_of([&] { got(sleeping); }).code(), -ECANCELED);
    ASSERT_INT(failure_of([&] { got(moved); }).code(), -ECANCELED);
}

TEST(a_fork_of_the_program_destroys_its_copy_of_the_crew_and_the_parent_goes_on)
{
    pycrew::crew crew = open_crew(1);
    auto sleeping = crew.async<double>("api_ops:sleep", 0.3);
    int status = -1;
    const pid_t child = fork();

    if (child == 0) {
        {
            pycrew::crew copy = std::move(crew);
        }
        _exit(0);
    }
    ASSERT_INT(waitpid(child, &status, 0), child);
    ASSERT_INT(status, 0);
    ASSERT(got(sleeping) > 0.2);
    auto sum = crew.async<int>("api_ops:add", 20, 22);
    ASSERT_INT(got(sum), 42);
}

TEST(a_crew_that_was_closed_takes_no_calls)
{
    pycrew::crew crew = open_crew(1);

    crew.close();
    ASSERT_INT(failure_of([&] { crew.run("api_ops:nothing"); }).code(), -EINVAL);
    ASSERT_INT(failure_of([&] { crew.get("api_ops:nothing"); }).code(), -EINVAL);
    crew.close();
}

TEST(what_fails_before_a_call_is_on_its_way_throws_at_once)
{
    pycrew::crew crew = open_crew(1);

    ASSERT_INT(failure_of([&] { crew.async("no colon"); }).code(), -EINVAL);
    ASSERT(crew.drain(BOUND));
    ASSERT_INT(failure_of([&] { crew.async("api_ops:nothing"); }).code(), -ESHUTDOWN);
}

/* ---- batches and queues ---------------------------------------------------------------------- */

TEST(a_range_for_walks_over_a_batch_s_items_failed_ones_included)
{
    pycrew::crew crew = open_crew(2);
    pycrew::batch<int> batch = crew.batch<int>("api_ops:fail_if_odd");
    int items = 0, failed = 0;

    for (int i = 0; i < 1000; i++)
        ASSERT(batch.add(i));
    for (const auto item : batch) {
        ASSERT_INT(item.index(), items);
        failed += item.failed();
        if (items % 2 == 0)
            ASSERT_INT(item.get(), items);
        else
            ASSERT(failure_of([&] { item.get(); }).type() == "ValueError");
        items++;
    }
    ASSERT_INT(items, 1000);
    ASSERT_INT(failed, 500);
    ASSERT_INT(batch.progress().failed, 500);
    ASSERT(batch.add(2)); /* a loop over what was added is not the end */
    batch.finish();
    ASSERT_INT(batch.next()->get(), 2);
    ASSERT(!batch.next());
}

TEST(a_full_batch_takes_items_again_when_one_is_out)
{
    pycrew::crew crew = open_crew(1);
    pycrew::batch_options options;
    options.window = 4;
    pycrew::batch<std::string> batch = crew.batch<std::string>("api_ops:text_of", options);
    int added = 0, out = 0;

    while (added < 100) {
        if (batch.add(std::make_pair(added, "x"s))) {
            added++;
            ASSERT(added - out <= 4);
        } else if (const auto item = batch.next()) {
            ASSERT_STR(item->get().c_str(), ("(" + std::to_string(out++) + ", 'x')").c_str());
        }
    }
    ASSERT(out >= 96);
}

TEST(a_batch_that_is_left_or_cancelled_does_not_wait)
{
    pycrew::crew crew = open_crew(1);
    const auto start = std::chrono::steady_clock::now();

    {
        pycrew::batch<void> batch = crew.batch<void>("api_ops:sleep");
        ASSERT(batch.add(60) && batch.add(60));
        batch = crew.batch<void>("api_ops:sleep");
        ASSERT(batch.add(60));
        ASSERT_INT(failure_of([&] { batch.next(1ms); }).code(), -ETIME);
        batch.cancel();
        for (const auto item : batch)
            ASSERT_INT(failure_of([&] { item.get(); }).code(), -ECANCELED);
    }
    ASSERT(std::chrono::steady_clock::now() - start < BOUND);
}

TEST(a_queue_has_each_call_once_with_its_data)
{
    pycrew::crew crew = open_crew(2);
    pycrew::queue queue = crew.queue();
    std::vector<pycrew::call> calls;
    std::array<bool, 20> seen{};

    for (bool &mine : seen) {
        calls.push_back(crew.prepare("api_ops:nothing"));
        calls.back().queue(queue.native()).data(&mine).submit();
    }
    for (std::size_t i = 0; i < seen.size(); i++) {
        pycrew_call *ended = queue.reap(BOUND);
        ASSERT(ended != nullptr);
        bool *mine = static_cast<bool *>(pycrew_data(ended));
        ASSERT(!*mine);
        *mine = true;
    }
    ASSERT(queue.reap(0ns) == nullptr);
    ASSERT(queue.fd() >= 0);
    queue.wake();
    ASSERT(queue.reap() == nullptr);
}

/* ---- arrays ---------------------------------------------------------------------------------- */

TEST(arrays_of_any_shape_are_seen_by_numpy)
{
    pycrew::crew crew = open_crew(1);
    need_numpy(crew);
    std::vector<double> numbers{1, 2, 3, 4, 5, 6};
    const std::array<std::uint8_t, 3> small{{250, 251, 252}};
    const pycrew::array_view matrix(numbers.data(), {2, 3});

    ASSERT(crew.run<double>("numpy:sum", pycrew::array_view(numbers)) > 20.9);
    ASSERT_INT(crew.run<int>("numpy:max", pycrew::array_view(small)), 252);
    ASSERT((crew.run<std::vector<double>>("numpy:ndarray.tolist", pycrew::array_view(numbers)) ==
            numbers));
    pycrew::call call = crew.prepare("numpy:transpose");
    call.add(matrix).submit().wait();
    const auto turned = call.result<pycrew::array_view<const double>>();
    ASSERT_INT(turned.dimensions(), 2);
    ASSERT_INT(turned.shape(0), 3);
    ASSERT_INT(turned.shape(1), 2);
    ASSERT_INT(turned.size(), 6);
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 3; j++) {
            ASSERT_INT(turned(j, i), matrix(i, j));
            ASSERT_INT(matrix(i, j), 3 * i + j + 1);
        }
    ASSERT_INT(failure_of([&] { call.result<pycrew::array_view<const float>>(); }).code(),
               PYCREW_ETYPE);
}

TEST(a_writable_array_is_written_by_the_function)
{
    pycrew::crew crew = open_crew(1);
    need_numpy(crew);
    std::vector<std::int32_t> numbers{3, 1, 2};

    crew.run("numpy:ndarray.sort", pycrew::writable(pycrew::array_view(numbers)));
    ASSERT((numbers == std::vector<std::int32_t>{1, 2, 3}));
    ASSERT(has(
        failure_of([&] { crew.run("numpy:ndarray.sort", pycrew::array_view(numbers)); }).message(),
        "read-only"));
}

TEST(a_taken_array_outlives_its_call_and_goes_into_the_next)
{
    pycrew::crew crew = open_crew(1);
    need_numpy(crew);
    auto taken = crew.run<pycrew::array<double>>("numpy:linspace", 0, 1, 1001);
    auto other = crew.async<pycrew::array<float>>("numpy:ones", 3, "f4").get();
    double sum = 0;
    int items = 0;

    for (double x : taken.view())
        sum += x;
    ASSERT(sum > 500.4 && sum < 500.6);
    ASSERT(crew.run<double>("numpy:sum", taken) > 500.4);
    ASSERT_INT(other.view().size(), 3);
    ASSERT_INT(failure_of([&] { crew.run<pycrew::array<int>>("numpy:linspace", 0, 1, 3); }).code(),
               PYCREW_ETYPE);
    taken = crew.run<pycrew::array<double>>("numpy:ones", 2);
    ASSERT_INT(taken.view().size(), 2);
    for (const auto &array : crew.stream<pycrew::array<double>>("actor_ops:arrays", 5, 1000))
        ASSERT_INT(array.view()(999), items++);
    ASSERT_INT(items, 5);
}

TEST(a_buffer_is_memory_that_both_sides_see)
{
    pycrew::options options;
    options.memory = 64 << 20;
    pycrew::crew crew = open_crew(1, options);
    need_numpy(crew);
    auto numbers = crew.alloc<double>(100000), small = crew.alloc<double>(0);
    const double *at = numbers.data();

    for (double &x : numbers)
        x = 0.5;
    small = std::move(numbers);
    ASSERT(small.data() == at);
    ASSERT(crew.run<double>("numpy:sum", small.view()) > 49999.9);
    crew.run("numpy:ndarray.fill", pycrew::writable(small.view()), 7);
    ASSERT_INT(small[99999], 7);
    pycrew::call call = crew.prepare("api_ops:echo");
    call.add(small.view()).submit().wait();
    ASSERT(call.result<pycrew::array_view<const double>>().data() == at);
    ASSERT_INT(failure_of([&] { crew.alloc<char>(std::size_t{1} << 40); }).code(), -E2BIG);
    ASSERT_INT(failure_of([&] { crew.alloc<double>(SIZE_MAX / 4); }).code(), -E2BIG);
    for (int i = 0; i < 100; i++) /* freed each time */
        crew.alloc<char>(20 << 20)[0] = 1;
}

TEST(a_batch_s_items_take_arrays_and_give_them)
{
    pycrew::crew crew = open_crew(2);
    need_numpy(crew);
    auto batch = crew.batch<pycrew::array<double>>("numpy:multiply");
    std::vector<pycrew::array<double>> taken;
    const std::vector<double> numbers{1, 2, 3};

    for (int i = 0; i < 20; i++)
        ASSERT(batch.add(pycrew::array_view(numbers), i));
    for (const auto item : batch)
        taken.push_back(item.get());
    for (std::size_t i = 0; i < 20; i++)
        ASSERT_INT(taken[i].view()(2), 3 * i);
}

TEST(an_array_with_strides_is_not_walked_as_if_it_had_none)
{
    const std::array<int, 6> numbers{{0, 1, 2, 3, 4, 5}};
    pycrew_array columns = pycrew::array_view(numbers.data(), {2, 3}).native();

    std::swap(columns.shape[0], columns.shape[1]);
    std::swap(columns.strides[0], columns.strides[1]);
    const pycrew::array_view<const int> turned(columns);
    ASSERT_INT(turned(2, 1), 5);
    ASSERT_INT(turned(1, 0), 1);
    ASSERT(!turned.contiguous());
    ASSERT_INT(failure_of([&] { turned.begin(); }).code(), -EINVAL);
}

TAP_MAIN
