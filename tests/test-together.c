/* Where parts meet that have tests of their own: workers that are to leave, for a reload or by
 * their count of calls, and have streams, coroutines, actors, or wait for the host. */
#include <errno.h>
#include <pthread.h>

#include "tests/harness/crew.h"

enum { COROUTINES = 20, RELOADS = 3 };

/* ---- a reload in another thread ---- */

typedef struct reload {
    pycrew_crew *crew;
    pthread_t thread;
    int code;
    atomic_bool done;
} reload;

static void *reload_main(void *data)
{
    reload *r = data;

    r->code = pycrew_reload(r->crew, BOUND);
    atomic_store(&r->done, true);
    return NULL;
}

static void begin_reload(reload *r, pycrew_crew *crew)
{
    *r = (reload){.crew = crew};
    ASSERT_INT(pthread_create(&r->thread, NULL, reload_main, r), 0);
}

static void end_reload(reload *r)
{
    ASSERT_INT(pthread_join(r->thread, NULL), 0);
    ASSERT_INT(r->code, 0);
}

static int pid_of_worker(pycrew_crew *crew)
{
    int pid = 0;

    OK(pycrew_run(crew, "os:getpid", ">i", &pid));
    return pid;
}

/* ---- streams ---- */

static pycrew_call *begin_count(pycrew_crew *crew, int count)
{
    pycrew_call *stream = prepare(crew, "actor_ops:count_to");

    OK(pycrew_set_stream(stream, 2));
    OK(pycrew_add(stream, "i", count));
    OK(pycrew_submit(stream));
    return stream;
}

static void expect_items(pycrew_call *stream, int first, int end)
{
    int value;

    for (int i = first; i < end; i++) {
        GIVES(pycrew_next(stream, BOUND), 1);
        OK(pycrew_result(stream, "i", &value));
        ASSERT_INT(value, i);
    }
}

TEST(a_stream_that_has_begun_is_not_ended_by_a_reload)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = begin_count(crew, 100);
    int pid = pid_of_worker(crew);
    reload r;

    expect_items(stream, 0, 1);
    begin_reload(&r, crew);
    for (int i = 0; i < 10; i++) { /* and calls go on beside it */
        ASSERT_INT(pid_of_worker(crew), pid);
        pause_ns(5 * MS);
    }
    expect_items(stream, 1, 100);
    GIVES(pycrew_next(stream, BOUND), 0);
    end_reload(&r);
    ASSERT(pid_of_worker(crew) != pid);
    pycrew_release(stream);
    pycrew_close(crew);
}

TEST(a_stream_that_has_begun_is_not_ended_by_its_workers_count_of_calls)
{
    pycrew_options options = test_options(2);
    pycrew_crew *crew;
    pycrew_call *stream;

    options.max_calls_per_worker = 5;
    crew = open_with(&options);
    for (int round = 0; round < RELOADS; round++) {
        stream = begin_count(crew, 50);
        expect_items(stream, 0, 50);
        GIVES(pycrew_next(stream, BOUND), 0);
        pycrew_release(stream);
    }
    pycrew_close(crew);
}

TEST(a_stream_that_is_released_lets_its_worker_leave)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = begin_count(crew, 1000000);
    reload r;

    expect_items(stream, 0, 3);
    begin_reload(&r, crew);
    pycrew_release(stream);
    end_reload(&r);
    pycrew_close(crew);
}

/* In each worker, as likely as not: new ones are begun in those that do not leave. */
TEST(a_reload_ends_where_there_is_always_a_stream)
{
    enum { STREAMS = 8 };
    pycrew_crew *crew = open_crew(2);
    pycrew_call *streams[STREAMS];
    reload r;

    for (int i = 0; i < STREAMS; i++) {
        streams[i] = begin_count(crew, 5);
        expect_items(streams[i], 0, 1);
    }
    begin_reload(&r, crew);
    for (int i = 0; !atomic_load(&r.done); i = (i + 1) % STREAMS) {
        expect_items(streams[i], 1, 5);
        GIVES(pycrew_next(streams[i], BOUND), 0);
        pycrew_release(streams[i]);
        streams[i] = begin_count(crew, 5);
        expect_items(streams[i], 0, 1);
    }
    for (int i = 0; i < STREAMS; i++)
        pycrew_release(streams[i]);
    end_reload(&r);
    pycrew_close(crew);
}

static pycrew_call *begin_forever(pycrew_crew *crew, int64_t timeout, const char *path)
{
    pycrew_call *stream = prepare(crew, "actor_ops:forever");

    OK(pycrew_set_stream(stream, 4));
    OK(pycrew_set_timeout(stream, timeout));
    OK(pycrew_add(stream, "s", path));
    OK(pycrew_submit(stream));
    return stream;
}

TEST(a_stream_that_nobody_reads_holds_its_worker_until_its_deadline_at_most)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = begin_forever(crew, 500 * MS, scratch("closed"));
    int rc, item = 1;

    expect_items(stream, 0, 1);
    OK(pycrew_reload(crew, BOUND));
    ASSERT(file_size(scratch("closed")) > 0);
    while ((rc = pycrew_next(stream, BOUND)) == 1)
        item++;
    GIVES(rc, -ETIMEDOUT);
    ASSERT(item <= 5); /* what was made then */
    pycrew_release(stream);
    pycrew_close(crew);
}

TEST(a_stream_that_is_over_is_closed_before_it_is_released)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = begin_forever(crew, PYCREW_FOREVER, scratch("cancelled"));

    expect_items(stream, 0, 1);
    OK(pycrew_cancel(stream));
    AWAIT(file_size(scratch("cancelled")) > 0);
    GIVES(pycrew_next(stream, BOUND), -ECANCELED);
    OK(pycrew_reload(crew, BOUND));
    pycrew_release(stream);
    stream = begin_forever(crew, SECOND, scratch("late"));
    expect_items(stream, 0, 1);
    pause_ns(1100 * MS);
    while (pycrew_next(stream, BOUND) == 1)
        continue;
    AWAIT(file_size(scratch("late")) > 0);
    pycrew_release(stream);
    pycrew_close(crew);
}

/* ---- coroutines ---- */

/* A worker that is to leave has a coroutine that takes for ever, and there is no other one. */
TEST(the_only_worker_goes_on_with_calls_while_it_cannot_leave)
{
    pycrew_options options = test_options(1);
    pycrew_call *waiting;
    pycrew_crew *crew;
    reload r;
    int pid;

    options.timeout_ns = BOUND;
    crew = open_with(&options);
    waiting = prepare(crew, "async_ops:await_forever");
    OK(pycrew_set_timeout(waiting, PYCREW_FOREVER));
    OK(pycrew_submit(waiting));
    pid = pid_of_worker(crew);
    begin_reload(&r, crew);
    for (int i = 0; i < 30; i++) {
        ASSERT_INT(pid_of_worker(crew), pid);
        pause_ns(20 * MS);
    }
    OK(pycrew_cancel(waiting));
    GIVES(pycrew_wait(waiting, BOUND), -ECANCELED);
    end_reload(&r);
    ASSERT(pid_of_worker(crew) != pid);
    pycrew_release(waiting);
    pycrew_close(crew);
}

static void expect_at_most(const int *pids, int count, int most)
{
    for (int i = 0; i < count; i++) {
        int same = 0;

        for (int k = 0; k < count; k++)
            same += pids[k] == pids[i];
        ASSERT(same <= most);
    }
}

TEST(coroutines_in_flight_count_for_max_calls_per_worker)
{
    enum { CALLS = 60, MOST = 8 };
    pycrew_options options = test_options(2);
    pycrew_call *calls[CALLS];
    pycrew_crew *crew;
    int pids[CALLS];

    options.max_calls_per_worker = MOST;
    crew = open_with(&options);
    for (int i = 0; i < CALLS; i++) {
        calls[i] = prepare(crew, "together_ops:pid_after");
        OK(pycrew_add(calls[i], "d", 0.005));
        OK(pycrew_submit(calls[i]));
    }
    for (int i = 0; i < CALLS; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        OK(pycrew_result(calls[i], "i", &pids[i]));
        pycrew_release(calls[i]);
    }
    expect_at_most(pids, CALLS, MOST);
    pycrew_close(crew);
}

/* What is written of a coroutine's result may run code, too. */
TEST(a_death_while_a_coroutines_result_is_pickled_is_blamed_on_that_call)
{
    pycrew_options options = test_options(1);
    pycrew_call *beside, *dying;
    pycrew_crew *crew;

    options.retries = 1;
    crew = open_with(&options);
    dying = prepare(crew, "together_ops:die_when_pickled");
    beside = prepare(crew, "async_ops:sleep");
    OK(pycrew_set_retries(dying, 0));
    OK(pycrew_add(beside, "d", 0.3));
    OK(pycrew_submit(beside));
    OK(pycrew_add(dying, "s", scratch("pickled")));
    OK(pycrew_submit(dying));
    GIVES(pycrew_wait(dying, BOUND), PYCREW_EDIED);
    ASSERT(strstr(pycrew_last_error()->message, "another call") == NULL);
    /* Twice more: it is charged with none of the three. */
    for (int i = 0; i < 2; i++) {
        pycrew_call *again = prepare(crew, "together_ops:die_when_pickled");

        OK(pycrew_set_retries(again, 0));
        OK(pycrew_add(again, "s", scratch("pickled")));
        OK(pycrew_submit(again));
        GIVES(pycrew_wait(again, BOUND), PYCREW_EDIED);
        pycrew_release(again);
    }
    OK(pycrew_wait(beside, BOUND));
    pycrew_release(dying);
    pycrew_release(beside);
    pycrew_close(crew);
}

TEST(coroutines_that_wait_end_as_they_should_when_their_worker_leaves)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_call *calls[COROUTINES];
    reload r;

    for (int round = 0; round < RELOADS; round++) {
        for (int i = 0; i < COROUTINES; i++) {
            calls[i] = prepare(crew, "async_ops:sleep");
            OK(pycrew_add(calls[i], "d", 0.02 * (i % 5)));
            OK(pycrew_submit(calls[i]));
        }
        begin_reload(&r, crew);
        for (int i = 0; i < COROUTINES; i++) {
            OK(pycrew_wait(calls[i], BOUND));
            pycrew_release(calls[i]);
        }
        end_reload(&r);
    }
    pycrew_close(crew);
}

/* Coroutines all the time: their worker takes no more of them, or it would never leave. */
TEST(a_reload_ends_where_there_is_always_a_coroutine)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *calls[2] = {NULL, NULL};
    reload r;

    begin_reload(&r, crew);
    for (int i = 0; i < 2 || !atomic_load(&r.done); i++) {
        pycrew_call **call = &calls[i % 2];

        if (*call != NULL) {
            OK(pycrew_wait(*call, BOUND));
            pycrew_release(*call);
        }
        *call = prepare(crew, "async_ops:sleep");
        OK(pycrew_add(*call, "d", 0.01));
        OK(pycrew_submit(*call));
    }
    for (int i = 0; i < 2; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        pycrew_release(calls[i]);
    }
    end_reload(&r);
    pycrew_close(crew);
}

/* ---- actors ---- */

TEST(an_actor_ends_with_its_worker_and_is_made_again_in_the_next)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_actor *actor;
    int value;

    OK(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Counter", "i", 7));
    OK(pycrew_actor_run(actor, "get", ">i", &value));
    OK(pycrew_reload(crew, BOUND));
    GIVES(pycrew_actor_run(actor, "get", ">i", &value), PYCREW_EDIED);
    ASSERT(!pycrew_last_error()->may_have_run);
    OK(pycrew_actor_reopen(actor, BOUND));
    OK(pycrew_actor_run(actor, "get", ">i", &value));
    ASSERT_INT(value, 7);
    pycrew_actor_close(actor);
    pycrew_close(crew);
}

/* Calls for one worker beside coroutines of it: neither waits for the other. */
TEST(an_actor_is_served_while_coroutines_wait_in_its_worker)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *waiting = prepare(crew, "async_ops:await_forever");
    pycrew_actor *actor;
    int value;

    OK(pycrew_submit(waiting));
    OK(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Counter", "i", 0));
    for (int i = 1; i <= 100; i++) {
        OK(pycrew_actor_run(actor, "add", "i>i", 1, &value));
        ASSERT_INT(value, i);
    }
    OK(pycrew_cancel(waiting));
    GIVES(pycrew_wait(waiting, BOUND), -ECANCELED);
    OK(pycrew_actor_run(actor, "get", ">i", &value)); /* the cancel cost no worker */
    ASSERT_INT(value, 100);
    pycrew_release(waiting);
    pycrew_actor_close(actor);
    pycrew_close(crew);
}

TEST(an_actors_calls_begin_in_their_order_whether_coroutines_or_not)
{
    enum { CALLS = 60 };
    pycrew_crew *crew = open_crew(1);
    pycrew_call *calls[CALLS];
    pycrew_actor *actor;
    int in_order;

    OK(pycrew_actor_open(crew, &actor, BOUND, "together_ops:InOrder", ""));
    for (int i = 0; i < CALLS; i++) {
        OK(pycrew_actor_prepare(actor, i % 3 == 2 ? "note" : "note_async", BOUND, &calls[i]));
        OK(pycrew_add(calls[i], "i", i));
        OK(pycrew_submit(calls[i]));
    }
    for (int i = 0; i < CALLS; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        pycrew_release(calls[i]);
    }
    OK(pycrew_actor_run(actor, "is_in_order", "i>i", CALLS, &in_order));
    ASSERT(in_order);
    pycrew_actor_close(actor);
    pycrew_close(crew);
}

/* Its time is counted from its beginning, also where another call's interrupt has all deadlines looked at. */
TEST(a_close_that_is_a_coroutine_has_the_grace_from_its_beginning)
{
    pycrew_options options = test_options(1);
    pycrew_call *blocking, *late;
    pycrew_actor *actor;
    pycrew_crew *crew;

    options.grace_ns = 400 * MS;
    crew = open_with(&options);
    OK(pycrew_actor_open(crew, &actor, BOUND, "together_ops:SlowCloser", "sd", scratch("closed"),
                         0.3));
    OK(pycrew_run(crew, "async_ops:sleep", "d>", 0.0)); /* asyncio is imported */
    late = prepare(crew, "async_ops:await_forever");
    OK(pycrew_set_timeout(late, 700 * MS));
    OK(pycrew_submit(late));
    blocking = prepare(crew, "time:sleep");
    OK(pycrew_add(blocking, "d", 0.5));
    OK(pycrew_submit(blocking));
    pause_ns(20 * MS); /* it has begun, as likely as not */
    pycrew_actor_close(actor); /* begins when the sleep has ended, and ends 0.3 s later */
    GIVES(pycrew_wait(late, BOUND), -ETIMEDOUT);
    AWAIT(file_size(scratch("closed")) >= 0);
    OK(pycrew_wait(blocking, BOUND));
    pycrew_release(blocking);
    pycrew_release(late);
    pycrew_close(crew);
}

TEST(an_asynchronous_generator_goes_on_beside_coroutines)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *waiting = prepare(crew, "async_ops:await_forever");
    pycrew_call *stream = prepare(crew, "actor_ops:count_async");

    OK(pycrew_submit(waiting));
    OK(pycrew_set_stream(stream, 4));
    OK(pycrew_add(stream, "i", 30));
    OK(pycrew_submit(stream));
    expect_items(stream, 0, 30);
    GIVES(pycrew_next(stream, BOUND), 0);
    pycrew_release(stream);
    OK(pycrew_cancel(waiting));
    GIVES(pycrew_wait(waiting, BOUND), -ECANCELED);
    pycrew_release(waiting);
    pycrew_close(crew);
}

/* ---- what a reader of the code found ---- */

/* The actor's own calls end what keeps its worker. */
TEST(a_worker_that_waits_for_a_coroutine_takes_the_calls_of_its_actors)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_actor *actor;
    pycrew_call *serving;
    reload r;

    OK(pycrew_actor_open(crew, &actor, BOUND, "together_ops:Server", ""));
    OK(pycrew_actor_prepare(actor, "serve", BOUND, &serving));
    OK(pycrew_submit(serving));
    OK(pycrew_actor_run(actor, "await_started", ""));
    begin_reload(&r, crew);
    pause_ns(50 * MS); /* it is told to leave by then, as likely as not */
    OK(pycrew_actor_run(actor, "stop", ""));
    OK(pycrew_wait(serving, BOUND));
    end_reload(&r);
    pycrew_release(serving);
    pycrew_actor_close(actor);
    pycrew_close(crew);
}

TEST(an_actors_coroutine_is_not_tried_again_elsewhere_when_another_call_kills_its_worker)
{
    pycrew_options options = test_options(2);
    pycrew_crew *crew;
    pycrew_actor *actor;
    pycrew_call *serving;

    options.retries = 2;
    crew = open_with(&options);
    OK(pycrew_actor_open(crew, &actor, BOUND, "together_ops:Server", ""));
    OK(pycrew_actor_prepare(actor, "serve", BOUND, &serving));
    OK(pycrew_submit(serving));
    GIVES(pycrew_actor_run(actor, "die", ""), PYCREW_EDIED);
    GIVES(pycrew_wait(serving, BOUND), PYCREW_EDIED);
    pycrew_release(serving);
    pycrew_actor_close(actor);
    pycrew_close(crew);
}

TEST(run_each_by_a_thread_that_holds_all_calls_is_refused)
{
    pycrew_options options = test_options(1);
    pycrew_call *calls[4];
    pycrew_crew *crew;

    options.calls = 4;
    crew = open_with(&options);
    for (int i = 0; i < 4; i++)
        calls[i] = prepare(crew, "os:getpid");
    GIVES(pycrew_run_each(crew, "os:getpid", ""), -EAGAIN);
    for (int i = 0; i < 4; i++)
        pycrew_release(calls[i]);
    OK(pycrew_run_each(crew, "os:getpid", ""));
    pycrew_close(crew);
}

TEST(a_close_that_is_a_coroutine_runs_when_the_worker_leaves)
{
    const char *path = scratch("closed");
    pycrew_crew *crew = open_crew(1);
    pycrew_actor *actor;

    OK(pycrew_actor_open(crew, &actor, BOUND, "together_ops:Closer", "s", path));
    OK(pycrew_reload(crew, BOUND));
    AWAIT(file_size(path) >= 0);
    pycrew_actor_close(actor);
    pycrew_close(crew);
}

/* ---- the host's functions ---- */

static int twice(void *data, pycrew_host_call *call)
{
    int value;
    int rc = pycrew_host_arguments(call, "i", &value);

    (void)data;
    return rc < 0 ? rc : pycrew_host_return(call, "i", 2 * value);
}

TEST(the_hosts_functions_are_there_after_a_reload)
{
    pycrew_crew *crew = open_crew(2);
    const pycrew_function *ask;
    pycrew_call *call;
    int value;

    OK(pycrew_export(crew, "twice", twice, NULL));
    OK(pycrew_function_source(
        crew, "ask", "import pycrew\ndef ask(x):\n    return pycrew.host.twice(x)\n", &ask));
    for (int round = 0; round < RELOADS; round++) {
        for (int i = 0; i < 10; i++) {
            OK(pycrew_prepare(crew, ask, BOUND, &call));
            OK(pycrew_add(call, "i", i));
            OK(pycrew_submit(call));
            OK(pycrew_wait(call, BOUND));
            OK(pycrew_result(call, "i", &value));
            ASSERT_INT(value, 2 * i);
            pycrew_release(call);
        }
        OK(pycrew_reload(crew, BOUND));
    }
    pycrew_close(crew);
}

TAP_MAIN
