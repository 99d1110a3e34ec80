/* Queues: a call with one appears there exactly once, cancelled or not, never after its release;
 * and the descriptor can be trusted, in every kind of event loop, whatever dies. */
#include <sys/epoll.h>

#include "tests/harness/crew.h"

/* ---- help ------------------------------------------------------------------------------------ */

static pycrew_queue *open_queue(pycrew_crew *crew)
{
    pycrew_queue *queue = NULL;

    OK(pycrew_queue_open(crew, &queue));
    return queue;
}

/* A call in flight whose data is its number; queue may be NULL. */
static pycrew_call *submit_numbered(pycrew_crew *crew, pycrew_queue *queue, const char *name,
                                    int number)
{
    pycrew_call *call = prepare(crew, name);

    OK(pycrew_add(call, "i", number));
    OK(pycrew_set_queue(call, queue));
    pycrew_set_data(call, (void *)(intptr_t)number);
    OK(pycrew_submit(call));
    return call;
}

static pycrew_call *submit_echo(pycrew_crew *crew, pycrew_queue *queue, int number)
{
    return submit_numbered(crew, queue, "api_ops:echo", number);
}

static int number_of(const pycrew_call *call)
{
    return (int)(intptr_t)pycrew_data(call);
}

static void expect_echo(pycrew_call *call)
{
    int value = -1;

    OK(pycrew_result(call, "i", &value));
    ASSERT_INT(value, number_of(call));
}

/* A call that runs until its file is there. */
static pycrew_call *submit_held(pycrew_crew *crew, pycrew_queue *queue, const char *path)
{
    pycrew_call *call = prepare(crew, "api_ops:wait_for");

    OK(pycrew_add(call, "s", path));
    OK(pycrew_set_queue(call, queue));
    OK(pycrew_submit(call));
    return call;
}

static void let_go(const char *path)
{
    FILE *file = fopen(path, "w");

    ASSERT(file != NULL);
    fclose(file);
}

static bool readable(const pycrew_queue *queue)
{
    struct pollfd ready = {.fd = pycrew_queue_fd(queue), .events = POLLIN};

    return poll(&ready, 1, 0) == 1;
}

static int bound_ms(void)
{
    return (int)((double)(BOUND / MS) * tap_scale());
}

static void await_readable(const pycrew_queue *queue)
{
    struct pollfd ready = {.fd = pycrew_queue_fd(queue), .events = POLLIN};

    if (poll(&ready, 1, bound_ms()) != 1)
        tap_fail("the queue's descriptor was not readable within %d ms", bound_ms());
}

/* Until the queue has nothing to tell: spurious wakes, as after an open, are allowed. */
static void drain_spurious(pycrew_queue *queue)
{
    pycrew_call *call;

    GIVES(pycrew_queue_reap(queue, &call, 1, 0), 0);
    ASSERT(!readable(queue));
}

static pycrew_call *reap_one(pycrew_queue *queue)
{
    pycrew_call *call = NULL;

    GIVES(pycrew_queue_reap(queue, &call, 1, BOUND), 1);
    return call;
}

static void reap_nothing(pycrew_queue *queue)
{
    pycrew_call *calls[4];

    GIVES(pycrew_queue_reap(queue, calls, 4, 0), 0);
}

static int edge_triggered(const pycrew_queue *queue)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int loop = epoll_create1(EPOLL_CLOEXEC);

    ASSERT(loop >= 0);
    ASSERT(epoll_ctl(loop, EPOLL_CTL_ADD, pycrew_queue_fd(queue), &event) == 0);
    return loop;
}

static void await_event(int loop)
{
    struct epoll_event event;
    int rc;

    do
        rc = epoll_wait(loop, &event, 1, bound_ms());
    while (rc < 0 && errno == EINTR);
    if (rc != 1)
        tap_fail("no event within %d ms: a wake was lost", bound_ms());
}

static void start_thread(pthread_t *thread, void *(*body)(void *), void *data)
{
    ASSERT(pthread_create(thread, NULL, body, data) == 0);
}

/* ---- exactly once ---------------------------------------------------------------------------- */

static void appears_once(unsigned max, int64_t timeout_ns)
{
    enum { CALLS = 500 };
    pycrew_crew *crew = open_crew(2);
    pycrew_queue *queue = open_queue(crew);
    pycrew_call *calls[CALLS];
    bool seen[CALLS] = {false};
    int64_t until = now_ns() + (int64_t)((double)BOUND * tap_scale());

    for (int i = 0; i < CALLS; i++)
        submit_echo(crew, queue, i);
    for (int left = CALLS; left > 0;) {
        int count = pycrew_queue_reap(queue, calls, max, timeout_ns);

        ASSERT(count >= 0 && count <= (int)max && count <= left);
        ASSERT(now_ns() < until);
        for (int i = 0; i < count; i++) {
            ASSERT(!seen[number_of(calls[i])]);
            seen[number_of(calls[i])] = true;
            expect_echo(calls[i]);
            pycrew_release(calls[i]);
        }
        left -= count;
    }
    reap_nothing(queue);
    pycrew_queue_close(queue);
    pycrew_close(crew);
}

TEST(calls_appear_once_reaped_one_by_one)
{
    appears_once(1, BOUND);
}

TEST(calls_appear_once_reaped_all_at_a_time)
{
    appears_once(500, BOUND);
}

TEST(calls_appear_once_for_who_never_waits)
{
    appears_once(7, 0);
}

TEST(calls_appear_once_for_who_waits_for_ever)
{
    appears_once(100, PYCREW_FOREVER);
}

TEST(a_call_that_was_given_no_queue_appears_in_none)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);
    pycrew_call *call = prepare(crew, "api_ops:nothing"), *other;

    OK(pycrew_set_queue(call, queue));
    OK(pycrew_set_queue(call, NULL));
    OK(pycrew_submit(call));
    other = submit_echo(crew, queue, 1);
    OK(pycrew_wait(call, BOUND));
    ASSERT(reap_one(queue) == other);
    reap_nothing(queue);
    pycrew_release(call);
    pycrew_release(other);
    pycrew_close(crew);
}

TEST(a_call_appears_in_the_queue_it_was_given_last)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *first = open_queue(crew), *second = open_queue(crew);
    pycrew_call *call = prepare(crew, "api_ops:nothing");

    OK(pycrew_set_queue(call, first));
    OK(pycrew_set_queue(call, second));
    OK(pycrew_submit(call));
    GIVES(pycrew_set_queue(call, first), -EALREADY);
    ASSERT(reap_one(second) == call);
    reap_nothing(first);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(a_queue_of_another_crew_is_refused)
{
    pycrew_crew *crew = open_crew(1), *other = open_crew(1);
    pycrew_queue *queue = open_queue(other);
    pycrew_call *call = prepare(crew, "api_ops:nothing");

    GIVES(pycrew_set_queue(call, queue), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "another crew");
    OK(pycrew_submit(call)); /* it has none */
    OK(pycrew_wait(call, BOUND));
    reap_nothing(queue);
    pycrew_release(call);
    pycrew_close(other);
    pycrew_close(crew);
}

TEST(a_reap_of_nothing_is_refused)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);
    pycrew_call *call;

    GIVES(pycrew_queue_reap(queue, &call, 0, 0), -EINVAL);
    GIVES(pycrew_queue_reap(queue, &call, UINT32_MAX, 0), -EINVAL);
    pycrew_close(crew);
}

TEST(cancelled_calls_appear_once_queued_or_running)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);
    const char *started = scratch("started");
    pycrew_call *running = prepare(crew, "api_ops:sleep"), *queued, *both[2];

    OK(pycrew_add(running, "ds", 100.0, started));
    OK(pycrew_set_queue(running, queue));
    OK(pycrew_submit(running));
    queued = submit_echo(crew, queue, 1);
    AWAIT(file_size(started) > 0);
    OK(pycrew_cancel(queued));
    ASSERT(reap_one(queue) == queued);
    OK(pycrew_cancel(running));
    ASSERT(reap_one(queue) == running);
    both[0] = queued;
    both[1] = running;
    for (int i = 0; i < 2; i++) {
        GIVES(pycrew_wait(both[i], 0), -ECANCELED);
        GIVES(pycrew_cancel(both[i]), -EALREADY);
    }
    reap_nothing(queue);
    pycrew_release(queued);
    pycrew_release(running);
    pycrew_close(crew);
}

TEST(a_released_call_does_not_appear)
{
    enum { CALLS = 30 };
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);
    pycrew_call *calls[CALLS], *last, *reaped[CALLS];
    int count = 0;

    for (int i = 0; i < CALLS; i++)
        calls[i] = submit_echo(crew, queue, i);
    last = submit_echo(crew, queue, CALLS);
    for (int i = 0; i < CALLS; i += 3) { /* before their end, or after: as it comes */
        pycrew_release(calls[i]);
        calls[i] = NULL;
    }
    OK(pycrew_wait(calls[1], BOUND)); /* certainly ended, and not yet reaped */
    pycrew_release(calls[1]);
    calls[1] = NULL;
    OK(pycrew_wait(last, BOUND));
    for (int i = 0; i < CALLS; i++)
        if (calls[i] != NULL)
            OK(pycrew_wait(calls[i], BOUND));
    for (; count < CALLS - CALLS / 3 - 1 + 1; count++) /* a third, and one, and the last */
        reaped[count] = reap_one(queue);
    reap_nothing(queue);
    for (int i = 0; i < count; i++) {
        ASSERT(number_of(reaped[i]) == CALLS || calls[number_of(reaped[i])] == reaped[i]);
        pycrew_release(reaped[i]);
    }
    pycrew_close(crew);
}

TEST(a_call_that_is_waited_for_appears_too)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);
    pycrew_call *call = submit_echo(crew, queue, 5);

    OK(pycrew_wait(call, BOUND));
    ASSERT(reap_one(queue) == call);
    OK(pycrew_wait(call, 0));
    expect_echo(call);
    reap_nothing(queue);
    pycrew_release(call);
    pycrew_close(crew);
}

/* ---- the descriptor -------------------------------------------------------------------------- */

TEST(the_descriptor_is_readable_until_a_reap_returned_fewer_than_it_was_asked_for)
{
    enum { CALLS = 10 };
    pycrew_crew *crew = open_crew(2);
    pycrew_queue *queue = open_queue(crew);
    pycrew_call *calls[CALLS], *reaped[CALLS];

    drain_spurious(queue);
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < CALLS; i++)
            calls[i] = submit_echo(crew, queue, i);
        for (int i = 0; i < CALLS; i++)
            OK(pycrew_wait(calls[i], BOUND));
        await_readable(queue); /* the announcement may follow the end by a moment */
        for (int got = 0, max = round % 4 + 1; got < CALLS; got += max) {
            ASSERT(readable(queue));
            AWAIT(pycrew_queue_reap(queue, reaped, 0 + (unsigned)max, 0) != 0 || got + max > CALLS);
            if (got + max > CALLS)
                break;
        }
        while (pycrew_queue_reap(queue, reaped, CALLS, 0) > 0)
            continue;
        ASSERT(!readable(queue));
        for (int i = 0; i < CALLS; i++)
            pycrew_release(calls[i]);
    }
    pycrew_close(crew);
}

/* One reap an event: if it was full there has to be another event. */
static void edges(unsigned max, bool until_fewer)
{
    enum { CALLS = 2000, WINDOW = 40 };
    pycrew_crew *crew = open_crew(2);
    pycrew_queue *queue = open_queue(crew);
    int loop = edge_triggered(queue), in = 0, out = 0, count;
    pycrew_call *calls[WINDOW];

    while (out < CALLS) {
        for (; in < CALLS && in - out < WINDOW; in++)
            submit_echo(crew, queue, in);
        await_event(loop);
        do {
            count = pycrew_queue_reap(queue, calls, max, 0);
            ASSERT(count >= 0);
            for (int i = 0; i < count; i++) {
                expect_echo(calls[i]);
                pycrew_release(calls[i]);
            }
            out += count;
        } while (until_fewer && count == (int)max);
    }
    close(loop);
    pycrew_close(crew);
}

TEST(an_edge_triggered_loop_that_reaps_one_an_event_gets_all)
{
    edges(1, false);
}

TEST(an_edge_triggered_loop_that_reaps_a_few_an_event_gets_all)
{
    edges(3, false);
}

TEST(an_edge_triggered_loop_that_reaps_until_fewer_gets_all)
{
    edges(40, true);
}

TEST(a_loop_that_polled_before_it_ever_reaped_is_woken)
{
    pycrew_crew *crew = open_crew(1);
    const char *path = scratch("go");
    pycrew_queue *queue = open_queue(crew);
    pycrew_call *call = submit_held(crew, queue, path);

    AWAIT(!readable(queue)); /* but for a spurious wake nothing is there */
    let_go(path);
    await_readable(queue);
    ASSERT(reap_one(queue) == call);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(the_descriptor_of_an_idle_queue_is_not_readable)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);

    drain_spurious(queue);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    ASSERT(!readable(queue));
    pycrew_close(crew);
}

/* ---- timeouts and wakes ---------------------------------------------------------------------- */

TEST(a_reap_waits_as_long_as_it_was_told)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);
    const char *path = scratch("go");
    pycrew_call *held = submit_held(crew, queue, path), *call = NULL;
    int64_t begun = now_ns();

    GIVES(pycrew_queue_reap(queue, &call, 1, 0), 0);
    GIVES(pycrew_queue_reap(queue, &call, 1, 150 * MS), 0);
    ASSERT(now_ns() - begun >= 150 * MS);
    ASSERT(call == NULL);
    let_go(path);
    GIVES(pycrew_queue_reap(queue, &call, 1, PYCREW_FOREVER), 1);
    ASSERT(call == held);
    pycrew_release(call);
    pycrew_close(crew);
}

typedef struct reaper {
    pthread_t thread;
    pycrew_queue *queue;
    _Atomic int tid, returned; /* returned: what reap did, + 1 */
} reaper;

static void *reap_for_ever(void *data)
{
    reaper *r = data;
    pycrew_call *call;

    atomic_store(&r->tid, gettid());
    atomic_store(&r->returned, pycrew_queue_reap(r->queue, &call, 1, PYCREW_FOREVER) + 1);
    return NULL;
}

TEST(a_wake_ends_a_reap_in_another_thread)
{
    pycrew_crew *crew = open_crew(1);
    reaper r = {.queue = open_queue(crew)};

    for (int i = 0; i < 50; i++) {
        atomic_store(&r.returned, 0);
        atomic_store(&r.tid, 0);
        start_thread(&r.thread, reap_for_ever, &r);
        if (i % 2) /* else it may come first, or in between */
            AWAIT(tap_is_asleep(atomic_load(&r.tid)));
        OK(pycrew_queue_wake(r.queue));
        pthread_join(r.thread, NULL);
        ASSERT_INT(atomic_load(&r.returned), 0 + 1);
    }
    pycrew_close(crew);
}

TEST(a_wake_ends_the_next_reap_and_only_that)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);
    pycrew_call *call;
    int64_t begun;

    drain_spurious(queue);
    OK(pycrew_queue_wake(queue));
    OK(pycrew_queue_wake(queue)); /* twice is once */
    ASSERT(readable(queue));
    GIVES(pycrew_queue_reap(queue, &call, 1, PYCREW_FOREVER), 0);
    begun = now_ns();
    GIVES(pycrew_queue_reap(queue, &call, 1, 50 * MS), 0);
    ASSERT(now_ns() - begun >= 50 * MS);
    ASSERT(!readable(queue));
    pycrew_close(crew);
}

TEST(a_wake_takes_no_call_away)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);
    pycrew_call *calls[3], *reaped[8];
    int count = 0, rc;

    for (int i = 0; i < 3; i++)
        calls[i] = submit_echo(crew, queue, i);
    OK(pycrew_queue_wake(queue));
    for (int i = 0; i < 3; i++)
        OK(pycrew_wait(calls[i], BOUND));
    while ((rc = pycrew_queue_reap(queue, reaped + count, 8, PYCREW_FOREVER)) > 0)
        count += rc; /* ends with the wake's 0 */
    ASSERT_INT(rc, 0);
    if (count < 3) /* announced after the wake had been taken */
        AWAIT((count += pycrew_queue_reap(queue, reaped + count, 8, 0)) == 3);
    ASSERT_INT(count, 3);
    for (int i = 0; i < 3; i++)
        pycrew_release(calls[i]);
    pycrew_close(crew);
}

TEST(a_close_of_the_crew_ends_a_reap)
{
    pycrew_crew *crew = open_crew(1);
    reaper r = {.queue = open_queue(crew)};

    start_thread(&r.thread, reap_for_ever, &r);
    AWAIT(tap_is_asleep(atomic_load(&r.tid)));
    pycrew_close(crew);
    pthread_join(r.thread, NULL);
    ASSERT_INT(atomic_load(&r.returned), -ECANCELED + 1);
}

/* ---- many threads ---------------------------------------------------------------------------- */

enum { LOOPS = 4, CALLS_EACH = 3000, IN_FLIGHT = 48 };

typedef struct loops {
    pycrew_crew *crew;
    pycrew_queue *queues[LOOPS];
    _Atomic int inside, left[LOOPS];
    _Atomic unsigned char times[LOOPS * CALLS_EACH];
} loops;

typedef struct loop_thread {
    pthread_t thread;
    loops *all;
    unsigned number;
} loop_thread;

/* Each submits into all the queues in turn, and not more than are to be in flight. */
static void *submit_to_all(void *data)
{
    const loop_thread *t = data;

    for (unsigned i = 0; i < CALLS_EACH; i++) {
        unsigned queue = (t->number + i) % LOOPS;

        while (atomic_load(&t->all->inside) >= IN_FLIGHT)
            pause_ns(50 * US);
        atomic_fetch_add(&t->all->inside, 1);
        submit_echo(t->all->crew, t->all->queues[queue], (int)(t->number * CALLS_EACH + i));
    }
    return NULL;
}

static void reap_events(loop_thread *t, unsigned max)
{
    pycrew_call *calls[16];
    int count;

    do {
        count = pycrew_queue_reap(t->all->queues[t->number], calls, max, 0);
        ASSERT(count >= 0);
        for (int i = 0; i < count; i++) {
            unsigned number = (unsigned)number_of(calls[i]);

            ASSERT_INT((number / CALLS_EACH + number % CALLS_EACH) % LOOPS, t->number);
            ASSERT_INT(atomic_fetch_add(&t->all->times[number], 1), 0);
            expect_echo(calls[i]);
            pycrew_release(calls[i]);
        }
        atomic_fetch_sub(&t->all->inside, count);
        atomic_fetch_sub(&t->all->left[t->number], count);
    } while (count == (int)max);
}

static void *run_loop(void *data)
{
    loop_thread *t = data;
    int loop = edge_triggered(t->all->queues[t->number]);

    while (atomic_load(&t->all->left[t->number]) > 0) {
        await_event(loop);
        reap_events(t, t->number % 2 ? 1 : 16);
    }
    close(loop);
    return NULL;
}

TEST(several_loops_get_their_own_calls)
{
    static loops all;
    loop_thread submitters[LOOPS], readers[LOOPS];

    all.crew = open_crew(3);
    for (unsigned i = 0; i < LOOPS; i++) {
        all.queues[i] = open_queue(all.crew);
        all.left[i] = CALLS_EACH;
    }
    for (unsigned i = 0; i < LOOPS; i++) {
        readers[i] = submitters[i] = (loop_thread){.all = &all, .number = i};
        start_thread(&readers[i].thread, run_loop, &readers[i]);
        start_thread(&submitters[i].thread, submit_to_all, &submitters[i]);
    }
    for (unsigned i = 0; i < LOOPS; i++) {
        pthread_join(submitters[i].thread, NULL);
        pthread_join(readers[i].thread, NULL);
        reap_nothing(all.queues[i]);
        pycrew_queue_close(all.queues[i]);
    }
    for (unsigned i = 0; i < LOOPS * CALLS_EACH; i++)
        ASSERT_INT(all.times[i], 1);
    pycrew_close(all.crew);
}

typedef struct submitter {
    pthread_t thread;
    pycrew_crew *crew;
    pycrew_queue *queue;
    int first, count;
} submitter;

static void *submit_all(void *data)
{
    const submitter *s = data;

    for (int i = 0; i < s->count; i++)
        submit_echo(s->crew, s->queue, s->first + i); /* waits while all calls are in use */
    return NULL;
}

TEST(many_threads_that_use_up_all_calls_are_served_by_one_that_reaps)
{
    enum { THREADS = 8, EACH = 1500 };
    static bool seen[THREADS * EACH];
    pycrew_options options = test_options(2);
    submitter threads[THREADS];
    pycrew_crew *crew;
    pycrew_queue *queue;
    pycrew_call *calls[64];

    options.calls = 64;
    crew = open_with(&options);
    queue = open_queue(crew);
    for (int i = 0; i < THREADS; i++) {
        threads[i] = (submitter){.crew = crew, .queue = queue, .first = i * EACH, .count = EACH};
        start_thread(&threads[i].thread, submit_all, &threads[i]);
    }
    for (int left = THREADS * EACH; left > 0;) {
        int count = pycrew_queue_reap(queue, calls, 64, BOUND);

        ASSERT(count > 0);
        for (int i = 0; i < count; i++) {
            ASSERT(!seen[number_of(calls[i])]);
            seen[number_of(calls[i])] = true;
            expect_echo(calls[i]);
            pycrew_release(calls[i]);
        }
        left -= count;
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i].thread, NULL);
    reap_nothing(queue);
    pycrew_close(crew);
}

/* ---- opening and closing --------------------------------------------------------------------- */

TEST(no_more_queues_are_open_than_the_options_say)
{
    pycrew_options options = test_options(1);
    pycrew_queue *queues[3], *more = NULL;
    pycrew_crew *crew;

    options.queues = 3;
    crew = open_with(&options);
    for (int i = 0; i < 3; i++)
        queues[i] = open_queue(crew);
    GIVES(pycrew_queue_open(crew, &more), -EAGAIN);
    CONTAINS(pycrew_last_error()->message, "3");
    ASSERT(more == NULL);
    pycrew_queue_close(queues[1]);
    OK(pycrew_queue_open(crew, &more));
    GIVES(pycrew_queue_open(crew, &queues[1]), -EAGAIN);
    pycrew_close(crew);
}

TEST(calls_in_flight_outlive_their_queue)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);
    const char *path = scratch("go");
    pycrew_call *running = submit_held(crew, queue, path), *queued = submit_echo(crew, queue, 3);
    pycrew_call *prepared = prepare(crew, "api_ops:nothing");

    OK(pycrew_set_queue(prepared, queue));
    pycrew_queue_close(queue);
    let_go(path);
    OK(pycrew_submit(prepared));
    OK(pycrew_wait(running, BOUND));
    OK(pycrew_wait(queued, BOUND));
    OK(pycrew_wait(prepared, BOUND));
    expect_echo(queued);
    pycrew_release(running);
    pycrew_release(queued);
    pycrew_release(prepared);
    pycrew_close(crew);
}

TEST(the_next_queue_of_a_closed_ones_number_gets_none_of_its_calls)
{
    pycrew_options options = test_options(2);
    pycrew_call *held, *ended[20], *call;
    pycrew_queue *queue;
    pycrew_crew *crew;

    options.queues = 1; /* so that the number is the same */
    crew = open_with(&options);
    for (int round = 0; round < 20; round++) {
        const char *path = scratch("go");

        queue = open_queue(crew);
        held = submit_held(crew, queue, path);
        for (int i = 0; i < 20; i++)
            ended[i] = submit_echo(crew, queue, i);
        if (round % 2) /* announced and not reaped; else some still run */
            for (int i = 0; i < 20; i++)
                OK(pycrew_wait(ended[i], BOUND));
        pycrew_queue_close(queue);
        queue = open_queue(crew);
        let_go(path);
        OK(pycrew_wait(held, BOUND));
        for (int i = 0; i < 20; i++)
            OK(pycrew_wait(ended[i], BOUND));
        reap_nothing(queue);
        pycrew_release(held);
        for (int i = 0; i < 20; i++)
            pycrew_release(ended[i]);
        call = submit_echo(crew, queue, 99); /* in the record of one of the old ones */
        ASSERT(reap_one(queue) == call);
        reap_nothing(queue);
        pycrew_release(call);
        pycrew_queue_close(queue);
        unlink(path);
    }
    pycrew_close(crew);
}

static int count_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    int count = 0;

    ASSERT(directory != NULL);
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

TEST(opening_and_closing_many_times_takes_no_descriptors)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue = open_queue(crew);
    pycrew_call *call;
    int before = count_descriptors();

    pycrew_queue_close(queue);
    for (int i = 0; i < 2000; i++) {
        queue = open_queue(crew);
        if (i % 20 == 0) {
            call = submit_echo(crew, queue, i);
            ASSERT(reap_one(queue) == call);
            pycrew_release(call);
        }
        pycrew_queue_close(queue);
    }
    ASSERT_INT(count_descriptors(), before);
    pycrew_queue_close(NULL);
    pycrew_close(crew);
}

TEST(a_busy_worker_does_not_hold_up_the_opening_of_all_queues)
{
    enum { QUEUES = 400 };
    pycrew_options options = test_options(1);
    pycrew_queue *queues[QUEUES];
    const char *path = scratch("go");
    pycrew_call *held, *call;
    pycrew_crew *crew;

    options.queues = QUEUES;
    crew = open_with(&options);
    held = submit_held(crew, NULL, path);
    for (int i = 0; i < QUEUES; i++)
        queues[i] = open_queue(crew);
    let_go(path);
    OK(pycrew_wait(held, BOUND));
    pycrew_release(held);
    for (int i = QUEUES; i-- > 0;) {
        call = submit_echo(crew, queues[i], i);
        await_readable(queues[i]); /* so it was the worker's eventfd that was written */
        ASSERT(reap_one(queues[i]) == call);
        pycrew_release(call);
    }
    pycrew_close(crew);
}

/* ---- user code that closes the worker's descriptors -------------------------------------------
 */

static void close_all_in_worker(bool known_before, const char *kind)
{
    static char variable[200];
    const char *env[] = {variable, NULL}, *note = scratch("touched");
    pycrew_options options = test_options(1);
    pycrew_queue *queue, *other;
    pycrew_crew *crew;
    pycrew_call *call;
    char text[64];
    int reused;

    snprintf(variable, sizeof variable, "TEST_TOUCHED_NOTE=%s", note);
    options.env = env;
    options.exit = "queue_ops:note_touched";
    crew = open_with(&options);
    queue = open_queue(crew);
    other = open_queue(crew);
    drain_spurious(queue);
    if (known_before) {
        call = submit_echo(crew, queue, 1);
        await_readable(queue);
        ASSERT(reap_one(queue) == call);
        pycrew_release(call);
    }
    OK(pycrew_run(crew, "queue_ops:close_all_and_reuse", "is>i", 30, kind, &reused));
    ASSERT_INT(reused, 30);
    for (int i = 0; i < 4; i++) {
        call = submit_echo(crew, i % 2 ? other : queue, i);
        await_readable(i % 2 ? other : queue);
        ASSERT(reap_one(i % 2 ? other : queue) == call);
        expect_echo(call);
        pycrew_release(call);
    }
    AWAIT(file_size(note) > 0);
    pycrew_close(crew);
    tap_read_file(note, text, sizeof text);
    ASSERT_STR(text, "0\n");
    unlink(note);
}

TEST(a_worker_whose_descriptors_were_closed_announces_and_touches_none_of_their_successors)
{
    close_all_in_worker(true, "socket");
    close_all_in_worker(true, "eventfd");
    close_all_in_worker(true, "file");
}

TEST(a_worker_that_lost_its_descriptors_before_it_knew_the_queue_announces_all_the_same)
{
    close_all_in_worker(false, "socket");
    close_all_in_worker(false, "eventfd");
    close_all_in_worker(false, "file");
}

/* ---- deaths ---------------------------------------------------------------------------------- */

static bool wants_more(const killer *k)
{
    return atomic_load(&k->kills) < k->wanted;
}

/* Nobody looks but when an event comes: a wake that a dying worker took with it would be missed. */
TEST(no_kill_between_the_end_and_the_announcement_loses_a_call)
{
    enum { WINDOW = 12, MAX = 2000000 };
    static unsigned char times[MAX];
    killer k = {.longest_us = 3000, .wanted = 120};
    pycrew_crew *crew = open_crew(3);
    pycrew_queue *queue = open_queue(crew);
    int loop = edge_triggered(queue), in = 0, out = 0, died = 0, count;
    pycrew_call *calls[WINDOW];

    start_thread(&k.thread, kill_workers, &k);
    while (out < in || wants_more(&k)) {
        for (; in < MAX && in - out < WINDOW && wants_more(&k); in++)
            submit_numbered(crew, queue, "queue_ops:number", in);
        if (out == in)
            break;
        await_event(loop);
        count = pycrew_queue_reap(queue, calls, WINDOW, 0);
        ASSERT(count >= 0);
        for (int i = 0; i < count; i++) {
            int number = number_of(calls[i]), value = -1, pid = 0, rc = pycrew_wait(calls[i], 0);

            ASSERT(number >= 0 && number < in && times[number]++ == 0);
            if (rc == 0) {
                OK(pycrew_result(calls[i], "ii", &value, &pid));
                ASSERT_INT(value, number);
                atomic_store(&k.answered, pid);
            } else {
                GIVES(rc, PYCREW_EDIED);
                died++;
            }
            pycrew_release(calls[i]);
        }
        out += count;
    }
    atomic_store(&k.stop, true);
    pthread_join(k.thread, NULL);
    for (int i = 0; i < in; i++)
        ASSERT_INT(times[i], 1);
    DIAG("%d calls, %u kills, %d calls died", in, atomic_load(&k.kills), died);
    reap_nothing(queue);
    close(loop);
    pycrew_close(crew);
}

/* A ledger of calls of many kinds: what was asked of each, and how often it came out. */
enum kind { KIND_PLAIN, KIND_CANCEL, KIND_DEADLINE, KIND_DIE, KIND_RELEASE, KIND_SLEEP, KINDS };

typedef struct entry {
    enum kind kind;
    bool released;
    unsigned char times;
} entry;

static pycrew_call *submit_kind(pycrew_crew *crew, pycrew_queue *queue, entry *e, int number)
{
    static const char *const names[KINDS] = {"queue_ops:number", "queue_ops:number",
                                             "api_ops:sleep",    "api_ops:die_by",
                                             "queue_ops:number", "api_ops:sleep"};
    pycrew_call *call = prepare(crew, names[e->kind]);

    if (e->kind == KIND_DEADLINE || e->kind == KIND_SLEEP)
        OK(pycrew_add(call, "d", e->kind == KIND_SLEEP ? 0.001 : 50.0));
    else if (e->kind == KIND_DIE)
        OK(pycrew_add(call, "s", number % 2 ? "kill" : "exit"));
    else
        OK(pycrew_add(call, "i", number));
    if (e->kind == KIND_DEADLINE)
        OK(pycrew_set_timeout(call, number % 3 * 2 * MS));
    OK(pycrew_set_queue(call, queue));
    pycrew_set_data(call, (void *)(intptr_t)number);
    OK(pycrew_submit(call));
    if (e->kind == KIND_CANCEL)
        pycrew_cancel(call);
    if (e->kind == KIND_RELEASE) {
        pycrew_release(call);
        e->released = true;
    }
    return call;
}

static void check_kind(const entry *e, int rc)
{
    ASSERT(!e->released);
    switch (e->kind) {
    case KIND_PLAIN:
    case KIND_SLEEP:
        ASSERT(rc == 0 || rc == PYCREW_EDIED);
        break;
    case KIND_CANCEL:
        ASSERT(rc == 0 || rc == -ECANCELED || rc == PYCREW_EDIED);
        break;
    case KIND_DEADLINE:
        GIVES(rc, -ETIMEDOUT);
        break;
    default:
        GIVES(rc, PYCREW_EDIED);
        break;
    }
}

TEST(the_ledger_balances_under_deaths_deadlines_cancels_and_releases)
{
    enum { CALLS = 3000, WINDOW = 24 };
    static entry ledger[CALLS];
    pycrew_options options = test_options(3);
    unsigned random = 99, counts[KINDS] = {0};
    int in = 0, expected = 0, out = 0;
    pycrew_call *calls[WINDOW];
    pycrew_queue *queue;
    pycrew_crew *crew;

    options.grace_ns = 20 * MS;
    crew = open_with(&options);
    queue = open_queue(crew);
    while (in < CALLS || out < expected) {
        int count;

        for (; in < CALLS && expected - out < WINDOW; in++) {
            random = random * 1664525 + 1013904223;
            ledger[in].kind = (enum kind)(random / 65536 % 64);
            if (ledger[in].kind >= KINDS) /* the costly ones are few */
                ledger[in].kind = random / 65536 % 3 ? KIND_PLAIN : KIND_CANCEL;
            counts[ledger[in].kind]++;
            submit_kind(crew, queue, &ledger[in], in);
            expected += !ledger[in].released;
        }
        count = pycrew_queue_reap(queue, calls, WINDOW, BOUND);
        ASSERT(count > 0 || out == expected);
        for (int i = 0; i < count; i++) {
            entry *e = &ledger[number_of(calls[i])];

            ASSERT_INT(e->times++, 0);
            check_kind(e, pycrew_wait(calls[i], 0));
            pycrew_release(calls[i]);
        }
        out += count;
    }
    reap_nothing(queue);
    for (int i = 0; i < CALLS; i++)
        ASSERT_INT(ledger[i].times, !ledger[i].released);
    DIAG("%u plain, %u cancelled, %u deadlines, %u deaths, %u released, %u sleeps", counts[0],
         counts[1], counts[2], counts[3], counts[4], counts[5]);
    pycrew_close(crew);
}

TEST(a_killed_zygote_takes_no_announcement_with_it)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_queue *queue = open_queue(crew);
    int loop = edge_triggered(queue);

    for (int round = 0; round < 4; round++) {
        int out = 0, zygote;
        pycrew_call *calls[20];

        AWAIT((zygote = find_zygote()) != 0);
        for (int i = 0; i < 20; i++)
            submit_echo(crew, queue, i);
        kill(zygote, SIGKILL);
        while (out < 20) {
            int count;

            await_event(loop);
            count = pycrew_queue_reap(queue, calls, 20, 0);
            ASSERT(count >= 0);
            for (int i = 0; i < count; i++) {
                int rc = pycrew_wait(calls[i], 0);

                ASSERT(rc == 0 || rc == PYCREW_EDIED);
                pycrew_release(calls[i]);
            }
            out += count;
        }
        AWAIT(pycrew_run(crew, "api_ops:nothing", ">") ==
              0); /* a worker of the old one may take it */
    }
    close(loop);
    pycrew_close(crew);
}

TEST(a_queue_of_nothing_or_for_nobody_is_refused)
{
    pycrew_queue *queue = NULL;
    pycrew_crew *crew = open_crew(1);

    GIVES(pycrew_queue_open(NULL, &queue), -EINVAL);
    GIVES(pycrew_queue_open(crew, NULL), -EINVAL);
    pycrew_close(crew);
}

TAP_MAIN
