/* How long a worker lives and what it may use: it is replaced after so many calls or when it has
 * grown, without a call that fails; CPUs, nice value and limits are those of the options. */
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/time.h>

#include "tests/harness/crew.h"

#define MIB ((size_t)1 << 20)

static int pid_of(pycrew_crew *crew)
{
    int pid = 0;

    OK(pycrew_run(crew, "life_ops:pid", ">i", &pid));
    return pid;
}

static const char *const *hook_environment(const char *inits, const char *exits)
{
    static char first[200], second[200];
    static const char *env[3] = {first, second, NULL};

    snprintf(first, sizeof first, "LIFE_INITS=%s", inits);
    snprintf(second, sizeof second, "LIFE_EXITS=%s", exits);
    return env;
}

/* How often a PID changes in a row of them. */
static int count_changes(const int *pids, int count)
{
    int changes = 0;

    for (int i = 1; i < count; i++)
        changes += pids[i] != pids[i - 1];
    return changes;
}

/* ---- calls ----------------------------------------------------------------------------------- */

static void runs_each_process_for(unsigned limit)
{
    pycrew_options options = test_options(1);
    int pids[24];
    pycrew_crew *crew;

    options.max_calls_per_worker = limit;
    crew = open_with(&options);
    for (int i = 0; i < 24; i++)
        pids[i] = pid_of(crew);
    for (int i = 1; i < 24; i++)
        if ((pids[i] != pids[i - 1]) != (i % (int)limit == 0))
            tap_fail("call %d ran in %d, the one before in %d", i, pids[i], pids[i - 1]);
    pycrew_close(crew);
}

TEST(a_worker_is_replaced_after_exactly_its_calls)
{
    runs_each_process_for(8);
    runs_each_process_for(3);
}

TEST(each_call_can_have_a_process_of_its_own)
{
    runs_each_process_for(1);
}

TEST(calls_that_raise_count_too)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    int pid;

    options.max_calls_per_worker = 2;
    crew = open_with(&options);
    pid = pid_of(crew);
    GIVES(pycrew_run(crew, "api_ops:no_such_function", ">"), PYCREW_ERAISED);
    ASSERT(pid_of(crew) != pid);
    pycrew_close(crew);
}

TEST(items_of_a_batch_count_as_calls)
{
    enum { ITEMS = 4000 };
    pycrew_batch_options batch_options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_options options = test_options(1);
    static int pids[ITEMS];
    pycrew_batch *batch;
    pycrew_crew *crew;
    int added = 0, out = 0, changes;

    options.max_calls_per_worker = 100;
    crew = open_with(&options);
    batch_options.chunk = 50;
    OK(pycrew_batch_open(crew, function_of(crew, "life_ops:pid"), &batch_options, &batch));
    while (out < ITEMS) {
        while (added < ITEMS && pycrew_batch_add(batch, "i", added) == 0)
            added++;
        if (added == ITEMS)
            OK(pycrew_batch_end(batch));
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        OK(pycrew_batch_result(batch, "i", &pids[out++]));
    }
    pycrew_batch_close(batch);
    changes = count_changes(pids, ITEMS);
    DIAG("%d changes of process in %d items", changes, ITEMS);
    ASSERT(changes >= 25 && changes <= ITEMS / 100);
    pycrew_close(crew);
}

TEST(elements_of_a_map_count_as_calls)
{
    enum { ELEMENTS = 3000 };
    pycrew_map_options map_options = PYCREW_MAP_OPTIONS_INIT;
    pycrew_options options = test_options(2);
    static double in[ELEMENTS], out[ELEMENTS];
    pycrew_array input, output;
    pycrew_crew *crew;
    int64_t count = ELEMENTS;
    int different = 0;

    options.max_calls_per_worker = 100;
    crew = open_with(&options);
    map_options.chunk = 50;
    OK(pycrew_array_init(&input, in, PYCREW_F64, 1, &count, 0));
    OK(pycrew_array_init(&output, out, PYCREW_F64, 1, &count, 0));
    OK(pycrew_map(crew, function_of(crew, "life_ops:pid_of_float"), &input, 1, &output,
                  &map_options));
    for (int i = 1; i < ELEMENTS; i++)
        different += out[i] != out[i - 1];
    ASSERT(out[0] > 1);
    ASSERT(different >= 15);
    pycrew_close(crew);
}

TEST(a_chunk_is_ended_before_its_worker_is_replaced)
{
    pycrew_batch_options batch_options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_options options = test_options(1);
    pycrew_batch *batch;
    pycrew_crew *crew;
    int pids[100];

    options.max_calls_per_worker = 10;
    crew = open_with(&options);
    batch_options.chunk = 100;
    OK(pycrew_batch_open(crew, function_of(crew, "life_ops:pid"), &batch_options, &batch));
    for (int i = 0; i < 100; i++)
        OK(pycrew_batch_add(batch, "i", i));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < 100; i++) {
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        OK(pycrew_batch_result(batch, "i", &pids[i]));
    }
    pycrew_batch_close(batch);
    ASSERT(count_changes(pids, 100) < 10);
    ASSERT(pid_of(crew) != pids[99]);
    pycrew_close(crew);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static pycrew_crew *open_small(unsigned workers)
{
    pycrew_options options = test_options(workers);

    options.max_worker_rss = 128 * MIB;
    options.memory = 512 * MIB;
    return open_with(&options);
}

TEST(a_worker_that_has_grown_is_replaced)
{
    pycrew_crew *crew = open_small(1);
    int first = pid_of(crew), grown;
    int64_t until = now_ns() + BOUND;

    OK(pycrew_run(crew, "life_ops:grow", "L>i", (long long)(160 * MIB), &grown));
    ASSERT_INT(grown, first);
    /* It looks each 10 ms. */
    while (pid_of(crew) == first)
        ASSERT(now_ns() < until);
    pycrew_close(crew);
}

/* Two that overlap, so that there is always one in it. */
TEST(a_worker_that_has_grown_is_replaced_also_where_coroutines_overlap)
{
    pycrew_crew *crew = open_small(1);
    int64_t until = now_ns() + BOUND;
    pycrew_call *calls[2] = {NULL, NULL};
    const pycrew_function *function;
    int first, last;

    OK(pycrew_run(crew, "async_ops:pid_after", "d>i", 0.0, &first));
    OK(pycrew_run(crew, "life_ops:grow", "L>i", (long long)(160 * MIB), &last));
    OK(pycrew_function_get(crew, "async_ops:pid_after", &function));
    for (unsigned i = 0; last == first; i++) {
        pycrew_call **call = &calls[i % 2];

        ASSERT(now_ns() < until);
        if (*call != NULL) {
            OK(pycrew_wait(*call, BOUND));
            OK(pycrew_result(*call, "i", &last));
            pycrew_release(*call);
        }
        OK(pycrew_prepare(crew, function, BOUND, call));
        OK(pycrew_add(*call, "d", 0.03));
        OK(pycrew_submit(*call));
    }
    for (int i = 0; i < 2; i++)
        pycrew_release(calls[i]);
    pycrew_close(crew);
}

TEST(what_is_shared_with_the_host_is_no_growth)
{
    pycrew_crew *crew = open_small(1);
    int first;

    if (pycrew_run(crew, "numpy:arange", "i>", 3) != 0)
        SKIP("numpy is not installed");
    pause_ns(30 * MS);
    first = pid_of(crew);
    for (int i = 0; i < 3; i++) {
        pycrew_array array = PYCREW_ARRAY_INIT;

        OK(pycrew_run(crew, "life_ops:grow_shared", "L>A", (long long)(160 * MIB), &array));
        pause_ns(30 * MS);
        ASSERT_INT(pid_of(crew), first);
        pycrew_array_drop(crew, &array);
    }
    pycrew_close(crew);
}

/* ---- nothing is lost ------------------------------------------------------------------------- */

typedef struct caller {
    pycrew_crew *crew;
    pthread_t thread;
    int calls;
    int64_t longest;
} caller;

static void *call_often(void *data)
{
    caller *c = data;

    for (int i = 0; i < c->calls; i++) {
        int64_t begin = now_ns(), took;
        int sum = 0;

        OK(pycrew_run(c->crew, "api_ops:add", "ii>i", i, 5, &sum));
        ASSERT_INT(sum, i + 5);
        took = now_ns() - begin;
        c->longest = took > c->longest ? took : c->longest;
    }
    return NULL;
}

TEST(no_call_is_lost_while_workers_are_replaced_all_the_time)
{
    pycrew_options options = test_options(2);
    pycrew_stats stats = PYCREW_STATS_INIT;
    caller callers[4];
    int64_t longest = 0;

    options.max_calls_per_worker = 20;
    callers[0].crew = open_with(&options);
    for (int i = 0; i < 4; i++) {
        callers[i] = (caller){.crew = callers[0].crew, .calls = 500};
        ASSERT(pthread_create(&callers[i].thread, NULL, call_often, &callers[i]) == 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(callers[i].thread, NULL);
        longest = callers[i].longest > longest ? callers[i].longest : longest;
    }
    OK(pycrew_stats_get(callers[0].crew, &stats));
    ASSERT_INT((int)stats.deaths, 0);
    DIAG("the longest of 2000 calls took %.1f ms", (double)longest / 1e6);
    pycrew_close(callers[0].crew);
}

TEST(a_successor_is_there_before_a_worker_leaves)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    int pids[4], first;

    options.max_calls_per_worker = 16;
    crew = open_with(&options);
    first = pid_of(crew);
    for (int i = 1; i < 14; i++) /* two before the end it is asked for */
        ASSERT_INT(pid_of(crew), first);
    AWAIT(find_workers(pids, 4) == 2);
    ASSERT_INT(pid_of(crew), first);
    ASSERT_INT(pid_of(crew), first);
    for (int i = 0; i < 13; i++)
        ASSERT(pid_of(crew) != first);
    AWAIT(find_workers(pids, 4) == 1);
    pycrew_close(crew);
}

TEST(a_worker_that_dies_has_its_waiting_successor_follow)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    int pids[4], first, second;

    options.max_calls_per_worker = 16;
    crew = open_with(&options);
    first = pid_of(crew);
    for (int i = 1; i < 14; i++)
        pid_of(crew);
    AWAIT(find_workers(pids, 4) == 2);
    second = pids[0] == first ? pids[1] : pids[0];
    GIVES(pycrew_run(crew, "api_ops:die_by", "s>", "kill"), PYCREW_EDIED);
    ASSERT_INT(pid_of(crew), second);
    pycrew_close(crew);
}

TEST(a_successor_that_dies_is_replaced)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    int pids[4], first, killed;

    options.max_calls_per_worker = 16;
    crew = open_with(&options);
    first = pid_of(crew);
    for (int i = 1; i < 14; i++)
        pid_of(crew);
    AWAIT(find_workers(pids, 4) == 2);
    killed = pids[0] == first ? pids[1] : pids[0];
    ASSERT(kill(killed, SIGKILL) == 0);
    AWAIT(find_workers(pids, 4) == 2 && pids[0] != killed && pids[1] != killed);
    for (int i = 0; i < 40; i++)
        ASSERT(pid_of(crew) != killed);
    pycrew_close(crew);
}

/* ---- init and exit --------------------------------------------------------------------------- */

TEST(each_init_has_its_exit_when_workers_are_replaced_and_the_crew_closed)
{
    pycrew_options options = test_options(2);
    const char *inits = scratch("inits"), *exits = scratch("exits");
    pycrew_crew *crew;

    options.init = "life_ops:init";
    options.exit = "life_ops:leave";
    options.env = hook_environment(inits, exits);
    options.max_calls_per_worker = 4;
    options.grace_ns = BOUND;
    crew = open_with(&options);
    for (int i = 0; i < 60; i++)
        pid_of(crew);
    AWAIT(file_size(exits) >= 60 / 4 - 1 - 2);
    pycrew_close(crew);
    DIAG("%ld init, %ld exit", file_size(inits), file_size(exits));
    ASSERT(file_size(inits) >= 60 / 4);
    /* One that was still being forked may be killed before its init. */
    ASSERT_INT(file_size(exits), file_size(inits));
}

TEST(an_exit_function_runs_when_a_deadline_has_its_worker_replaced)
{
    pycrew_options options = test_options(1);
    const char *inits = scratch("inits"), *exits = scratch("exits");
    pycrew_crew *crew;

    options.init = "life_ops:init";
    options.exit = "life_ops:leave";
    options.env = hook_environment(inits, exits);
    options.grace_ns = BOUND;
    crew = open_with(&options);
    GIVES(pycrew_run_within(crew, 30 * MS, "api_ops:sleep", "d>", 30.0), -ETIMEDOUT);
    pid_of(crew);
    ASSERT_INT(file_size(exits), 1);
    pycrew_close(crew);
    ASSERT_INT(file_size(exits), 2);
    ASSERT_INT(file_size(inits), 2);
}

/* ---- limits ---------------------------------------------------------------------------------- */

TEST(the_nice_value_is_added_to_the_hosts)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    int niceness, own = getpriority(PRIO_PROCESS, 0);

    if (own > 15)
        SKIP("the nice value here is %d", own);
    options.nice = 3;
    crew = open_with(&options);
    OK(pycrew_run(crew, "life_ops:niceness", ">i", &niceness));
    ASSERT_INT(niceness, own + 3);
    GIVES(pycrew_run(crew, "api_ops:die_by", "s>", "kill"), PYCREW_EDIED);
    OK(pycrew_run(crew, "life_ops:niceness", ">i", &niceness));
    ASSERT_INT(niceness, own + 3); /* added once for each worker, and not to its predecessor's */
    ASSERT_INT(getpriority(PRIO_PROCESS, 0), own);
    pycrew_close(crew);
}

static void has_limit(pycrew_crew *crew, const char *name, long long expected)
{
    long long soft, hard;

    OK(pycrew_run(crew, "life_ops:limit", "s>LL", name, &soft, &hard));
    ASSERT_INT(soft, expected);
    ASSERT_INT(hard, expected);
}

TEST(limits_are_those_of_the_options)
{
    pycrew_options options = test_options(1);
    struct rlimit before, after;
    pycrew_crew *crew;

    ASSERT(getrlimit(RLIMIT_NOFILE, &before) == 0);
    options.limit_memory = (int64_t)(2048 * MIB);
    options.limit_files = 77;
    options.limit_core = PYCREW_NO_CORE;
    options.limit_cpu_s = 1000;
    crew = open_with(&options);
    has_limit(crew, "RLIMIT_AS", (long long)(2048 * MIB));
    has_limit(crew, "RLIMIT_NOFILE", 77);
    has_limit(crew, "RLIMIT_CORE", 0);
    has_limit(crew, "RLIMIT_CPU", 1000);
    GIVES(pycrew_run(crew, "life_ops:take", "L>", (long long)(4096 * MIB)), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "MemoryError");
    ASSERT(getrlimit(RLIMIT_NOFILE, &after) == 0);
    ASSERT(after.rlim_cur == before.rlim_cur);
    pycrew_close(crew);
}

TEST(a_worker_that_used_its_cpu_time_up_dies_and_is_replaced)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;

    options.limit_cpu_s = 1;
    crew = open_with(&options);
    GIVES(pycrew_run(crew, "life_ops:spin", ">"), PYCREW_EDIED);
    ASSERT(pycrew_last_error()->signal == SIGXCPU || pycrew_last_error()->signal == SIGKILL);
    pid_of(crew);
    pycrew_close(crew);
}

static int allowed_cpus(int *cpus, int max)
{
    cpu_set_t set;
    int count = 0;

    ASSERT(sched_getaffinity(0, sizeof set, &set) == 0);
    for (int i = 0; i < CPU_SETSIZE && count < max; i++)
        if (CPU_ISSET((size_t)i, &set))
            cpus[count++] = i;
    return count;
}

TEST(workers_use_one_cpu_each_in_turn)
{
    pycrew_options options = test_options(2);
    pycrew_call *calls[4];
    pycrew_crew *crew;
    int cpus[64], count = allowed_cpus(cpus, 64);

    options.cpus = "one";
    crew = open_with(&options);
    for (int i = 0; i < 4; i++)
        calls[i] = SUBMIT(crew, "life_ops:place_and_cpus", "d", 0.05);
    for (int i = 0; i < 4; i++) {
        int place, cpu;

        OK(pycrew_wait(calls[i], BOUND));
        OK(pycrew_result(calls[i], "i[i]", &place, &cpu));
        ASSERT_INT(cpu, cpus[place % count]);
        pycrew_release(calls[i]);
    }
    pycrew_close(crew);
}

TEST(workers_use_the_cpus_of_the_list)
{
    pycrew_options options = test_options(1);
    char list[16];
    pycrew_crew *crew;
    int cpus[64], count = allowed_cpus(cpus, 64), cpu;

    snprintf(list, sizeof list, "%d", cpus[count - 1]);
    options.cpus = list;
    crew = open_with(&options);
    OK(pycrew_run(crew, "life_ops:cpus", ">[i]", &cpu));
    ASSERT_INT(cpu, cpus[count - 1]);
    pycrew_close(crew);
}

static void refused(const pycrew_options *options, int code, const char *part)
{
    pycrew_crew *crew = NULL;

    GIVES(pycrew_open(&crew, options), code);
    CONTAINS(pycrew_last_error()->message, part);
    ASSERT(crew == NULL);
}

TEST(cpus_that_are_none_are_refused)
{
    static const char *const lists[] = {"",   "x",    "0,",   ",0",  "0-", "3-1",
                                        "-1", "one:", "ones", "0 1", "0;1"};
    pycrew_options options = test_options(1);

    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        options.cpus = lists[i];
        refused(&options, -EINVAL, "options.cpus");
    }
    options.cpus = "1023";
    refused(&options, -EINVAL, "CPU 1023, which this process may not use");
    options.cpus = "0-99999999999999999999";
    refused(&options, -EINVAL, "options.cpus");
}

TEST(limits_out_of_range_are_refused_by_name)
{
    pycrew_options options = test_options(1), plain = options;

    options.nice = 20;
    refused(&options, -EINVAL, "options.nice is 20");
    options.nice = -21;
    refused(&options, -EINVAL, "options.nice is -21");
    options = plain;
    options.limit_memory = 1;
    refused(&options, -EINVAL, "options.limit_memory is 1");
    options.limit_memory = (int64_t)(100 * MIB);
    options.memory = 64 * MIB;
    refused(&options, -EINVAL, "options.memory");
    options = plain;
    options.limit_files = 3;
    refused(&options, -EINVAL, "options.limit_files is 3");
    options = plain;
    options.limit_core = -2;
    refused(&options, -EINVAL, "options.limit_core is -2");
    options = plain;
    options.limit_cpu_s = -1;
    refused(&options, -EINVAL, "options.limit_cpu_s is -1");
}

TEST(a_limit_that_the_system_refuses_is_opens_error)
{
    pycrew_options options = test_options(1);
    struct rlimit limit;

    if (getuid() == 0)
        ASSERT(setuid(65534) == 0); /* else everything is allowed */
    ASSERT(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_max = limit.rlim_cur = 256;
    ASSERT(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    options.limit_files = 257;
    refused(&options, PYCREW_ESTART, "options.limit_files is 257, which the system refuses");
    options.limit_files = 0;
    options.nice = -20;
    refused(&options, PYCREW_ESTART, "options.nice is -20, which the system refuses");
}

TAP_MAIN
