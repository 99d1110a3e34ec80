/* Who waits is reached, whatever became of the way to it. */
#include <poll.h>
#include <sys/resource.h>

#include "tests/harness/crew.h"

/* ---- queues ---------------------------------------------------------------------------------- */

static pycrew_call *submit_to(pycrew_crew *crew, const char *name, pycrew_queue *queue)
{
    pycrew_call *call = prepare(crew, name);

    OK(pycrew_set_queue(call, queue));
    OK(pycrew_submit(call));
    return call;
}

/* As an event loop does: nothing is reaped before the descriptor says so. */
static void expect_told(pycrew_queue *queue, pycrew_call *expected)
{
    struct pollfd ready = {.fd = pycrew_queue_fd(queue), .events = POLLIN};
    int64_t until = now_ns() + (int64_t)((double)BOUND * tap_scale());
    pycrew_call *call = NULL;
    int count = 0;

    while (count == 0) {
        int left = (int)((until - now_ns()) / MS);

        if (left <= 0 || poll(&ready, 1, left) != 1)
            tap_fail("the queue's descriptor was not readable within %lld s", (long long)(BOUND / SECOND));
        count = pycrew_queue_reap(queue, &call, 1, 0);
    }
    ASSERT_INT(count, 1);
    ASSERT(call == expected);
}

TEST(more_queues_can_be_opened_than_a_busy_worker_is_told_of)
{
    enum { QUEUES = 600 };
    pycrew_options options = test_options(1);
    struct rlimit limit;
    pycrew_queue *queues[QUEUES];
    pycrew_crew *crew;

    ASSERT_INT(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    ASSERT_INT(setrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_max < QUEUES + 50)
        SKIP("only %llu descriptors are allowed here", (unsigned long long)limit.rlim_max);
    options.queues = QUEUES;
    crew = open_with(&options);
    for (int i = 0; i < QUEUES; i++)
        OK(pycrew_queue_open(crew, &queues[i]));
    for (int i = 0; i < QUEUES; i += QUEUES / 6 - 1) {
        pycrew_call *call = submit_to(crew, "api_ops:nothing", queues[i]);

        expect_told(queues[i], call);
        OK(pycrew_wait(call, 0));
        pycrew_release(call);
    }
    pycrew_close(crew);
}

TEST(a_call_that_closes_the_workers_descriptors_is_announced)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue;

    OK(pycrew_queue_open(crew, &queue));
    for (int i = 0; i < 3; i++) {
        pycrew_call *call =
            submit_to(crew, i == 1 ? "api_ops:nothing" : "api_ops:close_descriptors", queue);

        expect_told(queue, call);
        OK(pycrew_wait(call, 0));
        pycrew_release(call);
    }
    OK(pycrew_run_within(crew, BOUND, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

/* ---- a crew that is closed ------------------------------------------------------------------- */

typedef struct waiter {
    pthread_t thread;
    pycrew_crew *crew;
    pycrew_call *call;
    pycrew_batch *batch;
    const char *path;
    int code;
} waiter;

static void *run_for_ever(void *data)
{
    waiter *w = data;

    w->code = pycrew_run(w->crew, "api_ops:sleep", "is>", 1000, w->path);
    return NULL;
}

static void *wait_for_ever(void *data)
{
    waiter *w = data;

    w->code = pycrew_wait(w->call, PYCREW_FOREVER);
    return NULL;
}

static void *next_for_ever(void *data)
{
    waiter *w = data;

    w->code = pycrew_batch_next(w->batch, PYCREW_FOREVER);
    return NULL;
}

static void *drain_for_ever(void *data)
{
    waiter *w = data;

    w->code = pycrew_drain(w->crew, PYCREW_FOREVER);
    return NULL;
}

static void start(waiter *w, void *(*body)(void *))
{
    ASSERT_INT(pthread_create(&w->thread, NULL, body, w), 0);
}

static bool drains(pycrew_crew *crew)
{
    pycrew_call *call;
    int rc = pycrew_prepare(crew, function_of(crew, "api_ops:nothing"), 0, &call);

    if (rc == 0)
        pycrew_release(call);
    return rc == -ESHUTDOWN;
}

/* What they use of the crew afterwards is seen by ASan. */
TEST(threads_that_wait_come_out_of_a_crew_that_is_closed)
{
    enum { WAITERS = 4 };
    waiter waiters[WAITERS];
    pycrew_crew *crew = open_crew(3);
    pycrew_batch *batch = NULL;
    const char *path = scratch("runs");

    OK(pycrew_batch_open(crew, function_of(crew, "api_ops:sleep"), NULL, &batch));
    OK(pycrew_batch_add(batch, "is", 1000, path));
    for (int i = 0; i < WAITERS; i++)
        waiters[i] = (waiter){.crew = crew, .path = path, .batch = batch};
    waiters[1].call = SUBMIT(crew, "api_ops:sleep", "is", 1000, path);
    start(&waiters[0], run_for_ever);
    start(&waiters[1], wait_for_ever);
    start(&waiters[2], next_for_ever);
    AWAIT(file_size(path) == 3);
    start(&waiters[3], drain_for_ever);
    AWAIT(drains(crew));
    pycrew_close(crew);
    for (int i = 0; i < WAITERS; i++) {
        pthread_join(waiters[i].thread, NULL);
        if (waiters[i].code != -ECANCELED)
            tap_fail("waiter %d came out with %d", i, waiters[i].code);
    }
}

TAP_MAIN
