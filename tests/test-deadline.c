/* Deadlines and cancel: in whatever state a call is, it ends in time with the right code, the error
 * shows where Python was, and no other call is hit. */
#include "tests/harness/crew.h"

/* The import takes its time, which is not what is tested here. */
static pycrew_options deadline_options(unsigned workers)
{
    static const char *const preload[] = {"api_ops", "misuse_ops", NULL};
    pycrew_options options = test_options(workers);

    options.preload = preload;
    return options;
}

static pycrew_crew *open_preloaded(unsigned workers)
{
    pycrew_options options = deadline_options(workers);

    return open_with(&options);
}

/* What a loaded machine may add to a deadline and its grace. */
#define SLACK (3 * SECOND)

static int64_t begun;

static void begin_clock(void)
{
    begun = now_ns();
}

/* Since begin_clock. */
static void expect_between(int64_t least, int64_t most)
{
    int64_t took = now_ns() - begun;

    if (took < least || took > most + (int64_t)((double)SLACK * tap_scale()))
        tap_fail("it took %.1f ms, expected %.1f to %.1f", (double)took / 1e6, (double)least / 1e6,
                 (double)most / 1e6);
}

static const pycrew_error *times_out(pycrew_crew *crew, int64_t timeout, int64_t grace,
                                     const char *function)
{
    begin_clock();
    GIVES(pycrew_run_within(crew, timeout, function, ">"), -ETIMEDOUT);
    expect_between(timeout, timeout + grace);
    ASSERT_INT(pycrew_last_error()->attempts, 1);
    ASSERT(pycrew_last_error()->may_have_run);
    ASSERT_STR(pycrew_last_error()->function, function);
    return pycrew_last_error();
}

/* ---- at the deadline ------------------------------------------------------------------------- */

TEST(a_call_in_python_code_is_interrupted_at_its_deadline)
{
    pycrew_crew *crew = open_preloaded(1);

    begin_clock();
    GIVES(pycrew_run_within(crew, 300 * MS, "api_ops:spin", "i>", 1000), -ETIMEDOUT);
    expect_between(300 * MS, 400 * MS);
    CONTAINS(pycrew_last_error()->traceback, "in spin");
    CONTAINS(pycrew_last_error()->type, "DeadlineExceeded");
    CONTAINS(pycrew_last_error()->traceback, "pycrew.DeadlineExceeded: the call's deadline passed\n");
    pycrew_close(crew);
}

TEST(a_call_that_sleeps_is_interrupted_at_its_deadline)
{
    pycrew_crew *crew = open_preloaded(1);

    begin_clock();
    GIVES(pycrew_run_within(crew, 300 * MS, "api_ops:sleep", "i>", 1000), -ETIMEDOUT);
    expect_between(300 * MS, 400 * MS);
    CONTAINS(pycrew_last_error()->traceback, "in sleep");
    pycrew_close(crew);
}

TEST(a_deadline_that_comes_while_an_exception_is_put_into_words_ends_the_call)
{
    pycrew_crew *crew = open_crew(1);
    const pycrew_error *error = times_out(crew, 100 * MS, 20 * SECOND, "api_ops:fail_slowly");

    ASSERT_STR(error->type, "pycrew.DeadlineExceeded");
    ASSERT(error->may_have_run);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(a_call_that_holds_the_gil_is_killed_after_the_grace)
{
    pycrew_crew *crew = open_preloaded(1);

    CONTAINS(times_out(crew, 300 * MS, 100 * MS, "api_ops:catastrophe")->traceback, "in catastrophe");
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(a_call_that_swallows_the_interrupt_is_killed_after_the_grace)
{
    pycrew_crew *crew = open_preloaded(1);

    CONTAINS(times_out(crew, 300 * MS, 100 * MS, "api_ops:swallow")->traceback, "in swallow");
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(a_del_that_swallows_the_interrupt_is_killed_after_the_grace)
{
    pycrew_crew *crew = open_preloaded(1);

    CONTAINS(times_out(crew, 300 * MS, 100 * MS, "api_ops:stubborn_del")->traceback, "__del__");
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(the_grace_is_the_callers_to_choose)
{
    pycrew_options options = deadline_options(1);
    pycrew_crew *crew;

    options.grace_ns = 400 * MS;
    crew = open_with(&options);
    begin_clock();
    GIVES(pycrew_run_within(crew, 300 * MS, "api_ops:swallow", ">"), -ETIMEDOUT);
    expect_between(700 * MS, 700 * MS);
    pycrew_close(crew);
}

TEST(a_queued_call_ends_at_its_deadline_and_did_not_run)
{
    pycrew_crew *crew = open_preloaded(1);
    const char *running = scratch("running"), *late = scratch("late");
    pycrew_call *first = SUBMIT(crew, "api_ops:sleep", "ds", 0.4, running), *second;

    AWAIT(file_size(running) == 1);
    second = prepare(crew, "api_ops:note");
    OK(pycrew_add(second, "s", late));
    OK(pycrew_set_timeout(second, 30 * MS));
    begin_clock();
    OK(pycrew_submit(second));
    GIVES(pycrew_wait(second, BOUND), -ETIMEDOUT);
    ASSERT(!pycrew_call_error(second)->may_have_run);
    ASSERT_INT(pycrew_call_error(second)->attempts, 0);
    CONTAINS(pycrew_call_error(second)->message, "queued");
    pycrew_release(second);
    OK(pycrew_wait(first, BOUND)); /* it was not hit */
    pycrew_release(first);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    ASSERT_INT(file_size(late), -1);
    pycrew_close(crew);
}

TEST(a_deadline_that_has_passed_at_submit_ends_the_call)
{
    pycrew_crew *crew = open_preloaded(1);

    for (int i = 0; i < 300; i++) {
        pycrew_call *call = prepare(crew, "api_ops:swallow_once");

        OK(pycrew_add(call, "i", 100));
        OK(pycrew_set_timeout(call, i % 2));
        OK(pycrew_submit(call));
        if (pycrew_wait(call, BOUND) == -ETIME)
            tap_fail("round %d: the call goes on", i);
        pycrew_release(call);
    }
    pycrew_close(crew);
}

TEST(a_call_that_ends_before_its_deadline_returns)
{
    pycrew_crew *crew = open_preloaded(1);
    double left;

    for (int i = 0; i < 2000; i++)
        OK(pycrew_run_within(crew, BOUND, "api_ops:nothing", ">"));
    OK(pycrew_run_within(crew, BOUND, "api_ops:time_left", ">d", &left));
    ASSERT(left > 0 && left <= 20);
    OK(pycrew_run(crew, "api_ops:time_left", ">d", &left));
    ASSERT(left == -1);
    pycrew_close(crew);
}

TEST(the_crews_timeout_holds_for_calls_that_do_not_say)
{
    pycrew_options options = deadline_options(1);
    pycrew_crew *crew;
    pycrew_call *call;

    options.timeout_ns = 100 * MS;
    crew = open_with(&options);
    OK(pycrew_run_within(crew, BOUND, "api_ops:nothing", ">")); /* all is imported */
    begin_clock();
    GIVES(pycrew_run(crew, "api_ops:sleep", "i>", 1000), -ETIMEDOUT);
    expect_between(100 * MS, 200 * MS);
    call = prepare(crew, "api_ops:sleep");
    OK(pycrew_set_timeout(call, PYCREW_FOREVER));
    OK(pycrew_add(call, "d", 0.3));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(a_timed_out_call_is_not_run_again)
{
    pycrew_crew *crew = open_preloaded(1);
    const char *path = scratch("notes");

    for (int hard = 0; hard < 2; hard++) {
        pycrew_call *call = prepare(crew, hard ? "api_ops:catastrophe" : "api_ops:sleep");

        OK(hard ? pycrew_add(call, "s", path) : pycrew_add(call, "is", 1000, path));
        OK(pycrew_set_retries(call, 5));
        OK(pycrew_set_timeout(call, 400 * MS));
        OK(pycrew_run(crew, "api_ops:nothing", ">")); /* a worker is there, and all is imported */
        OK(pycrew_submit(call));
        GIVES(pycrew_wait(call, BOUND), -ETIMEDOUT);
        pycrew_release(call);
    }
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    ASSERT_INT(file_size(path), 2);
    pycrew_close(crew);
}

TEST(a_wait_that_is_too_short_leaves_the_call_alone)
{
    pycrew_crew *crew = open_preloaded(1);
    const char *go = scratch("go");
    pycrew_call *call = SUBMIT(crew, "api_ops:wait_for", "s", go);
    int one;

    GIVES(pycrew_wait(call, 0), -ETIME);
    begin_clock();
    GIVES(pycrew_wait(call, 30 * MS), -ETIME);
    expect_between(30 * MS, 30 * MS);
    fclose(fopen(go, "w"));
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result(call, "i", &one));
    pycrew_release(call);
    pycrew_close(crew);
}

/* ---- cancel ---------------------------------------------------------------------------------- */

static void cancel_running(const char *function, const char *format, int64_t most)
{
    pycrew_crew *crew = open_preloaded(1);
    const char *path = scratch("running");
    pycrew_call *call = prepare(crew, function);

    if (*format == 'i')
        OK(pycrew_add(call, "is", 1000, path));
    else
        OK(pycrew_add(call, "s", path));
    OK(pycrew_submit(call));
    AWAIT(file_size(path) == 1);
    begin_clock();
    OK(pycrew_cancel(call));
    GIVES(pycrew_wait(call, BOUND), -ECANCELED);
    expect_between(0, most);
    ASSERT(pycrew_call_error(call)->may_have_run);
    CONTAINS(pycrew_call_error(call)->traceback, strchr(function, ':') + 1);
    if (pycrew_call_error(call)->type != NULL) /* it was not killed */
        CONTAINS(pycrew_call_error(call)->traceback, "the call was cancelled\n");
    GIVES(pycrew_cancel(call), -EALREADY);
    pycrew_release(call);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(cancel_ends_a_call_in_python_code)
{
    cancel_running("api_ops:spin", "is", 100 * MS);
}

TEST(cancel_ends_a_call_that_sleeps)
{
    cancel_running("api_ops:sleep", "is", 100 * MS);
}

TEST(cancel_ends_a_call_that_holds_the_gil)
{
    cancel_running("api_ops:catastrophe", "s", 200 * MS);
}

TEST(cancel_ends_a_call_that_swallows_the_interrupt)
{
    cancel_running("api_ops:swallow", "s", 200 * MS);
}

TEST(cancel_ends_a_queued_call_at_once)
{
    pycrew_crew *crew = open_preloaded(1);
    const char *running = scratch("running"), *late = scratch("late");
    pycrew_call *first = SUBMIT(crew, "api_ops:sleep", "ds", 0.3, running), *second;

    AWAIT(file_size(running) == 1);
    second = SUBMIT(crew, "api_ops:note", "s", late);
    OK(pycrew_cancel(second));
    GIVES(pycrew_wait(second, 0), -ECANCELED);
    ASSERT(!pycrew_call_error(second)->may_have_run);
    ASSERT_INT(pycrew_call_error(second)->attempts, 0);
    pycrew_release(second);
    OK(pycrew_wait(first, BOUND));
    pycrew_release(first);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    ASSERT_INT(file_size(late), -1);
    pycrew_close(crew);
}

TEST(cancel_of_an_ended_call_changes_nothing)
{
    pycrew_crew *crew = open_preloaded(1);
    pycrew_call *call = SUBMIT(crew, "api_ops:add", "ii", 1, 2);
    int sum;

    OK(pycrew_wait(call, BOUND));
    GIVES(pycrew_cancel(call), -EALREADY);
    OK(pycrew_wait(call, 0));
    OK(pycrew_result(call, "i", &sum));
    ASSERT_INT(sum, 3);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(cancel_before_submit_is_an_error)
{
    pycrew_crew *crew = open_preloaded(1);
    pycrew_call *call = prepare(crew, "api_ops:nothing");

    GIVES(pycrew_cancel(call), -EINVAL);
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    pycrew_release(call);
    pycrew_close(crew);
}

/* ---- nobody else is hit ---------------------------------------------------------------------- */

TEST(an_interrupt_never_hits_the_next_call)
{
    enum { ROUNDS = 250 };
    pycrew_crew *crew = open_preloaded(1);
    int timed_out = 0, returned = 0;

    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    for (int i = 0; i < ROUNDS; i++) {
        /* its deadline is about when it ends */
        pycrew_call *racer = prepare(crew, "api_ops:sleep"), *canary;
        int rc;

        OK(pycrew_add(racer, "d", 0.001));
        OK(pycrew_set_timeout(racer, i % 50 * 60 * US));
        OK(pycrew_submit(racer));
        canary = SUBMIT(crew, "api_ops:canary", "d", 0.002);
        rc = pycrew_wait(racer, BOUND);
        ASSERT(rc == 0 || rc == -ETIMEDOUT);
        returned += rc == 0;
        timed_out += rc != 0;
        OK(pycrew_wait(canary, BOUND));
        pycrew_release(racer);
        pycrew_release(canary);
    }
    DIAG("%d returned, %d timed out", returned, timed_out);
    ASSERT(returned > 0 && timed_out > 0);
    pycrew_close(crew);
}

TEST(a_kill_never_hits_the_next_call)
{
    enum { ROUNDS = 60 };
    pycrew_options options = deadline_options(1);
    pycrew_crew *crew;
    int timed_out = 0, returned = 0;

    options.grace_ns = 2 * MS;
    crew = open_with(&options);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    for (int i = 0; i < ROUNDS; i++) {
        /* It ends, with the interrupt swallowed, about when the kill comes. */
        pycrew_call *racer = prepare(crew, "api_ops:evaluate"), *canary;
        int rc;

        OK(pycrew_add(racer, "s", "sum(i * i for i in range(60000)) and bool(re.match(r'(a*)*b', 'a' * 13))"));
        OK(pycrew_set_timeout(racer, (i % 20) * 500 * US + 1));
        OK(pycrew_submit(racer));
        canary = SUBMIT(crew, "api_ops:canary", "d", 0.002);
        rc = pycrew_wait(racer, BOUND);
        ASSERT(rc == 0 || rc == -ETIMEDOUT);
        returned += rc == 0;
        timed_out += rc != 0;
        OK(pycrew_wait(canary, BOUND));
        pycrew_release(racer);
        pycrew_release(canary);
    }
    DIAG("%d returned, %d timed out", returned, timed_out);
    pycrew_close(crew);
}

/* It ends between the interrupt and the kill, in C that never looks for signals: so nothing has hit its
 * worker, which takes the next call. */
TEST(a_kill_that_was_due_does_not_hit_the_next_call)
{
    pycrew_options options = deadline_options(1);
    pycrew_crew *crew;
    pycrew_call *racer, *canary;

    options.grace_ns = 1 * SECOND;
    crew = open_with(&options);
    OK(pycrew_run(crew, "_hashlib:pbkdf2_hmac", "sy#y#i>", "sha256", "x", (size_t)1, "y", (size_t)1, 1));
    racer = prepare(crew, "_hashlib:pbkdf2_hmac");
    OK(pycrew_add(racer, "sy#y#i", "sha256", "x", (size_t)1, "y", (size_t)1, 300000));
    OK(pycrew_set_timeout(racer, 10 * MS));
    OK(pycrew_submit(racer));
    canary = SUBMIT(crew, "api_ops:canary", "d", 2.0);
    pycrew_wait(racer, BOUND);
    OK(pycrew_wait(canary, BOUND));
    pycrew_release(racer);
    pycrew_release(canary);
    pycrew_close(crew);
}

TEST(many_deadlines_end_in_their_order)
{
    enum { CALLS = 500 };
    static pycrew_call *calls[CALLS];
    pycrew_crew *crew = open_preloaded(1);
    const char *go = scratch("go");
    pycrew_call *blocker = SUBMIT(crew, "api_ops:wait_for", "s", go);

    for (int i = 0; i < CALLS; i++) {
        calls[i] = prepare(crew, "api_ops:nothing");
        OK(pycrew_set_timeout(calls[i], i % 3 == 2 ? BOUND : (i * 7919 % CALLS) * 200 * US));
        OK(pycrew_submit(calls[i]));
    }
    for (int i = 0; i < CALLS; i++)
        if (i % 3 != 2)
            GIVES(pycrew_wait(calls[i], BOUND), -ETIMEDOUT);
    fclose(fopen(go, "w"));
    for (int i = 0; i < CALLS; i++) {
        if (i % 3 == 2)
            OK(pycrew_wait(calls[i], BOUND));
        pycrew_release(calls[i]);
    }
    OK(pycrew_wait(blocker, BOUND));
    pycrew_release(blocker);
    pycrew_close(crew);
}

TEST(calls_running_at_once_have_their_own_deadlines)
{
    pycrew_crew *crew = open_preloaded(4);
    pycrew_call *calls[4];
    const char *paths[4] = {scratch("0"), scratch("1"), scratch("2"), scratch("3")};

    for (int i = 0; i < 4; i++) {
        calls[i] = prepare(crew, i % 2 ? "api_ops:swallow" : "api_ops:sleep");
        OK(i % 2 ? pycrew_add(calls[i], "s", paths[i]) : pycrew_add(calls[i], "is", 1000, paths[i]));
        OK(pycrew_set_timeout(calls[i], (300 - 20 * i) * MS));
        OK(pycrew_submit(calls[i]));
    }
    begin_clock();
    for (int i = 0; i < 4; i++) {
        GIVES(pycrew_wait(calls[i], BOUND), -ETIMEDOUT);
        pycrew_release(calls[i]);
    }
    expect_between(0, 450 * MS);
    pycrew_close(crew);
}

/* ---- a worker that was interrupted ------------------------------------------------------------ */

TEST(an_interrupted_worker_is_replaced)
{
    pycrew_crew *crew = open_preloaded(1);
    int before, after;

    OK(pycrew_run(crew, "api_ops:pid", ">i", &before));
    GIVES(pycrew_run_within(crew, 20 * MS, "api_ops:sleep", "i>", 1000), -ETIMEDOUT);
    OK(pycrew_run(crew, "api_ops:pid", ">i", &after));
    ASSERT(before != after);
    pycrew_close(crew);
}

TEST(release_of_a_running_call_ends_it)
{
    pycrew_crew *crew = open_preloaded(1);
    const char *paths[2] = {scratch("0"), scratch("1")};

    for (int hard = 0; hard < 2; hard++) {
        pycrew_call *call = prepare(crew, hard ? "api_ops:catastrophe" : "api_ops:sleep");

        OK(hard ? pycrew_add(call, "s", paths[1]) : pycrew_add(call, "is", 1000, paths[0]));
        OK(pycrew_submit(call));
        AWAIT(file_size(paths[hard]) == 1);
        pycrew_release(call);
        begin_clock();
        OK(pycrew_run(crew, "api_ops:nothing", ">"));
        expect_between(0, 200 * MS);
    }
    pycrew_close(crew);
}

TEST(release_right_after_submit_gives_the_call_back)
{
    pycrew_options options = deadline_options(1);
    pycrew_crew *crew;

    options.calls = 64;
    crew = open_with(&options);
    for (int i = 0; i < 3000; i++) {
        pycrew_call *call = prepare(crew, "api_ops:nothing");

        OK(pycrew_submit(call));
        pycrew_release(call);
    }
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

/* ---- in every state --------------------------------------------------------------------------- */

/* A function that notes in a file that it is where it is to be stopped; where that is in Python. */
typedef struct state {
    const char *function, *how; /* how: its first argument, or NULL */
    const char *where;          /* in the traceback */
    bool interrupted;           /* else it resists, and is killed */
} state;

static pycrew_call *enter_state(pycrew_crew *crew, state s, const char *path, int64_t timeout)
{
    pycrew_call *call = prepare(crew, s.function);

    OK(s.how != NULL ? pycrew_add(call, "ss", s.how, path) : pycrew_add(call, "s", path));
    OK(pycrew_set_timeout(call, timeout));
    OK(pycrew_submit(call));
    return call;
}

static void expect_stopped(pycrew_call *call, state s, int code)
{
    const pycrew_error *e;

    GIVES(pycrew_wait(call, BOUND), code);
    e = pycrew_call_error(call);
    CONTAINS(e->traceback, s.where);
    ASSERT_INT(e->attempts, 1);
    ASSERT(e->may_have_run);
    /* One that resists may still be on its way into it, on a loaded machine. */
    ASSERT(e->signal == 0 || (!s.interrupted && e->signal == SIGKILL));
    if (s.interrupted)
        CONTAINS(e->type, "DeadlineExceeded");
    pycrew_release(call);
}

/* One call by its deadline, one by cancel; a third beside them is not hit. */
static void stop_in(state s)
{
    pycrew_options options = deadline_options(3);
    const char *beside = scratch("beside"), *paths[2] = {scratch("0"), scratch("1")};
    pycrew_call *timed, *cancelled, *other;
    pycrew_crew *crew;
    int sum;

    if (s.interrupted) /* that is what is to end it, however late it gets its turn */
        options.grace_ns = 5 * SECOND;
    crew = open_with(&options);
    other = SUBMIT(crew, "misuse_ops:sleep", "ds", 0.3, beside);
    begin_clock();
    timed = enter_state(crew, s, paths[0], 200 * MS);
    cancelled = enter_state(crew, s, paths[1], PYCREW_FOREVER);
    AWAIT(file_size(paths[0]) >= 1 && file_size(paths[1]) >= 1);
    OK(pycrew_cancel(cancelled));
    expect_stopped(cancelled, s, -ECANCELED);
    expect_stopped(timed, s, -ETIMEDOUT);
    expect_between(200 * MS, 300 * MS);
    OK(pycrew_wait(other, BOUND));
    pycrew_release(other);
    for (int i = 0; i < 6; i++) {
        OK(pycrew_run(crew, "misuse_ops:add", "ii>i", i, 1, &sum));
        ASSERT_INT(sum, i + 1);
    }
    pycrew_close(crew);
}

#define STATE_TEST(name, ...)                                                                      \
    TEST(deadline_and_cancel_end_a_call_##name)                                                    \
    {                                                                                              \
        stop_in((state){__VA_ARGS__});                                                             \
    }

STATE_TEST(in_select, "misuse_ops:wait_in", "select", "in wait_in", true)
STATE_TEST(in_poll, "misuse_ops:wait_in", "poll", "in wait_in", true)
STATE_TEST(that_waits_for_a_lock, "misuse_ops:wait_in", "lock", "in wait_in", true)
STATE_TEST(that_waits_for_an_event, "misuse_ops:wait_in", "event", "in wait_in", true)
STATE_TEST(that_waits_for_a_program, "misuse_ops:wait_in", "subprocess", "in wait_in", true)
STATE_TEST(that_reads_a_pipe, "misuse_ops:wait_in", "read", "in wait_in", true)
STATE_TEST(that_waits_for_a_child, "misuse_ops:wait_in", "waitpid", "in wait_in", true)
STATE_TEST(that_joins_a_thread, "misuse_ops:wait_in", "join", "in wait_in", true)
STATE_TEST(in_a_generator, "misuse_ops:wait_in", "generator", "in wait_in", true)
STATE_TEST(in_a_with_block, "misuse_ops:wait_in", "with", "in wait_in", true)
STATE_TEST(while_its_result_is_pickled, "misuse_ops:return_slow", NULL, "in __reduce__", true)
STATE_TEST(in_a_big_pow, "misuse_ops:hold_gil", "pow", "in hold_gil", true)
STATE_TEST(in_a_big_str, "misuse_ops:hold_gil", "str", "in hold_gil", true)
STATE_TEST(in_a_catastrophic_regular_expression, "misuse_ops:hold_gil", "regex", "in hold_gil",
           true)
STATE_TEST(that_never_looks_for_signals_in_C, "misuse_ops:hold_gil", "consume", "in hold_gil",
           false)
STATE_TEST(in_an_except_that_swallows, "misuse_ops:resist", "except", "in resist", false)
STATE_TEST(in_a_finally_that_loops, "misuse_ops:resist", "finally", "in resist", false)
STATE_TEST(in_a_generator_that_swallows, "misuse_ops:resist", "generator", "in resist", false)

/* Claimed, and the function not yet entered. */
static void stop_while_claimed(pycrew_crew *crew, const char *function, const char *format,
                               const char *argument, size_t size, const char *where)
{
    for (int cancel = 0; cancel < 2; cancel++) {
        const char *path = getenv("SLOW_IMPORT");
        pycrew_call *call = prepare(crew, function);
        int sum;

        unlink(path);
        OK(pycrew_add(call, format, argument, size));
        OK(pycrew_set_timeout(call, cancel ? PYCREW_FOREVER : 300 * MS));
        begin_clock();
        OK(pycrew_submit(call));
        AWAIT(file_size(path) >= 1);
        if (cancel)
            OK(pycrew_cancel(call));
        GIVES(pycrew_wait(call, BOUND), cancel ? -ECANCELED : -ETIMEDOUT);
        expect_between(cancel ? 0 : 300 * MS, cancel ? 200 * MS : 400 * MS);
        CONTAINS(pycrew_call_error(call)->traceback, where);
        ASSERT_INT(pycrew_call_error(call)->attempts, 1);
        /* if it had to be killed, on a loaded machine, user code did run */
        ASSERT(!pycrew_call_error(call)->may_have_run || pycrew_call_error(call)->signal == SIGKILL);
        pycrew_release(call);
        OK(pycrew_run(crew, "misuse_ops:add", "ii>i", 1, 1, &sum));
        ASSERT_INT(sum, 2);
    }
}

TEST(a_call_is_stopped_while_its_argument_is_unpickled)
{
    char pickle[300];
    const char *path = scratch("there");
    pycrew_crew *crew;

    setenv("SLOW_IMPORT", path, 1);
    crew = open_preloaded(1);
    snprintf(pickle, sizeof pickle, "cmisuse_ops\nsleep\n(I1000\nS'%s'\ntR.", path);
    stop_while_claimed(crew, "api_ops:echo", "O", pickle, strlen(pickle), "in sleep");
    pycrew_close(crew);
}

TEST(a_call_is_stopped_while_its_module_is_imported)
{
    pycrew_crew *crew;

    setenv("SLOW_IMPORT", scratch("there"), 1);
    crew = open_preloaded(1);
    stop_while_claimed(crew, "imports_slowly:anything", "y#", "x", 1, "imports_slowly.py");
    pycrew_close(crew);
}

TEST(a_call_that_swallows_the_interrupt_and_returns_has_returned)
{
    pycrew_crew *crew = open_preloaded(1);
    int five = 0, before, after;

    OK(pycrew_run(crew, "api_ops:pid", ">i", &before));
    OK(pycrew_run_within(crew, 300 * MS, "misuse_ops:swallow_and_return", "s>i", scratch("there"),
                         &five));
    ASSERT_INT(five, 5);
    OK(pycrew_run(crew, "api_ops:pid", ">i", &after));
    ASSERT(before != after); /* it was interrupted: locks may be held */
    pycrew_close(crew);
}

TEST(a_finally_block_runs_when_its_call_is_interrupted)
{
    pycrew_crew *crew = open_preloaded(1);
    const char *path = scratch("cleaned");

    GIVES(pycrew_run_within(crew, 300 * MS, "misuse_ops:clean_up", "s>", path), -ETIMEDOUT);
    CONTAINS(pycrew_last_error()->traceback, "in clean_up");
    ASSERT_INT(file_size(path), 1);
    pycrew_close(crew);
}

/* faulthandler itself crashes where threads start and end while it writes all stacks, and leaves an
 * errno with which a lock that is held is taken for acquired. */
TEST(a_stack_that_is_asked_for_changes_nothing)
{
    pycrew_options options = deadline_options(1);
    pycrew_crew *crew;
    int threads = 0;

    options.grace_ns = 60 * SECOND;
    crew = open_with(&options);
    OK(pycrew_run_within(crew, 50 * MS, "misuse_ops:asked_all_the_time", "d>i", 1.5, &threads));
    DIAG("%d threads", threads);
    ASSERT(threads > 0);
    pycrew_close(crew);
}

TEST(a_file_of_user_code_that_has_the_fault_files_number_is_left_alone)
{
    pycrew_crew *crew = open_preloaded(1);
    int same = 0;

    OK(pycrew_run(crew, "misuse_ops:close_all_and_write", "s>p", scratch("own"), &same));
    ASSERT(same);
    pycrew_close(crew);
}

TEST(a_stack_that_was_asked_for_is_not_taken_for_last_words)
{
    pycrew_crew *crew = open_preloaded(1);

    for (int value = 0; value < 2; value++) {
        const char *words;

        GIVES(pycrew_run(crew, "misuse_ops:ask_and_abort", "i>", value), PYCREW_EDIED);
        words = pycrew_last_error()->traceback;
        ASSERT(words != NULL);
        ASSERT(strncmp(words, "Fatal Python error: Aborted", 27) == 0);
        CONTAINS(words, "in ask_and_abort");
    }
    pycrew_close(crew);
}

/* What was asked of a call in flight. */
typedef struct entry {
    pycrew_call *call;
    int number;
    int64_t timeout;
} entry;

typedef struct ledger {
    int returned, timed_out, without_deadline;
} ledger;

static void submit_entry(pycrew_crew *crew, entry *e, int number)
{
    e->number = number;
    e->timeout = number % 3 == 0 ? PYCREW_FOREVER : (250 + number * 37 % 600) * US;
    e->call = prepare(crew, "misuse_ops:numbered");
    OK(pycrew_add(e->call, "id", number, 0.0003));
    OK(pycrew_set_timeout(e->call, e->timeout));
    OK(pycrew_submit(e->call));
}

static void settle_entry(entry *e, ledger *l)
{
    int rc = pycrew_wait(e->call, BOUND), value = -1;

    if (rc == 0) {
        OK(pycrew_result(e->call, "i", &value));
        ASSERT_INT(value, e->number);
    } else if (rc != -ETIMEDOUT || e->timeout < 0) {
        const pycrew_error *error = pycrew_last_error();

        tap_fail("call %d, timeout %lld us: %d (%s: %s)\n%s", e->number,
                 (long long)(e->timeout / US), rc, error->type ? error->type : "", error->message,
                 error->traceback ? error->traceback : "");
    }
    l->returned += rc == 0;
    l->timed_out += rc != 0;
    l->without_deadline += e->timeout < 0;
    pycrew_release(e->call);
}

/* Short calls whose deadlines come about when they end, beside some that have none: an interrupt
 * that was meant for another would be seen. */
TEST(thousands_of_deadlines_near_the_end_hit_nobody_else)
{
    enum { CALLS = 4000, IN_FLIGHT = 4 };
    pycrew_crew *crew = open_preloaded(2);
    int64_t until = now_ns() + 6 * SECOND;
    entry entries[IN_FLIGHT];
    ledger l = {0};
    int count = 0;

    for (; count < CALLS && now_ns() < until; count++) {
        entry *e = &entries[count % IN_FLIGHT];

        if (count >= IN_FLIGHT)
            settle_entry(e, &l);
        submit_entry(crew, e, count);
    }
    for (int i = count < IN_FLIGHT ? IN_FLIGHT - count : 0; i < IN_FLIGHT; i++, count++)
        settle_entry(&entries[count % IN_FLIGHT], &l);
    DIAG("%d returned, %d timed out, %d had no deadline", l.returned, l.timed_out,
         l.without_deadline);
    ASSERT(l.returned > 0 && l.timed_out > 0 && l.without_deadline > 0);
    pycrew_close(crew);
}

/* ---- how late the caller hears of it ---------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* From the deadline to the caller's error. It is shown and not asserted: the machine decides. */
static void measure_lateness(const char *what, const char *function, const char *how, int rounds)
{
    enum { TIMEOUT_MS = 40 };
    pycrew_crew *crew = open_preloaded(1);
    int64_t late[64];

    for (int i = 0; i < rounds; i++) {
        pycrew_call *call = prepare(crew, function);
        int64_t submitted;

        OK(pycrew_run(crew, "api_ops:nothing", ">")); /* the worker is there again */
        OK(how ? pycrew_add(call, "ss", how, scratch("there")) : pycrew_add(call, "i", 1000));
        OK(pycrew_set_timeout(call, TIMEOUT_MS * MS));
        submitted = now_ns();
        OK(pycrew_submit(call));
        GIVES(pycrew_wait(call, BOUND), -ETIMEDOUT);
        late[i] = now_ns() - submitted - TIMEOUT_MS * MS;
        pycrew_release(call);
    }
    qsort(late, (size_t)rounds, sizeof late[0], compare);
    DIAG("%s: after the deadline: least %.2f ms, median %.2f, 90%% %.2f, most %.2f", what,
         (double)late[0] / 1e6, (double)late[rounds / 2] / 1e6, (double)late[rounds * 9 / 10] / 1e6,
         (double)late[rounds - 1] / 1e6);
    pycrew_close(crew);
}

TEST(the_caller_hears_of_a_deadline_at_once_or_after_the_grace)
{
    measure_lateness("interrupted", "misuse_ops:sleep", NULL, 20);
    measure_lateness("killed, grace 100 ms", "misuse_ops:resist", "except", 8);
    measure_lateness("killed in C, grace 100 ms", "misuse_ops:hold_gil", "consume", 8);
}

/* ---- in batches ------------------------------------------------------------------------------ */

static void time_out_in_a_batch(const char *function, unsigned chunk, bool unordered)
{
    enum { ITEMS = 30, SLOW = 11 };
    pycrew_crew *crew = open_preloaded(2);
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_batch *batch;
    int failed = 0;

    options.chunk = chunk;
    options.unordered = unordered;
    options.timeout_ns = 150 * MS;
    OK(pycrew_run_within(crew, BOUND, "api_ops:nothing", ">"));
    OK(pycrew_batch_open(crew, function_of(crew, function), &options, &batch));
    begin_clock();
    for (int i = 0; i < ITEMS; i++)
        OK(strstr(function, "sleep") ? pycrew_batch_add(batch, "iid", i, SLOW, 1000.0)
                                     : pycrew_batch_add(batch, "ii", i, SLOW));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++) {
        int value;

        GIVES(pycrew_batch_next(batch, BOUND), 1);
        if (pycrew_batch_index(batch) == SLOW) {
            GIVES(pycrew_batch_result(batch, "i", &value), -ETIMEDOUT);
            CONTAINS(pycrew_batch_error(batch)->traceback, "in ");
            ASSERT(pycrew_batch_error(batch)->may_have_run);
            ASSERT_INT(pycrew_batch_error(batch)->attempts, 1);
            failed++;
            continue;
        }
        OK(pycrew_batch_result(batch, "i", &value));
        ASSERT_INT(value, pycrew_batch_index(batch));
    }
    ASSERT_INT(failed, 1);
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    expect_between(150 * MS, 300 * MS);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(an_item_that_sleeps_ends_at_its_own_deadline_and_the_others_return)
{
    time_out_in_a_batch("api_ops:sleep_if", 0, false);
}

TEST(an_item_in_a_large_chunk_ends_at_its_own_deadline)
{
    time_out_in_a_batch("api_ops:sleep_if", 30, false);
}

TEST(an_item_that_swallows_ends_at_its_own_deadline)
{
    time_out_in_a_batch("api_ops:swallow_if", 30, true);
}

TEST(an_item_that_holds_the_gil_ends_at_its_own_deadline)
{
    time_out_in_a_batch("api_ops:catastrophe_if", 7, false);
}

static void stop_item(const char *function, const char *how, const char *where)
{
    enum { ITEMS = 12 };
    pycrew_crew *crew = open_preloaded(2);
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    const char *path = scratch("there");
    pycrew_batch *batch;
    int ended = 0;

    options.chunk = 6;
    options.timeout_ns = 150 * MS;
    OK(pycrew_batch_open(crew, function_of(crew, "misuse_ops:one_of"), &options, &batch));
    for (int i = 0; i < ITEMS; i++)
        OK(pycrew_batch_add_within(batch, BOUND, "psss", i % 6 == 3, function, how, path));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++) {
        int rc, one = 0;

        GIVES(pycrew_batch_next(batch, BOUND), 1);
        rc = pycrew_batch_result(batch, "i", &one);
        if (pycrew_batch_index(batch) % 6 != 3) {
            GIVES(rc, 0);
            ASSERT_INT(one, 1);
            continue;
        }
        GIVES(rc, -ETIMEDOUT);
        CONTAINS(pycrew_batch_error(batch)->traceback, where);
        ASSERT_INT(pycrew_batch_error(batch)->attempts, 1);
        ASSERT(pycrew_batch_error(batch)->may_have_run);
        ended++;
    }
    ASSERT_INT(ended, 2);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(an_items_deadline_ends_it_in_a_lock)
{
    stop_item("wait_in", "lock", "in wait_in");
}

TEST(an_items_deadline_ends_it_in_a_big_pow)
{
    stop_item("hold_gil", "pow", "in hold_gil");
}

TEST(an_items_deadline_ends_it_in_C_that_never_looks_for_signals)
{
    stop_item("hold_gil", "consume", "in hold_gil");
}

TEST(an_items_deadline_ends_it_in_a_finally_that_loops)
{
    stop_item("resist", "finally", "in resist");
}

TEST(an_items_deadline_ends_it_in_a_generator)
{
    stop_item("wait_in", "generator", "in wait_in");
}

TEST(an_items_timeout_runs_from_its_own_start)
{
    enum { ITEMS = 12 };
    pycrew_crew *crew = open_preloaded(1);
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_batch *batch;

    options.chunk = ITEMS;
    options.timeout_ns = 250 * MS;
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    OK(pycrew_batch_open(crew, function_of(crew, "api_ops:sleep"), &options, &batch));
    for (int i = 0; i < ITEMS; i++)
        OK(pycrew_batch_add(batch, "d", 0.06)); /* 720 ms together */
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++) {
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        OK(pycrew_batch_result(batch, ">"));
    }
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(cancel_of_a_batch_ends_what_runs_and_all_items_come_out)
{
    enum { ITEMS = 200 };
    pycrew_crew *crew = open_preloaded(2);
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    const char *path = scratch("running");

    for (int unordered = 0; unordered < 2; unordered++) {
        pycrew_batch *batch;
        int canceled = 0;

        options.chunk = 30;
        options.unordered = unordered;
        OK(pycrew_batch_open(crew, function_of(crew, "api_ops:sleep_if"), &options, &batch));
        for (int i = 0; i < ITEMS; i++)
            OK(pycrew_batch_add(batch, "iiis", i, 40, 1000, path));
        AWAIT(file_size(path) == unordered + 1);
        begin_clock();
        OK(pycrew_batch_cancel(batch));
        for (int i = 0; i < ITEMS; i++) {
            int value, rc;

            GIVES(pycrew_batch_next(batch, BOUND), 1);
            rc = pycrew_batch_result(batch, "i", &value);
            if (rc == 0)
                ASSERT_INT(value, pycrew_batch_index(batch));
            else
                GIVES(rc, -ECANCELED);
            canceled += rc != 0;
            ASSERT(pycrew_batch_index(batch) != 40 || rc != 0);
        }
        GIVES(pycrew_batch_next(batch, BOUND), 0);
        expect_between(0, 200 * MS);
        ASSERT(canceled > 0);
        GIVES(pycrew_batch_add(batch, "iiis", 1, 40, 1, path), -ESHUTDOWN);
        pycrew_batch_close(batch);
    }
    pycrew_close(crew);
}

/* The interrupt names the item seen as started; the next may have begun by then. */
/* Its worker dies, and it may run again, but for the cancel. */
TEST(a_cancelled_item_that_died_may_have_run)
{
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_crew *crew = open_crew(1);
    const char *started = scratch("started");
    const pycrew_error *error;
    pycrew_batch *batch;

    options.retries = 3;
    options.chunk = 2;
    OK(pycrew_batch_open(crew, function_of(crew, "api_ops:die_when_interrupted"), &options, &batch));
    OK(pycrew_batch_add(batch, "s", started));
    OK(pycrew_batch_add(batch, "s", started));
    OK(pycrew_batch_end(batch));
    AWAIT(file_size(started) == 1);
    OK(pycrew_batch_cancel(batch));
    for (int i = 0; i < 2; i++) {
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        error = pycrew_batch_error(batch);
        ASSERT(error != NULL);
        ASSERT_INT(error->code, -ECANCELED);
        ASSERT_INT(error->may_have_run, i == 0);
        ASSERT_INT(error->attempts, i == 0);
    }
    ASSERT_INT(file_size(started), 1);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(an_item_that_was_cancelled_is_not_said_to_have_timed_out)
{
    pycrew_options options = test_options(1);
    pycrew_batch_options batch_options = PYCREW_BATCH_OPTIONS_INIT;
    const char *path = scratch("runs");
    pycrew_crew *crew;
    pycrew_batch *batch;

    options.grace_ns = SECOND; /* in which the item's deadline passes, too */
    batch_options.timeout_ns = 500 * MS;
    crew = open_with(&options);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    OK(pycrew_batch_open(crew, function_of(crew, "api_ops:swallow"), &batch_options, &batch));
    OK(pycrew_batch_add(batch, "s", path));
    AWAIT(file_size(path) > 0);
    OK(pycrew_batch_cancel(batch));
    GIVES(pycrew_batch_next(batch, BOUND), 1);
    GIVES(pycrew_batch_result(batch, ">"), -ECANCELED);
    CONTAINS(pycrew_last_error()->message, "was cancelled");
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(a_timeout_of_all_time_there_is_never_passes)
{
    pycrew_options options = test_options(1);
    pycrew_batch_options batch_options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_crew *crew;
    pycrew_batch *batch;

    options.timeout_ns = options.grace_ns = batch_options.timeout_ns = INT64_MAX;
    crew = open_with(&options);
    for (int i = 0; i < 2; i++) {
        OK(pycrew_batch_open(crew, function_of(crew, "api_ops:sleep"), &batch_options, &batch));
        OK(pycrew_batch_add(batch, "d", 0.1));
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        OK(pycrew_batch_result(batch, ">"));
        pycrew_batch_close(batch);
        batch_options.timeout_ns = 0; /* the crew's */
    }
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    GIVES(pycrew_run_within(crew, 100 * MS, "api_ops:evaluate", "s>", "sum(range(40000000))"),
          -ETIMEDOUT);
    CONTAINS(pycrew_last_error()->type, "DeadlineExceeded"); /* late, and not killed */
    pycrew_close(crew);
}

TEST(cancel_between_two_items_ends_the_second)
{
    enum { ROUNDS = 150 };
    pycrew_options crew_options = deadline_options(1);
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_crew *crew;

    crew_options.grace_ns = 20 * MS;
    crew = open_with(&crew_options);
    options.chunk = 2;
    for (int round = 0; round < ROUNDS; round++) {
        const char *path = scratch("running");
        pycrew_batch *batch;
        int64_t until;

        unlink(path);
        OK(pycrew_batch_open(crew, function_of(crew, "api_ops:sleep"), &options, &batch));
        OK(pycrew_batch_add(batch, "ds", 0.001, path));
        OK(pycrew_batch_add(batch, "d", 1000.0));
        OK(pycrew_batch_end(batch));
        AWAIT(file_size(path) == 1);
        for (until = now_ns() + 1000 * US + (round - 75) * 8 * US; now_ns() < until;)
            continue;
        OK(pycrew_batch_cancel(batch));
        for (int i = 0; i < 2; i++)
            if (pycrew_batch_next(batch, 5 * SECOND) != 1)
                tap_fail("round %d: item %d did not end: %s", round, i, pycrew_last_error()->message);
        GIVES(pycrew_batch_result(batch, ">"), -ECANCELED);
        pycrew_batch_close(batch);
    }
    pycrew_close(crew);
}

TAP_MAIN
