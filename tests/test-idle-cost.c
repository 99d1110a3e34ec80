/* An idle crew costs nothing: no context switch of any of its threads and processes, no CPU.
 *
 * Not so while a thread waits in pycrew_wait, which looks again each 100 ms. */
#include <sys/epoll.h>

#include "tests/harness/crew.h"

/* ---- what a thread has cost so far ------------------------------------------------------------
 */

typedef struct cost {
    int pid, tid;
    char name[32];
    long switches, ticks;
} cost;

enum { THREADS_MAX = 64 };

typedef struct costs {
    cost of[THREADS_MAX];
    int count;
} costs;

static long number_after(const char *text, const char *word)
{
    const char *at = strstr(text, word);

    ASSERT(at != NULL);
    return strtol(at + strlen(word), NULL, 10);
}

static void read_cost(cost *ret)
{
    char path[64], text[4096], *at;
    unsigned long user, system;

    snprintf(path, sizeof path, "/proc/%d/task/%d/status", ret->pid, ret->tid);
    tap_read_file(path, text, sizeof text);
    /* With a newline: "nonvoluntary" ends in the same word. */
    ret->switches = number_after(text, "\nvoluntary_ctxt_switches:") +
                    number_after(text, "\nnonvoluntary_ctxt_switches:");
    snprintf(ret->name, sizeof ret->name, "%.15s", strchr(text, '\t') + 1);
    ret->name[strcspn(ret->name, "\n")] = '\0';
    snprintf(path, sizeof path, "/proc/%d/task/%d/stat", ret->pid, ret->tid);
    tap_read_file(path, text, sizeof text);
    at = strrchr(text, ')');
    ASSERT(at != NULL && sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                                &user, &system) == 2);
    ret->ticks = (long)(user + system);
}

static void add_threads(costs *all, int pid, int except)
{
    char path[64];
    DIR *directory;
    struct dirent *entry;

    snprintf(path, sizeof path, "/proc/%d/task", pid);
    directory = opendir(path);
    ASSERT(directory != NULL);
    while ((entry = readdir(directory)) != NULL) {
        int tid = tap_number(entry->d_name);

        if (tid < 0 || tid == except)
            continue;
        ASSERT(all->count < THREADS_MAX);
        all->of[all->count] = (cost){.pid = pid, .tid = tid};
        read_cost(&all->of[all->count++]);
    }
    closedir(directory);
}

/* Of every thread of the crew: of this process (all but the one that measures), zygote, workers. */
static void read_costs(costs *all)
{
    int workers[16], zygote = find_zygote(), count = find_workers(workers, 16);

    ASSERT(zygote != 0);
    all->count = 0;
    add_threads(all, getpid(), gettid());
    add_threads(all, zygote, 0);
    for (int i = 0; i < count; i++)
        add_threads(all, workers[i], 0);
}

static bool same_costs(const costs *a, const costs *b)
{
    if (a->count != b->count)
        return false;
    for (int i = 0; i < a->count; i++)
        if (a->of[i].tid != b->of[i].tid || a->of[i].switches != b->of[i].switches)
            return false;
    return true;
}

/* After work some spin a moment more, or have something to put away: until nothing has moved for
 * 300 ms. */
static void settle(costs *all)
{
    int64_t quiet_since = now_ns(), until = quiet_since + (int64_t)((double)BOUND * tap_scale());
    costs now;

    read_costs(all);
    while (now_ns() - quiet_since < 300 * MS) {
        if (now_ns() > until)
            tap_fail("the crew does not come to rest");
        pause_ns(20 * MS);
        read_costs(&now);
        if (!same_costs(all, &now))
            quiet_since = now_ns();
        *all = now;
    }
}

static void expect_nothing_for(int64_t ns, int threads)
{
    costs before, after;

    settle(&before);
    ASSERT_INT(before.count, threads);
    pause_ns(ns); /* what is measured is that nothing happens meanwhile */
    read_costs(&after);
    ASSERT_INT(after.count, threads);
    for (int i = 0; i < threads; i++) {
        const cost *b = &before.of[i], *a = &after.of[i];

        ASSERT_INT(a->tid, b->tid);
        if (a->switches != b->switches || a->ticks != b->ticks)
            tap_fail("%s, thread %d of %d: %ld context switches and %ld ticks of CPU in %.1f s",
                     a->name, a->tid, a->pid, a->switches - b->switches, a->ticks - b->ticks,
                     (double)ns / 1e9);
    }
}

/* ---- work before ------------------------------------------------------------------------------
 */

enum { WORKERS = 3 };

static void work(pycrew_crew *crew)
{
    pycrew_batch *batch;
    pycrew_call *calls[50];
    int count = 0;

    for (int i = 0; i < 50; i++)
        calls[i] = SUBMIT(crew, "api_ops:add", "ii", i, i);
    for (int i = 0; i < 50; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        pycrew_release(calls[i]);
    }
    GIVES(pycrew_run_within(crew, 20 * MS, "api_ops:sleep", "d>", 50.0), -ETIMEDOUT);
    GIVES(pycrew_run(crew, "api_ops:die_by", "s>", "kill"), PYCREW_EDIED);
    OK(pycrew_batch_open(crew, function_of(crew, "api_ops:add"), NULL, &batch));
    for (int i = 0; i < 1000; i++)
        OK(pycrew_batch_add(batch, "ii", i, i));
    OK(pycrew_batch_end(batch));
    while (pycrew_batch_next(batch, BOUND) == 1)
        count++;
    ASSERT_INT(count, 1000);
    pycrew_batch_close(batch);
    AWAIT(find_workers(&count, 1) == WORKERS);
}

/* All that is there: the supervisor, the zygote, the workers; and TSan's own thread. */
static int crew_threads(void)
{
    return 1 + 1 + WORKERS + TAP_TSAN;
}

static pycrew_crew *open_and_work(void)
{
    pycrew_crew *crew = open_crew(WORKERS);

    work(crew);
    return crew;
}

static void skip_if_tsan(void)
{
    if (TAP_TSAN)
        SKIP("TSan has a thread of its own that wakes up now and then");
}

TEST_LIMIT(an_idle_crew_does_nothing_for_ten_seconds, 60)
{
    pycrew_crew *crew;

    skip_if_tsan();
    crew = open_and_work();
    expect_nothing_for(10 * SECOND, crew_threads());
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

/* ---- threads that wait in queues --------------------------------------------------------------
 */

typedef struct waiter {
    pthread_t thread;
    pycrew_queue *queue;
    bool polls; /* with epoll; else in reap */
    int returned;
} waiter;

static void *wait_in_queue(void *data)
{
    waiter *w = data;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    pycrew_call *call;
    int loop;

    if (!w->polls) {
        w->returned = pycrew_queue_reap(w->queue, &call, 1, PYCREW_FOREVER);
        return NULL;
    }
    loop = epoll_create1(EPOLL_CLOEXEC);
    ASSERT(epoll_ctl(loop, EPOLL_CTL_ADD, pycrew_queue_fd(w->queue), &event) == 0);
    ASSERT_INT(epoll_wait(loop, &event, 1, -1), 1);
    close(loop);
    w->returned = pycrew_queue_reap(w->queue, &call, 1, 0);
    return NULL;
}

static void start_waiter(waiter *w, pycrew_crew *crew, bool polls)
{
    pycrew_call *call = prepare(crew, "api_ops:nothing");

    w->polls = polls;
    OK(pycrew_queue_open(crew, &w->queue));
    OK(pycrew_set_queue(call, w->queue));
    OK(pycrew_submit(call));
    GIVES(pycrew_queue_reap(w->queue, &call, 1, BOUND), 1);
    pycrew_release(call);
    GIVES(pycrew_queue_reap(w->queue, &call, 1, 0), 0);
    ASSERT(pthread_create(&w->thread, NULL, wait_in_queue, w) == 0);
}

static void end_waiter(waiter *w)
{
    OK(pycrew_queue_wake(w->queue));
    pthread_join(w->thread, NULL);
    ASSERT_INT(w->returned, 0);
}

TEST_LIMIT(threads_that_wait_in_queues_cost_nothing, 60)
{
    pycrew_crew *crew;
    waiter waiters[4];

    skip_if_tsan();
    crew = open_and_work();
    for (int i = 0; i < 4; i++)
        start_waiter(&waiters[i], crew, i % 2);
    expect_nothing_for(10 * SECOND, crew_threads() + 4);
    for (int i = 0; i < 4; i++)
        end_waiter(&waiters[i]);
    pycrew_close(crew);
}

/* A call that was given a queue and lost it again, in each way there is, must not leave the queue
 * in the belief that one is still to come: it would look each 100 ms. */
static int do_nothing(void *data, pycrew_host_call *call)
{
    (void)data;
    (void)call;
    return 0;
}

/* The one that listens sleeps, and so do those that wait for what it finds. */
TEST_LIMIT(threads_of_exported_functions_cost_nothing_while_nobody_asks, 60)
{
    pycrew_options options = test_options(WORKERS);
    pycrew_crew *crew;
    int pids[16];

    skip_if_tsan();
    options.export_threads = 3;
    crew = open_with(&options);
    AWAIT(find_workers(pids, 16) == WORKERS);
    OK(pycrew_export(crew, "nothing", do_nothing, NULL));
    for (int i = 0; i < 50; i++)
        OK(pycrew_run(crew, "host_ops:ask", "s>", "nothing"));
    expect_nothing_for(2 * SECOND, crew_threads() + 3);
    pycrew_close(crew);
}

TEST(a_queue_whose_calls_went_other_ways_costs_nothing)
{
    pycrew_options options = test_options(WORKERS);
    pycrew_queue *queue;
    pycrew_call *call;
    pycrew_crew *crew;
    waiter w;

    skip_if_tsan();
    options.queues = 1;
    crew = open_with(&options);
    work(crew);
    OK(pycrew_queue_open(crew, &queue));
    for (int i = 0; i < 4; i++) {
        call = prepare(crew, "api_ops:nothing");
        OK(pycrew_set_queue(call, queue));
        if (i == 1)
            OK(pycrew_set_queue(call, NULL));
        if (i == 2)
            OK(pycrew_submit(call));
        if (i == 3)
            pycrew_queue_close(queue);
        pycrew_release(call);
    }
    start_waiter(&w, crew, false);
    expect_nothing_for(1 * SECOND, crew_threads() + 1);
    end_waiter(&w);
    pycrew_close(crew);
}

TAP_MAIN
