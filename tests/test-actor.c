/* Objects that stay in one worker: pycrew_actor_open and its kin. */
#include <errno.h>
#include <signal.h>

#include "tests/harness/crew.h"

static pycrew_actor *open_counter(pycrew_crew *crew, int start)
{
    pycrew_actor *actor = NULL;

    OK(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Counter", "i", start));
    return actor;
}

static int value_of(pycrew_actor *actor)
{
    int value = -1;

    OK(pycrew_actor_run(actor, "get", ">i", &value));
    return value;
}

static int pid_of(pycrew_actor *actor)
{
    int pid = 0;

    OK(pycrew_actor_run(actor, "pid", ">i", &pid));
    return pid;
}

static pycrew_call *method(pycrew_actor *actor, const char *name)
{
    pycrew_call *call = NULL;

    OK(pycrew_actor_prepare(actor, name, BOUND, &call));
    return call;
}

static pycrew_call *submit(pycrew_actor *actor, const char *name)
{
    pycrew_call *call = method(actor, name);

    OK(pycrew_submit(call));
    return call;
}

/* ---- what it is for ----------------------------------------------------------------------------
 */

TEST(an_actor_keeps_its_state)
{
    pycrew_crew *crew = open_crew(3);
    pycrew_actor *actor = open_counter(crew, 100);
    int value;

    for (int i = 1; i <= 1000; i++) {
        OK(pycrew_actor_run(actor, "add", "amount=i > i", 2, &value));
        ASSERT_INT(value, 100 + 2 * i);
    }
    pycrew_actor_close(actor);
    pycrew_close(crew);
}

TEST(actors_are_spread_over_the_workers)
{
    enum { WORKERS = 3, ACTORS = 12 };
    pycrew_crew *crew = open_crew(WORKERS);
    pycrew_actor *actors[ACTORS];
    int counts[WORKERS] = {0}, worker;

    OK(pycrew_run_each(crew, "actor_ops:whoami", "")); /* all are there */
    for (int i = 0; i < ACTORS; i++) {
        actors[i] = open_counter(crew, i);
        OK(pycrew_actor_run(actors[i], "worker", ">i", &worker));
        ASSERT_INT(pycrew_actor_worker(actors[i]), worker);
        counts[worker]++;
    }
    for (int i = 0; i < WORKERS; i++)
        ASSERT_INT(counts[i], ACTORS / WORKERS);
    for (int i = 0; i < ACTORS; i++)
        ASSERT_INT(value_of(actors[i]), i);
    for (int i = 0; i < ACTORS; i++) /* those of worker 0, and new ones take their place */
        if (pycrew_actor_worker(actors[i]) == 0) {
            pycrew_actor_close(actors[i]);
            actors[i] = NULL;
        }
    for (int i = 0; i < ACTORS / WORKERS; i++)
        ASSERT_INT(pycrew_actor_worker(open_counter(crew, 0)), 0);
    pycrew_close(crew);
}

TEST(methods_take_and_give_what_functions_do)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_actor *actor = open_counter(crew, 7);
    double data[3] = {0, 0, 0};
    pycrew_array array = PYCREW_ARRAY_INIT;
    int64_t shape[] = {3}, total;
    pycrew_call *call;
    char big[4000];
    const char *text;

    OK(pycrew_actor_run(actor, "total", "LLL factor=L > L", 1LL, 2LL, 3LL, 10LL, &total));
    ASSERT_INT(total, 60);
    OK(pycrew_array_init(&array, data, PYCREW_F64, 1, shape, PYCREW_WRITABLE | PYCREW_COPY_BACK));
    call = method(actor, "fill");
    OK(pycrew_add_array(call, &array));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    ASSERT(data[0] == 7 && data[2] == 7);
    pycrew_release(call);
    memset(big, 'x', sizeof big);
    call = method(actor, "add"); /* more than a slot holds */
    OK(pycrew_add_bytes(call, big, sizeof big));
    OK(pycrew_submit(call));
    GIVES(pycrew_wait(call, BOUND), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "TypeError");
    pycrew_release(call);
    call = method(actor, "total");
    OK(pycrew_set_json(call, true));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result_json(call, &text, NULL));
    ASSERT_STR(text, "0");
    pycrew_release(call);
    pycrew_actor_close(actor);
    pycrew_close(crew);
}

TEST(an_actor_is_made_of_a_prepared_call)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_call *call = prepare(crew, "actor_ops:Counter");
    pycrew_actor *actor = NULL;

    OK(pycrew_add_i64(call, 12));
    OK(pycrew_actor_new(call, &actor));
    ASSERT_INT(value_of(actor), 12);
    call = prepare(crew, "actor_ops:Fragile");
    OK(pycrew_add_str(call, scratch("made"), strlen(scratch("made"))));
    GIVES(pycrew_actor_new(call, &actor), PYCREW_ERAISED);
    ASSERT_INT(value_of(actor), 12);
    pycrew_actor_close(actor);
    pycrew_close(crew);
}

TEST(actors_hold_one_call_each)
{
    pycrew_options options = test_options(1);
    pycrew_actor *actors[4], *more;
    pycrew_crew *crew;

    options.calls = 4;
    crew = open_with(&options);
    for (int i = 0; i < 3; i++)
        actors[i] = open_counter(crew, i);
    for (int i = 0; i < 3; i++)
        ASSERT_INT(value_of(actors[i]), i);
    actors[3] = open_counter(crew, 3);
    GIVES(pycrew_actor_open(crew, &more, BOUND, "actor_ops:Counter", ""), -EAGAIN);
    pycrew_actor_close(actors[0]); /* its call comes back when the object is gone */
    OK(pycrew_actor_open(crew, &more, BOUND, "actor_ops:Counter", ""));
    pycrew_close(crew);
}

/* ---- order -------------------------------------------------------------------------------------
 */

enum { THREADS = 4, CALLS = 500 };

typedef struct noting {
    pycrew_actor *actor;
    pycrew_crew *crew;
    int number;
} noting;

static void *note(void *data)
{
    const noting *n = data;
    pycrew_call *calls[CALLS];
    int pid;

    for (int i = 0; i < CALLS; i++) {
        calls[i] = method(n->actor, "note");
        OK(pycrew_add(calls[i], "ii", n->number, i));
        OK(pycrew_submit(calls[i]));
        if (i % 50 == 0) /* the ring has its turn, too */
            OK(pycrew_run(n->crew, "api_ops:pid", ">i", &pid));
    }
    for (int i = 0; i < CALLS; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        pycrew_release(calls[i]);
    }
    return NULL;
}

TEST(calls_of_one_thread_run_in_the_order_of_their_submit)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_actor *actor = open_counter(crew, 0);
    noting data[THREADS];
    pthread_t threads[THREADS];
    int in_order;

    for (int i = 0; i < THREADS; i++) {
        data[i] = (noting){actor, crew, i};
        pthread_create(&threads[i], NULL, note, &data[i]);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    OK(pycrew_actor_run(actor, "in_order", "ii > p", THREADS, CALLS, &in_order));
    ASSERT(in_order);
    pycrew_actor_close(actor);
    pycrew_close(crew);
}

TEST(a_busy_actor_does_not_keep_others_calls_from_its_worker)
{
    enum { MANY = 300 };
    pycrew_crew *crew = open_crew(1);
    pycrew_actor *actor = open_counter(crew, 0);
    pycrew_call *calls[MANY];
    pycrew_call *hold = method(actor, "hold"), *plain;
    int before;

    OK(pycrew_add(hold, "ss", scratch("started"), scratch("release")));
    OK(pycrew_submit(hold));
    AWAIT(file_size(scratch("started")) == 0);
    for (int i = 0; i < MANY; i++)
        calls[i] = submit(actor, "add");
    plain = SUBMIT(crew, "actor_ops:latest_value", "");
    fclose(fopen(scratch("release"), "w"));
    OK(pycrew_wait(plain, BOUND));
    OK(pycrew_result(plain, "i", &before));
    ASSERT(before <= 1); /* they take turns */
    OK(pycrew_wait(calls[MANY - 1], BOUND));
    ASSERT_INT(value_of(actor), MANY);
    pycrew_close(crew);
}

/* ---- mistakes -----------------------------------------------------------------------------------
 */

TEST(exceptions_are_the_calls_and_the_actor_lives)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_actor *actor = open_counter(crew, 5);

    GIVES(pycrew_actor_run(actor, "fail", ""), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "KeyError");
    ASSERT_STR(pycrew_last_error()->function, "actor_ops:Counter.fail");
    CONTAINS(pycrew_last_error()->traceback, "in fail");
    GIVES(pycrew_actor_run(actor, "no_such_method", ""), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "AttributeError");
    CONTAINS(pycrew_last_error()->message, "Counter");
    CONTAINS(pycrew_last_error()->message, "no_such_method");
    ASSERT_INT(value_of(actor), 5);
    pycrew_close(crew);
}

TEST(what_cannot_be_made_is_no_actor)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_actor *actor = NULL;
    int result;

    GIVES(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Fragile", "s", scratch("made")),
          PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->message, "cannot be made");
    ASSERT_INT(file_size(scratch("made")), 1);
    GIVES(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:DiesAtBirth", ""), PYCREW_EDIED);
    ASSERT_INT(pycrew_last_error()->exit_status, 3);
    GIVES(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:NoSuchClass", ""), PYCREW_ERAISED);
    GIVES(pycrew_actor_open(crew, &actor, 200 * MS, "actor_ops:Slow", ""), -ETIMEDOUT);
    CONTAINS(pycrew_last_error()->function, "Slow");
    GIVES(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Counter", ">i", &result), -EINVAL);
    GIVES(pycrew_actor_open(crew, &actor, BOUND, "nonsense", ""), -EINVAL);
    GIVES(pycrew_actor_open(NULL, &actor, BOUND, "m:C", ""), -EINVAL);
    ASSERT(actor == NULL);
    pycrew_close(crew);
}

TEST(a_method_that_is_no_name_is_said)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_actor *actor = open_counter(crew, 0);
    pycrew_call *call;

    GIVES(pycrew_actor_run(actor, "", ""), -EINVAL);
    GIVES(pycrew_actor_run(actor, "a.b", ""), -EINVAL);
    GIVES(pycrew_actor_run(actor, "a b", ""), -EINVAL);
    GIVES(pycrew_actor_prepare(actor, NULL, 0, &call), -EINVAL);
    GIVES(pycrew_actor_prepare(NULL, "get", 0, &call), -EINVAL);
    OK(pycrew_actor_run(actor, "add", "i", 1)); /* a result is discarded */
    pycrew_close(crew);
}

/* ---- death --------------------------------------------------------------------------------------
 */

TEST(the_death_of_its_worker_ends_all_that_was_submitted)
{
    enum { QUEUED = 20 };
    pycrew_crew *crew = open_crew(2);
    pycrew_actor *actor = open_counter(crew, 0);
    pycrew_call *hold = method(actor, "hold"), *calls[QUEUED], *late;
    int pid = pid_of(actor);

    OK(pycrew_add(hold, "ss", scratch("started"), scratch("release")));
    OK(pycrew_submit(hold));
    for (int i = 0; i < QUEUED; i++)
        calls[i] = submit(actor, "add");
    AWAIT(file_size(scratch("started")) == 0);
    late = method(actor, "add");
    kill(pid, SIGKILL);
    GIVES(pycrew_wait(hold, BOUND), PYCREW_EDIED);
    ASSERT(pycrew_call_error(hold)->may_have_run);
    ASSERT_INT(pycrew_call_error(hold)->signal, SIGKILL);
    for (int i = 0; i < QUEUED; i++) {
        GIVES(pycrew_wait(calls[i], BOUND), PYCREW_EDIED);
        ASSERT(!pycrew_call_error(calls[i])->may_have_run);
        ASSERT_INT(pycrew_call_error(calls[i])->attempts, 0);
        ASSERT_INT(pycrew_call_error(calls[i])->signal, SIGKILL);
        pycrew_release(calls[i]);
    }
    OK(pycrew_submit(late));
    GIVES(pycrew_wait(late, 0), PYCREW_EDIED); /* at once */
    ASSERT(!pycrew_call_error(late)->may_have_run);
    CONTAINS(pycrew_call_error(late)->message, "signal 9");
    pycrew_release(late);
    pycrew_release(hold);
    GIVES(pycrew_actor_run(actor, "get", ""), PYCREW_EDIED);
    pycrew_actor_close(actor);
    pycrew_close(crew);
}

TEST(an_actor_is_made_again_after_its_workers_death)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_actor *actor = open_counter(crew, 30);
    int value, old = pid_of(actor);

    GIVES(pycrew_actor_reopen(actor, BOUND), -EALREADY);
    OK(pycrew_actor_run(actor, "add", ">i", &value));
    GIVES(pycrew_actor_run(actor, "die", ""), PYCREW_EDIED);
    GIVES(pycrew_actor_run(actor, "get", ""), PYCREW_EDIED);
    for (pycrew_stats stats = PYCREW_STATS_INIT; stats.alive < 2 || stats.deaths < 1;)
        OK(pycrew_stats_get(crew, &stats));
    GIVES(pycrew_actor_run(actor, "get", ""), PYCREW_EDIED); /* and not the successor's */
    OK(pycrew_actor_reopen(actor, BOUND));
    ASSERT_INT(value_of(actor), 30);
    ASSERT(pid_of(actor) != old);
    pycrew_actor_close(actor);
    pycrew_close(crew);
}

TEST(a_deadline_in_a_method_ends_the_actor_and_says_why)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_actor *actor = open_counter(crew, 0);

    GIVES(pycrew_actor_run_within(actor, 100 * MS, "sleep", "d", 60.0), -ETIMEDOUT);
    CONTAINS(pycrew_last_error()->traceback, "in sleep");
    AWAIT(pycrew_actor_run(actor, "get", "") == PYCREW_EDIED);
    CONTAINS(pycrew_last_error()->message, "interrupted");
    OK(pycrew_actor_reopen(actor, BOUND));
    ASSERT_INT(value_of(actor), 0);
    pycrew_close(crew);
}

TEST(a_queued_call_is_cancelled_and_its_deadline_passes_without_harm)
{
    enum { QUEUED = 3000 }; /* more than slots, in turns: stale entries do not use them up */
    pycrew_options options = test_options(1);
    pycrew_actor *actor;
    pycrew_call *hold, *call, *behind;
    pycrew_crew *crew;

    options.calls = 64;
    crew = open_with(&options);
    actor = open_counter(crew, 0);
    hold = method(actor, "hold");
    OK(pycrew_add(hold, "ss", scratch("started"), scratch("release")));
    OK(pycrew_submit(hold));
    AWAIT(file_size(scratch("started")) == 0);
    for (int i = 0; i < 30; i++)
        submit(actor, "add");
    for (int i = 0; i < QUEUED; i++) {
        call = submit(actor, "add");
        OK(pycrew_cancel(call));
        GIVES(pycrew_wait(call, 0), -ECANCELED);
        ASSERT(!pycrew_call_error(call)->may_have_run);
        pycrew_release(call);
    }
    call = method(actor, "add");
    OK(pycrew_set_timeout(call, 20 * MS));
    OK(pycrew_submit(call));
    GIVES(pycrew_wait(call, BOUND), -ETIMEDOUT);
    ASSERT(!pycrew_call_error(call)->may_have_run);
    pycrew_release(call);
    behind = submit(actor, "get");
    fclose(fopen(scratch("release"), "w"));
    OK(pycrew_wait(hold, BOUND));
    OK(pycrew_wait(behind, BOUND));
    OK(pycrew_result(behind, "i", &(int){0}));
    ASSERT_INT(value_of(actor), 30);
    pycrew_close(crew);
}

/* ---- closing ------------------------------------------------------------------------------------
 */

static bool has_text(const char *path, const char *expected)
{
    char text[64] = "";
    FILE *file = fopen(path, "r");

    if (file == NULL)
        return false;
    if (fgets(text, sizeof text, file) == NULL)
        text[0] = '\0';
    fclose(file);
    return strcmp(text, expected) == 0;
}

TEST(a_close_runs_behind_what_was_submitted)
{
    pycrew_crew *crew = open_crew(1);
    const char *path = scratch("closed");
    pycrew_call *calls[10];
    pycrew_actor *actor;

    OK(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Counter", "is", 0, path));
    for (int i = 0; i < 10; i++)
        calls[i] = submit(actor, "add");
    pycrew_actor_close(actor);
    AWAIT(file_size(path) > 0);
    ASSERT(has_text(path, "c10"));
    for (int i = 0; i < 10; i++)
        OK(pycrew_wait(calls[i], BOUND));
    pycrew_close(crew);
    ASSERT(has_text(path, "c10")); /* once */
}

TEST(an_object_without_close_goes_all_the_same)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_actor *actor;

    OK(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Plain", "s", scratch("gone")));
    pycrew_actor_close(actor);
    AWAIT(file_size(scratch("gone")) == 0);
    pycrew_close(crew);
}

TEST(a_close_while_the_worker_is_busy_is_not_lost)
{
    pycrew_options options = test_options(1);
    const char *path = scratch("closed");
    pycrew_actor *actor;
    pycrew_crew *crew;
    pycrew_call *call;

    options.grace_ns = 150 * MS;
    crew = open_with(&options);
    OK(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Counter", "is", 0, path));
    call = method(actor, "hold");
    OK(pycrew_add(call, "ss", scratch("started"), scratch("release")));
    OK(pycrew_submit(call));
    AWAIT(file_size(scratch("started")) == 0);
    pycrew_actor_close(actor);
    pause_ns(400 * MS); /* longer than the grace */
    fclose(fopen(scratch("release"), "w"));
    OK(pycrew_wait(call, BOUND));
    AWAIT(file_size(path) > 0);
    pycrew_close(crew);
}

TEST(a_close_that_does_not_end_is_ended_after_the_grace)
{
    pycrew_options options = test_options(1);
    pycrew_actor *actor;
    pycrew_crew *crew;

    options.grace_ns = 50 * MS;
    crew = open_with(&options);
    OK(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Stubborn", "s", scratch("closing")));
    pycrew_actor_close(actor);
    AWAIT(file_size(scratch("closing")) == 0);
    OK(pycrew_run_within(crew, BOUND, "api_ops:nothing", ">")); /* in the next one */
    pycrew_close(crew);
}

TEST(calls_behind_a_close_say_so)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_actor *actor = open_counter(crew, 0);
    pycrew_call *call = method(actor, "get");

    pycrew_actor_close(actor);
    OK(pycrew_submit(call));
    GIVES(pycrew_wait(call, BOUND), PYCREW_ERAISED);
    CONTAINS(pycrew_call_error(call)->message, "closed");
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(a_crew_is_closed_and_drained_with_actors_open)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_actor *actor = open_counter(crew, 0);
    pycrew_call *call = method(actor, "sleep");

    open_counter(crew, 1);
    OK(pycrew_add(call, "d", 0.05));
    OK(pycrew_submit(call));
    OK(pycrew_drain(crew, BOUND));
    GIVES(pycrew_actor_run(actor, "get", ""), -ESHUTDOWN);
    pycrew_actor_close(actor); /* is let through */
    pycrew_close(crew);
}

TEST(actors_that_are_open_are_closed_with_the_crew)
{
    pycrew_options options = test_options(2);
    pycrew_actor *actor;
    pycrew_crew *crew;

    options.grace_ns = 10 * SECOND; /* the workers end in time */
    crew = open_with(&options);
    OK(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Counter", "is", 3, scratch("one")));
    OK(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Counter", "is", 4, scratch("two")));
    pycrew_close(crew);
    ASSERT(has_text(scratch("one"), "c3"));
    ASSERT(has_text(scratch("two"), "c4"));
}

TEST(many_actors_come_and_go)
{
    pycrew_options options = test_options(2);
    pycrew_crew *crew;

    options.calls = 32;
    crew = open_with(&options);
    for (int i = 0; i < 500; i++) {
        pycrew_actor *actor = open_counter(crew, i);

        ASSERT_INT(value_of(actor), i);
        pycrew_actor_close(actor);
    }
    pycrew_close(crew);
}

/* ---- shared memory that is written over ---------------------------------------------------------
 */

static void count_damage(void *data, int level, const char *line)
{
    if (level == PYCREW_LOG_ERROR && strstr(line, "written over") != NULL)
        atomic_fetch_add((_Atomic int *)data, 1);
}

static int stream_of_ten(pycrew_crew *crew, pycrew_call **ret)
{
    pycrew_call *stream = prepare(crew, "actor_ops:count_to");

    OK(pycrew_set_stream(stream, 4));
    OK(pycrew_add(stream, "i", 10));
    *ret = stream;
    return pycrew_submit(stream);
}

/* Its inbox is as good as new then, and so is the next one's. */
TEST(a_crew_that_is_made_anew_has_actors_and_streams_again)
{
    pycrew_options options = test_options(2);
    _Atomic int damages = 0;
    pycrew_actor *actors[4];
    pycrew_call *stream, *held;
    pycrew_crew *crew;

    options.log = count_damage;
    options.log_data = &damages;
    crew = open_with(&options);
    for (int round = 1; round <= 3; round++) {
        int rc;

        for (int i = 0; i < 4; i++)
            actors[i] = open_counter(crew, i);
        held = method(actors[0], "get");
        OK(stream_of_ten(crew, &stream));
        GIVES(pycrew_next(stream, BOUND), 1);
        GIVES(pycrew_run(crew, "actor_ops:damage", ""), PYCREW_EDIED);
        AWAIT(atomic_load(&damages) == round);
        OK(pycrew_submit(held)); /* in the middle of it */
        GIVES(pycrew_wait(held, BOUND), PYCREW_EDIED);
        pycrew_release(held);
        while ((rc = pycrew_next(stream, BOUND)) == 1)
            continue;
        ASSERT(rc == PYCREW_EDIED || rc == 0);
        pycrew_release(stream);
        for (int i = 0; i < 4; i++) {
            GIVES(pycrew_actor_run(actors[i], "get", ""), PYCREW_EDIED);
            OK(pycrew_actor_reopen(actors[i], BOUND));
            ASSERT_INT(value_of(actors[i]), i);
        }
        OK(stream_of_ten(crew, &stream));
        for (int i = 0; i < 10; i++)
            GIVES(pycrew_next(stream, BOUND), 1);
        OK(pycrew_next(stream, BOUND));
        pycrew_release(stream);
        for (int i = 0; i < 4; i++)
            pycrew_actor_close(actors[i]);
    }
    pycrew_close(crew);
}

/* ---- kills at random moments -------------------------------------------------------------------
 */

static int pid_now(pycrew_actor *actor)
{
    int pid = 0;

    return pycrew_actor_run(actor, "pid", ">i", &pid) == 0 ? pid : 0;
}

/* Calls answered 0 have run, those that died unentered have not: what the object counted lies
 * between. */
TEST(an_actor_killed_at_any_moment_loses_nothing_unsaid)
{
    enum { ROUNDS = 40, IN_FLIGHT = 16 };
    pycrew_crew *crew = open_crew(2);
    pycrew_actor *actor = open_counter(crew, 0);
    unsigned random = 4711;

    for (int round = 0; round < ROUNDS; round++) {
        pycrew_call *calls[IN_FLIGHT];
        int pid = pid_now(actor), last = 0, value, died = 0;

        for (int i = 0; i < IN_FLIGHT; i++)
            calls[i] = submit(actor, "add");
        random = random * 1664525 + 1013904223;
        pause_ns(random / 65536 % 100 * US);
        if (pid != 0)
            kill(pid, SIGKILL);
        for (int i = 0; i < IN_FLIGHT; i++) {
            int rc = pycrew_wait(calls[i], BOUND);

            if (rc == 0) {
                ASSERT(died == 0); /* in their order */
                OK(pycrew_result(calls[i], "i", &value));
                ASSERT(value > last);
                last = value;
            } else {
                GIVES(rc, PYCREW_EDIED);
                if (died++ > 0)
                    ASSERT(!pycrew_call_error(calls[i])->may_have_run);
            }
            pycrew_release(calls[i]);
        }
        AWAIT(pid_now(actor) == 0);
        OK(pycrew_actor_reopen(actor, BOUND));
        ASSERT_INT(value_of(actor), 0);
    }
    pycrew_actor_close(actor);
    pycrew_close(crew);
}

TAP_MAIN
