/* pycrew.hpp: coroutines. Built for C++20 where the compiler has it. */
#include <sys/epoll.h>

#include "tests/harness/hpp.h"

#ifdef __cpp_impl_coroutine

/* ---- allocations of C++, counted in one thread ----------------------------------------------- */

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

/* ---- calls ----------------------------------------------------------------------------------- */

static pycrew::task<int> add(pycrew::loop &loop, int a, int b)
{
    co_return co_await loop.call<int>("api_ops:add", a, b);
}

static pycrew::task<int> sum_of_squares(pycrew::loop &loop, int count)
{
    std::vector<pycrew::pending<int>> under_way;
    int sum = 0;

    for (int i = 0; i < count; i++)
        under_way.push_back(loop.call<int>("operator:mul", i, i)); /* which moves those before it */
    for (auto &each : under_way)
        sum += co_await each;
    co_return co_await add(loop, sum, 1);
}

TEST(a_coroutine_awaits_calls_one_by_one_and_many_at_a_time)
{
    pycrew::crew crew = open_crew(2);
    pycrew::loop loop(crew);

    ASSERT_INT(loop.run(add(loop, 3, 5)), 8);
    ASSERT_INT(loop.run(sum_of_squares(loop, 300)), 299 * 300 * 599 / 6 + 1);
}

static pycrew::task<std::string> results_of_all_kinds(pycrew::loop &loop)
{
    const std::vector<int> one_two{1, 2},
        three{3}; /* not in the await: gcc 12 cannot compile such lists there */
    const auto text = co_await loop.call<std::string>("api_ops:echo", "text");
    const auto list = co_await loop.call<std::vector<int>>("api_ops:echo", one_two);
    const auto json = co_await loop.call<pycrew::json>("api_ops:echo", three);

    co_await loop.call("api_ops:nothing", pycrew::keyword("x", 1));
    co_return text + std::to_string(list.size()) + json.text;
}

TEST(results_are_of_all_types)
{
    pycrew::crew crew = open_crew(1);
    pycrew::loop loop(crew);

    ASSERT_STR(loop.run(results_of_all_kinds(loop)).c_str(), "text2[3]");
}

static pycrew::task<std::string> what_is_thrown(pycrew::loop &loop)
{
    std::string seen;

    try {
        co_await loop.call("api_ops:fail");
    } catch (const pycrew::error &error) {
        seen += error.what();
    }
    try {
        co_await loop.call("api_ops:die_by", "kill");
    } catch (const pycrew::error &error) {
        seen += ", signal " + std::to_string(error.signal());
    }
    try {
        co_await loop.call<int>("api_ops:echo", "text");
    } catch (const pycrew::error &error) {
        seen += error.code() == PYCREW_ETYPE ? ", wrong type" : "";
    }
    seen += ", " + std::to_string(co_await add(loop, 1, 2));
    co_await loop.call("api_ops:fail", "value", "at the end");
    co_return seen;
}

static pycrew::task<> catching(pycrew::loop &loop, std::string &seen)
{
    try {
        seen = co_await what_is_thrown(loop);
    } catch (const pycrew::error &error) {
        seen = error.message();
    }
}

TEST(exceptions_and_deaths_are_thrown_where_they_are_awaited)
{
    pycrew::crew crew = open_crew(1);
    pycrew::loop loop(crew);
    std::string seen;

    ASSERT_STR(failure_of([&] { loop.run(what_is_thrown(loop)); }).message().c_str(), "at the end");
    loop.run(catching(loop, seen));
    ASSERT_STR(seen.c_str(), "at the end");
    ASSERT_INT(failure_of([&] { (void)loop.call("no colon"); }).code(), -EINVAL);
}

static pycrew::task<std::string> seen_of_each(pycrew::loop &loop)
{
    std::string seen;

    static const char *const hows[] = {"raise", "die", "type"};

    for (const char *how : hows)
        try {
            if (how == "raise"sv)
                co_await loop.call("api_ops:fail");
            else if (how == "die"sv)
                co_await loop.call("api_ops:die_by", "kill");
            else
                co_await loop.call<int>("api_ops:echo", "text");
        } catch (const pycrew::error &error) {
            seen += std::to_string(error.code()) + " ";
        }
    co_return seen + std::to_string(co_await add(loop, 1, 2));
}

TEST(a_coroutine_that_catches_goes_on)
{
    pycrew::crew crew = open_crew(1);
    pycrew::loop loop(crew);

    ASSERT_STR(loop.run(seen_of_each(loop)).c_str(), "-2001 -2002 -2003 3");
}

static pycrew::task<int> by_deadline_and_actor(pycrew::loop &loop, pycrew::crew &crew)
{
    pycrew::actor counter = crew.actor("actor_ops:Counter", 10);
    pycrew::call add = counter.prepare("add"), slow = crew.prepare("api_ops:sleep");
    int code = 0;

    add.add(5);
    slow.timeout(20ms).add(60);
    const int sum = co_await loop.submit<int>(std::move(add));
    try { /* behind that: in the actor's worker it would end the actor */
        co_await loop.submit(std::move(slow));
    } catch (const pycrew::error &error) {
        code = error.code();
    }
    co_return code == -ETIMEDOUT ? sum : code;
}

TEST(calls_of_actors_and_with_deadlines_are_awaited_too)
{
    pycrew::crew crew = open_crew(2);
    pycrew::loop loop(crew);

    ASSERT_INT(loop.run(by_deadline_and_actor(loop, crew)), 15);
}

static pycrew::task<int> cancelled(pycrew::loop &loop)
{
    auto slow = loop.call("api_ops:sleep", 60), unheard = loop.call("api_ops:sleep", 60);
    int code = 0;

    slow.cancel();
    try {
        co_await slow;
    } catch (const pycrew::error &error) {
        code = error.code();
    }
    co_return code;
}

TEST(a_call_that_is_cancelled_throws_and_one_that_is_dropped_is_not_waited_for)
{
    pycrew::crew crew = open_crew(2);
    pycrew::loop loop(crew);
    const auto start = std::chrono::steady_clock::now();

    ASSERT_INT(loop.run(cancelled(loop)), -ECANCELED);
    ASSERT(std::chrono::steady_clock::now() - start < BOUND);
}

static pycrew::task<int> awaited_twice(pycrew::loop &loop)
{
    auto once = loop.call<int>("api_ops:add", 1, 2);
    const int sum = co_await once;

    co_return sum + co_await once;
}

TEST(a_call_that_was_awaited_before_is_an_error)
{
    pycrew::crew crew = open_crew(1);
    pycrew::loop loop(crew);

    ASSERT_INT(failure_of([&] { loop.run(awaited_twice(loop)); }).code(), -EINVAL);
}

/* ---- where all calls are in use -------------------------------------------------------------- */

static pycrew::task<> echo(pycrew::loop &loop, int i, int &ended)
{
    std::string text = "text " + std::to_string(i);
    const std::string shown = "('" + text + "', '" + text + "', b't')";
    auto copied = loop.call<std::string>("api_ops:shown", std::string_view(text), text.c_str(),
                                         pycrew::bytes_view(text.data(), 1));

    text.assign(text.size(), '?');
    ASSERT(co_await copied == shown);
    ASSERT(co_await loop.call<int>("builtins:int", "11", pycrew::keyword("base", 2)) == 3);
    ended++;
}

TEST(more_calls_than_there_are_go_when_others_have_ended)
{
    pycrew::options options;
    options.calls = 8;
    pycrew::crew crew = open_crew(2, options);
    pycrew::loop loop(crew);
    int ended = 0;

    for (int i = 0; i < 200; i++)
        loop.start(echo(loop, i, ended));
    loop.run();
    ASSERT_INT(ended, 200);
}

static pycrew::task<> wrong_later(pycrew::loop &loop, int &codes)
{
    try {
        co_await loop.call("api_ops:echo", "\xff");
    } catch (const pycrew::error &error) {
        codes += error.code() == -EINVAL;
    }
}

static pycrew::task<> cancelled_later(pycrew::loop &loop, int &codes)
{
    auto late = loop.call("api_ops:nothing");

    late.cancel();
    try {
        co_await late;
    } catch (const pycrew::error &error) {
        codes += error.code() == -ECANCELED;
    }
}

TEST(what_fails_or_is_cancelled_before_it_could_go_throws_as_well)
{
    pycrew::options options;
    options.calls = 4;
    pycrew::crew crew = open_crew(1, options);
    pycrew::loop loop(crew);
    int ended = 0, codes = 0;

    for (int i = 0; i < 20; i++) {
        loop.start(echo(loop, i, ended));
        loop.start(cancelled_later(loop, codes));
        loop.start(wrong_later(loop, codes));
    }
    loop.run();
    ASSERT_INT(ended, 20);
    ASSERT_INT(codes, 40);
}

TEST(calls_that_other_threads_hold_are_waited_for)
{
    pycrew::options options;
    options.calls = 2;
    pycrew::crew crew = open_crew(1, options);
    pycrew::loop loop(crew);
    std::atomic<bool> held{false};
    std::thread other([&] {
        pycrew::call a = crew.prepare("api_ops:nothing"), b = crew.prepare("api_ops:nothing");
        held = true;
        poll(nullptr, 0, 30);
    });

    AWAIT(held.load());
    ASSERT_INT(loop.run(add(loop, 1, 2)), 3);
    other.join();
}

/* ---- streams --------------------------------------------------------------------------------- */

static pycrew::task<int> total(pycrew::loop &loop, const char *of, int count)
{
    auto items = loop.stream<int>(of, count);
    int sum = 0;

    while (const int *item = co_await items.next())
        sum += *item;
    co_return sum;
}

static pycrew::task<int> two_at_a_time(pycrew::loop &loop)
{
    auto first = loop.stream<int>("actor_ops:count_to", 100),
         second = loop.stream<int>("actor_ops:count_to", 100);
    int same = 0;

    for (int i = 0; i < 100; i++)
        same += *co_await first.next() == *co_await second.next();
    co_return same;
}

TEST(items_of_streams_are_awaited_as_they_are_made)
{
    pycrew::crew crew = open_crew(2);
    pycrew::loop loop(crew);

    ASSERT_INT(loop.run(total(loop, "actor_ops:count_to", 1000)), 999 * 1000 / 2);
    ASSERT_INT(loop.run(two_at_a_time(loop)), 100);
    ASSERT_STR(failure_of([&] { loop.run(total(loop, "actor_ops:raise_after", 4)); }).what(),
               "ValueError: after 4");
    ASSERT_INT(failure_of([&] { loop.run(total(loop, "actor_ops:die_after", 4)); }).signal(),
               SIGKILL);
    ASSERT(failure_of([&] { loop.run(total(loop, "actor_ops:listed", 3)); }).type() == "TypeError");
}

static pycrew::task<> left(pycrew::loop &loop, const char *path, int &seen)
{
    auto items = loop.stream<int>("actor_ops:forever", path);

    while (const int *item = co_await items.next())
        if ((seen = *item) == 3)
            break;
}

TEST(a_stream_that_is_left_closes_the_generator_and_does_not_keep_the_loop)
{
    pycrew::crew crew = open_crew(1);
    pycrew::loop loop(crew);
    char path[] = "/tmp/pycrew-test-XXXXXX";
    int seen = 0;

    close(mkstemp(path));
    loop.start(left(loop, path, seen));
    loop.run();
    ASSERT_INT(seen, 3);
    AWAIT(crew.run<int>("api_ops:count_notes", path) != 0);
    unlink(path);
}

/* ---- the loop -------------------------------------------------------------------------------- */

static pycrew::task<> serve(pycrew::loop &loop, int number, int &sum)
{
    sum += co_await loop.call<int>("api_ops:add", number, 1);
    sum += co_await loop.call<int>("api_ops:add", number, 2);
}

TEST(a_service_s_epoll_says_when_to_poll)
{
    pycrew::crew crew = open_crew(2);
    pycrew::loop loop(crew);
    const int events = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {};
    int sum = 0;

    event.events = EPOLLIN;
    ASSERT_INT(epoll_ctl(events, EPOLL_CTL_ADD, loop.fd(), &event), 0);
    for (int i = 0; i < 100; i++)
        loop.start(serve(loop, i, sum));
    while (sum < 2 * 99 * 50 + 300) {
        ASSERT_INT(epoll_wait(events, &event, 1, 20000), 1);
        loop.poll();
    }
    ASSERT_INT(sum, 2 * 99 * 50 + 300);
    close(events);
}

static pycrew::task<> throwing(pycrew::loop &loop, int &ended)
{
    co_await loop.call("api_ops:nothing");
    ended++;
    throw 5;
}

TEST(what_a_started_coroutine_throws_comes_out_of_the_loop_and_the_others_go_on)
{
    pycrew::crew crew = open_crew(1);
    pycrew::loop loop(crew);
    int ended = 0, thrown = 0, sum = 0;

    for (int i = 0; i < 3; i++)
        loop.start(throwing(loop, ended));
    loop.start(serve(loop, 1, sum));
    for (int i = 0; i < 4; i++)
        try {
            loop.run();
        } catch (int) {
            thrown++;
        }
    ASSERT_INT(ended, 3);
    ASSERT_INT(thrown, 3);
    ASSERT_INT(sum, 5);
}

struct notes_its_end {
    int &ends;
    ~notes_its_end()
    {
        ends++;
    }
};

static pycrew::task<> sleeping(pycrew::loop &loop, int &ends)
{
    const notes_its_end here{ends};

    co_await loop.call("api_ops:sleep", 60);
}

static pycrew::task<> nested(pycrew::loop &loop, int &ends)
{
    const notes_its_end here{ends};

    co_await sleeping(loop, ends);
}

TEST(coroutines_that_are_destroyed_where_they_wait_end_in_order_and_wait_for_nothing)
{
    const auto start = std::chrono::steady_clock::now();
    int ends = 0;

    {
        pycrew::crew crew = open_crew(1);
        {
            pycrew::loop loop(crew);
            for (int i = 0; i < 5; i++)
                loop.start(nested(loop, ends));
            loop.poll();
            ASSERT_INT(ends, 0);
        }
        ASSERT_INT(ends, 10);
        ASSERT_INT(crew.run<int>("api_ops:add", 1, 2), 3); /* what slept was cancelled */
    }
    ASSERT(std::chrono::steady_clock::now() - start < BOUND);
}

TEST(a_stop_ends_a_run_from_another_thread_and_what_waits_can_go_on)
{
    pycrew::crew crew = open_crew(1);
    pycrew::loop loop(crew);
    int ends = 0;
    std::thread other([&] {
        poll(nullptr, 0, 20);
        loop.stop();
    });

    loop.start(sleeping(loop, ends));
    loop.run();
    other.join();
    ASSERT_INT(ends, 0);
    loop.stop();
    ASSERT_INT(failure_of([&] { loop.run(add(loop, 1, 2)); }).code(), -ECANCELED);
}

static pycrew::task<> waits_for_nothing_of_the_loop(pycrew::loop &)
{
    co_await std::suspend_always();
}

TEST(a_task_that_waits_for_nothing_of_the_loop_is_told_so)
{
    pycrew::crew crew = open_crew(1);
    pycrew::loop loop(crew);

    ASSERT_INT(failure_of([&] { loop.run(waits_for_nothing_of_the_loop(loop)); }).code(), -EDEADLK);
}

static pycrew::task<int> waits_in(pycrew::loop &loop, int &ends)
{
    const notes_its_end here{ends};
    auto slow = loop.call<int>("api_ops:sleep", 60);

    co_return co_await slow;
}

TEST(a_coroutine_that_outlives_its_loop_is_never_resumed_and_what_it_holds_knows)
{
    pycrew::crew crew = open_crew(1);
    std::optional<pycrew::loop> loop(std::in_place, crew);
    int ends = 0;
    auto late = loop->call<int>("api_ops:sleep", 60);
    auto items = loop->stream<int>("actor_ops:slow", 9, 60);

    {
        auto held = waits_in(*loop, ends);
        held.await_suspend(std::noop_coroutine()).resume(); /* up to where it waits */
        loop.reset();
        ASSERT_INT(ends, 0);
    }
    ASSERT_INT(ends, 1);
    ASSERT(late.await_ready());
    ASSERT_INT(failure_of([&] { late.await_resume(); }).code(), -EALREADY);
    ASSERT(items.next().await_ready());
    ASSERT_INT(failure_of([&] { items.next().await_ready(), items.next().await_resume(); }).code(),
               -EINVAL);
}

static pycrew::task<int> scalars(pycrew::loop &loop, const pycrew::function function, int count)
{
    int sum = 0;

    for (int i = 0; i < count; i++) {
        counting = true;
        sum += co_await loop.call<int>(function, i, 1);
        counting = false;
    }
    co_return sum;
}

TEST(an_awaited_call_with_scalars_allocates_nothing)
{
    pycrew::crew crew = open_crew(1);
    pycrew::loop loop(crew);

    ASSERT_INT(loop.run(scalars(loop, crew.get("api_ops:add"), 100)), 5050);
    ASSERT_INT(allocations, 0);
}

TEST(loops_of_several_threads_share_a_crew)
{
    pycrew::crew crew = open_crew(2);
    std::vector<std::thread> threads;
    std::atomic<int> sum{0};

    for (int i = 0; i < 4; i++)
        threads.emplace_back([&] {
            pycrew::loop loop(crew);
            sum += loop.run(sum_of_squares(loop, 50));
        });
    for (auto &thread : threads)
        thread.join();
    ASSERT_INT(sum.load(), 4 * (49 * 50 * 99 / 6 + 1));
}

#else

TEST(coroutines)
{
    SKIP("the compiler has no coroutines of C++20");
}

#endif

TAP_MAIN
