/* Engines: calls and batches through a concurrent.futures.Executor, which is threads of the bridge
 * or processes beside it. Whatever happens there, each call ends once, with its own result,
 * exception or code; a lost executor costs what it had, and is made again. */
#include "tests/harness/arrays.h"
#include "tests/harness/crew.h"

static pycrew_options engine_options(const char *engine, const char *engine_options)
{
    pycrew_options options = test_options(3);

    options.engine = engine;
    options.engine_options = engine_options;
    options.grace_ns = 10 * SECOND; /* the bridge is not to be killed because the machine is slow */
    return options;
}

static pycrew_crew *open_engine(const char *engine, const char *keywords)
{
    pycrew_options options = engine_options(engine, keywords);

    return open_with(&options);
}

static pycrew_crew *open_processes(void)
{
    return open_engine("engine_ops:processes", "{\"count\": 2}");
}

static pycrew_crew *open_threads(void)
{
    return open_engine("engine_ops:threads", NULL);
}

static int bridge_pid(pycrew_crew *crew)
{
    pycrew_worker_stats worker;
    pycrew_stats stats = PYCREW_STATS_INIT;

    stats.worker = &worker;
    stats.worker_max = 1;
    OK(pycrew_stats_get(crew, &stats));
    ASSERT_INT(stats.workers, 1);
    return worker.pid;
}

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    ASSERT(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

/* ---- calls ---- */

TEST(calls_run_in_the_engines_processes)
{
    pycrew_crew *crew = open_processes();
    int inside = 1;
    char *json;
    int sum;

    OK(pycrew_run(crew, "engine_ops:add", "ii,scale=i>i", 1, 2, 10, &sum));
    ASSERT_INT(sum, 30);
    OK(pycrew_run(crew, "engine_ops:is_in_the_bridge", ">p", &inside));
    ASSERT(!inside);
    OK(pycrew_run(crew, "engine_ops:add", "jj>j", "[1]", "[{\"a\": null}]", &json));
    ASSERT_STR(json, "[1, {\"a\": null}]");
    free(json);
    OK(pycrew_run(crew, "engine_ops:add_later", "ii>i", 3, 4, &sum));
    ASSERT_INT(sum, 7);
    pycrew_close(crew);
}

TEST(objects_and_source_text_go_there_too)
{
    pycrew_crew *crew = open_processes();
    const pycrew_function *from_text;
    pycrew_call *call;
    int result;

    OK(pycrew_function_source(crew, "twice", "def twice(x):\n    return 2 * x\n", &from_text));
    OK(pycrew_prepare(crew, from_text, BOUND, &call));
    OK(pycrew_add(call, "i", 21));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result(call, "i", &result));
    ASSERT_INT(result, 42);
    pycrew_release(call);
    call = SUBMIT(crew, "engine_ops:thing", "s", "x");
    OK(pycrew_wait(call, BOUND));
    ASSERT_INT(pycrew_value_type(pycrew_result_value(call)), PYCREW_TYPE_OBJECT);
    pycrew_release(call);
    GIVES(pycrew_run(crew, "engine_ops:generator", ""), PYCREW_ERAISED);
    CONTAINS(pycrew_last_error()->message, "generator");
    pycrew_close(crew);
}

TEST(a_function_that_only_the_machines_have_is_called)
{
    const char *module = scratch("only_there_ops.py");
    char keywords[300];
    pycrew_crew *crew;
    int result;

    write_file(module, "def seven():\n    return 7\n");
    snprintf(keywords, sizeof keywords, "{\"folder\": \"%s\"}", scratch_directory());
    crew = open_engine("engine_ops:elsewhere", keywords);
    OK(pycrew_run(crew, "only_there_ops:seven", ">i", &result));
    ASSERT_INT(result, 7);
    pycrew_close(crew);
}

TEST(an_exception_comes_with_its_traceback_and_the_hosts_name)
{
    pycrew_crew *crew = open_processes();
    char host[300] = "On host ";

    gethostname(host + strlen(host), 200);
    GIVES(pycrew_run(crew, "engine_ops:fail", "s", "no such value"), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "ValueError");
    ASSERT_STR(pycrew_last_error()->message, "no such value");
    CONTAINS(pycrew_last_error()->traceback, host);
    CONTAINS(pycrew_last_error()->traceback, "raise ValueError(text)");
    ASSERT(strstr(pycrew_last_error()->traceback, "_task.py") == NULL);
    ASSERT(pycrew_last_error()->may_have_run);
    GIVES(pycrew_run(crew, "engine_ops:no_such", ""), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "AttributeError");
    ASSERT(!pycrew_last_error()->may_have_run);
    GIVES(pycrew_run(crew, "no_such_module:f", ""), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "ModuleNotFoundError");
    ASSERT(!pycrew_last_error()->may_have_run);
    pycrew_close(crew);
}

TEST(path_preload_and_init_are_for_the_engines_processes)
{
    static const char *const preload[] = {"queue_ops", NULL};
    pycrew_options options = engine_options("engine_ops:processes", NULL);
    int ready = 0;
    pycrew_crew *crew;

    options.preload = preload;
    options.init = "engine_ops:set_ready";
    crew = open_with(&options);
    for (int i = 0; i < 4; i++) {
        OK(pycrew_run(crew, "engine_ops:is_ready_here", ">p", &ready));
        ASSERT(ready);
    }
    pycrew_close(crew);
}

/* ---- many at a time ---- */

TEST(calls_are_under_way_together)
{
    pycrew_crew *crew = open_threads();
    pycrew_call *calls[4];

    for (int i = 0; i < 4; i++)
        calls[i] = SUBMIT(crew, "engine_ops:meet", "i", i);
    for (int i = 0; i < 4; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        pycrew_release(calls[i]);
    }
    pycrew_close(crew);
}

TEST(inflight_bounds_what_the_engine_is_given)
{
    pycrew_options options = engine_options("engine_ops:threads", NULL);
    pycrew_call *calls[20];
    pycrew_crew *crew;
    int most;

    options.inflight = 3;
    crew = open_with(&options);
    for (int i = 0; i < 20; i++)
        calls[i] = SUBMIT(crew, "engine_ops:nap", "d", 0.01);
    for (int i = 0; i < 20; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        pycrew_release(calls[i]);
    }
    OK(pycrew_run(crew, "engine_ops:most_in_flight", "i>i", 0, &most));
    ASSERT_INT(most, 3);
    pycrew_close(crew);
}

TEST(a_deadline_and_a_cancel_end_a_call_and_its_future)
{
    pycrew_crew *crew = open_engine("engine_ops:threads", "{\"count\": 1}");
    const char *mark = scratch("mark");
    pycrew_call *behind, *running;
    int before = bridge_pid(crew), inside;

    running = SUBMIT(crew, "engine_ops:nap", "d", 0.5);
    behind = SUBMIT(crew, "engine_ops:note", "s", mark);
    GIVES(pycrew_run_within(crew, 50 * MS, "engine_ops:note", "s", mark), -ETIMEDOUT);
    ASSERT(pycrew_last_error()->may_have_run);
    OK(pycrew_cancel(behind));
    GIVES(pycrew_wait(behind, BOUND), -ECANCELED);
    pycrew_release(behind);
    OK(pycrew_wait(running, BOUND));
    pycrew_release(running);
    OK(pycrew_run(crew, "engine_ops:inside", ">i", &inside));
    ASSERT_INT(inside, 1); /* the futures of both were cancelled, and did not run */
    ASSERT(!is_there(mark));
    ASSERT_INT(bridge_pid(crew), before);
    pycrew_close(crew);
}

/* ---- batches ---- */

static pycrew_batch *open_batch(pycrew_crew *crew, const char *function, int64_t timeout_ns)
{
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_batch *batch;

    options.timeout_ns = timeout_ns;
    OK(pycrew_batch_open(crew, function_of(crew, function), &options, &batch));
    return batch;
}

TEST(a_batch_goes_in_few_tasks_and_each_item_has_its_own_end)
{
    enum { COUNT = 20000 };
    pycrew_crew *crew = open_threads();
    pycrew_batch *batch = open_batch(crew, "engine_ops:fail_if_odd", 0);
    int added = 0, taken = 0, tasks, result;
    char expected[40];

    while (taken < COUNT) {
        while (added < COUNT && pycrew_batch_add(batch, "i", added) == 0)
            added++;
        ASSERT_INT(pycrew_batch_next(batch, BOUND), 1);
        ASSERT_INT(pycrew_batch_index(batch), taken);
        if (taken % 2 == 0) {
            OK(pycrew_batch_result(batch, "i", &result));
            ASSERT_INT(result, taken);
        } else {
            snprintf(expected, sizeof expected, "%d is odd", taken);
            ASSERT_INT(pycrew_batch_error(batch)->code, PYCREW_ERAISED);
            ASSERT_STR(pycrew_batch_error(batch)->message, expected);
            CONTAINS(pycrew_batch_error(batch)->traceback, "On host ");
        }
        taken++;
    }
    pycrew_batch_close(batch);
    OK(pycrew_run(crew, "engine_ops:tasks", ">i", &tasks));
    if (tasks >= COUNT / 20)
        tap_fail("%d tasks", tasks);
    pycrew_close(crew);
}

TEST(an_item_with_arguments_that_cannot_be_read_fails_alone)
{
    pycrew_crew *crew = open_processes();
    pycrew_batch *batch = open_batch(crew, "engine_ops:add_or_fail", 0);
    static const char *const texts[] = {"2", "{", "3", "4"};
    static const int codes[] = {0, -EINVAL, PYCREW_ERAISED, 0};

    for (int i = 0; i < 4; i++)
        if (i != 1)
            OK(pycrew_batch_add(batch, "jj", texts[i], "1"));
        else /* pycrew_batch_add looks itself, but for an object */
            OK(pycrew_batch_add(batch, "Oj", "\x80\x05garbage", (size_t)9, "1"));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < 4; i++) {
        ASSERT_INT(pycrew_batch_next(batch, BOUND), 1);
        if (codes[i] == 0)
            ASSERT(pycrew_batch_error(batch) == NULL);
        else
            ASSERT(pycrew_batch_error(batch) != NULL);
        if (i == 1)
            ASSERT(!pycrew_batch_error(batch)->may_have_run);
    }
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(an_items_deadline_is_its_own)
{
    pycrew_crew *crew = open_threads();
    pycrew_batch *batch = open_batch(crew, "engine_ops:nap", 300 * MS);

    OK(pycrew_batch_add(batch, "d", 0.0));
    OK(pycrew_batch_add(batch, "d", 1.5));
    OK(pycrew_batch_add(batch, "d", 0.0));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < 3; i++) {
        ASSERT_INT(pycrew_batch_next(batch, BOUND), 1);
        if (i == 1)
            ASSERT_INT(pycrew_batch_error(batch)->code, -ETIMEDOUT);
        else
            ASSERT(pycrew_batch_error(batch) == NULL);
    }
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(a_cancelled_batch_ends_all_its_items)
{
    pycrew_crew *crew = open_threads();
    pycrew_batch *batch = open_batch(crew, "engine_ops:nap", 0);
    int before = bridge_pid(crew), inside = 0, begun = 0;

    for (int i = 0; i < 200; i++)
        OK(pycrew_batch_add(batch, "d", 0.02));
    OK(pycrew_batch_end(batch));
    AWAIT(pycrew_run(crew, "engine_ops:inside", ">i", &inside) == 0 && inside > 1);
    OK(pycrew_batch_cancel(batch));
    for (int i = 0; i < 200; i++) {
        ASSERT_INT(pycrew_batch_next(batch, BOUND), 1);
        if (pycrew_batch_error(batch) == NULL)
            continue;
        ASSERT_INT(pycrew_batch_error(batch)->code, -ECANCELED);
        begun += pycrew_batch_error(batch)->may_have_run;
    }
    ASSERT_INT(pycrew_batch_next(batch, BOUND), 0);
    ASSERT(begun > 0); /* of the tasks that were cancelled */
    pycrew_batch_close(batch);
    ASSERT_INT(bridge_pid(crew), before);
    pycrew_close(crew);
}

/* ---- losing the engine ---- */

TEST(a_lost_executor_ends_its_calls_and_is_made_again)
{
    pycrew_crew *crew = open_processes();
    int sum;

    for (int i = 0; i < 2; i++) {
        GIVES(pycrew_run(crew, "engine_ops:die", ""), PYCREW_EDIED);
        ASSERT(pycrew_last_error()->may_have_run);
        CONTAINS(pycrew_last_error()->message, "the engine was lost");
        CONTAINS(pycrew_last_error()->traceback, "BrokenProcessPool");
        CONTAINS(pycrew_last_error()->traceback, "engine_ops:processes");
        OK(pycrew_run(crew, "engine_ops:add", "ii>i", i, 2, &sum));
        ASSERT_INT(sum, i + 2);
    }
    pycrew_close(crew);
}

TEST(calls_with_retries_are_given_to_the_next_executor)
{
    pycrew_options options = engine_options("engine_ops:processes", NULL);
    pycrew_crew *crew;
    int result;

    options.retries = 1;
    crew = open_with(&options);
    OK(pycrew_run(crew, "engine_ops:die_once", "s>i", scratch("died"), &result));
    ASSERT_INT(result, 7);
    pycrew_close(crew);
}

TEST(a_batch_survives_a_lost_executor)
{
    enum { COUNT = 3000 };
    pycrew_options options = engine_options("engine_ops:processes", NULL);
    pycrew_batch *batch;
    pycrew_crew *crew;
    int result;

    options.retries = 2;
    crew = open_with(&options);
    batch = open_batch(crew, "engine_ops:die_once_at", 0);
    for (int i = 0; i < COUNT; i++)
        OK(pycrew_batch_add(batch, "iis", i, COUNT / 2, scratch("died")));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < COUNT; i++) {
        ASSERT_INT(pycrew_batch_next(batch, BOUND), 1);
        if (i == COUNT / 2)
            continue;
        OK(pycrew_batch_result(batch, "i", &result));
        ASSERT_INT(result, i);
    }
    ASSERT_INT(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(without_retries_all_that_a_lost_executor_had_may_have_run)
{
    enum { COUNT = 2000 };
    pycrew_crew *crew = open_processes();
    pycrew_batch *batch = open_batch(crew, "engine_ops:die_at", 0);
    int died = 0, result;

    for (int i = 0; i < COUNT; i++)
        OK(pycrew_batch_add(batch, "ii", i, 1000));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < COUNT; i++) {
        ASSERT_INT(pycrew_batch_next(batch, BOUND), 1);
        if (pycrew_batch_error(batch) == NULL) {
            OK(pycrew_batch_result(batch, "i", &result));
            ASSERT_INT(result, i);
            continue;
        }
        ASSERT_INT(pycrew_batch_error(batch)->code, PYCREW_EDIED);
        ASSERT(pycrew_batch_error(batch)->may_have_run);
        died++;
    }
    ASSERT(died >= 1 && died < COUNT);
    ASSERT_INT(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(a_single_lost_task_is_one_calls_end)
{
    pycrew_crew *crew = open_engine("engine_ops:losing", NULL);
    int before = bridge_pid(crew), sum;

    GIVES(pycrew_run(crew, "engine_ops:is_lost", ""), PYCREW_EDIED);
    CONTAINS(pycrew_last_error()->message, "its machine went away");
    ASSERT(pycrew_last_error()->may_have_run);
    ASSERT_INT(pycrew_last_error()->attempts, 1);
    OK(pycrew_run(crew, "engine_ops:add", "ii>i", 1, 2, &sum));
    ASSERT_INT(bridge_pid(crew), before);
    pycrew_close(crew);
}

/* An engine that loses this function's tasks, the first so many times. */
static pycrew_crew *open_losing(unsigned retries, const char *keywords)
{
    pycrew_options options = engine_options("engine_ops:losing", keywords);

    options.retries = retries;
    return open_with(&options);
}

TEST(a_single_lost_task_is_given_again_where_its_call_has_retries)
{
    pycrew_crew *crew = open_losing(2, "{\"times\": 2}");
    int before = bridge_pid(crew), result = 0;
    pycrew_call *call;

    OK(pycrew_run(crew, "engine_ops:is_lost", ">i", &result));
    ASSERT_INT(result, 1);
    ASSERT_INT(bridge_pid(crew), before);
    pycrew_close(crew);

    crew = open_losing(2, "{\"times\": 3}");
    GIVES(pycrew_run(crew, "engine_ops:is_lost", ""), PYCREW_EDIED);
    ASSERT_INT(pycrew_last_error()->attempts, 3);
    ASSERT(pycrew_last_error()->may_have_run);
    pycrew_close(crew);

    crew = open_losing(2, "{\"times\": 1}"); /* a call's own word goes before the crew's */
    OK(pycrew_prepare(crew, function_of(crew, "engine_ops:is_lost"), BOUND, &call));
    OK(pycrew_set_retries(call, 0));
    OK(pycrew_submit(call));
    GIVES(pycrew_wait(call, BOUND), PYCREW_EDIED);
    ASSERT_INT(pycrew_call_error(call)->attempts, 1);
    pycrew_release(call);
    pycrew_close(crew);
}

/* How many of the batch's items were lost; the others have their results. */
static int lose_items(pycrew_crew *crew, int count, int poison, unsigned attempts)
{
    pycrew_batch *batch = open_batch(crew, "engine_ops:poison_at", 0);
    int lost = 0, result;

    for (int i = 0; i < count; i++)
        OK(pycrew_batch_add(batch, "ii", i, poison));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < count; i++) {
        ASSERT_INT(pycrew_batch_next(batch, BOUND), 1);
        if (pycrew_batch_error(batch) == NULL) {
            OK(pycrew_batch_result(batch, "i", &result));
            ASSERT_INT(result, i);
            ASSERT(i != poison);
            continue;
        }
        ASSERT_INT(pycrew_batch_error(batch)->code, PYCREW_EDIED);
        CONTAINS(pycrew_batch_error(batch)->message, "its machine was killed");
        ASSERT(pycrew_batch_error(batch)->may_have_run);
        ASSERT_INT(pycrew_batch_error(batch)->attempts, attempts);
        lost++;
    }
    ASSERT_INT(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    return lost;
}

TEST(a_record_that_kills_its_machine_takes_no_other_with_it_where_there_are_retries)
{
    enum { COUNT = 1000, POISON = 600 };
    pycrew_crew *crew = open_losing(2, NULL);
    int runs;

    ASSERT_INT(lose_items(crew, COUNT, POISON, 3), 1);
    OK(pycrew_run(crew, "engine_ops:runs_of", "i>i", POISON, &runs));
    ASSERT_INT(runs, 3);
    pycrew_close(crew);
    crew = open_losing(0, NULL);
    ASSERT(lose_items(crew, COUNT, POISON, 1) >= 1);
    OK(pycrew_run(crew, "engine_ops:runs_of", "i>i", POISON, &runs));
    ASSERT_INT(runs, 1);
    pycrew_close(crew);
}

TEST(calls_are_told_that_the_engine_stays_away_and_go_on_when_it_is_back)
{
    const char *sign = scratch("away"), *log = scratch("log");
    char keywords[300];
    pycrew_crew *crew;
    int sum, rc;

    snprintf(keywords, sizeof keywords, "{\"sign\": \"%s\", \"log\": \"%s\"}", sign, log);
    crew = open_engine("engine_ops:away", keywords);
    write_file(sign, "");
    GIVES(pycrew_run(crew, "engine_ops:die", ""), PYCREW_EDIED);
    GIVES(pycrew_run_within(crew, 100 * MS, "engine_ops:add", "ii>i", 1, 2, &sum), -ETIMEDOUT);
    ASSERT(!pycrew_last_error()->may_have_run);
    GIVES(pycrew_run(crew, "engine_ops:add", "ii>i", 1, 2, &sum), PYCREW_ESTART);
    CONTAINS(pycrew_last_error()->traceback, "nobody is there");
    unlink(sign);
    AWAIT((rc = pycrew_run(crew, "engine_ops:add", "ii>i", 1, 2, &sum)) == 0);
    ASSERT_INT(sum, 3);
    pycrew_close(crew);
}

/* ---- arrays ---- */

TEST(arrays_go_there_and_come_back)
{
    int64_t shape[] = {100000};
    double *numbers, nested[3] = {0, 0, 0};
    pycrew_array input = PYCREW_ARRAY_INIT, small = PYCREW_ARRAY_INIT, output = PYCREW_ARRAY_INIT;
    pycrew_crew *crew;

    crew = open_processes();
    numbers = pycrew_alloc(crew, sizeof *numbers * 100000);
    for (int i = 0; i < 100000; i++)
        numbers[i] = i;
    OK(pycrew_array_init(&input, numbers, PYCREW_F64, 1, shape, 0));
    OK(pycrew_run(crew, "engine_ops:double", "A>A", &input, &output));
    ASSERT_INT(((double *)output.data)[99999], 199998);
    pycrew_array_drop(crew, &output);
    OK(pycrew_array_init(&input, numbers, PYCREW_F64, 1, shape, PYCREW_WRITABLE));
    OK(pycrew_array_init(&small, nested, PYCREW_F64, 1, (int64_t[]){3},
                         PYCREW_WRITABLE | PYCREW_COPY_BACK));
    OK(pycrew_run(crew, "engine_ops:double_in_place", "A[A]", &input, &small));
    ASSERT_INT(numbers[99999], 199998);
    ASSERT_INT(nested[2], 5);
    pycrew_free(crew, numbers);
    pycrew_close(crew);
}

TEST(arrays_go_through_batches)
{
    enum { COUNT = 200 };
    double numbers[COUNT];
    pycrew_array input = PYCREW_ARRAY_INIT, output = PYCREW_ARRAY_INIT;
    pycrew_crew *crew = open_processes();
    pycrew_batch *given = open_batch(crew, "engine_ops:double", 0);
    pycrew_batch *made = open_batch(crew, "engine_ops:make_array", 0);

    for (int i = 0; i < COUNT; i++) {
        numbers[i] = i;
        OK(pycrew_array_init(&input, &numbers[i], PYCREW_F64, 1, (int64_t[]){1}, 0));
        OK(pycrew_batch_add(given, "A", &input));
        OK(pycrew_batch_add(made, "i", i));
    }
    for (int i = 0; i < COUNT; i++) {
        ASSERT_INT(pycrew_batch_next(given, BOUND), 1);
        OK(pycrew_batch_result(given, "A", &output));
        ASSERT(*(double *)output.data == 2.0 * i);
        ASSERT_INT(pycrew_batch_next(made, BOUND), 1);
        OK(pycrew_batch_result(made, "A", &output));
        ASSERT_INT(output.shape[0], 1000);
        ASSERT(((double *)output.data)[999] == i);
    }
    pycrew_batch_close(given);
    pycrew_batch_close(made);
    pycrew_close(crew);
}

TEST(a_map_by_slices_runs_there)
{
    enum { COUNT = 50000 };
    static double input[COUNT], output[COUNT];
    pycrew_array in = PYCREW_ARRAY_INIT, out = PYCREW_ARRAY_INIT;
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;
    int64_t shape[] = {COUNT};
    pycrew_crew *crew;

    crew = open_processes();
    for (int i = 0; i < COUNT; i++)
        input[i] = i;
    OK(pycrew_array_init(&in, input, PYCREW_F64, 1, shape, 0));
    OK(pycrew_array_init(&out, output, PYCREW_F64, 1, shape, 0));
    options.chunk = 1000;
    for (int flags = 0; flags < 2; flags++) {
        options.flags = flags ? PYCREW_MAP_WHOLE | PYCREW_MAP_OUT : PYCREW_MAP_WHOLE;
        memset(output, 0, sizeof output);
        OK(pycrew_map(crew,
                      function_of(crew, flags ? "engine_ops:double_out" : "engine_ops:double"), &in,
                      1, &out, &options));
        for (int i = 0; i < COUNT; i++)
            ASSERT(output[i] == 2.0 * i);
    }
    options.flags = PYCREW_MAP_WHOLE;
    GIVES(pycrew_map(crew, function_of(crew, "engine_ops:fail"), &in, 1, &out, &options),
          PYCREW_ERAISED);
    CONTAINS(pycrew_last_error()->traceback, "On host ");
    pycrew_close(crew);
}

/* ---- what there is not; mistakes ---- */

static int exported(void *data, pycrew_host_call *call)
{
    (void)data;
    (void)call;
    return 0;
}

static void is_refused(const char *feature)
{
    CONTAINS(pycrew_last_error()->message, "engine_ops:threads");
    CONTAINS(pycrew_last_error()->message, feature);
}

TEST(what_an_engine_has_not_is_refused_by_name)
{
    pycrew_crew *crew = open_threads();
    pycrew_call *call = prepare(crew, "engine_ops:generator");
    pycrew_array none = PYCREW_ARRAY_INIT;
    pycrew_actor *actor;
    double number;

    GIVES(pycrew_set_stream(call, 0), -ENOTSUP);
    is_refused("streams");
    GIVES(pycrew_actor_new(call, &actor), -ENOTSUP);
    is_refused("actors");
    pycrew_release(call);
    GIVES(pycrew_actor_open(crew, &actor, BOUND, "engine_ops:Thing", "s", "x"), -ENOTSUP);
    is_refused("actors");
    GIVES(pycrew_run_each(crew, "engine_ops:pid", ""), -ENOTSUP);
    is_refused("pycrew_run_each");
    GIVES(pycrew_run_each_call(prepare(crew, "engine_ops:pid")), -ENOTSUP);
    is_refused("pycrew_run_each_call");
    GIVES(pycrew_export(crew, "f", exported, NULL), -ENOTSUP);
    is_refused("exported functions");
    GIVES(pycrew_reload(crew, BOUND), -ENOTSUP);
    is_refused("pycrew_reload");
    OK(pycrew_array_init(&none, &number, PYCREW_F64, 1, (int64_t[]){1}, 0));
    GIVES(pycrew_map(crew, function_of(crew, "engine_ops:pid"), NULL, 0, &none, NULL), -ENOTSUP);
    is_refused("maps element by element");
    pycrew_close(crew);
}

static void is_not_started(const char *engine, const char *keywords, int code, const char *why)
{
    pycrew_options options = engine_options(engine, keywords);
    const pycrew_error *error;
    pycrew_crew *crew;

    GIVES(pycrew_open(&crew, &options), code);
    error = pycrew_last_error();
    CONTAINS(error->traceback != NULL ? error->traceback : error->message, why);
}

TEST(an_engine_that_cannot_be_had_says_why)
{
    is_not_started("no_such_module:engine", NULL, PYCREW_ESTART,
                   "No module named 'no_such_module'");
    is_not_started("engine_ops:fail", "{\"text\": \"not today\"}", PYCREW_ESTART,
                   "ValueError: not today");
    is_not_started("engine_ops:none", NULL, PYCREW_ESTART, "no concurrent.futures.Executor");
    is_not_started("engine_ops:threads", "[1]", PYCREW_ESTART, "no JSON object");
    is_not_started("engine_ops:threads", "{", PYCREW_ESTART, "JSONDecodeError");
    is_not_started("engine_ops:needs_a_package", NULL, PYCREW_ESTART,
                   "the Debian package python3-distributed");
    is_not_started("engine_ops", NULL, -EINVAL, "options.engine");
    is_not_started(NULL, "{}", -EINVAL, "no options.engine");
}

TEST(the_environment_chooses_an_engine_for_a_program_that_does_not)
{
    pycrew_crew *crew;
    int inside = 1;
    int tasks;

    setenv("PYCREW_ENGINE", "engine_ops:processes", 1);
    setenv("PYCREW_ENGINE_OPTIONS", "{\"count\": 1}", 1);
    crew = open_crew(2);
    OK(pycrew_run(crew, "engine_ops:is_in_the_bridge", ">p", &inside));
    ASSERT(!inside);
    pycrew_close(crew);
    crew = open_threads(); /* its own choice; and none of the environment's options are for that */
    OK(pycrew_run(crew, "engine_ops:tasks", ">i", &tasks));
    ASSERT_INT(tasks, 1);
    pycrew_close(crew);
    setenv("PYCREW_ENGINE", "", 1);
    crew = open_crew(1);
    GIVES(pycrew_run(crew, "engine_ops:tasks", ">i", &tasks), PYCREW_ERAISED);
    pycrew_close(crew);
}

TEST(closing_leaves_nothing_though_tasks_run)
{
    pycrew_crew *crew = open_engine("pycrew.engines.local:pool", "{\"max_workers\": 1}");
    const char *mark = scratch("mark");
    int64_t begin;

    OK(pycrew_run(crew, "engine_ops:note", "s", mark));
    for (int i = 0; i < 4; i++)
        SUBMIT(crew, "engine_ops:nap_and_note", "ds", 30.0, mark);
    begin = now_ns();
    pycrew_close(crew);
    ASSERT(now_ns() - begin < 9 * SECOND); /* else it was killed after 10 */
}

TAP_MAIN
