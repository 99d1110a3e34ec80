/* Coroutines: many calls in flight on one worker; each ends once, with the result, the exception or
 * the code that it has earned, whatever happens to the others, the loop and the worker. */
#include "tests/harness/arrays.h"
#include "tests/harness/crew.h"

static pycrew_options async_options(unsigned workers)
{
    static const char *const preload[] = {"async_ops", NULL};
    pycrew_options options = test_options(workers);

    options.preload = preload;
    options.grace_ns = 10 * SECOND; /* no worker is to be killed because the machine is slow */
    return options;
}

static pycrew_crew *open_async(unsigned workers)
{
    pycrew_options options = async_options(workers);

    return open_with(&options);
}

static double ms_since(int64_t begin)
{
    return (double)(now_ns() - begin) / 1e6;
}

/* What a loaded machine may add to a time. */
static double slack_ms(void)
{
    return 3000 * tap_scale();
}

static void release_all(pycrew_call **calls, int count)
{
    for (int i = 0; i < count; i++)
        pycrew_release(calls[i]);
}

static int worker_pid(pycrew_crew *crew)
{
    int pid = 0;

    OK(pycrew_run(crew, "async_ops:pid", ">i", &pid));
    return pid;
}

/* The waiter may be the first on the semaphore, and gets what was the plain loop's. (Kept, it is
 * made good when the thread that waits looks again, after 100 ms.) */
TEST(a_worker_that_was_left_its_waiter_is_woken_for_each_call)
{
    pycrew_crew *crew = open_async(1);
    double least = 1e9, took;
    int64_t begin;
    int sum;

    for (int i = 0; i < 10; i++) {
        OK(pycrew_run(crew, "async_ops:slow_add", "ii>i", i, 1, &sum));
        ASSERT_INT(sum, i + 1);
        pause_ns(20 * MS); /* it has gone to sleep */
        begin = now_ns();
        OK(pycrew_run(crew, "async_ops:plain_add", "ii>i", i, 1, &sum));
        took = ms_since(begin);
        least = took < least ? took : least;
    }
    ASSERT(least < 80);
    pycrew_close(crew);
}

static pycrew_batch *open_batch(pycrew_crew *crew, const char *function, unsigned window,
                                int64_t timeout, int retries)
{
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_batch *batch;

    options.window = window;
    options.timeout_ns = timeout;
    options.retries = retries;
    OK(pycrew_batch_open(crew, function_of(crew, function), &options, &batch));
    return batch;
}

/* ---- results and exceptions -------------------------------------------------------------------
 */

TEST(whatever_can_be_awaited_is_awaited)
{
    static const char *const names[] = {"async_ops:add", "async_ops:method", "async_ops:adder",
                                        "async_ops:plainly"};
    pycrew_crew *crew = open_async(1);
    int result;

    for (int round = 0; round < 2; round++) {
        for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
            result = 0;
            OK(pycrew_run(crew, names[i], "ii>i", 20, 22, &result));
            ASSERT_INT(result, 42);
        }
        OK(pycrew_run(crew, "async_ops:partial", "i>i", 2, &result));
        ASSERT_INT(result, 42);
        OK(pycrew_run(crew, "async_ops:awaitable", "i>i", 7, &result));
        ASSERT_INT(result, 7);
    }
    pycrew_close(crew);
}

TEST(asyncio_is_not_imported_before_the_first_coroutine)
{
    pycrew_crew *crew = open_crew(1);
    int imported;
    int sum;

    OK(pycrew_run(crew, "api_ops:modules", "s>p", "asyncio", &imported));
    ASSERT(!imported);
    OK(pycrew_run(crew, "async_ops:add", "ii>i", 1, 2, &sum));
    OK(pycrew_run(crew, "api_ops:modules", "s>p", "asyncio", &imported));
    ASSERT(imported);
    pycrew_close(crew);
}

static void raises(pycrew_crew *crew, const char *function, const char *type, const char *trace)
{
    pycrew_call *call = prepare(crew, function);

    if (strstr(function, "fail") != NULL)
        OK(pycrew_add(call, "s", "no good"));
    if (strstr(function, "leave") != NULL)
        OK(pycrew_add(call, "i", 3));
    OK(pycrew_submit(call));
    GIVES(pycrew_wait(call, BOUND), PYCREW_ERAISED);
    ASSERT_STR(pycrew_call_error(call)->type, type);
    CONTAINS(pycrew_call_error(call)->traceback, trace);
    ASSERT(pycrew_call_error(call)->may_have_run);
    ASSERT_INT(pycrew_call_error(call)->attempts, 1);
    pycrew_release(call);
}

TEST(an_exception_comes_with_the_coroutines_traceback)
{
    pycrew_crew *crew = open_async(1);
    int pid = worker_pid(crew);

    for (int round = 0; round < 2; round++) {
        raises(crew, "async_ops:fail", "ValueError", "in fail\n    raise ValueError(text)");
        raises(crew, "async_ops:fail_at_once", "ValueError", "in fail_at_once");
        raises(crew, "async_ops:leave", "SystemExit", "in leave");
        raises(crew, "async_ops:cancel_itself", "asyncio.exceptions.CancelledError",
               "in cancel_itself");
    }
    CONTAINS(pycrew_last_error()->function, "cancel_itself");
    raises(crew, "async_ops:unpicklable", "TypeError", "function");
    ASSERT_INT(worker_pid(crew), pid);
    pycrew_close(crew);
}

TEST(large_results_come_whole)
{
    pycrew_crew *crew = open_async(1);
    pycrew_call *calls[20];
    const void *bytes;
    size_t size;

    for (int i = 0; i < 20; i++)
        calls[i] = SUBMIT(crew, "async_ops:large", "i", i * 10007);
    for (int i = 0; i < 20; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        OK(pycrew_result(calls[i], "y#", &bytes, &size));
        ASSERT_INT(size, i * 10007);
        ASSERT(size == 0 ||
               (((const char *)bytes)[0] == 'x' && ((const char *)bytes)[size - 1] == 'x'));
    }
    release_all(calls, 20);
    pycrew_close(crew);
}

/* ---- many at a time ----------------------------------------------------------------------------
 */

enum { SLEEPS = 10000 };

TEST_LIMIT(ten_thousand_sleeps_of_a_tenth_of_a_second_take_less_than_a_second, 120)
{
    pycrew_options options = async_options(2);
    static pycrew_call *calls[SLEEPS];
    pycrew_crew *crew;
    int64_t begin;
    double value;

    options.calls = SLEEPS;
    options.inflight = SLEEPS;
    crew = open_with(&options);
    for (int i = 0; i < 4; i++)
        OK(pycrew_run(crew, "async_ops:sleep", "d>d", 0.01, &value));
    begin = now_ns();
    for (int i = 0; i < SLEEPS; i++)
        calls[i] = SUBMIT(crew, "async_ops:sleep", "d", 0.1);
    for (int i = 0; i < SLEEPS; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        OK(pycrew_result(calls[i], "d", &value));
        ASSERT(value == 0.1);
    }
    /* One after the other it would be a thousand seconds. */
    DIAG("%d sleeps took %.0f ms", SLEEPS, ms_since(begin));
    ASSERT(ms_since(begin) < 1000 + 4 * slack_ms());
    release_all(calls, SLEEPS);
    pycrew_close(crew);
}

static int most_at_once(unsigned inflight, int count, double seconds)
{
    pycrew_options options = async_options(1);
    pycrew_call *calls[300];
    pycrew_crew *crew;
    int most = 0, seen;

    options.inflight = inflight;
    crew = open_with(&options);
    for (int i = 0; i < count; i++)
        calls[i] = SUBMIT(crew, "async_ops:count", "d", seconds);
    for (int i = 0; i < count; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        OK(pycrew_result(calls[i], "i", &seen));
        most = seen > most ? seen : most;
    }
    release_all(calls, count);
    pycrew_close(crew);
    return most;
}

TEST(a_worker_has_no_more_in_flight_than_it_may)
{
    ASSERT_INT(most_at_once(1, 3, 0.01), 1);
    ASSERT_INT(most_at_once(7, 40, 0.02), 7);
    ASSERT_INT(most_at_once(0, 300, 0.3), 256);
}

TEST(plain_functions_run_beside_coroutines)
{
    pycrew_crew *crew = open_async(1);
    pycrew_call *slow = SUBMIT(crew, "async_ops:sleep", "d", 0.3), *calls[100];
    int sum;

    for (int i = 0; i < 100; i++)
        calls[i] = SUBMIT(crew, i % 2 ? "async_ops:plain_add" : "async_ops:add", "ii", i, 1);
    for (int i = 0; i < 100; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        OK(pycrew_result(calls[i], "i", &sum));
        ASSERT_INT(sum, i + 1);
    }
    GIVES(pycrew_wait(slow, 0), -ETIME);
    OK(pycrew_wait(slow, BOUND));
    release_all(calls, 100);
    pycrew_release(slow);
    pycrew_close(crew);
}

TEST(an_idle_worker_takes_what_one_with_coroutines_cannot)
{
    pycrew_options options = async_options(2);
    pycrew_call *calls[2];
    pycrew_crew *crew;
    int64_t begin;

    options.inflight = 1;
    crew = open_with(&options);
    for (int i = 0; i < 2; i++) /* both know it */
        OK(pycrew_run(crew, "async_ops:sleep", "d>", 0.01));
    begin = now_ns();
    for (int i = 0; i < 2; i++)
        calls[i] = SUBMIT(crew, "async_ops:sleep", "d", 5.0);
    for (int i = 0; i < 2; i++)
        OK(pycrew_wait(calls[i], BOUND));
    ASSERT(ms_since(begin) < 9000);
    release_all(calls, 2);
    pycrew_close(crew);
}

TEST(each_coroutine_has_a_context_of_its_own)
{
    pycrew_crew *crew = open_async(1);
    pycrew_call *calls[20];
    int value;

    for (int i = 0; i < 20; i++)
        calls[i] = SUBMIT(crew, "async_ops:keep_variable", "i", i + 1);
    for (int i = 0; i < 20; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        OK(pycrew_result(calls[i], "i", &value));
        ASSERT_INT(value, i + 1);
    }
    release_all(calls, 20);
    pycrew_close(crew);
}

TEST(fetches_over_loopback)
{
    pycrew_crew *crew = open_async(1);
    pycrew_call *calls[200];
    int value;

    for (int i = 0; i < 200; i++)
        calls[i] = SUBMIT(crew, "async_ops:fetch", "i", i);
    for (int i = 0; i < 200; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        OK(pycrew_result(calls[i], "i", &value));
        ASSERT_INT(value, i);
    }
    release_all(calls, 200);
    pycrew_close(crew);
}

TEST(a_queue_gets_each_coroutine_once)
{
    pycrew_crew *crew = open_async(2);
    pycrew_queue *queue;
    pycrew_call *calls[100];
    bool seen[500] = {false};
    int count = 0, rc;

    OK(pycrew_queue_open(crew, &queue));
    for (intptr_t i = 0; i < 500; i++) {
        pycrew_call *call = prepare(crew, i % 3 ? "async_ops:sleep" : "async_ops:fail_at_once");

        OK(i % 3 ? pycrew_add(call, "d", (double)(i % 7) / 1000) : pycrew_add(call, "s", "x"));
        OK(pycrew_set_queue(call, queue));
        pycrew_set_data(call, (void *)i);
        OK(pycrew_submit(call));
    }
    while (count < 500) {
        rc = pycrew_queue_reap(queue, calls, 100, BOUND);
        ASSERT(rc > 0);
        for (int i = 0; i < rc; i++) {
            intptr_t number = (intptr_t)pycrew_data(calls[i]);

            ASSERT(!seen[number]);
            seen[number] = true;
            GIVES(pycrew_wait(calls[i], 0), number % 3 ? 0 : PYCREW_ERAISED);
            pycrew_release(calls[i]);
        }
        count += rc;
    }
    pycrew_queue_close(queue);
    pycrew_close(crew);
}

/* ---- deadlines and cancel ----------------------------------------------------------------------
 */

TEST(a_deadline_in_an_await_ends_the_task_and_not_the_worker)
{
    pycrew_crew *crew = open_async(1);
    int pid = worker_pid(crew);
    int64_t begin = now_ns();

    GIVES(pycrew_run_within(crew, 100 * MS, "async_ops:await_forever", ">"), -ETIMEDOUT);
    ASSERT(ms_since(begin) >= 100 && ms_since(begin) < 200 + slack_ms());
    ASSERT_STR(pycrew_last_error()->type, "asyncio.exceptions.CancelledError");
    CONTAINS(pycrew_last_error()->traceback, "in await_forever");
    ASSERT(pycrew_last_error()->may_have_run);
    ASSERT_INT(worker_pid(crew), pid);
    pycrew_close(crew);
}

TEST(a_hundred_deadlines_at_once_are_kept)
{
    pycrew_call *calls[200];
    pycrew_crew *crew;
    int64_t begin;
    int pid;

    crew = open_async(1);
    pid = worker_pid(crew);
    OK(pycrew_run(crew, "async_ops:sleep", "d>", 0.0));
    for (int i = 0; i < 200; i++) {
        calls[i] = prepare(crew, i % 2 ? "async_ops:await_forever" : "async_ops:sleep");
        if (i % 2 == 0)
            OK(pycrew_add(calls[i], "d", 0.4));
        OK(pycrew_set_timeout(calls[i], i % 2 ? 100 * MS : BOUND));
        OK(pycrew_submit(calls[i]));
    }
    begin = now_ns();
    for (int i = 0; i < 200; i++)
        GIVES(pycrew_wait(calls[i], BOUND), i % 2 ? -ETIMEDOUT : 0);
    ASSERT(ms_since(begin) < 500 + slack_ms());
    ASSERT_INT(worker_pid(crew), pid);
    release_all(calls, 200);
    pycrew_close(crew);
}

TEST(a_cancelled_coroutine_ends_and_the_others_go_on)
{
    pycrew_crew *crew = open_async(1);
    pycrew_call *calls[100];
    const char *started = scratch("started");
    int pid = worker_pid(crew);

    for (int i = 0; i < 100; i++)
        calls[i] = i % 2 ? SUBMIT(crew, "async_ops:await_forever", "s", started)
                         : SUBMIT(crew, "async_ops:sleep", "d", 0.3);
    AWAIT(file_size(started) == 50);
    for (int i = 1; i < 100; i += 2)
        OK(pycrew_cancel(calls[i]));
    for (int i = 0; i < 100; i++)
        GIVES(pycrew_wait(calls[i], BOUND), i % 2 ? -ECANCELED : 0);
    ASSERT_INT(worker_pid(crew), pid);
    release_all(calls, 100);
    pycrew_close(crew);
}

TEST(what_is_awaited_in_finally_has_the_grace_for_it)
{
    const char *started = scratch("started"), *done = scratch("done");
    pycrew_crew *crew;
    pycrew_call *call;
    int pid;

    crew = open_async(1);
    pid = worker_pid(crew);
    call = SUBMIT(crew, "async_ops:clean_up", "dss", 0.2, started, done);
    AWAIT(file_size(started) == 1);
    OK(pycrew_cancel(call));
    GIVES(pycrew_wait(call, BOUND), -ECANCELED);
    ASSERT_INT(file_size(done), 1);
    ASSERT_INT(worker_pid(crew), pid);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(a_coroutine_that_swallows_its_cancelling_and_returns_has_returned)
{
    pycrew_crew *crew = open_async(1);
    int value = 0, pid = worker_pid(crew);

    OK(pycrew_run_within(crew, 50 * MS, "async_ops:swallow", "i>i", 7, &value));
    ASSERT_INT(value, 7);
    ASSERT_INT(worker_pid(crew), pid);
    pycrew_close(crew);
}

static pycrew_crew *open_impatient(void)
{
    pycrew_options options = async_options(1);

    options.grace_ns = 100 * MS;
    return open_with(&options);
}

TEST(a_stubborn_coroutine_is_killed_after_the_grace_and_those_beside_it_say_so)
{
    pycrew_crew *crew = open_impatient();
    const char *started = scratch("started");
    pycrew_call *beside = SUBMIT(crew, "async_ops:await_forever", "s", started);
    pycrew_call *stubborn;
    int pid = worker_pid(crew);

    AWAIT(file_size(started) == 1);
    stubborn = SUBMIT(crew, "async_ops:stubborn", "s", started);
    AWAIT(file_size(started) == 2);
    OK(pycrew_cancel(stubborn));
    GIVES(pycrew_wait(stubborn, BOUND), -ECANCELED);
    GIVES(pycrew_wait(beside, BOUND), PYCREW_EDIED);
    CONTAINS(pycrew_call_error(beside)->message,
             "while it ran another call, of async_ops:stubborn");
    ASSERT(pycrew_call_error(beside)->may_have_run);
    ASSERT(worker_pid(crew) != pid);
    pycrew_release(stubborn);
    pycrew_release(beside);
    pycrew_close(crew);
}

/* The exception is raised where the code is; so the worker is replaced, when its others have ended.
 */
TEST(a_coroutine_that_blocks_the_loop_is_interrupted_in_its_code)
{
    const char *started = scratch("started");
    pycrew_crew *crew;
    pycrew_call *beside, *call;
    int64_t begin;

    crew = open_async(1);
    OK(pycrew_run(crew, "async_ops:sleep", "d>", 0.0)); /* the loop is there */
    beside = SUBMIT(crew, "async_ops:sleep", "d", 0.5);
    call = prepare(crew, "async_ops:block");
    OK(pycrew_add(call, "ds", 1000.0, started));
    OK(pycrew_set_timeout(call, 300 * MS));
    begin = now_ns();
    OK(pycrew_submit(call));
    GIVES(pycrew_wait(call, BOUND), -ETIMEDOUT);
    ASSERT(ms_since(begin) < 700 + slack_ms());
    CONTAINS(pycrew_call_error(call)->traceback, "in block");
    CONTAINS(pycrew_call_error(call)->type, "CancelledError");
    OK(pycrew_wait(beside, BOUND));
    pycrew_release(call);
    pycrew_release(beside);
    OK(pycrew_run(crew, "async_ops:sleep", "d>", 0.0));
    pycrew_close(crew);
}

TEST(a_child_task_that_blocks_the_loop_is_interrupted_as_its_call)
{
    const char *started = scratch("started");
    pycrew_crew *crew;
    pycrew_call *call;

    crew = open_async(1);
    call = SUBMIT(crew, "async_ops:block_in_child", "s", started);
    AWAIT(file_size(started) == 1);
    OK(pycrew_cancel(call));
    GIVES(pycrew_wait(call, 10 * SECOND), -ECANCELED);
    CONTAINS(pycrew_call_error(call)->traceback, "in block_in_child");
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(a_loop_blocked_in_c_costs_the_worker_and_the_blocker_is_named)
{
    pycrew_crew *crew = open_impatient();
    const char *started = scratch("started");
    pycrew_call *late = prepare(crew, "async_ops:await_forever"), *blocker, *beside;

    beside = SUBMIT(crew, "async_ops:await_forever", "s", started);
    OK(pycrew_set_timeout(late, 300 * MS));
    OK(pycrew_submit(late));
    AWAIT(file_size(started) == 1);
    blocker = SUBMIT(crew, "async_ops:block_in_c", "s", started);
    GIVES(pycrew_wait(late, BOUND), -ETIMEDOUT);
    GIVES(pycrew_wait(blocker, BOUND), PYCREW_EDIED);
    GIVES(pycrew_wait(beside, BOUND), PYCREW_EDIED);
    CONTAINS(pycrew_call_error(late)->traceback, "in block_in_c");
    CONTAINS(pycrew_call_error(beside)->message, "another call, of async_ops:block_in_c");
    ASSERT(strstr(pycrew_call_error(blocker)->message, "another") == NULL);
    pycrew_release(late);
    pycrew_release(blocker);
    pycrew_release(beside);
    pycrew_close(crew);
}

/* The worker is replaced when it has no call left; until then it is the only one there is. */
TEST(an_interrupted_function_ends_neither_those_beside_it_nor_the_workers_claims)
{
    pycrew_crew *crew = open_async(1);
    const char *started = scratch("started"), *spins = scratch("spins");
    pycrew_call *beside = SUBMIT(crew, "async_ops:await_forever", "s", started), *spinning;
    pycrew_batch *batch = open_batch(crew, "async_ops:sleep", 0, 0, -1);
    int rc, count = 0, pid = worker_pid(crew);

    AWAIT(file_size(started) == 1);
    for (int i = 0; i < 40; i++)
        OK(pycrew_batch_add(batch, "d", 0.02));
    OK(pycrew_batch_end(batch));
    spinning = SUBMIT(crew, "api_ops:spin", "is", 1000, spins);
    AWAIT(file_size(spins) == 1);
    OK(pycrew_cancel(spinning));
    GIVES(pycrew_wait(spinning, BOUND), -ECANCELED);
    pycrew_release(spinning);
    ASSERT_INT(worker_pid(crew), pid);
    while ((rc = pycrew_batch_next(batch, BOUND)) == 1) {
        OK(pycrew_batch_result(batch, ""));
        count++;
    }
    OK(rc);
    ASSERT_INT(count, 40);
    pycrew_batch_close(batch);
    batch = open_batch(crew, "async_ops:plain_add", 0, 0, -1);
    for (int i = 0; i < 100; i++)
        OK(pycrew_batch_add(batch, "ii", i, 1));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < 100; i++) {
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        OK(pycrew_batch_result(batch, ""));
    }
    ASSERT_INT(worker_pid(crew), pid);
    OK(pycrew_cancel(beside));
    GIVES(pycrew_wait(beside, BOUND), -ECANCELED);
    AWAIT(worker_pid(crew) != pid);
    pycrew_release(beside);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(a_queued_coroutine_is_cancelled_at_once)
{
    pycrew_options options = async_options(1);
    const char *started = scratch("started");
    pycrew_crew *crew;
    pycrew_call *running, *queued;

    options.inflight = 1;
    crew = open_with(&options);
    running = SUBMIT(crew, "async_ops:await_forever", "s", started);
    AWAIT(file_size(started) == 1);
    queued = SUBMIT(crew, "async_ops:await_forever", "s", started);
    OK(pycrew_cancel(queued));
    GIVES(pycrew_wait(queued, BOUND), -ECANCELED);
    ASSERT(!pycrew_call_error(queued)->may_have_run);
    OK(pycrew_cancel(running));
    GIVES(pycrew_wait(running, BOUND), -ECANCELED);
    pycrew_release(running);
    pycrew_release(queued);
    pycrew_close(crew);
}

TEST(a_coroutine_sees_its_own_deadline)
{
    pycrew_crew *crew = open_async(1);
    pycrew_call *calls[10];
    double left;

    for (int i = 0; i < 10; i++) {
        calls[i] = prepare(crew, i == 9 ? "async_ops:plain_time_left" : "async_ops:time_left");
        OK(pycrew_set_timeout(calls[i], i == 0 ? PYCREW_FOREVER : i * 100 * SECOND));
        OK(pycrew_submit(calls[i]));
    }
    for (int i = 0; i < 10; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        OK(pycrew_result(calls[i], "d", &left));
        ASSERT(i == 0 ? left == -1 : left > i * 100 - 50 && left <= i * 100);
    }
    release_all(calls, 10);
    pycrew_close(crew);
}

/* ---- deaths -------------------------------------------------------------------------------------
 */

TEST(a_killed_workers_hundred_calls_each_end_once)
{
    pycrew_crew *crew = open_async(1);
    const char *started = scratch("started");
    pycrew_call *calls[100];
    pycrew_queue *queue;
    int count = 0;

    OK(pycrew_queue_open(crew, &queue));
    for (int i = 0; i < 100; i++) {
        calls[i] = prepare(crew, "async_ops:await_forever");
        OK(pycrew_add(calls[i], "s", started));
        OK(pycrew_set_queue(calls[i], queue));
        OK(pycrew_submit(calls[i]));
    }
    AWAIT(file_size(started) == 100);
    ASSERT(kill(worker_pid(crew), SIGKILL) == 0);
    while (count < 100) {
        int rc = pycrew_queue_reap(queue, calls, 100, BOUND);

        ASSERT(rc > 0);
        for (int i = 0; i < rc; i++) {
            GIVES(pycrew_wait(calls[i], 0), PYCREW_EDIED);
            ASSERT_INT(pycrew_call_error(calls[i])->signal, SIGKILL);
            ASSERT(pycrew_call_error(calls[i])->may_have_run);
            pycrew_release(calls[i]);
        }
        count += rc;
    }
    ASSERT_INT(count, 100);
    GIVES(pycrew_queue_reap(queue, calls, 100, 0), 0);
    OK(pycrew_run(crew, "async_ops:sleep", "d>", 0.0));
    pycrew_queue_close(queue);
    pycrew_close(crew);
}

/* One call kills its worker the first time. It is charged with it, the others run again for
 * nothing. */
TEST(a_deaths_bystanders_are_tried_again_and_not_charged)
{
    pycrew_options options = async_options(1);
    const char *once = scratch("once"), *others = scratch("others");
    pycrew_call *calls[20], *fatal;
    pycrew_crew *crew;
    int pid, same = 0, value = 0;

    options.retries = 1;
    crew = open_with(&options);
    fatal = SUBMIT(crew, "async_ops:die_once", "ss", once, others);
    for (int i = 0; i < 20; i++)
        calls[i] = SUBMIT(crew, "async_ops:note_and_wait", "sd", others, 1.0);
    OK(pycrew_wait(fatal, BOUND));
    OK(pycrew_result(fatal, "i", &value));
    ASSERT_INT(value, 2);
    for (int i = 0; i < 20; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        OK(pycrew_result(calls[i], "i", &pid));
        ASSERT(same == 0 || same == pid);
        same = pid;
    }
    ASSERT_INT(file_size(others), 40);
    release_all(calls, 20);
    pycrew_release(fatal);
    pycrew_close(crew);
}

TEST(a_coroutine_that_crashes_is_blamed_and_those_beside_it_name_it)
{
    pycrew_crew *crew = open_async(1);
    const char *started = scratch("started");
    pycrew_call *beside = SUBMIT(crew, "async_ops:await_forever", "s", started), *fatal;

    AWAIT(file_size(started) == 1);
    fatal = SUBMIT(crew, "async_ops:die", "is", SIGSEGV, started);
    GIVES(pycrew_wait(fatal, BOUND), PYCREW_EDIED);
    CONTAINS(pycrew_call_error(fatal)->traceback, "in die");
    GIVES(pycrew_wait(beside, BOUND), PYCREW_EDIED);
    CONTAINS(pycrew_call_error(beside)->message, "while it ran another call, of async_ops:die");
    ASSERT_INT(pycrew_call_error(beside)->signal, SIGSEGV);
    pycrew_release(beside);
    pycrew_release(fatal);
    pycrew_close(crew);
}

TEST(many_kills_lose_and_double_no_coroutine)
{
    pycrew_options options = async_options(2);
    pycrew_call *calls[400];
    killer k = {.wanted = 6, .longest_us = 3000};
    int ended = 0, pid;
    pycrew_crew *crew;

    options.retries = 100;
    crew = open_with(&options);
    OK(pycrew_run(crew, "async_ops:pid_after", "d>i", 0.0, &pid));
    atomic_store(&k.answered, pid);
    ASSERT(pthread_create(&k.thread, NULL, kill_workers, &k) == 0);
    while (ended < 400 || atomic_load(&k.kills) < k.wanted) {
        for (int i = 0; i < 400; i++)
            calls[i] = SUBMIT(crew, "async_ops:pid_after", "d", (double)(i % 20) / 1000);
        for (int i = 0; i < 400; i++) {
            OK(pycrew_wait(calls[i], BOUND));
            OK(pycrew_result(calls[i], "i", &pid));
            atomic_store(&k.answered, pid);
            pycrew_release(calls[i]);
        }
        ended += 400;
        ASSERT(ended < 400000);
    }
    ASSERT(pthread_join(k.thread, NULL) == 0);
    pycrew_close(crew);
}

TEST(close_cancels_what_is_in_flight)
{
    const char *started = scratch("started"), *done = scratch("done");
    pycrew_crew *crew;
    int64_t begin;

    crew = open_async(1);
    for (int i = 0; i < 20; i++)
        (void)SUBMIT(crew, "async_ops:clean_up", "dss", 0.1, started, done);
    AWAIT(file_size(started) == 20);
    begin = now_ns();
    pycrew_close(crew);
    ASSERT(ms_since(begin) < 1000 + slack_ms());
    ASSERT_INT(file_size(done), 20);
}

TEST(a_task_that_was_left_goes_on_and_is_cancelled_at_the_end)
{
    const char *soon = scratch("soon"), *late = scratch("late");
    pycrew_crew *crew;

    crew = open_async(1);
    OK(pycrew_run(crew, "async_ops:leave_task", "sd>", soon, 0.05));
    while (file_size(soon) < 1) /* the loop runs while it has calls */
        OK(pycrew_run(crew, "async_ops:sleep", "d>", 0.05));
    OK(pycrew_run(crew, "async_ops:leave_task", "sd>", late, 1000.0));
    ASSERT_INT(file_size(late), -1);
    pycrew_close(crew);
    ASSERT_INT(file_size(late), 2);
}

/* ---- batches and maps ---------------------------------------------------------------------------
 */

TEST(a_batchs_coroutines_run_at_the_same_time)
{
    pycrew_crew *crew = open_async(2);
    pycrew_batch *batch = open_batch(crew, "async_ops:sleep", 0, 0, -1);
    int64_t begin;
    double value;

    OK(pycrew_run(crew, "async_ops:sleep", "d>", 0.0)); /* so that it is known what it is */
    begin = now_ns();
    for (int i = 0; i < 400; i++)
        OK(pycrew_batch_add(batch, "d", i % 2 ? 0.1 : 0.2));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < 400; i++) {
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        OK(pycrew_batch_result(batch, "d", &value));
        ASSERT(value == (i % 2 ? 0.1 : 0.2));
    }
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    ASSERT(ms_since(begin) < 600 + slack_ms()); /* one after the other: 60 s */
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

/* What was added before it was known that it is a coroutine function travels many in a chunk. */
TEST(a_chunk_of_coroutines_runs_one_after_the_other)
{
    pycrew_crew *crew = open_async(1);
    pycrew_batch *batch = open_batch(crew, "async_ops:count", 0, 0, -1);
    int most, last = 0;

    for (int i = 0; i < 200; i++)
        OK(pycrew_batch_add(batch, "d", 0.001));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < 200; i++) {
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        OK(pycrew_batch_result(batch, "i", &most));
        last = most > last ? most : last;
    }
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    ASSERT(last > 1 && last < 200);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(a_batchs_item_ends_at_its_deadline_and_the_others_go_on)
{
    pycrew_batch *batch;
    pycrew_crew *crew;
    int pid;

    crew = open_async(1);
    pid = worker_pid(crew);
    for (int known = 0; known < 2; known++) {
        batch = open_batch(crew, "async_ops:sleep", 0, 200 * MS, -1);
        for (int i = 0; i < 40; i++)
            OK(pycrew_batch_add(batch, "d", i % 4 == 1 ? 1000.0 : 0.001));
        OK(pycrew_batch_end(batch));
        for (int i = 0; i < 40; i++) {
            GIVES(pycrew_batch_next(batch, BOUND), 1);
            GIVES(pycrew_batch_result(batch, ""), i % 4 == 1 ? -ETIMEDOUT : 0);
        }
        GIVES(pycrew_batch_next(batch, BOUND), 0);
        pycrew_batch_close(batch);
    }
    ASSERT_INT(worker_pid(crew), pid);
    pycrew_close(crew);
}

/* Between its end and the next one's beginning others run, and here one that blocks for longer than an item may
 * take. */
TEST(an_item_that_ended_in_time_is_not_told_that_its_deadline_passed)
{
    pycrew_crew *crew = open_async(1);
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_batch *batch;

    options.chunk = 3; /* one behind the other */
    options.timeout_ns = 500 * MS;
    OK(pycrew_batch_open(crew, function_of(crew, "async_ops:block_behind"), &options, &batch));
    for (int i = 0; i < 3; i++)
        OK(pycrew_batch_add(batch, "d", 0.6));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < 3; i++) {
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        OK(pycrew_batch_result(batch, ""));
    }
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(a_cancelled_batchs_coroutines_end)
{
    pycrew_crew *crew = open_async(1);
    const char *started = scratch("started");
    pycrew_batch *batch;
    int pid = worker_pid(crew);

    for (int known = 0; known < 2; known++) {
        int64_t begin = now_ns();
        int got = 0, rc;

        batch = open_batch(crew, "async_ops:await_forever", 0, 0, -1);
        for (int i = 0; i < 40; i++)
            OK(pycrew_batch_add(batch, "s", started));
        OK(pycrew_batch_end(batch));
        AWAIT(file_size(started) >= 5);
        OK(pycrew_batch_cancel(batch));
        while ((rc = pycrew_batch_next(batch, BOUND)) == 1) {
            GIVES(pycrew_batch_result(batch, ""), -ECANCELED);
            got++;
        }
        OK(rc);
        ASSERT_INT(got, 40);
        ASSERT(ms_since(begin) < 500 + slack_ms());
        pycrew_batch_close(batch);
        unlink(started);
    }
    ASSERT_INT(worker_pid(crew), pid);
    pycrew_close(crew);
}

TEST(a_deaths_items_of_a_batch_are_tried_again)
{
    pycrew_crew *crew = open_async(1);
    const char *started = scratch("started");
    pycrew_batch *batch;
    int rc, count = 0;

    OK(pycrew_run(crew, "async_ops:note_and_wait", "sd>", scratch("other"), 0.0));
    batch = open_batch(crew, "async_ops:note_and_wait", 0, 0, 1);
    for (int i = 0; i < 50; i++)
        OK(pycrew_batch_add(batch, "sd", started, 0.5));
    OK(pycrew_batch_end(batch));
    AWAIT(file_size(started) == 50);
    ASSERT(kill(worker_pid(crew), SIGKILL) == 0);
    while ((rc = pycrew_batch_next(batch, BOUND)) == 1) {
        OK(pycrew_batch_result(batch, ""));
        count++;
    }
    OK(rc);
    ASSERT_INT(count, 50);
    ASSERT_INT(file_size(started), 100);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(a_coroutine_function_cannot_be_mapped)
{
    pycrew_crew *crew = open_async(1);
    double in[4] = {0}, out[4];
    int64_t shape[] = {4};
    pycrew_array input, output;

    OK(pycrew_array_init(&input, in, PYCREW_F64, 1, shape, 0));
    OK(pycrew_array_init(&output, out, PYCREW_F64, 1, shape, PYCREW_WRITABLE | PYCREW_COPY_BACK));
    GIVES(pycrew_map(crew, function_of(crew, "async_ops:sleep"), &input, 1, &output, NULL),
          PYCREW_ETYPE);
    CONTAINS(pycrew_last_error()->message, "coroutine");
    pycrew_close(crew);
}

/* ---- arrays
 * -------------------------------------------------------------------------------------- */

TEST(arrays_of_coroutines_that_overlap_in_time)
{
    pycrew_crew *crew = open_async(1);
    double *data[10];
    pycrew_call *calls[20];
    int64_t shape[] = {1000};
    pycrew_array array;

    if (pycrew_run(crew, "actor_ops:import_numpy", "") < 0)
        SKIP("numpy is not installed");
    for (int i = 0; i < 10; i++) {
        data[i] = pycrew_alloc(crew, 8000);
        ASSERT(data[i] != NULL);
        for (int k = 0; k < 1000; k++)
            data[i][k] = i;
        OK(pycrew_array_init(&array, data[i], PYCREW_F64, 1, shape, PYCREW_WRITABLE));
        calls[i] = SUBMIT(crew, "async_ops:add_array", "Aid", &array, i, 0.1 - i * 0.01);
        calls[10 + i] = SUBMIT(crew, "async_ops:make_array", "iid", 500 + i, i, 0.1 - i * 0.01);
    }
    for (int i = 0; i < 10; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        array.size = sizeof array;
        OK(pycrew_result(calls[i], "A", &array));
        ASSERT(array.data == data[i]); /* uncopied */
        ASSERT(data[i][0] == 3 * i && data[i][999] == 3 * i);
        OK(pycrew_wait(calls[10 + i], BOUND));
        OK(pycrew_result(calls[10 + i], "A", &array));
        ASSERT_INT(array.shape[0], 500 + i);
        ASSERT(((double *)array.data)[499] == i);
    }
    release_all(calls, 20);
    for (int i = 0; i < 10; i++)
        pycrew_free(crew, data[i]);
    pycrew_close(crew);
}

/* ---- the loop, and other ones -------------------------------------------------------------------
 */

TEST(a_plain_function_runs_a_loop_of_its_own_whatever_is_in_flight)
{
    pycrew_crew *crew = open_async(1);
    pycrew_call *slow;
    int value;
    int running;

    OK(pycrew_run(crew, "async_ops:sleep", "d>", 0.0));
    OK(pycrew_run(crew, "async_ops:run_own_loop", "i>i", 4, &value));
    ASSERT_INT(value, 5);
    slow = SUBMIT(crew, "async_ops:sleep", "d", 0.5);
    for (int i = 0; i < 20; i++) {
        OK(pycrew_run(crew, "async_ops:run_own_loop", "i>i", i, &value));
        ASSERT_INT(value, i + 1);
        OK(pycrew_run(crew, "async_ops:has_running_loop", ">p", &running));
        ASSERT(!running);
    }
    OK(pycrew_wait(slow, BOUND));
    pycrew_release(slow);
    pycrew_close(crew);
}

TEST(programs_threads_and_forks_in_coroutines)
{
    pycrew_crew *crew = open_async(1);
    pycrew_call *slow = SUBMIT(crew, "async_ops:sleep", "d", 0.3);
    int value;

    OK(pycrew_run(crew, "async_ops:run_program", ">i", &value));
    ASSERT_INT(value, 42);
    OK(pycrew_run(crew, "async_ops:in_thread", "i>i", 4, &value));
    ASSERT_INT(value, 5);
    OK(pycrew_run(crew, "async_ops:fork", ">i", &value));
    ASSERT_INT(value, 7);
    OK(pycrew_run(crew, "async_ops:fork_and_return", ">i", &value));
    ASSERT_INT(value, 99);
    OK(pycrew_run(crew, "async_ops:stop_loop", ">i", &value));
    ASSERT_INT(value, 5);
    OK(pycrew_wait(slow, BOUND));
    pycrew_release(slow);
    pycrew_close(crew);
}

TEST(the_loop_is_the_callers_to_choose)
{
    pycrew_options options = async_options(1);
    pycrew_crew *crew;
    int ours;
    int rc;

    options.loop = "async_ops:make_loop";
    crew = open_with(&options);
    OK(pycrew_run(crew, "async_ops:made_by_us", ">p", &ours));
    ASSERT(ours);
    pycrew_close(crew);
    options.loop = "asyncio";
    crew = open_with(&options);
    OK(pycrew_run(crew, "async_ops:made_by_us", ">p", &ours));
    ASSERT(!ours);
    pycrew_close(crew);
    options.loop = "async_ops:no_such_thing";
    GIVES(pycrew_open(&crew, &options), PYCREW_ESTART);
    CONTAINS(pycrew_last_error()->message, "no_such_thing");
    options.loop = "nonsense";
    GIVES(pycrew_open(&crew, &options), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "options.loop");
    options.loop = NULL;
    options.inflight = 1u << 30;
    rc = pycrew_open(&crew, &options);
    GIVES(rc, -EINVAL);
}

TEST(a_loop_that_cannot_be_made_fails_the_call)
{
    pycrew_options options = async_options(1);
    pycrew_crew *crew;
    int sum;

    options.loop = "async_ops:make_nothing";
    crew = open_with(&options);
    for (int i = 0; i < 3; i++) {
        GIVES(pycrew_run(crew, "async_ops:add", "ii>i", 1, 2, &sum), PYCREW_ERAISED);
        CONTAINS(pycrew_last_error()->message, "no loop today");
        OK(pycrew_run(crew, "async_ops:plain_add", "ii>i", 1, 2, &sum));
    }
    pycrew_close(crew);
}

TEST(uvloop_is_used_where_it_is_and_named_where_it_is_not)
{
    pycrew_options options = async_options(1);
    pycrew_call *calls[100];
    pycrew_crew *crew;
    const char *module;
    int rc;

    options.loop = "uvloop";
    rc = pycrew_open(&crew, &options);
    if (rc == PYCREW_ESTART) {
        CONTAINS(pycrew_last_error()->message, "python3-uvloop");
        return;
    }
    OK(rc);
    for (int i = 0; i < 100; i++)
        calls[i] = SUBMIT(crew, "async_ops:sleep", "d", 0.05);
    for (int i = 0; i < 100; i++)
        OK(pycrew_wait(calls[i], BOUND));
    release_all(calls, 100);
    calls[0] = prepare(crew, "async_ops:note_loop");
    OK(pycrew_submit(calls[0]));
    OK(pycrew_wait(calls[0], BOUND));
    OK(pycrew_result(calls[0], "s", &module));
    CONTAINS(module, "uvloop");
    pycrew_release(calls[0]);
    GIVES(pycrew_run_within(crew, 50 * MS, "async_ops:await_forever", ">"), -ETIMEDOUT);
    OK(pycrew_run(crew, "async_ops:fork_and_return", ">i", &rc));
    ASSERT_INT(rc, 99);
    pycrew_close(crew);
}

/* ---- cost
 * ---------------------------------------------------------------------------------------- */

static long switches_of(int pid)
{
    char path[64], text[4096];
    long total = 0;
    DIR *directory;
    struct dirent *entry;

    snprintf(path, sizeof path, "/proc/%d/task", pid);
    directory = opendir(path);
    ASSERT(directory != NULL);
    while ((entry = readdir(directory)) != NULL) {
        const char *at = text;

        if (tap_number(entry->d_name) < 0)
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/status", pid, entry->d_name);
        tap_read_file(path, text, sizeof text);
        while ((at = strstr(at, "ctxt_switches:")) != NULL) {
            at += strlen("ctxt_switches:");
            total += strtol(at, NULL, 10);
        }
    }
    closedir(directory);
    return total;
}

/* Until nothing has moved for 300 ms. */
static long settled_switches(int pid)
{
    int64_t quiet_since = now_ns(), until = quiet_since + (int64_t)((double)BOUND * tap_scale());
    long now, last = switches_of(pid);

    while (now_ns() - quiet_since < 300 * MS) {
        if (now_ns() > until)
            tap_fail("the worker does not come to rest");
        pause_ns(20 * MS);
        now = switches_of(pid);
        if (now != last)
            quiet_since = now_ns();
        last = now;
    }
    return last;
}

TEST(a_worker_that_waits_or_is_idle_makes_no_context_switch)
{
    pycrew_crew *crew = open_async(1);
    const char *started = scratch("started");
    pycrew_call *calls[50];
    int pid = worker_pid(crew);
    long before;

    for (int i = 0; i < 50; i++)
        calls[i] = SUBMIT(crew, "async_ops:await_forever", "s", started);
    AWAIT(file_size(started) == 50);
    before = settled_switches(pid);
    pause_ns(400 * MS);
    ASSERT_INT(switches_of(pid) - before, 0);
    for (int i = 0; i < 50; i++)
        OK(pycrew_cancel(calls[i]));
    for (int i = 0; i < 50; i++)
        GIVES(pycrew_wait(calls[i], BOUND), -ECANCELED);
    release_all(calls, 50);
    before = settled_switches(pid);
    pause_ns(400 * MS);
    ASSERT_INT(switches_of(pid) - before, 0);
    ASSERT_INT(worker_pid(crew), pid);
    pycrew_close(crew);
}

TEST(memory_stays_flat)
{
    pycrew_crew *crew = open_async(1);
    pycrew_call *calls[200];
    long long before = 0, after;

    for (int round = 0; round < 60; round++) {
        for (int i = 0; i < 200; i++)
            calls[i] = i % 5 ? SUBMIT(crew, "async_ops:add", "ii", i, 1)
                             : SUBMIT(crew, "async_ops:fail_at_once", "s", "x");
        for (int i = 0; i < 200; i++)
            GIVES(pycrew_wait(calls[i], BOUND), i % 5 ? 0 : PYCREW_ERAISED);
        release_all(calls, 200);
        if (round == 20)
            OK(pycrew_run(crew, "async_ops:rss", ">L", &before));
    }
    OK(pycrew_run(crew, "async_ops:rss", ">L", &after));
    if (after - before > 1 << 20)
        tap_fail("8000 calls took %lld bytes", after - before);
    pycrew_close(crew);
}

TAP_MAIN
