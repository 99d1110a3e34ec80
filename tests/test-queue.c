/* Queues: each ended call appears in its queue once, an event loop is woken for it, and none after
 * its release. */
#include <sys/epoll.h>

#include "tests/harness/crew.h"

static pycrew_queue *open_queue(pycrew_crew *crew)
{
    pycrew_queue *queue = NULL;

    OK(pycrew_queue_open(crew, &queue));
    return queue;
}

static pycrew_call *prepare_for(pycrew_crew *crew, pycrew_queue *queue, const char *function,
                                void *data)
{
    pycrew_call *call = prepare(crew, function);

    OK(pycrew_set_queue(call, queue));
    pycrew_set_data(call, data);
    return call;
}

static pycrew_call *submit_to(pycrew_crew *crew, pycrew_queue *queue, const char *function,
                              const char *text, void *data)
{
    pycrew_call *call = prepare_for(crew, queue, function, data);

    if (text != NULL)
        OK(pycrew_add(call, "s", text));
    OK(pycrew_submit(call));
    return call;
}

static pycrew_call *submit_add(pycrew_crew *crew, pycrew_queue *queue, int number)
{
    pycrew_call *call = prepare_for(crew, queue, "api_ops:add", (void *)(intptr_t)number);

    OK(pycrew_add(call, "ii", number, 1));
    OK(pycrew_submit(call));
    return call;
}

/* The number of an ended call of submit_add, which is released. */
static int take_add(pycrew_call *call)
{
    int number = (int)(intptr_t)pycrew_data(call), sum = -1;

    OK(pycrew_result(call, "i", &sum));
    ASSERT_INT(sum, number + 1);
    pycrew_release(call);
    return number;
}

static bool is_readable(const pycrew_queue *queue, int64_t timeout)
{
    struct pollfd poll_fd = {.fd = pycrew_queue_fd(queue), .events = POLLIN};

    return poll(&poll_fd, 1, (int)(timeout / MS)) == 1;
}

/* Nothing is there, nor comes while the workers are known to be idle. */
static void expect_nothing(pycrew_crew *crew, pycrew_queue *queue)
{
    pycrew_call *call;

    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    GIVES(pycrew_queue_reap(queue, &call, 1, 0), 0);
    GIVES(pycrew_queue_reap(queue, &call, 1, 5 * MS), 0);
}

TEST(each_call_appears_once)
{
    enum { CALLS = 3000 };
    static bool seen[CALLS];
    pycrew_crew *crew = open_crew(2);
    pycrew_queue *queue = open_queue(crew);
    pycrew_call *calls[100];

    for (int i = 0; i < CALLS; i++)
        submit_add(crew, queue, i);
    for (int count = 0; count < CALLS;) {
        int got = pycrew_queue_reap(queue, calls, 100, BOUND);

        ASSERT(got > 0 && got <= 100);
        for (int i = 0; i < got; i++) {
            int number = take_add(calls[i]);

            ASSERT(!seen[number]);
            seen[number] = true;
        }
        count += got;
    }
    expect_nothing(crew, queue);
    pycrew_queue_close(queue);
    pycrew_close(crew);
}

static void event_loop(unsigned max, bool edge)
{
    enum { CALLS = 20000, IN_FLIGHT = 50 };
    pycrew_crew *crew = open_crew(2);
    pycrew_queue *queue = open_queue(crew);
    pycrew_call *calls[64];
    struct epoll_event event = {.events = EPOLLIN | (edge ? EPOLLET : 0)};
    int epoll = epoll_create1(EPOLL_CLOEXEC), submitted = 0, ended = 0;

    ASSERT(epoll >= 0);
    ASSERT(epoll_ctl(epoll, EPOLL_CTL_ADD, pycrew_queue_fd(queue), &event) == 0);
    while (ended < CALLS) {
        while (submitted < CALLS && submitted - ended < IN_FLIGHT)
            submit_add(crew, queue, submitted++);
        if (epoll_wait(epoll, &event, 1, (int)(BOUND / MS)) != 1)
            tap_fail("not woken: %d of %d calls ended", ended, submitted);
        for (int got = (int)max; got == (int)max;) {
            got = pycrew_queue_reap(queue, calls, max, 0);
            ASSERT(got >= 0);
            for (int i = 0; i < got; i++)
                take_add(calls[i]);
            ended += got;
            if (!edge)
                break;
        }
    }
    close(epoll);
    pycrew_queue_close(queue);
    pycrew_close(crew);
}

TEST(an_event_loop_is_woken_for_every_call)
{
    event_loop(64, false);
}

TEST(an_event_loop_that_takes_one_at_a_time_is_woken_for_every_call)
{
    event_loop(1, false);
}

TEST(an_edge_triggered_event_loop_is_woken_for_every_call)
{
    event_loop(64, true);
}

/* One call at a time: each time the loop sleeps. */
TEST(an_event_loop_that_slept_is_woken)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);
    pycrew_call *call;

    for (int i = 0; i < 300; i++) {
        ASSERT(!is_readable(queue, 0));
        submit_add(crew, queue, i);
        if (!is_readable(queue, BOUND))
            tap_fail("not woken for call %d", i);
        GIVES(pycrew_queue_reap(queue, &call, 1, 0), 1);
        ASSERT_INT(take_add(call), i);
        GIVES(pycrew_queue_reap(queue, &call, 1, 0), 0); /* fewer than asked for */
    }
    pycrew_queue_close(queue);
    pycrew_close(crew);
}

TEST(a_queue_is_readable_before_its_first_reap)
{
    pycrew_crew *crew = open_crew(1);

    for (int i = 0; i < 50; i++) {
        pycrew_queue *queue = open_queue(crew);
        pycrew_call *call;

        submit_add(crew, queue, i);
        ASSERT(is_readable(queue, BOUND));
        GIVES(pycrew_queue_reap(queue, &call, 1, BOUND), 1);
        take_add(call);
        pycrew_queue_close(queue);
    }
    pycrew_close(crew);
}

TEST(reap_waits_no_longer_than_told)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);
    const char *go = scratch("go");
    pycrew_call *call;
    int64_t begun = now_ns();

    GIVES(pycrew_queue_reap(queue, &call, 1, 0), 0);
    GIVES(pycrew_queue_reap(queue, &call, 1, 30 * MS), 0);
    ASSERT(now_ns() - begun >= 30 * MS);
    submit_to(crew, queue, "api_ops:wait_for", go, NULL);
    GIVES(pycrew_queue_reap(queue, &call, 1, 0), 0);
    GIVES(pycrew_queue_reap(queue, &call, 1, 30 * MS), 0);
    ASSERT(now_ns() - begun < 5 * SECOND);
    fclose(fopen(go, "w"));
    GIVES(pycrew_queue_reap(queue, &call, 1, PYCREW_FOREVER), 1);
    pycrew_release(call);
    GIVES(pycrew_queue_reap(queue, &call, 0, 0), -EINVAL);
    pycrew_queue_close(queue);
    pycrew_close(crew);
}

TEST(failed_and_cancelled_calls_appear_too)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);
    const char *running = scratch("running");
    pycrew_call *calls[6], *got;

    calls[0] = submit_to(crew, queue, "api_ops:fail", NULL, (void *)(intptr_t)PYCREW_ERAISED);
    calls[1] = submit_to(crew, queue, "api_ops:die_by", "kill", (void *)(intptr_t)PYCREW_EDIED);
    calls[2] = prepare_for(crew, queue, "api_ops:sleep", (void *)(intptr_t)-ETIMEDOUT);
    OK(pycrew_add(calls[2], "i", 1000));
    OK(pycrew_set_timeout(calls[2], 50 * MS));
    OK(pycrew_submit(calls[2]));
    calls[3] = prepare_for(crew, queue, "api_ops:sleep", (void *)(intptr_t)-ECANCELED);
    OK(pycrew_add(calls[3], "is", 1000, running));
    OK(pycrew_submit(calls[3]));
    calls[4] = submit_to(crew, queue, "api_ops:nothing", NULL, (void *)(intptr_t)-ECANCELED);
    calls[5] = prepare_for(crew, queue, "api_ops:nothing", (void *)(intptr_t)-ETIMEDOUT);
    OK(pycrew_set_timeout(calls[5], 10 * MS));
    OK(pycrew_submit(calls[5]));
    AWAIT(file_size(running) == 1);
    OK(pycrew_cancel(calls[4]));
    OK(pycrew_cancel(calls[3]));
    for (int i = 0; i < 6; i++) {
        GIVES(pycrew_queue_reap(queue, &got, 1, BOUND), 1);
        GIVES(pycrew_wait(got, 0), (intptr_t)pycrew_data(got));
        pycrew_release(got);
    }
    expect_nothing(crew, queue);
    pycrew_queue_close(queue);
    pycrew_close(crew);
}

TEST(a_released_call_never_appears)
{
    enum { ROUNDS = 300 };
    pycrew_crew *crew = open_crew(2);
    pycrew_queue *queue = open_queue(crew);

    for (int i = 0; i < ROUNDS; i++) {
        pycrew_call *released[4], *kept, *got[8];

        for (int k = 0; k < 4; k++)
            released[k] = submit_add(crew, queue, -1);
        kept = submit_add(crew, queue, i);
        for (int k = 0; k < 4; k++) { /* some have ended, some run, some are queued */
            if (k == i % 5)
                pycrew_wait(released[k], 0);
            pycrew_release(released[k]);
        }
        GIVES(pycrew_queue_reap(queue, got, 8, BOUND), 1);
        ASSERT(got[0] == kept);
        ASSERT_INT(take_add(kept), i);
        GIVES(pycrew_queue_reap(queue, got, 8, 0), 0);
    }
    expect_nothing(crew, queue);
    pycrew_queue_close(queue);
    pycrew_close(crew);
}

TEST(a_call_that_was_waited_for_appears_all_the_same)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);
    pycrew_call *call = submit_add(crew, queue, 5), *got;

    OK(pycrew_wait(call, BOUND));
    GIVES(pycrew_queue_reap(queue, &got, 1, BOUND), 1);
    ASSERT(got == call);
    OK(pycrew_wait(call, 0));
    take_add(call);
    pycrew_queue_close(queue);
    pycrew_close(crew);
}

TEST(a_call_without_a_queue_appears_nowhere)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);
    pycrew_call *call = prepare_for(crew, queue, "api_ops:nothing", NULL);

    OK(pycrew_set_queue(call, NULL));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    expect_nothing(crew, queue);
    pycrew_release(call);
    pycrew_queue_close(queue);
    pycrew_close(crew);
}

TEST(a_queue_of_another_crew_is_refused)
{
    pycrew_crew *crew = open_crew(1), *other = open_crew(1);
    pycrew_queue *queue = open_queue(other);
    pycrew_call *call = prepare(crew, "api_ops:nothing");

    GIVES(pycrew_set_queue(call, queue), -EINVAL);
    OK(pycrew_submit(call));
    GIVES(pycrew_set_queue(call, NULL), -EALREADY);
    pycrew_release(call);
    pycrew_close(crew);
    pycrew_close(other);
}

/* ---- wake ------------------------------------------------------------------------------------ */

typedef struct reaper {
    pthread_t thread;
    pycrew_queue *queue;
    _Atomic int result;
    _Atomic bool begun;
} reaper;

static void *reap_for_ever(void *data)
{
    reaper *r = data;
    pycrew_call *call;

    atomic_store(&r->begun, true);
    atomic_store(&r->result, pycrew_queue_reap(r->queue, &call, 1, PYCREW_FOREVER));
    return NULL;
}

TEST(wake_ends_a_reap_in_another_thread)
{
    pycrew_crew *crew = open_crew(1);
    reaper r = {.queue = open_queue(crew)};

    for (int i = 0; i < 50; i++) {
        atomic_store(&r.begun, false);
        atomic_store(&r.result, 99);
        ASSERT(pthread_create(&r.thread, NULL, reap_for_ever, &r) == 0);
        if (i % 2)
            AWAIT(atomic_load(&r.begun));
        OK(pycrew_queue_wake(r.queue)); /* before or during */
        pthread_join(r.thread, NULL);
        ASSERT_INT(atomic_load(&r.result), 0);
    }
    pycrew_queue_close(r.queue);
    pycrew_close(crew);
}

TEST(wake_ends_the_next_reap_once)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);
    pycrew_call *call;
    int64_t begun;

    OK(pycrew_queue_wake(queue));
    OK(pycrew_queue_wake(queue));
    ASSERT(is_readable(queue, 0));
    GIVES(pycrew_queue_reap(queue, &call, 1, PYCREW_FOREVER), 0);
    ASSERT(!is_readable(queue, 0));
    begun = now_ns();
    GIVES(pycrew_queue_reap(queue, &call, 1, 20 * MS), 0);
    ASSERT(now_ns() - begun >= 20 * MS);
    pycrew_queue_close(queue);
    pycrew_close(crew);
}

/* ---- close ----------------------------------------------------------------------------------- */

TEST(calls_in_flight_lose_a_closed_queue_and_go_on)
{
    pycrew_crew *crew = open_crew(1);
    const char *go = scratch("go");

    for (int i = 0; i < 30; i++) {
        pycrew_queue *queue = open_queue(crew), *next;
        pycrew_call *waits, *queued, *got;

        unlink(go);
        waits = submit_to(crew, queue, "api_ops:wait_for", go, NULL);
        queued = submit_add(crew, queue, 7);
        pycrew_queue_close(queue);
        next = open_queue(crew); /* in its place */
        fclose(fopen(go, "w"));
        OK(pycrew_wait(waits, BOUND));
        OK(pycrew_wait(queued, BOUND));
        GIVES(pycrew_queue_reap(next, &got, 1, 0), 0);
        submit_add(crew, next, 8);
        GIVES(pycrew_queue_reap(next, &got, 1, BOUND), 1);
        ASSERT_INT(take_add(got), 8);
        pycrew_release(waits);
        take_add(queued);
        pycrew_queue_close(next);
    }
    pycrew_queue_close(NULL);
    pycrew_close(crew);
}

TEST(calls_announced_and_not_reaped_are_not_the_next_queues)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_call *calls[20], *got[32];

    for (int i = 0; i < 30; i++) {
        pycrew_queue *queue = open_queue(crew);

        for (int k = 0; k < 20; k++)
            calls[k] = submit_add(crew, queue, k);
        for (int k = 0; k < 20; k++)
            OK(pycrew_wait(calls[k], BOUND));
        ASSERT(pycrew_queue_reap(queue, got, (unsigned)i % 5 + 1, 0) >= 0);
        pycrew_queue_close(queue);
        queue = open_queue(crew);
        GIVES(pycrew_queue_reap(queue, got, 32, 0), 0);
        for (int k = 0; k < 20; k++)
            take_add(calls[k]);
        pycrew_queue_close(queue);
    }
    pycrew_close(crew);
}

TEST(there_are_as_many_queues_as_the_option_says)
{
    pycrew_options options = test_options(1);
    pycrew_queue *queues[4], *extra = NULL;
    pycrew_crew *crew;

    options.queues = 4;
    crew = open_with(&options);
    for (int i = 0; i < 4; i++)
        queues[i] = open_queue(crew);
    GIVES(pycrew_queue_open(crew, &extra), -EAGAIN);
    ASSERT(extra == NULL);
    pycrew_queue_close(queues[2]);
    OK(pycrew_queue_open(crew, &extra));
    pycrew_close(crew); /* with queues open */
}

TEST(the_crew_closes_with_calls_in_queues)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_queue *queue = open_queue(crew);

    for (int i = 0; i < 500; i++)
        submit_add(crew, queue, i);
    submit_to(crew, queue, "api_ops:swallow", scratch("running"), NULL);
    pycrew_close(crew);
}

/* ---- many ------------------------------------------------------------------------------------ */

typedef struct looper {
    pthread_t thread;
    pycrew_crew *crew;
    int number;
} looper;

static void *run_loop(void *data)
{
    enum { CALLS = 3000, IN_FLIGHT = 40 };
    const looper *l = data;
    pycrew_queue *queue = open_queue(l->crew);
    pycrew_call *calls[16];
    int submitted = 0, ended = 0;
    long long sum = 0;

    while (ended < CALLS) {
        int got;

        while (submitted < CALLS && submitted - ended < IN_FLIGHT)
            submit_add(l->crew, queue, l->number * CALLS + submitted++);
        got = pycrew_queue_reap(queue, calls, 16, BOUND);
        ASSERT(got > 0);
        for (int i = 0; i < got; i++) {
            int number = take_add(calls[i]);

            ASSERT_INT(number / CALLS, l->number);
            sum += number;
        }
        ended += got;
    }
    ASSERT_INT(sum, (long long)CALLS * l->number * CALLS + (long long)CALLS * (CALLS - 1) / 2);
    pycrew_queue_close(queue);
    return NULL;
}

TEST(threads_with_their_own_queues_get_their_own_calls)
{
    pycrew_crew *crew = open_crew(3);
    looper loopers[8];

    for (int i = 0; i < 8; i++) {
        loopers[i] = (looper){.crew = crew, .number = i};
        ASSERT(pthread_create(&loopers[i].thread, NULL, run_loop, &loopers[i]) == 0);
    }
    for (int i = 0; i < 8; i++)
        pthread_join(loopers[i].thread, NULL);
    pycrew_close(crew);
}

/* One thread submits as fast as calls come free, another reaps and releases. */
typedef struct pipeline {
    pthread_t thread;
    pycrew_crew *crew;
    pycrew_queue *queue;
} pipeline;

enum { PIPELINE_CALLS = 5000 };

static void *reap_all(void *data)
{
    const pipeline *p = data;
    pycrew_call *calls[16];
    int ended = 0;

    while (ended < PIPELINE_CALLS) {
        int got = pycrew_queue_reap(p->queue, calls, 16, BOUND);

        ASSERT(got > 0);
        for (int i = 0; i < got; i++)
            take_add(calls[i]);
        ended += got;
    }
    return NULL;
}

TEST(a_thread_that_submits_waits_for_another_that_releases)
{
    pycrew_options options = test_options(2);
    pipeline p;

    options.calls = 16;
    p.crew = open_with(&options);
    p.queue = open_queue(p.crew);
    ASSERT(pthread_create(&p.thread, NULL, reap_all, &p) == 0);
    for (int i = 0; i < PIPELINE_CALLS; i++)
        submit_add(p.crew, p.queue, i); /* prepares with a timeout */
    pthread_join(p.thread, NULL);
    pycrew_queue_close(p.queue);
    pycrew_close(p.crew);
}

TEST(queues_opened_after_workers_were_replaced_work)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_queue *old = open_queue(crew);
    pycrew_call *call;

    for (int i = 0; i < 10; i++) {
        pycrew_queue *queue;

        GIVES(pycrew_run(crew, "api_ops:die_by", "s>", "kill"), PYCREW_EDIED);
        queue = open_queue(crew);
        for (int k = 0; k < 20; k++) {
            submit_add(crew, k % 2 ? queue : old, k);
            ASSERT(is_readable(k % 2 ? queue : old, BOUND));
            GIVES(pycrew_queue_reap(k % 2 ? queue : old, &call, 1, BOUND), 1);
            take_add(call);
            GIVES(pycrew_queue_reap(k % 2 ? queue : old, &call, 1, 0), 0);
        }
        pycrew_queue_close(queue);
    }
    pycrew_close(crew);
}

/* What user code closes, the worker must not write to; and then nobody must wait for ever. */
TEST(a_queue_works_on_when_user_code_closed_its_descriptor_in_the_worker)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);
    pycrew_call *call;

    submit_add(crew, queue, 1);
    GIVES(pycrew_queue_reap(queue, &call, 1, BOUND), 1);
    take_add(call);
    pycrew_run(crew, "api_ops:evaluate", "s>", "os.closerange(3, 1000)");
    submit_add(crew, queue, 2);
    GIVES(pycrew_queue_reap(queue, &call, 1, BOUND), 1);
    take_add(call);
    pycrew_queue_close(queue);
    pycrew_close(crew);
}

TAP_MAIN
