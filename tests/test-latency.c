/* Latencies and outcomes: what was timed, within what sampling and buckets allow; and the same as text. */
#include <locale.h>
#include <pthread.h>

#include "tests/harness/crew.h"

enum { TEXT = 1 << 20 };

static pycrew_stats stats_of(pycrew_crew *crew)
{
    pycrew_stats stats = PYCREW_STATS_INIT;

    OK(pycrew_stats_get(crew, &stats));
    return stats;
}

static void run_adds(pycrew_crew *crew, int count)
{
    int sum;

    for (int i = 0; i < count; i++)
        OK(pycrew_run(crew, "api_ops:add", "ii>i", i, 1, &sum));
}

static void sleep_for(pycrew_crew *crew, int64_t ns)
{
    OK(pycrew_run(crew, "api_ops:sleep", "d>", (double)ns / (double)SECOND));
}

static int64_t quantile(pycrew_crew *crew, int interval, int worker, double share)
{
    int64_t ns = -1;

    OK(pycrew_stats_quantile(crew, interval, worker, share, &ns));
    return ns;
}

/* What a machine with other things to do adds to a sleep is no fault of the histogram's. */
static void between(const char *what, int64_t ns, int64_t least, int64_t most)
{
    if (ns < least || ns > most)
        tap_fail("%s: %lld us, and is to be %lld to %lld", what, (long long)(ns / US),
                 (long long)(least / US), (long long)(most / US));
}

TEST(a_new_crew_has_counted_nothing)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_stats stats = stats_of(crew);

    ASSERT_INT(stats.run.count + stats.wait.count + stats.total.count, 0);
    ASSERT_INT(stats.run.p50_ns + stats.run.p999_ns + stats.run.max_ns + stats.run.sum_ns, 0);
    ASSERT_INT(stats.returned + stats.raised + stats.died + stats.timed_out + stats.cancelled +
                   stats.failed + stats.retried, 0);
    ASSERT_INT(quantile(crew, PYCREW_TIME_TOTAL, -1, 0.5), 0);
    pycrew_close(crew);
}

TEST(long_calls_are_counted_each)
{
    enum { CALLS = 25 };
    pycrew_crew *crew = open_crew(1);
    pycrew_stats stats;

    for (int i = 0; i < CALLS; i++)
        sleep_for(crew, 4 * MS);
    stats = stats_of(crew);
    ASSERT_INT(stats.run.count, CALLS);
    ASSERT_INT(stats.wait.count, CALLS);
    ASSERT_INT(stats.total.count, CALLS);
    ASSERT_INT(stats.returned, CALLS);
    ASSERT(stats.run.sum_ns >= CALLS * 4 * MS);
    ASSERT(stats.total.sum_ns >= stats.run.sum_ns);
    pycrew_close(crew);
}

TEST(short_calls_are_counted_within_sampling)
{
    enum { CALLS = 20000, ONE_IN = 64 };
    pycrew_crew *crew = open_crew(1);
    pycrew_stats stats;

    run_adds(crew, CALLS);
    stats = stats_of(crew);
    ASSERT_INT(stats.returned, CALLS);
    DIAG("%llu counted of %d", (unsigned long long)stats.run.count, CALLS);
    /* Where the machine makes some long those that follow are all timed, and the share stays right. */
    ASSERT(stats.run.count >= CALLS - 10 * ONE_IN && stats.run.count <= CALLS + 10 * ONE_IN);
    ASSERT_INT(stats.run.count, stats.total.count);
    ASSERT(stats.run.p50_ns > 0 && stats.run.p50_ns <= stats.run.p90_ns);
    ASSERT(stats.run.p90_ns <= stats.run.p99_ns && stats.run.p99_ns <= stats.run.p999_ns);
    ASSERT(stats.run.p999_ns <= stats.run.max_ns);
    ASSERT(stats.run.p50_ns <= stats.total.p50_ns);
    pycrew_close(crew);
}

TEST(percentiles_of_sleeps_are_theirs)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_stats stats;

    for (int i = 0; i < 40; i++)
        sleep_for(crew, 3 * MS);
    for (int i = 0; i < 10; i++)
        sleep_for(crew, 50 * MS);
    stats = stats_of(crew);
    between("median", stats.run.p50_ns, 3 * MS * 7 / 8, 20 * MS);
    between("p90", stats.run.p90_ns, 50 * MS * 7 / 8, 150 * MS);
    between("longest", stats.run.max_ns, 50 * MS, 10 * SECOND);
    between("a quarter", quantile(crew, PYCREW_TIME_RUN, 0, 0.25), 3 * MS * 7 / 8, 20 * MS);
    between("all", quantile(crew, PYCREW_TIME_RUN, -1, 1), 50 * MS, stats.run.max_ns);
    pycrew_close(crew);
}

TEST(who_waits_for_a_worker_is_seen_to_wait)
{
    pycrew_crew *crew = open_crew(1);
    const char *go = scratch("go"), *running = scratch("running");
    pycrew_call *first, *second;
    pycrew_stats stats;
    int64_t begun;

    first = SUBMIT(crew, "api_ops:wait_for_noting", "ss", go, running);
    AWAIT(file_size(running) == 1);
    begun = now_ns();
    second = SUBMIT(crew, "api_ops:nothing", "");
    while (now_ns() - begun < 60 * MS)
        pause_ns(MS);
    fclose(fopen(go, "w"));
    OK(pycrew_wait(first, BOUND));
    OK(pycrew_wait(second, BOUND));
    stats = stats_of(crew);
    ASSERT_INT(stats.wait.count, 2);
    between("the longer wait", stats.wait.max_ns, 60 * MS, now_ns() - begun);
    between("its end", quantile(crew, PYCREW_TIME_TOTAL, 0, 0.01), 60 * MS * 7 / 8, BOUND);
    between("its run", quantile(crew, PYCREW_TIME_RUN, 0, 0.4), 0, 50 * MS);
    pycrew_release(first);
    pycrew_release(second);
    pycrew_close(crew);
}

static void run_batch(pycrew_crew *crew, const char *function, int count)
{
    pycrew_batch *batch;

    OK(pycrew_batch_open(crew, function_of(crew, function), NULL, &batch));
    for (int i = 0; i < count; i++)
        OK(pycrew_batch_add_within(batch, BOUND, "i", i));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < count; i++)
        GIVES(pycrew_batch_next(batch, BOUND), 1);
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
}

TEST(a_batchs_items_count_each)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_stats stats;

    run_batch(crew, "api_ops:fail_if_odd", 10000);
    stats = stats_of(crew);
    ASSERT_INT(stats.run.count, 10000);
    ASSERT_INT(stats.wait.count, 10000);
    ASSERT_INT(stats.total.count, 10000);
    ASSERT_INT(stats.returned, 5000);
    ASSERT_INT(stats.raised, 5000);
    ASSERT(stats.run.p50_ns > 0);
    pycrew_close(crew);
}

/* A chunk's mean would hide the longest one. */
TEST(long_items_are_timed_each)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_batch *batch;

    OK(pycrew_batch_open(crew, function_of(crew, "api_ops:sleep"), NULL, &batch));
    for (int i = 0; i < 8; i++)
        OK(pycrew_batch_add_within(batch, BOUND, "d", i == 5 ? 0.08 : 0.001));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < 8; i++)
        GIVES(pycrew_batch_next(batch, BOUND), 1);
    pycrew_batch_close(batch);
    ASSERT_INT(stats_of(crew).run.count, 8);
    between("the longest", stats_of(crew).run.max_ns, 80 * MS, BOUND);
    between("half of them", quantile(crew, PYCREW_TIME_RUN, -1, 0.5), 0, 60 * MS);
    pycrew_close(crew);
}

TEST(a_maps_elements_count_each)
{
    enum { ROWS = 5000 };
    static int64_t in[ROWS], out[ROWS];
    pycrew_crew *crew = open_crew(2);
    pycrew_array input, output;
    const int64_t shape[] = {ROWS};

    for (int i = 0; i < ROWS; i++)
        in[i] = i - 1;
    OK(pycrew_array_init(&input, in, PYCREW_I64, 1, shape, 0));
    OK(pycrew_array_init(&output, out, PYCREW_I64, 1, shape, PYCREW_WRITABLE));
    OK(pycrew_map(crew, function_of(crew, "builtins:abs"), &input, 1, &output, NULL));
    ASSERT_INT(out[0], 1);
    ASSERT_INT(stats_of(crew).run.count, ROWS);
    ASSERT_INT(stats_of(crew).returned, ROWS);
    pycrew_close(crew);
}

TEST(each_end_is_counted_as_what_it_was)
{
    pycrew_crew *crew = open_crew(1);
    const char *go = scratch("go"), *running = scratch("running"), *notes = scratch("notes");
    pycrew_stats stats;
    pycrew_call *call, *queued;

    run_adds(crew, 3);
    GIVES(pycrew_run(crew, "api_ops:fail", ">"), PYCREW_ERAISED);
    GIVES(pycrew_run(crew, "api_ops:no_such", ">"), PYCREW_ERAISED);
    GIVES(pycrew_run(crew, "api_ops:die_by", "s>", "kill"), PYCREW_EDIED);
    call = prepare(crew, "api_ops:nothing");
    OK(pycrew_add(call, "j", "{", (size_t)1));
    OK(pycrew_submit(call));
    GIVES(pycrew_wait(call, BOUND), -EINVAL);
    pycrew_release(call);
    call = prepare(crew, "api_ops:sleep");
    OK(pycrew_add(call, "d", 20.0));
    OK(pycrew_set_timeout(call, 20 * MS));
    OK(pycrew_submit(call));
    GIVES(pycrew_wait(call, BOUND), -ETIMEDOUT);
    pycrew_release(call);
    call = SUBMIT(crew, "api_ops:wait_for_noting", "ss", go, running);
    AWAIT(file_size(running) == 1);
    queued = SUBMIT(crew, "api_ops:nothing", "");
    OK(pycrew_cancel(queued));
    GIVES(pycrew_wait(queued, BOUND), -ECANCELED);
    pycrew_release(queued);
    fclose(fopen(go, "w"));
    OK(pycrew_wait(call, BOUND));
    pycrew_release(call);
    call = prepare(crew, "api_ops:die_until");
    OK(pycrew_add(call, "si", notes, 2));
    OK(pycrew_set_retries(call, 3));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    pycrew_release(call);
    stats = stats_of(crew);
    ASSERT_INT(stats.returned, 3 + 1 + 1);
    ASSERT_INT(stats.raised, 2);
    ASSERT_INT(stats.died, 1);
    ASSERT_INT(stats.failed, 1);
    ASSERT_INT(stats.timed_out, 1);
    ASSERT_INT(stats.cancelled, 1);
    ASSERT_INT(stats.retried, 2);
    pycrew_close(crew);
}

TEST(deaths_lose_nothing_that_was_counted_and_double_nothing)
{
    enum { ROUNDS = 5, CALLS = 6 };
    pycrew_crew *crew = open_crew(1);
    pycrew_stats stats;

    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < CALLS; i++)
            sleep_for(crew, MS);
        GIVES(pycrew_run(crew, "api_ops:die_by", "s>", "kill"), PYCREW_EDIED);
        stats = stats_of(crew);
        ASSERT_INT(stats.run.count, (round + 1) * CALLS); /* the call that died did not end there */
        ASSERT_INT(stats.returned, (round + 1) * CALLS);
        ASSERT_INT(stats.died, round + 1);
    }
    ASSERT(stats.run.sum_ns >= ROUNDS * CALLS * MS);
    pycrew_close(crew);
}

/* The first one dies with half its result written, where the mark stands. */
TEST(a_call_that_runs_again_counts_once_and_from_its_first_submit)
{
    static const char source[] = "import os, signal\n"
                                 "class Fatal:\n"
                                 "    def __init__(self, path):\n"
                                 "        self.path = path\n"
                                 "    def __reduce__(self):\n"
                                 "        if not os.path.exists(self.path):\n"
                                 "            open(self.path, 'w').close()\n"
                                 "            os.kill(os.getpid(), signal.SIGKILL)\n"
                                 "        return int, (0,)\n"
                                 "def half(path):\n"
                                 "    return [1, 2, 3, Fatal(path)]\n";
    pycrew_crew *crew = open_crew(1);
    const char *notes = scratch("notes");
    const pycrew_function *function;
    int64_t begun = now_ns();
    pycrew_call *call;
    pycrew_stats stats;

    OK(pycrew_function_source(crew, "half", source, &function));
    OK(pycrew_prepare(crew, function, BOUND, &call));
    OK(pycrew_add(call, "s", notes));
    OK(pycrew_set_retries(call, 1));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    stats = stats_of(crew);
    ASSERT_INT(stats.run.count, 1);
    ASSERT_INT(stats.total.count, 1);
    ASSERT_INT(stats.retried, 1);
    between("its way", stats.total.max_ns, stats.run.max_ns + 1, now_ns() - begun);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(crews_count_for_themselves)
{
    pycrew_crew *one = open_crew(1), *other = open_crew(1);

    for (int i = 0; i < 3; i++)
        sleep_for(one, MS);
    GIVES(pycrew_run(other, "api_ops:fail", ">"), PYCREW_ERAISED);
    ASSERT_INT(stats_of(one).run.count, 3);
    ASSERT_INT(stats_of(one).raised, 0);
    ASSERT_INT(stats_of(other).run.count, 1);
    ASSERT_INT(stats_of(other).raised, 1);
    pycrew_close(one);
    pycrew_close(other);
}

TEST(a_coroutines_wait_is_part_of_its_run)
{
    pycrew_crew *crew = open_crew(1);
    const pycrew_function *function;
    pycrew_call *calls[4];

    OK(pycrew_function_source(crew, "nap",
                              "import asyncio\nasync def nap(s):\n    await asyncio.sleep(s)\n",
                              &function));
    for (int i = 0; i < 4; i++) {
        OK(pycrew_prepare(crew, function, BOUND, &calls[i]));
        OK(pycrew_add(calls[i], "d", 0.03));
        OK(pycrew_submit(calls[i]));
    }
    for (int i = 0; i < 4; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        pycrew_release(calls[i]);
    }
    ASSERT_INT(stats_of(crew).run.count, 4);
    between("the shortest", quantile(crew, PYCREW_TIME_RUN, -1, 0), 30 * MS * 7 / 8, BOUND);
    pycrew_close(crew);
}

TEST(a_workers_time_is_there_for_its_busy_share)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_worker_stats each;
    pycrew_stats stats = PYCREW_STATS_INIT;

    sleep_for(crew, 50 * MS);
    GIVES(pycrew_run(crew, "api_ops:die_by", "s>", "kill"), PYCREW_EDIED);
    run_adds(crew, 1);
    stats.worker = &each;
    stats.worker_max = 1;
    OK(pycrew_stats_get(crew, &stats));
    ASSERT(each.ready_ns >= 40 * MS); /* that of the dead process, too */
    ASSERT(each.busy_ns <= each.ready_ns);
    pycrew_close(crew);
}

TEST(what_is_asked_for_wrongly_is_told)
{
    pycrew_crew *crew = open_crew(1);
    int64_t ns = 7;
    char text[16];

    GIVES(pycrew_stats_quantile(crew, 3, -1, 0.5, &ns), -EINVAL);
    GIVES(pycrew_stats_quantile(crew, -1, -1, 0.5, &ns), -EINVAL);
    GIVES(pycrew_stats_quantile(crew, PYCREW_TIME_RUN, 1, 0.5, &ns), -EINVAL);
    GIVES(pycrew_stats_quantile(crew, PYCREW_TIME_RUN, 0, 1.01, &ns), -EINVAL);
    GIVES(pycrew_stats_quantile(crew, PYCREW_TIME_RUN, 0, 0.0 / 0.0, &ns), -EINVAL);
    GIVES(pycrew_stats_quantile(crew, PYCREW_TIME_RUN, 0, 0.5, NULL), -EINVAL);
    GIVES(pycrew_stats_quantile(NULL, PYCREW_TIME_RUN, 0, 0.5, &ns), -EINVAL);
    ASSERT_INT(ns, 7);
    GIVES(pycrew_metrics_write(NULL, NULL, text, sizeof text), -EINVAL);
    GIVES(pycrew_metrics_write(crew, NULL, NULL, 1), -EINVAL);
    GIVES(pycrew_metrics_write(crew, "\xff", text, sizeof text), -EINVAL);
    pycrew_close(crew);
}

/* An older program's struct ends where it ends. */
TEST(a_shorter_struct_gets_no_latencies)
{
    pycrew_crew *crew = open_crew(1);
    union {
        pycrew_stats stats;
        unsigned char bytes[sizeof(pycrew_stats)];
    } older;

    memset(&older, 0xa5, sizeof older);
    older.stats.size = offsetof(pycrew_stats, returned);
    older.stats.worker = NULL;
    sleep_for(crew, MS);
    OK(pycrew_stats_get(crew, &older.stats));
    for (size_t i = offsetof(pycrew_stats, returned); i < sizeof older; i++)
        ASSERT_INT(older.bytes[i], 0xa5);
    pycrew_close(crew);
}

/* ---- as text ---- */

static char text[TEXT];

static const char *metrics_of(pycrew_crew *crew, const char *name)
{
    int length = pycrew_metrics_write(crew, name, text, sizeof text);

    ASSERT(length > 0 && length < TEXT);
    ASSERT_INT(strlen(text), length);
    return text;
}

TEST(metrics_say_what_statistics_say)
{
    pycrew_crew *crew = open_crew(2);

    for (int i = 0; i < 5; i++)
        sleep_for(crew, MS);
    GIVES(pycrew_run(crew, "api_ops:fail", ">"), PYCREW_ERAISED);
    metrics_of(crew, NULL);
    CONTAINS(text, "# TYPE pycrew_calls_total counter\n");
    CONTAINS(text, "pycrew_calls_total{outcome=\"returned\"} 5\n");
    CONTAINS(text, "pycrew_calls_total{outcome=\"raised\"} 1\n");
    CONTAINS(text, "pycrew_worker_deaths_total{worker=\"1\"} 0\n");
    CONTAINS(text, "pycrew_call_run_seconds_bucket{le=\"+Inf\"} 6\n");
    CONTAINS(text, "pycrew_call_run_seconds_count 6\n");
    CONTAINS(text, "pycrew_workers{state=\"busy\"} 0\n");
    pycrew_close(crew);
}

TEST(a_crews_name_is_escaped)
{
    pycrew_crew *crew = open_crew(1);

    metrics_of(crew, "a \"b\" c\\d\ne \xc3\xa4");
    CONTAINS(text, "pycrew_calls_queued{crew=\"a \\\"b\\\" c\\\\d\\ne \xc3\xa4\"} 0\n");
    CONTAINS(text, "pycrew_worker_calls_total{crew=\"a \\\"b\\\" c\\\\d\\ne \xc3\xa4\",worker=\"0\"} 0\n");
    pycrew_close(crew);
}

TEST(metrics_take_no_more_than_they_are_given)
{
    pycrew_crew *crew = open_crew(2);
    int length = pycrew_metrics_write(crew, NULL, NULL, 0);

    AWAIT(stats_of(crew).alive == 2);
    metrics_of(crew, NULL);
    ASSERT(length > 1000);
    for (int size = 0; size < 2000; size += 7) {
        static char small[2048];

        memset(small, 0x5a, sizeof small);
        ASSERT(pycrew_metrics_write(crew, NULL, small, (size_t)size) > 1000);
        for (size_t i = (size_t)size; i < sizeof small; i++)
            ASSERT_INT(small[i], 0x5a);
        if (size > 0) {
            ASSERT_INT(strlen(small), size - 1);
            ASSERT(size < 200 || strncmp(small, text, 200) == 0);
        }
    }
    pycrew_close(crew);
}

/* Where printf writes 0,5. */
TEST(metrics_know_no_locale)
{
    pycrew_crew *crew;
    static const char *const locales[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "nl_NL.UTF-8"};
    const char *set = NULL;

    for (unsigned i = 0; set == NULL && i < sizeof locales / sizeof locales[0]; i++)
        set = setlocale(LC_NUMERIC, locales[i]);
    if (set == NULL)
        SKIP("no locale with a decimal comma is installed");
    crew = open_crew(1);
    sleep_for(crew, MS);
    ASSERT(strchr(metrics_of(crew, NULL), ',') == NULL || strstr(text, "0,0") == NULL);
    pycrew_close(crew);
}

/* ---- while others write ---- */

static _Atomic bool stop;

static void *look_on(void *data)
{
    pycrew_crew *crew = data;
    uint64_t count = 0, returned = 0, died = 0;
    char *mine = malloc(TEXT);

    while (!stop) {
        pycrew_stats stats = stats_of(crew);

        ASSERT(stats.run.count >= count && stats.returned >= returned && stats.died >= died);
        ASSERT(stats.run.p50_ns <= stats.run.p99_ns);
        count = stats.run.count;
        returned = stats.returned;
        died = stats.died;
        ASSERT(pycrew_metrics_write(crew, "x", mine, TEXT) > 0);
    }
    free(mine);
    return NULL;
}

TEST(counts_only_grow_while_workers_work_and_die)
{
    pycrew_crew *crew = open_crew(2);
    pthread_t threads[2];

    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, look_on, crew);
    for (int i = 0; i < 4; i++) {
        run_adds(crew, 200);
        GIVES(pycrew_run(crew, "api_ops:die_by", "s>", "kill"), PYCREW_EDIED);
        run_batch(crew, "api_ops:fail_if_odd", 100);
    }
    stop = true;
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    ASSERT_INT(stats_of(crew).returned, 4 * 250);
    ASSERT_INT(stats_of(crew).raised, 4 * 50);
    ASSERT_INT(stats_of(crew).died, 4);
    pycrew_close(crew);
}

TAP_MAIN
