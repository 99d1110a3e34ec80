/* Statistics: true in every state, also while workers are stopped, dead, or cannot start. */
#include <stddef.h>

#include "lib/shm/segment.h"
#include "tests/harness/crew.h"

enum { WORKERS_MAX = 8 };

static pycrew_worker_stats each[WORKERS_MAX];

static pycrew_stats stats_of(pycrew_crew *crew)
{
    pycrew_stats stats = PYCREW_STATS_INIT;

    stats.worker = each;
    stats.worker_max = WORKERS_MAX;
    OK(pycrew_stats_get(crew, &stats));
    ASSERT_INT(stats.alive + stats.starting + stats.backing_off, stats.workers);
    ASSERT(stats.busy <= stats.alive);
    ASSERT(stats.queued <= stats.in_flight);
    ASSERT(stats.memory_used <= stats.memory_max);
    return stats;
}

static pycrew_call *hold_a_worker(pycrew_crew *crew, const char *go, const char *running)
{
    pycrew_call *call = SUBMIT(crew, "api_ops:wait_for_noting", "ss", go, running);

    AWAIT(file_size(running) == 1);
    unlink(running);
    return call;
}

static void end_call(pycrew_call *call)
{
    OK(pycrew_wait(call, BOUND));
    pycrew_release(call);
}

TEST(an_idle_crew_is_alive_and_not_busy)
{
    pycrew_crew *crew = open_crew(3);
    int pids[3];
    pycrew_stats stats;

    AWAIT(stats_of(crew).alive == 3);
    AWAIT(find_workers(pids, 3) == 3);
    stats = stats_of(crew);
    ASSERT_INT(stats.workers, 3);
    ASSERT_INT(stats.busy, 0);
    ASSERT_INT(stats.starting, 0);
    ASSERT_INT(stats.backing_off, 0);
    ASSERT_INT(stats.in_flight, 0);
    ASSERT_INT(stats.queued, 0);
    ASSERT_INT(stats.oldest_ns, 0);
    ASSERT_INT(stats.deaths, 0);
    for (int i = 0; i < 3; i++) {
        ASSERT_INT(each[i].state, PYCREW_WORKER_IDLE);
        ASSERT(each[i].pid == pids[0] || each[i].pid == pids[1] || each[i].pid == pids[2]);
        ASSERT_INT(each[i].calls, 0);
        ASSERT(each[i].rss > 1 << 20);
        ASSERT(each[i].rss < 1 << 30);
    }
    pycrew_close(crew);
}

TEST(calls_are_queued_or_taken_and_the_oldest_has_its_age)
{
    pycrew_crew *crew = open_crew(2);
    const char *go = scratch("go"), *running = scratch("running");
    pycrew_call *calls[7];
    int64_t submitted;
    pycrew_stats stats;

    AWAIT(stats_of(crew).alive == 2);
    submitted = now_ns();
    calls[0] = hold_a_worker(crew, go, running);
    calls[1] = hold_a_worker(crew, go, running);
    for (int i = 2; i < 7; i++) {
        calls[i] = prepare(crew, "api_ops:nothing");
        OK(pycrew_submit(calls[i]));
    }
    stats = stats_of(crew);
    ASSERT_INT(stats.alive, 2);
    ASSERT_INT(stats.busy, 2);
    ASSERT_INT(stats.in_flight, 7);
    ASSERT_INT(stats.queued, 5);
    ASSERT(stats.oldest_ns <= now_ns() - submitted + 20 * MS);
    ASSERT_INT(each[0].state, PYCREW_WORKER_BUSY);
    ASSERT_INT(each[1].state, PYCREW_WORKER_BUSY);
    while (now_ns() - submitted < 100 * MS)
        pause_ns(MS);
    ASSERT(stats_of(crew).oldest_ns >= 80 * MS);
    fclose(fopen(go, "w"));
    for (int i = 0; i < 7; i++)
        end_call(calls[i]);
    AWAIT(stats_of(crew).busy == 0);
    ASSERT_INT(stats_of(crew).in_flight, 0);
    ASSERT_INT(stats_of(crew).oldest_ns, 0);
    pycrew_close(crew);
}

TEST(calls_items_and_errors_are_counted)
{
    enum { ITEMS = 1000 };
    pycrew_crew *crew = open_crew(2);
    pycrew_batch *batch;
    uint64_t calls = 0, errors = 0;
    int sum;

    for (int i = 0; i < 100; i++)
        OK(pycrew_run(crew, "api_ops:add", "ii>i", i, 1, &sum));
    for (int i = 0; i < 7; i++)
        GIVES(pycrew_run(crew, "api_ops:fail", ">"), PYCREW_ERAISED);
    OK(pycrew_batch_open(crew, function_of(crew, "api_ops:fail_if_odd"), NULL, &batch));
    for (int i = 0; i < ITEMS; i++)
        OK(pycrew_batch_add_within(batch, BOUND, "i", i));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++)
        GIVES(pycrew_batch_next(batch, BOUND), 1);
    pycrew_batch_close(batch);
    stats_of(crew);
    for (int i = 0; i < 2; i++) {
        calls += each[i].calls;
        errors += each[i].errors;
    }
    ASSERT_INT(calls, 100 + 7 + ITEMS);
    ASSERT_INT(errors, 7 + ITEMS / 2);
    pycrew_close(crew);
}

TEST(busy_time_is_the_time_in_calls)
{
    pycrew_crew *crew = open_crew(1);
    int64_t before, busy, begun;

    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    stats_of(crew);
    before = each[0].busy_ns;
    begun = now_ns();
    OK(pycrew_run(crew, "api_ops:sleep", "d>", 0.3));
    begun = now_ns() - begun;
    stats_of(crew);
    busy = each[0].busy_ns - before;
    if (busy < 290 * MS || busy > begun + 20 * MS)
        tap_fail("busy for %lld ms in a call of %lld ms", (long long)(busy / MS),
                 (long long)(begun / MS));
    before = each[0].busy_ns;
    pause_ns(200 * MS); /* in which it is idle */
    stats_of(crew);
    ASSERT(each[0].busy_ns - before < 100 * MS);
    pycrew_close(crew);
}

TEST(a_death_is_counted_and_what_was_counted_stays)
{
    pycrew_crew *crew = open_crew(1);
    uint64_t calls;
    int pid;

    for (int i = 0; i < 5; i++)
        OK(pycrew_run(crew, "api_ops:nothing", ">"));
    stats_of(crew);
    pid = each[0].pid;
    calls = each[0].calls;
    ASSERT_INT(calls, 5);
    GIVES(pycrew_run(crew, "api_ops:die_by", "s>", "kill"), PYCREW_EDIED);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    ASSERT_INT(stats_of(crew).deaths, 1);
    ASSERT_INT(each[0].deaths, 1);
    ASSERT_INT(each[0].calls, calls + 1);
    ASSERT(each[0].pid != pid && each[0].pid > 0);
    GIVES(pycrew_run_within(crew, 50 * MS, "api_ops:sleep", "i>", 1000), -ETIMEDOUT);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    ASSERT_INT(stats_of(crew).deaths, 1); /* by pycrew itself */
    pycrew_close(crew);
}

TEST(stopped_workers_are_alive_and_statistics_do_not_wait_for_them)
{
    pycrew_crew *crew = open_crew(2);
    const char *go = scratch("go"), *running = scratch("running");
    pycrew_call *call;
    int64_t begun;

    AWAIT(stats_of(crew).alive == 2);
    call = hold_a_worker(crew, go, running);
    stats_of(crew);
    for (int i = 0; i < 2; i++)
        kill(each[i].pid, SIGSTOP);
    begun = now_ns();
    ASSERT_INT(stats_of(crew).alive, 2);
    ASSERT_INT(stats_of(crew).busy, 1);
    ASSERT_INT(stats_of(crew).in_flight, 1);
    ASSERT(now_ns() - begun < SECOND);
    fclose(fopen(go, "w"));
    for (int i = 0; i < 2; i++)
        kill(each[i].pid, SIGCONT);
    end_call(call);
    pycrew_close(crew);
}

/* The host cannot be told of the death, since the zygote is stopped; the kernel knows it. */
TEST(a_dead_worker_is_not_alive_before_anybody_has_said_so)
{
    pycrew_crew *crew = open_crew(2);
    int zygote = find_zygote();

    AWAIT(stats_of(crew).alive == 2);
    kill(zygote, SIGSTOP);
    for (int i = 0; i < 2; i++)
        kill(each[i].pid, SIGKILL);
    AWAIT(stats_of(crew).alive == 0);
    ASSERT_INT(stats_of(crew).backing_off, 2);
    ASSERT_INT(each[0].state, PYCREW_WORKER_GONE);
    ASSERT_INT(each[0].pid, 0);
    ASSERT_INT(each[0].rss, 0);
    kill(zygote, SIGCONT);
    AWAIT(stats_of(crew).alive == 2);
    pycrew_close(crew);
}

TEST(statistics_work_while_no_worker_can_start)
{
    pycrew_options options = test_options(2);
    const char *flag = scratch("flag");
    static char variable[200];
    const char *env[] = {variable, NULL};
    pycrew_crew *crew;
    pycrew_call *call;

    snprintf(variable, sizeof variable, "FAIL_INIT=%s", flag);
    options.env = env;
    options.init = "api_ops:init_fails_if";
    crew = open_with(&options);
    AWAIT(stats_of(crew).alive == 2);
    fclose(fopen(flag, "w"));
    for (int i = 0; i < 2; i++)
        kill(each[i].pid, SIGKILL);
    AWAIT(stats_of(crew).backing_off == 2);
    ASSERT_INT(stats_of(crew).alive, 0);
    call = prepare(crew, "api_ops:nothing");
    OK(pycrew_submit(call));
    ASSERT(stats_of(crew).queued <= 1); /* ended with PYCREW_ESTART, in time */
    GIVES(pycrew_wait(call, BOUND), PYCREW_ESTART);
    pycrew_release(call);
    ASSERT_INT(stats_of(crew).in_flight, 0);
    unlink(flag);
    AWAIT(stats_of(crew).alive == 2);
    ASSERT(stats_of(crew).deaths >= 2);
    pycrew_close(crew);
}

TEST(a_worker_in_its_init_function_is_starting)
{
    pycrew_options options = test_options(2);
    const char *flag = scratch("flag");
    static char variable[200];
    const char *env[] = {variable, NULL};
    pycrew_crew *crew;

    snprintf(variable, sizeof variable, "SLOW_INIT=%s", flag);
    options.env = env;
    options.init = "api_ops:init_slow_if";
    crew = open_with(&options);
    AWAIT(stats_of(crew).alive == 2);
    fclose(fopen(flag, "w"));
    kill(each[0].pid, SIGKILL);
    AWAIT(stats_of(crew).starting == 1);
    ASSERT_INT(stats_of(crew).alive, 1);
    unlink(flag);
    AWAIT(stats_of(crew).alive == 2);
    pycrew_close(crew);
}

TEST(memory_that_is_used_is_counted)
{
    pycrew_crew *crew = open_crew(1);
    size_t before = stats_of(crew).memory_used;
    pycrew_call *call = prepare(crew, "api_ops:zeros");

    OK(pycrew_add(call, "i", 40 << 20));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    ASSERT(stats_of(crew).memory_used >= before + (40 << 20));
    pycrew_release(call);
    OK(pycrew_run(crew, "api_ops:nothing", ">")); /* the worker takes it back when it is idle */
    AWAIT(stats_of(crew).memory_used < before + (40 << 20));
    pycrew_close(crew);
}

TEST(what_a_worker_scribbles_into_its_counters_is_bounded)
{
    const int counters = (int)(sizeof(pc_header) + offsetof(pc_worker_record, calls));
    pycrew_crew *crew = open_crew(1);
    pycrew_stats stats;

    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    for (int value = -1; value < 2; value += 2) {
        int64_t begun = now_ns();

        OK(pycrew_run(crew, "api_ops:scribble_counters", "ii>", value, counters));
        stats = stats_of(crew);
        ASSERT_INT(stats.alive, 1);
        ASSERT(each[0].busy_ns >= 0 && each[0].busy_ns < BOUND);
        ASSERT(each[0].errors <= each[0].calls);
        ASSERT(each[0].calls < (uint64_t)BOUND);
        ASSERT(now_ns() - begun < BOUND);
    }
    pycrew_close(crew);
}

TEST(callers_of_other_versions_get_what_they_know)
{
    struct {
        pycrew_stats stats;
        char beyond[64];
    } newer, older;
    char untouched[64];
    pycrew_crew *crew = open_crew(1);

    memset(untouched, 0x55, sizeof untouched);
    memset(&newer, 0x55, sizeof newer);
    newer.stats = (pycrew_stats)PYCREW_STATS_INIT;
    newer.stats.size = sizeof newer;
    OK(pycrew_stats_get(crew, &newer.stats));
    ASSERT_INT(newer.stats.workers, 1);
    ASSERT_INT(newer.stats.size, sizeof newer);
    memset(&older, 0x55, sizeof older);
    older.stats.size = offsetof(pycrew_stats, alive);
    older.stats.worker_size = 2 * sizeof(int);
    older.stats.worker = (pycrew_worker_stats *)(void *)older.beyond;
    older.stats.worker_max = 4;
    OK(pycrew_stats_get(crew, &older.stats));
    ASSERT_INT(older.stats.workers, 1);
    ASSERT_INT(older.stats.alive, 0x55555555);
    ASSERT_MEM(older.beyond + 8, untouched, sizeof untouched - 8);
    older.stats.size = 3;
    GIVES(pycrew_stats_get(crew, &older.stats), -EINVAL);
    GIVES(pycrew_stats_get(crew, NULL), -EINVAL);
    older.stats.size = sizeof older.stats;
    older.stats.worker_size = 0; /* of elements of no size there can be none */
    GIVES(pycrew_stats_get(crew, &older.stats), -EINVAL);
    pycrew_close(crew);
}

/* From other threads while workers come and go. */
static void *look_on(void *data)
{
    pycrew_crew *crew = data;

    for (int i = 0; i < 3000; i++) {
        pycrew_worker_stats mine[WORKERS_MAX];
        pycrew_stats stats = PYCREW_STATS_INIT;

        stats.worker = mine;
        stats.worker_max = WORKERS_MAX;
        OK(pycrew_stats_get(crew, &stats));
        ASSERT_INT(stats.alive + stats.starting + stats.backing_off, 3);
    }
    return NULL;
}

TEST(statistics_may_be_asked_for_at_any_time_from_any_thread)
{
    pycrew_crew *crew = open_crew(3);
    pthread_t threads[2];

    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, look_on, crew);
    for (int i = 0; i < 20; i++) {
        GIVES(pycrew_run(crew, "api_ops:die_by", "s>", "kill"), PYCREW_EDIED);
        OK(pycrew_run(crew, "api_ops:nothing", ">"));
    }
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    AWAIT(stats_of(crew).alive == 3);
    ASSERT_INT(stats_of(crew).deaths, 20);
    pycrew_close(crew);
}

TEST_LIMIT(a_fork_gets_EFORKED, 30)
{
    pycrew_crew *crew = open_crew(1);
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        pycrew_stats stats = PYCREW_STATS_INIT;

        _exit(pycrew_stats_get(crew, &stats) == PYCREW_EFORKED ? 0 : 1);
    }
    ASSERT_INT(waitpid(pid, &status, 0), pid);
    ASSERT_INT(status, 0);
    pycrew_close(crew);
}

TAP_MAIN
