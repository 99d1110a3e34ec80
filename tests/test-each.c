/* One function in each worker: pycrew_run_each. */
#include <errno.h>
#include <signal.h>

#include "tests/harness/crew.h"

enum { WORKERS = 4 };

/* Whether the file has each worker's digit once. */
static bool has_each_once(const char *path)
{
    char text[64] = "";
    FILE *file = fopen(path, "r");
    bool once = file != NULL && fgets(text, sizeof text, file) != NULL && strlen(text) == WORKERS;

    if (file != NULL)
        fclose(file);
    for (int i = 0; once && i < WORKERS; i++)
        once = strchr(text, '0' + i) != NULL;
    return once;
}

TEST(a_function_runs_once_in_each_worker_also_in_those_that_are_starting)
{
    pycrew_crew *crew = open_crew(WORKERS);
    const char *path = scratch("workers");

    OK(pycrew_run_each(crew, "actor_ops:note_worker", "s", path));
    ASSERT(has_each_once(path));
    pycrew_close(crew);
}

TEST(what_was_set_in_each_worker_is_seen_by_all_calls)
{
    pycrew_crew *crew = open_crew(WORKERS);

    OK(pycrew_run_each(crew, "actor_ops:set_mark", "value=i", 42));
    for (int i = 0; i < 200; i++) {
        int mark = 0;

        OK(pycrew_run(crew, "actor_ops:get_mark", ">i", &mark));
        ASSERT_INT(mark, 42);
    }
    pycrew_close(crew);
}

TEST(an_exception_in_one_worker_is_named_with_it_and_all_have_run)
{
    pycrew_crew *crew = open_crew(WORKERS);
    const char *path = scratch("workers");
    const pycrew_error *e;

    GIVES(pycrew_run_each(crew, "actor_ops:raise_in", "si", path, 2), PYCREW_ERAISED);
    e = pycrew_last_error();
    ASSERT_STR(e->message, "worker 2: not here");
    ASSERT_STR(e->type, "ValueError");
    ASSERT_STR(e->function, "actor_ops:raise_in");
    CONTAINS(e->traceback, "in raise_in");
    ASSERT(has_each_once(path));
    pycrew_close(crew);
}

TEST(a_worker_that_dies_in_it_is_named_and_all_have_run)
{
    pycrew_crew *crew = open_crew(WORKERS);
    const char *path = scratch("workers");

    GIVES(pycrew_run_each(crew, "actor_ops:die_in", "si", path, 1), PYCREW_EDIED);
    CONTAINS(pycrew_last_error()->message, "worker 1: ");
    ASSERT_INT(pycrew_last_error()->signal, SIGKILL);
    ASSERT(pycrew_last_error()->may_have_run);
    ASSERT(has_each_once(path));
    pycrew_close(crew);
}

static void *run_note(void *data)
{
    pycrew_crew *crew = data;

    OK(pycrew_run_each(crew, "actor_ops:note_worker", "s", scratch("workers")));
    return NULL;
}

/* Each worker is in a call when it is killed, so that the function waits in its inbox. */
TEST(a_worker_that_dies_before_it_comes_to_the_function_is_followed_by_one_that_runs_it)
{
    pycrew_crew *crew = open_crew(WORKERS);
    pycrew_call *calls[WORKERS];
    pthread_t thread;
    int pids[WORKERS];

    AWAIT(find_workers(pids, WORKERS) == WORKERS);
    OK(pycrew_run_each(crew, "api_ops:nothing", ""));
    for (int i = 0; i < WORKERS; i++)
        calls[i] = SUBMIT(crew, "actor_ops:await_file", "s", "/no/such/file");
    for (pycrew_stats stats = PYCREW_STATS_INIT; stats.queued > 0 || stats.busy < WORKERS;)
        OK(pycrew_stats_get(crew, &stats));
    pthread_create(&thread, NULL, run_note, crew);
    for (pycrew_stats stats = PYCREW_STATS_INIT; stats.queued < WORKERS;) /* in the inboxes */
        OK(pycrew_stats_get(crew, &stats));
    for (int i = 0; i < WORKERS; i++)
        kill(pids[i], SIGKILL);
    pthread_join(thread, NULL);
    ASSERT(has_each_once(scratch("workers")));
    for (int i = 0; i < WORKERS; i++) {
        GIVES(pycrew_wait(calls[i], BOUND), PYCREW_EDIED);
        pycrew_release(calls[i]);
    }
    pycrew_close(crew);
}

TEST(more_workers_than_calls_is_no_hindrance)
{
    pycrew_options options = test_options(WORKERS);
    pycrew_crew *crew;
    const char *path = scratch("workers");

    options.calls = 2;
    crew = open_with(&options);
    OK(pycrew_run_each(crew, "actor_ops:note_worker", "s", path));
    ASSERT(has_each_once(path));
    pycrew_close(crew);
}

TEST(a_deadline_ends_it)
{
    pycrew_options options = test_options(2);
    pycrew_crew *crew;

    options.timeout_ns = 200 * MS;
    crew = open_with(&options);
    AWAIT(find_workers((int[2]){0}, 2) == 2);
    GIVES(pycrew_run_each(crew, "actor_ops:sleep", "d", 60.0), -ETIMEDOUT);
    CONTAINS(pycrew_last_error()->message, "worker ");
    pycrew_close(crew);
}

static pycrew_call *prepared(pycrew_crew *crew, const char *name)
{
    const pycrew_function *function;
    pycrew_call *call;

    OK(pycrew_function_get(crew, name, &function));
    OK(pycrew_prepare(crew, function, 0, &call));
    return call;
}

TEST(without_varargs_it_is_a_prepared_call)
{
    pycrew_options options = test_options(WORKERS);
    const char *path = scratch("workers");
    char large[8192];
    pycrew_crew *crew;
    pycrew_call *call;

    options.calls =
        1; /* which is the prepared one: it is given back before the others are needed */
    crew = open_with(&options);
    call = prepared(crew, "actor_ops:raise_in");
    OK(pycrew_add_str(call, path, strlen(path)));
    OK(pycrew_add_i64(call, 2));
    GIVES(pycrew_run_each_call(call), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->message, "worker 2: not here");
    ASSERT(has_each_once(path));

    memset(large, 'x', sizeof large);
    call = prepared(crew, "actor_ops:set_mark");
    OK(pycrew_add_name(call, "value"));
    OK(pycrew_add_str(call, large, sizeof large));
    OK(pycrew_run_each_call(call));
    for (int i = 0; i < 20; i++) {
        char *mark;

        OK(pycrew_run(crew, "actor_ops:get_mark", ">s", &mark));
        ASSERT_INT(strlen(mark), sizeof large);
        free(mark);
    }
    pycrew_close(crew);
}

TEST(the_deadline_of_a_prepared_call_is_its_own)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_call *call = prepared(crew, "actor_ops:sleep");

    OK(pycrew_add_f64(call, 3600));
    OK(pycrew_set_timeout(call, 200 * MS));
    GIVES(pycrew_run_each_call(call), -ETIMEDOUT);
    pycrew_close(crew);
}

TEST(a_prepared_call_is_released_whatever_is_wrong_with_it)
{
    pycrew_options options = test_options(1);
    double elements[3] = {1, 2, 3};
    pycrew_array array;
    pycrew_crew *crew;
    pycrew_call *call;

    options.calls = 1;
    crew = open_with(&options);
    call = prepared(crew, "actor_ops:set_mark");
    OK(pycrew_add_open(call, PYCREW_LIST));
    GIVES(pycrew_run_each_call(call), -EINVAL);
    call = prepared(crew, "actor_ops:set_mark");
    OK(pycrew_array_init(&array, elements, PYCREW_F64, 1, (int64_t[]){3}, 0));
    OK(pycrew_add_array(call, &array));
    GIVES(pycrew_run_each_call(call), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "arrays");
    GIVES(pycrew_run_each_call(NULL), -EINVAL);
    call = prepared(crew, "actor_ops:get_mark");
    OK(pycrew_submit(call));
    GIVES(pycrew_run_each_call(call), -EALREADY); /* but a submitted one is not */
    OK(pycrew_wait(call, BOUND));
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(mistakes_are_said)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = prepared(crew, "builtins:range");
    pycrew_actor *actor;
    int result;

    OK(pycrew_set_stream(call, 1));
    GIVES(pycrew_run_each_call(call), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "an actor's, or a stream");
    OK(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Counter", ""));
    OK(pycrew_actor_prepare(actor, "get", BOUND, &call));
    GIVES(pycrew_run_each_call(call), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "an actor's, or a stream");
    pycrew_actor_close(actor);

    GIVES(pycrew_run_each(NULL, "m:f", ""), -EINVAL);
    GIVES(pycrew_run_each(crew, "m", ""), -EINVAL);
    GIVES(pycrew_run_each(crew, "actor_ops:get_mark", ">i", &result), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "no results");
    GIVES(pycrew_run_each(crew, "actor_ops:set_mark", "?"), -EINVAL);
    GIVES(pycrew_run_each(crew, "no_such_module:f", ""), PYCREW_ERAISED);
    OK(pycrew_drain(crew, BOUND));
    GIVES(pycrew_run_each(crew, "actor_ops:get_mark", ""), -ESHUTDOWN);
    pycrew_close(crew);
}

TAP_MAIN
